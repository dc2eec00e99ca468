"""A chest, drawn at random: bodies with positions and sizes in cm, and the findings of its class.

Coordinates are those of :mod:`gazelit.synthetic.shapes`; sizes are those of adults on a 35 × 43 cm film.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from gazelit.synthetic.shapes import Effusion, Ellipsoid, Haze, Position, Tube

CLASSES = ("Normal", "CHF", "pneumonia")


@dataclass
class Chest:
    """A patient's anatomy and position, with the landmarks that a reader looks at."""

    label: str
    lungs: list[Ellipsoid]
    domes: list[Ellipsoid]
    heart: Ellipsoid
    mediastinum: list[Ellipsoid]
    soft: list[Ellipsoid]
    air: list[Ellipsoid]
    ribs: list[Tube]
    bones: list[Tube]
    vessels: list[Tube]
    airways: list[Tube]
    half_width: float
    half_depth: float
    shoulder: float
    hazes: list[Haze] = field(default_factory=list)
    opacities: list[tuple[Ellipsoid, float]] = field(default_factory=list)
    lines: list[Tube] = field(default_factory=list)
    effusions: list[Effusion] = field(default_factory=list)
    #: Landmarks by name: (x, y).
    landmarks: dict[str, tuple[float, float]] = field(default_factory=dict)
    #: Where the finding is, as (x, y, weight).
    findings: list[tuple[float, float, float]] = field(default_factory=list)


def draw_position(rng: Generator, landscape: bool) -> Position:
    """Draws where the patient stands."""
    scale = rng.uniform(0.80, 0.90) if landscape else rng.uniform(0.92, 1.06)
    rise = rng.uniform(-4.5, -1.5) if landscape else rng.uniform(-8.2, -3.6)
    return Position(rng.uniform(-3.0, 3.0), rise, scale, np.deg2rad(rng.normal(0, 1.8)))


def draw_chest(rng: Generator, label: str) -> Chest:
    """Draws a patient of a class."""
    width = rng.normal(1.0, 0.05)
    inspiration = rng.uniform(0.86, 1.08)
    lean = rng.uniform(0.0, 1.0)
    lung_half = 5.9 * width
    lungs, domes = [], []
    floor = {}
    for side in (-1, 1):
        top = -10.2 * inspiration + rng.normal(0, 0.3)
        bottom = 19.0 * inspiration
        centre = (top + bottom) / 2
        x = side * (lung_half + 1.1 + (0.1 if side > 0 else 0.0))
        lungs.append(Ellipsoid(x, centre, 0.0, lung_half, (bottom - top) / 2, 8.2, side * -0.05, 2.5))
        dome = 11.2 * inspiration + (1.3 if side > 0 else 0.0) + rng.normal(0, 0.5)
        floor[side] = dome
        domes.append(Ellipsoid(side * 5.6 * width, dome + 11.0, 0.5, 6.4 * width, 11.0, 13.0, side * 0.12, 2.3))
    inner_half = 2 * lung_half + 1.1
    ratio = rng.uniform(0.50, 0.66) if label == "CHF" else rng.uniform(0.40, 0.51)
    heart_width = ratio * inner_half
    heart_x = 0.30 * heart_width + rng.normal(0, 0.2)
    heart_y = floor[1] - 4.6 + rng.normal(0, 0.3) - (0.6 if label == "CHF" else 0.0)
    heart_ry = 0.86 * heart_width * rng.uniform(0.86, 0.98)
    heart = Ellipsoid(heart_x, heart_y, 1.5, heart_width, heart_ry, 0.75 * heart_width, 0.55, 2.0)
    hila = {-1: (-3.9 * width, 1.6 + rng.normal(0, 0.3)), 1: (4.2 * width, 0.7 + rng.normal(0, 0.3))}
    knob = Ellipsoid(2.5 + rng.normal(0, 0.2), -1.9 + rng.normal(0, 0.3), -1.0, 1.5 + 0.3 * lean, 1.7, 2.2)
    mediastinum = [
        knob,
        Ellipsoid(-1.9 + rng.normal(0, 0.15), -1.0, 1.0, 1.4, 5.0, 2.2),
        Ellipsoid(2.6 + rng.normal(0, 0.2), 2.0, 2.0, 1.9, 2.2, 2.4),
        *(Ellipsoid(x, y, 0.0, 1.3, 2.3, 1.6) for x, y in hila.values()),
        Ellipsoid(0.6, -5.0, 0.0, 2.1, 6.5, 3.0, 0.0, 2.4),
        Ellipsoid(1.7, 7.0, -4.0, 1.3, 10.0, 1.3, 0.06, 2.5),
    ]
    soft = []
    if rng.random() < 0.45:
        size = rng.uniform(0.8, 1.2)
        soft = [
            Ellipsoid(side * 7.8 * width, 10.5 * inspiration, 10.0, 6.0 * size, 4.6 * size, rng.uniform(0.8, 2.2))
            for side in (-1, 1)
        ]
    air = [
        Ellipsoid(
            rng.uniform(4.0, 6.5),
            floor[1] + rng.uniform(1.8, 2.8),
            0.0,
            rng.uniform(1.4, 2.6),
            rng.uniform(0.8, 1.5),
            3.0,
        )
    ]
    chest = Chest(
        label=label,
        lungs=lungs,
        domes=domes,
        heart=heart,
        mediastinum=mediastinum,
        soft=soft,
        air=air,
        ribs=_ribs(rng, lung_half + 1.1, inspiration),
        bones=_bones(rng, width),
        vessels=_vessels(rng, lungs, hila, redistribution=label == "CHF"),
        airways=_airways(rng),
        half_width=inner_half + rng.uniform(1.8, 3.6),
        half_depth=rng.uniform(10.0, 12.5),
        shoulder=-9.0 * inspiration + rng.normal(0, 0.4),
    )
    chest.landmarks = _landmarks(chest, hila, floor)
    if label == "CHF":
        _add_heart_failure(rng, chest, hila, floor)
    elif label == "pneumonia":
        _add_pneumonia(rng, chest, floor)
    return chest


def _ribs(rng: Generator, reach: float, inspiration: float) -> list[Tube]:
    ribs = []
    spacing = 2.35 * inspiration
    for side in (-1, 1):
        for number in range(10):
            top = -10.6 * inspiration + spacing * number + rng.normal(0, 0.08)
            span = (reach + 0.28 * number) * (0.62 + 0.43 * np.sin(np.pi * (number + 1.2) / 13.5))
            t = np.linspace(0, 1, 24)
            outer = 2.0 + (span + 4.0) * np.sin(0.5 * np.pi * t)
            fall = 2.4 + 0.36 * number
            back = np.stack([side * outer, top - 0.5 * np.sin(np.pi * t) + fall * t**2.0], axis=1)
            ribs.append(Tube(back, 0.62, 0.5, 0.34))
            if number < 8:
                turn = back[-1]
                inward = np.linspace(0, 1, 16)
                front = np.stack(
                    [
                        turn[0] * (1 - 0.58 * inward**1.4),
                        turn[1] + (2.2 + 0.52 * number) * inward**0.85 + 0.1,
                    ],
                    axis=1,
                )
                ribs.append(Tube(front, 0.5, 0.62, 0.3))
    return ribs


def _bones(rng: Generator, width: float) -> list[Tube]:
    bones = []
    lift = rng.normal(0, 0.5)
    for side in (-1, 1):
        t = np.linspace(0, 1, 20)
        x = side * (1.6 + 14.5 * width * t)
        y = -7.6 + lift - 2.4 * t + 0.8 * np.sin(2 * np.pi * t) + rng.normal(0, 0.1)
        bones.append(Tube(np.stack([x, y], axis=1), 0.78, 0.62, 0.4))
        border = np.linspace(0, 1, 16)
        scapula_x = side * (14.2 * width - 1.2 * border + 0.8 * np.sin(np.pi * border))
        bones.append(Tube(np.stack([scapula_x, -7.0 + 11.0 * border], axis=1), 0.45, 0.3, 0.5))
    return bones


def _airways(rng: Generator) -> list[Tube]:
    bend = rng.normal(0, 0.25)
    trachea = np.array([[0.2 + bend, -16.0], [0.1 + bend, -9.0], [-0.3, -3.5], [-0.2, 0.0]])
    right = np.array([[-0.2, 0.0], [-2.0, 1.8], [-3.2, 3.4]])
    left = np.array([[-0.2, 0.0], [2.2, 1.6], [4.2, 2.4]])
    return [Tube(trachea, 0.85, 0.85), Tube(right, 0.75, 0.5), Tube(left, 0.65, 0.45)]


def _vessels(
    rng: Generator, lungs: list[Ellipsoid], hila: dict[int, tuple[float, float]], redistribution: bool
) -> list[Tube]:
    vessels: list[Tube] = []
    for lung, side in zip(lungs, (-1, 1), strict=True):
        tree = _VesselTree(rng, lung, side, vessels)
        start = np.array(hila[side])
        for direction in np.deg2rad(np.linspace(-75, 80, 11)):
            upper = direction < -0.15
            calibre = rng.uniform(0.30, 0.42)
            if redistribution:
                calibre *= rng.uniform(1.0, 1.6) if upper else 0.95
            elif upper:
                calibre *= 0.78
            heading = direction + rng.normal(0, 0.08)
            tree.grow(start + rng.normal(0, (0.45, 0.8)), heading, calibre, rng.uniform(2.2, 3.4), depth=4)
    return vessels


@dataclass(frozen=True)
class _VesselTree:
    """The vessels of one lung, which branch from its hilum and end at its border."""

    rng: Generator
    lung: Ellipsoid
    side: int
    vessels: list[Tube]

    def grow(self, start: np.ndarray, heading: float, radius: float, length: float, depth: int) -> None:
        rng, lung = self.rng, self.lung
        end = start + length * np.array([self.side * np.cos(heading), np.sin(heading)])
        if depth == 0 or ((end[0] - lung.x) / lung.rx) ** 2 + ((end[1] - lung.y) / lung.ry) ** 2 > 0.94:
            return
        middle = (start + end) / 2 + rng.normal(0, 0.12, 2)
        self.vessels.append(Tube(np.stack([start, middle, end]), radius, 0.75 * radius))
        for turn in (rng.uniform(0.15, 0.5), -rng.uniform(0.15, 0.5)):
            self.grow(end, heading + turn, 0.68 * radius, length * rng.uniform(0.75, 0.95), depth - 1)


def _landmarks(
    chest: Chest, hila: dict[int, tuple[float, float]], floor: dict[int, float]
) -> dict[str, tuple[float, float]]:
    marks: dict[str, tuple[float, float]] = {
        "trachea": (0.0, -5.0),
        "aortic knob": (chest.mediastinum[0].x, chest.mediastinum[0].y),
    }
    for lung, side, name in zip(chest.lungs, (-1, 1), ("right", "left"), strict=True):
        top = lung.y - lung.ry
        reach = floor[side] - top
        marks[f"{name} apical zone"] = (0.72 * lung.x, top + 0.13 * reach)
        marks[f"{name} upper lung zone"] = (0.95 * lung.x, top + 0.30 * reach)
        marks[f"{name} mid lung zone"] = (1.05 * lung.x, top + 0.55 * reach)
        marks[f"{name} lower lung zone"] = (1.08 * lung.x, top + 0.82 * reach)
        marks[f"{name} hilar structures"] = hila[side]
        marks[f"{name} costophrenic angle"] = (lung.x + side * 0.80 * lung.rx, floor[side] + 3.4)
        marks[f"{name} clavicle"] = (side * 6.5, -8.4)
    heart = chest.heart
    marks["cardiac silhouette"] = (heart.x, heart.y)
    marks["left heart border"] = (heart.x + 0.8 * heart.rx, heart.y + 0.25 * heart.ry)
    return marks


def _add_heart_failure(
    rng: Generator, chest: Chest, hila: dict[int, tuple[float, float]], floor: dict[int, float]
) -> None:
    heart = chest.heart
    chest.findings += [(heart.x + 0.75 * heart.rx, heart.y, 1.2), (heart.x, heart.y - 0.2 * heart.ry, 0.8)]
    severity = rng.uniform(0.2, 1.0)
    for side in (-1, 1):
        x, y = hila[side]
        chest.hazes.append(Haze(x + side * 1.5, y + 1.0, 3.4, 4.2, 0.035 * severity))
        chest.hazes.append(Haze(chest.lungs[(side + 1) // 2].x, floor[side] - 3.0, 4.5, 4.0, 0.02 * severity))
        chest.findings.append((x + side * 0.8, y, 0.9))
        for _ in range(rng.integers(3, 8)):
            edge = chest.lungs[(side + 1) // 2].x + side * 0.86 * chest.lungs[0].rx
            height = floor[side] + rng.uniform(-4.5, 1.0)
            chest.lines.append(
                Tube(np.array([[edge, height], [edge - side * rng.uniform(0.9, 1.8), height]]), 0.06, 0.05)
            )
    sides = [side for side in (-1, 1) if rng.random() < 0.75 * severity + 0.15]
    for side in sides:
        chest.effusions.append(Effusion(side, floor[side] + rng.uniform(-1.2, 3.0)))
        lung = chest.lungs[(side + 1) // 2]
        chest.findings.append((lung.x + side * 0.75 * lung.rx, floor[side] + 2.2, 1.1))


def _add_pneumonia(rng: Generator, chest: Chest, floor: dict[int, float]) -> None:
    side = int(rng.choice((-1, 1)))
    lung = chest.lungs[(side + 1) // 2]
    top = lung.y - lung.ry
    reach = floor[side] - top
    # Pneumonia is commonest in the lower lobes.
    height = top + reach * rng.choice((rng.uniform(0.25, 0.5), rng.uniform(0.5, 0.9)), p=(0.35, 0.65))
    x = lung.x + side * rng.uniform(-0.35, 0.45) * lung.rx
    subtle = rng.random() < 0.3
    strength = rng.uniform(0.03, 0.06) if subtle else rng.uniform(0.08, 0.16)
    radius = rng.uniform(1.6, 2.3) if subtle else rng.uniform(1.9, 3.2)
    for _ in range(rng.integers(4, 8)):
        offset = rng.normal(0, 0.55 * radius, 2)
        rx, ry = radius * rng.uniform(0.6, 1.1, 2)
        chest.opacities.append(
            (
                Ellipsoid(
                    x + offset[0],
                    height + offset[1],
                    rng.uniform(-3, 3),
                    rx,
                    ry,
                    radius * 1.3,
                    rng.uniform(0, np.pi),
                ),
                0.55 * strength,
            )
        )
    chest.hazes.append(Haze(x, height, radius, radius, 0.5 * strength))
    chest.findings.append((x, height, 3.2))
    for _ in range(2):
        offset = rng.normal(0, 0.6 * radius, 2)
        chest.findings.append((x + offset[0], height + offset[1], 0.7))
