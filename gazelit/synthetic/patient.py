"""A patient of the hard cohort: varied anatomy and posture, and a heart size that overlaps between classes.

Coordinates as in :mod:`gazelit.synthetic.anatomy`: x to the patient's left (the film's right), y down, z towards the
detector, origin at the carina, in cm. Rotation of the patient moves a body by its depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from gazelit.synthetic import skeleton
from gazelit.synthetic.findings import Item
from gazelit.synthetic.shapes import Effusion, Ellipsoid, Position, Tube

#: Width of the heart over the inner width of the chest, mean and standard deviation, by class.
HEART_RATIO = {"Normal": (0.46, 0.04), "CHF": (0.53, 0.05), "pneumonia": (0.46, 0.04)}
#: Depth (cm) of structures that rotation moves sideways: breastbone and clavicles in front, spine at the back.
FRONT, BACK = 6.0, -6.0


@dataclass(frozen=True)
class Lung:
    """A lung: narrow at the apex, wide at the base, bounded below by an irregular dome.

    Attributes:
        side: −1 for the patient's right, 1 for the left.
        inner: x of its inner edge, away from the midline.
        half: Half of its greatest width.
        top: y of the apex.
        bottom: y of the costophrenic angle.
        depth: Half of its greatest extent along the beam.
        dome: y of the diaphragm's highest point.
        fall: How far the diaphragm falls from there to the chest wall.
        waves: (2, 3) amplitude (cm), length (cm) and phase of two waves on the dome.
        slant: How far outwards of the lung's middle the dome is highest (cm).
    """

    side: int
    inner: float
    half: float
    top: float
    bottom: float
    depth: float
    dome: float
    fall: float
    waves: tuple[tuple[float, float, float], tuple[float, float, float]]
    slant: float

    @property
    def wall(self) -> float:
        """Greatest ``|x|`` of the chest wall."""
        return self.inner + 2 * self.half

    def spread(self, y: np.ndarray) -> np.ndarray:
        """Width at a height as a share of the greatest."""
        t = np.clip((y - self.top) / (0.72 * (self.bottom - self.top)), 0, 1)
        return 0.58 + 0.42 * t * (2 - t)

    def width_at(self, y: float) -> float:
        """:meth:`spread` at a single height."""
        t = min(max((y - self.top) / (0.72 * (self.bottom - self.top)), 0.0), 1.0)
        return 0.58 + 0.42 * t * (2 - t)

    def centre(self, y: np.ndarray) -> np.ndarray:
        """Position x of the lung's middle at a height."""
        return self.side * (self.inner + self.half * self.spread(y))


@dataclass
class Patient:
    """Anatomy, posture and findings.

    Attributes:
        label: Class.
        heart_ratio: Width of the heart over the inner width of the chest.
        lungs: Right and left.
        heart: Parts of the heart, whose smooth union is its shadow.
        vessels_of_mediastinum: Aorta, vena cava and pulmonary trunk, likewise.
        soft: Soft tissue over the chest (breasts, muscles).
        air: Gas in stomach and bowel.
        ribs: Tubes of bone with the weight of each.
        bones: Clavicles and edges of the shoulder blades with the weight of each.
        blades: Shoulder blades and heads of the upper arm.
        vessels: Vessels of the lung.
        airways: Trachea and main bronchi.
        folds: Folds of skin: a line, and the attenuation beside it.
        half_width: Half of the trunk's width.
        half_depth: Half of the trunk's depth.
        shoulder: y of the shoulders.
        curve: Amplitude (cm) and phase of the spine's curve.
        rotation: Turn about the long axis (rad).
        oedema: Extra attenuation per cm of lung about the hila.
        effusions: Fluid in the costophrenic angles.
        items: Findings and distractors.
        landmarks: Points that a reader searches: (x, y) by name.
        texture: Strength of the lung's fine markings.
    """

    label: str
    heart_ratio: float
    lungs: tuple[Lung, Lung]
    heart: list[Ellipsoid]
    vessels_of_mediastinum: list[Ellipsoid]
    soft: list[Ellipsoid]
    air: list[Ellipsoid]
    ribs: list[tuple[Tube, float]]
    bones: list[tuple[Tube, float]]
    blades: list[Ellipsoid]
    vessels: list[Tube]
    airways: list[Tube]
    folds: list[tuple[np.ndarray, float]]
    half_width: float
    half_depth: float
    shoulder: float
    curve: tuple[float, float]
    rotation: float
    oedema: float = 0.0
    effusions: list[Effusion] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    landmarks: dict[str, tuple[float, float]] = field(default_factory=dict)
    texture: float = 1.0

    def spine(self, y: np.ndarray) -> np.ndarray:
        """Position x of the spine's middle at a height."""
        amplitude, phase = self.curve
        return BACK * np.sin(self.rotation) + amplitude * np.sin(y / 8.0 + phase)


def draw_hard_position(rng: Generator, landscape: bool) -> Position:
    """Draws where the patient stands: further off the middle and more tilted than in the easy cohort."""
    scale = rng.uniform(0.80, 0.97) if landscape else rng.uniform(0.90, 1.14)
    rise = rng.uniform(-4.2, -0.8) if landscape else rng.uniform(-5.6, 0.4)
    return Position(rng.normal(0, 1.7), rise, scale, np.deg2rad(rng.normal(0, 3.0)))


def draw_body(rng: Generator, label: str) -> Patient:
    """Draws a patient's body; of findings and distractors it has only the size of the heart.

    Args:
        rng: Draws the body.
        label: Class; it decides only the distribution of the heart's width.
    """
    female = rng.random() < 0.5
    size = rng.normal(0.95 if female else 1.03, 0.045)
    inspiration = float(np.clip(rng.normal(1.0, 0.09), 0.8, 1.2))
    rotation = np.deg2rad(rng.normal(0, 4.5))
    front = FRONT * np.sin(rotation)
    lungs = (_lung(rng, -1, size, inspiration), _lung(rng, 1, size, inspiration))
    inner_width = lungs[0].wall + lungs[1].wall
    ratio = float(np.clip(rng.normal(*HEART_RATIO[label]), 0.36, 0.68))
    heart = _heart(rng, ratio * inner_width, lungs[1].dome, front)
    knob = Ellipsoid(1.9 + 0.25 * front + rng.normal(0, 0.3), -2.4 + rng.normal(0, 0.4), -1.0, 1.5, 1.7, 2.2)
    aorta = rng.uniform(0.8, 1.25)
    great = [
        Ellipsoid(knob.x, knob.y, knob.z, knob.rx * aorta, knob.ry * aorta, 4.5),
        Ellipsoid(-1.3 + 0.25 * front, -2.0, 1.0, rng.uniform(1.3, 2.0), 7.0, 4.5),
        Ellipsoid(1.5 + 0.3 * front, 1.6, 2.0, 1.6, 3.0, 4.5, -0.2),
        Ellipsoid(0.4, -6.0, 0.0, rng.uniform(2.2, 3.0), 9.5, 6.5, 0.0, 2.6),
        Ellipsoid(1.3 + BACK * np.sin(rotation), 6.0, -4.0, 1.25 * aorta, 10.0, 1.3, 0.04, 2.5),
    ]
    hila = {
        -1: (-3.3 * size + rng.normal(0, 0.25), 1.9 + rng.normal(0, 0.35)),
        1: (3.5 * size + rng.normal(0, 0.25), 1.0 + rng.normal(0, 0.35)),
    }
    great += [
        Ellipsoid(
            x + side * rng.normal(0.1, 0.2), y, 0.0, rng.uniform(0.7, 1.1), rng.uniform(1.4, 2.1), 0.9, side * -0.3
        )
        for side, (x, y) in hila.items()
    ]
    patient = Patient(
        label=label,
        heart_ratio=ratio,
        lungs=lungs,
        heart=heart,
        vessels_of_mediastinum=great,
        soft=_soft(rng, female, size, lungs),
        air=_gas(rng, lungs[1]),
        ribs=skeleton.ribs(rng, lungs, front),
        bones=skeleton.clavicles(rng, size, lungs, front),
        blades=skeleton.shoulders(rng, size),
        vessels=_vessels(rng, lungs, hila),
        airways=_airways(rng, front),
        folds=_folds(rng, lungs),
        half_width=inner_width / 2 + rng.uniform(1.6, 4.2),
        half_depth=rng.uniform(9.5, 13.0) * (0.94 if female else 1.03),
        shoulder=(lungs[0].top + lungs[1].top) / 2 + rng.normal(0.8, 0.5),
        curve=(abs(rng.normal(0, 0.25)), rng.uniform(0, 2 * np.pi)),
        rotation=rotation,
        texture=rng.uniform(0.7, 1.3),
    )
    patient.landmarks = _landmarks(patient, hila, knob)
    return patient


def _lung(rng: Generator, side: int, size: float, inspiration: float) -> Lung:
    half = 5.95 * size * rng.normal(1.0, 0.025)
    dome = 10.6 * inspiration + (1.2 if side > 0 else 0.0) + rng.normal(0, 0.7)
    waves = tuple(
        (rng.uniform(0.0, limit), rng.uniform(*length), rng.uniform(0, 2 * np.pi))
        for limit, length in ((0.35, (5.0, 9.0)), (0.12, (2.0, 4.0)))
    )
    fall = rng.uniform(3.4, 5.2)
    return Lung(
        side=side,
        inner=rng.uniform(0.9, 1.3),
        half=half,
        top=-11.4 * (0.6 + 0.4 * inspiration) + rng.normal(0, 0.35),
        bottom=dome + fall + 4.5,
        depth=rng.uniform(7.4, 9.2),
        dome=dome,
        fall=fall,
        waves=(waves[0], waves[1]),
        slant=rng.normal(-0.6, 0.6),
    )


def _heart(rng: Generator, width: float, dome: float, front: float) -> list[Ellipsoid]:
    """Right atrium, ventricles and left auricle, so that their union is ``width`` wide."""
    share = rng.uniform(0.29, 0.36)
    right, left = share * width, (1 - share) * width
    y = dome - 2.6 + rng.normal(0, 0.4)
    tall = width * rng.uniform(0.33, 0.38)
    x = 0.55 * front + rng.normal(0.0, 0.25)
    angle = rng.uniform(0.35, 0.65)
    # A turned ellipse reaches sqrt((rx cos)² + (ry sin)²) to the side.
    rx = (0.58 * left - 0.0) / np.hypot(np.cos(angle), 0.80 * np.sin(angle))
    reach = rx * np.hypot(np.cos(angle), 0.80 * np.sin(angle))
    return [
        Ellipsoid(x + left - reach, y - 0.1, 1.0, rx, 0.80 * rx, 7.5, angle),
        Ellipsoid(x - right + 0.62 * right + 0.4, y - 0.6, 2.0, 0.62 * right + 0.4, 1.0 * tall, 7.0, -0.12),
        Ellipsoid(x + 0.15 * left, y - 0.2, 2.0, 0.42 * width, 1.05 * tall, 8.0, 0.4),
        Ellipsoid(x + 0.30 * left, y - 0.62 * tall, 2.0, 0.33 * left, 0.88 * tall, 6.5, -0.35),
    ]


def _soft(rng: Generator, female: bool, size: float, lungs: tuple[Lung, Lung]) -> list[Ellipsoid]:
    soft = []
    if female:
        volume, low = rng.uniform(0.6, 1.25), rng.uniform(6.5, 11.5)
        for lung in lungs:
            x = lung.side * (0.62 * lung.wall + rng.normal(0, 0.4))
            soft.append(
                Ellipsoid(x, low + rng.normal(0, 0.4), 10.0, 6.2 * volume, 5.4 * volume, rng.uniform(0.8, 2.4) * volume)
            )
    else:
        # The edge of the pectoral muscles.
        thick = rng.uniform(0.3, 1.0)
        soft += [
            Ellipsoid(lung.side * 0.78 * lung.wall, -3.5, 10.0, 7.5 * size, 4.8, thick, lung.side * -0.5)
            for lung in lungs
        ]
    return soft


def _gas(rng: Generator, lung: Lung) -> list[Ellipsoid]:
    """The gas bubble of the stomach, made of a few lobes, and sometimes gas in the bowel."""
    x, y = rng.uniform(4.5, 7.5), lung.dome + rng.uniform(2.2, 3.6)
    size = rng.uniform(0.5, 1.3)
    parts = [
        Ellipsoid(
            x + rng.normal(0, 1.0) * size,
            y + rng.normal(0, 0.35) * size,
            0.0,
            rng.uniform(1.2, 2.4) * size,
            rng.uniform(0.7, 1.3) * size,
            rng.uniform(1.0, 2.0),
            rng.normal(0, 0.3),
        )
        for _ in range(3)
    ]
    parts += [
        Ellipsoid(
            rng.uniform(-10, 10), lung.dome + rng.uniform(7, 12), 0.0, rng.uniform(1, 2.2), rng.uniform(0.7, 1.2), 1.2,
            rng.uniform(-0.6, 0.6),
        )
        for _ in range(rng.integers(0, 2))
    ]  # fmt: skip
    return parts


def _airways(rng: Generator, front: float) -> list[Tube]:
    bend = rng.normal(0, 0.25)
    spread = rng.uniform(0.85, 1.15)
    trachea = np.array(
        [[0.5 * front + bend, -30.0], [0.4 * front + bend, -10.0], [-0.35 + 0.2 * front, -4.0], [-0.1, -0.3]]
    )
    right = np.array([[-0.1, -0.5], [-1.5 * spread, 1.2], [-2.5 * spread, 2.8], [-3.1 * spread, 4.6]])
    left = np.array([[-0.1, -0.5], [1.6 * spread, 1.1], [3.4 * spread, 2.2]])
    return [Tube(trachea, 0.95, 0.85), Tube(right, 0.75, 0.45), Tube(left, 0.68, 0.42)]


def _vessels(rng: Generator, lungs: tuple[Lung, Lung], hila: dict[int, tuple[float, float]]) -> list[Tube]:
    vessels: list[Tube] = []
    for lung in lungs:
        root_x, root_y = hila[lung.side]
        for direction in np.linspace(-1.35, 1.45, 13):
            calibre = rng.uniform(0.26, 0.40) * (0.8 if direction < -0.15 else 1.0)
            start = (root_x + 0.3 * rng.standard_normal(), root_y + 0.9 * rng.standard_normal())
            heading = float(direction) + 0.12 * rng.standard_normal()
            _branch(rng, vessels, start, heading, lung, calibre, rng.uniform(2.2, 3.4), 5)
    return vessels


def _branch(
    rng: Generator,
    vessels: list[Tube],
    start: tuple[float, float],
    heading: float,
    lung: Lung,
    radius: float,
    length: float,
    depth: int,
) -> None:
    """A vessel that bends, tapers and forks until it reaches the lung's edge."""
    bend, near, far, thin, thick, shorter, longer = rng.random(7).tolist()
    bend = 0.6 * (bend - 0.5)
    x, y = start
    points = [start]
    for step in range(3):
        way = heading + bend * step / 2
        x, y = x + length / 3 * lung.side * math.cos(way), y + length / 3 * math.sin(way)
        points.append((x, y))
    width = lung.width_at(y)
    u = (lung.side * x - lung.inner - lung.half * width) / (lung.half * width)
    v = (y - (lung.top + lung.bottom) / 2) / ((lung.bottom - lung.top) / 2)
    if depth == 0 or radius < 0.045 or u * u + v * v > 0.92:
        return
    vessels.append(Tube(np.array(points), radius, 0.72 * radius))
    for sign, turn, taper, part in ((1, near, thin, shorter), (-1, far, thick, longer)):
        way = heading + bend + sign * (0.12 + 0.43 * turn)
        _branch(rng, vessels, (x, y), way, lung, radius * (0.6 + 0.16 * taper), length * (0.7 + 0.25 * part), depth - 1)


def _folds(rng: Generator, lungs: tuple[Lung, Lung]) -> list[tuple[np.ndarray, float]]:
    """Folds of skin in one film of five: a long oblique edge."""
    if rng.random() > 0.2:
        return []
    lung = lungs[rng.integers(2)]
    x = lung.side * rng.uniform(0.55, 0.85) * lung.wall
    line = np.array([[x, -4.0], [x + rng.normal(0, 1.0), 4.0], [x + lung.side * rng.uniform(-1.5, 1.5), 14.0]])
    return [(line, rng.uniform(0.05, 0.11))]


def _landmarks(
    patient: Patient, hila: dict[int, tuple[float, float]], knob: Ellipsoid
) -> dict[str, tuple[float, float]]:
    marks = {"trachea": (0.3 * FRONT * float(np.sin(patient.rotation)), -5.5), "aortic knob": (knob.x, knob.y)}
    for lung, name in zip(patient.lungs, ("right", "left"), strict=True):
        reach = lung.dome - lung.top

        def at(share: float, out: float, lung: Lung = lung, reach: float = reach) -> tuple[float, float]:
            y = lung.top + share * reach
            return float(lung.centre(np.array(y)) + lung.side * out * lung.half), float(y)

        marks[f"{name} apical zone"] = at(0.14, -0.1)
        marks[f"{name} upper lung zone"] = at(0.32, 0.0)
        marks[f"{name} mid lung zone"] = at(0.56, 0.12)
        marks[f"{name} lower lung zone"] = at(0.83, 0.15)
        marks[f"{name} hilar structures"] = hila[lung.side]
        marks[f"{name} costophrenic angle"] = (lung.side * 0.90 * lung.wall, lung.dome + 0.8 * lung.fall)
        marks[f"{name} clavicle"] = (lung.side * 6.5, lung.top + 3.2)
    ventricle = patient.heart[0]
    x, right = heart_edges(patient)
    marks["cardiac silhouette"] = ((x + right) / 2, ventricle.y - 0.6)
    marks["left heart border"] = (x - 0.3, ventricle.y)
    return marks


def heart_edges(patient: Patient) -> tuple[float, float]:
    """Position x of the heart's left edge (right on the film) and of its right edge."""
    reach = [np.hypot(part.rx * np.cos(part.angle), part.ry * np.sin(part.angle)) for part in patient.heart]
    left = max(part.x + r for part, r in zip(patient.heart, reach, strict=True))
    right = min(part.x - r for part, r in zip(patient.heart, reach, strict=True))
    return float(left), float(right)
