"""Beer–Lambert projection of a chest: line integrals of chord lengths, exposure, scatter, noise and film curve."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gazelit.synthetic.anatomy import Chest
from gazelit.synthetic.shapes import Ellipsoid, Position, Tube

Image = NDArray[np.float32]

#: Linear attenuation at the effective energy of a chest exposure (1/cm).
SOFT, LUNG, BONE = 0.170, 0.048, 0.42
#: Most rows at which the geometry is drawn. It is smooth, so larger films interpolate it; noise is drawn at full size.
GEOMETRY_ROWS = 768


@dataclass(frozen=True)
class Grid:
    """Pixel centres in chest coordinates.

    Attributes:
        x: (H, W) cm.
        y: (H, W) cm.
        spacing: cm of chest per pixel.
    """

    x: Image
    y: Image
    spacing: float


def film_grid(shape: tuple[int, int], film: tuple[float, float], position: Position) -> Grid:
    """The chest coordinates of a film's pixels.

    Args:
        shape: (H, W) pixels.
        film: Height and width in cm.
        position: How the patient stands.
    """
    spacing = film[0] / shape[0]
    y = ((np.arange(shape[0]) + 0.5) * spacing - film[0] / 2).astype(np.float32)
    x = ((np.arange(shape[1]) + 0.5) * (film[1] / shape[1]) - film[1] / 2).astype(np.float32)
    u, v = position.to_chest(x[None, :], y[:, None])
    return Grid(u.astype(np.float32), v.astype(np.float32), spacing / position.scale)


def half_chord(body: Ellipsoid, grid: Grid) -> Image:
    """Half the length of the ray through a body, at every pixel (cm)."""
    c, s = np.float32(np.cos(body.angle)), np.float32(np.sin(body.angle))
    dx, dy = grid.x - np.float32(body.x), grid.y - np.float32(body.y)
    u, v = (c * dx + s * dy) / np.float32(body.rx), (c * dy - s * dx) / np.float32(body.ry)
    if body.power == 2.0:
        inside = 1 - u * u - v * v
    else:
        inside = 1 - (np.abs(u) ** body.power + np.abs(v) ** body.power) ** np.float32(2 / body.power)
    return np.float32(body.rz) * np.sqrt(np.maximum(inside, 0))


def overlap(first: Image, z_first: float, second: Image, z_second: float) -> Image:
    """Length that two bodies' intervals [z ± half] share along each ray (cm)."""
    top = np.minimum(first + np.float32(z_first), second + np.float32(z_second))
    bottom = np.maximum(np.float32(z_first) - first, np.float32(z_second) - second)
    return np.where((first > 0) & (second > 0), np.maximum(top - bottom, 0), 0)


def add_tube(target: Image, tube: Tube, grid: Grid, weight: float) -> None:
    """Adds ``weight`` times a tube's chord lengths to ``target``, in place, segment by segment."""
    radii = np.linspace(tube.start, tube.end, len(tube.points))
    chords = np.zeros((0, 0), np.float32)
    pad = float(max(tube.start, tube.end))
    rows, columns = _window(tube.points, pad, grid)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    x, y = grid.x[rows, columns], grid.y[rows, columns]
    for (x0, y0), (x1, y1), r0, r1 in zip(tube.points[:-1], tube.points[1:], radii[:-1], radii[1:], strict=True):
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
        distance = (x - x0 - along * dx) ** 2 + (y - y0 - along * dy) ** 2
        radius = (r0 + along * (r1 - r0)) ** 2
        chord = 2 * np.sqrt(np.maximum(radius - distance, 0))
        if tube.wall < 1:
            chord = chord - 1.3 * np.sqrt(np.maximum(radius * (1 - tube.wall) ** 2 - distance, 0))
        # Segments share their joints; the larger chord counts once.
        chords = np.maximum(chords, chord) if chords.size else chord
    target[rows, columns] += np.float32(weight) * chords


def _window(points: NDArray[np.float64], pad: float, grid: Grid) -> tuple[slice, slice]:
    """Rows and columns of a grid that contain the points; the grid is turned by a few degrees at most."""
    low, high = points.min(axis=0) - pad, points.max(axis=0) + pad
    height, width = grid.x.shape
    # The grid is affine: solve for the corners' pixel coordinates.
    origin = np.array([grid.x[0, 0], grid.y[0, 0]], float)
    step = np.array(
        [
            [grid.x[0, -1] - grid.x[0, 0], grid.x[-1, 0] - grid.x[0, 0]],
            [grid.y[0, -1] - grid.y[0, 0], grid.y[-1, 0] - grid.y[0, 0]],
        ],
        float,
    ) / [max(width - 1, 1), max(height - 1, 1)]
    corners = np.array([[low[0], low[1]], [low[0], high[1]], [high[0], low[1]], [high[0], high[1]]])
    pixels = np.linalg.solve(step, (corners - origin).T).T
    left, top = np.floor(pixels.min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(pixels.max(axis=0)).astype(int) + 2
    return slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))


def line_integral(chest: Chest, grid: Grid, rng: Generator) -> tuple[Image, Image, Image]:
    """Attenuation along every ray, with the air-filled lung length it contains.

    Returns:
        Line integral (H, W), length of aerated right lung (H, W) and of left lung (H, W), in cm.
    """
    body = _torso(chest, grid)
    total = np.float32(SOFT) * body
    heart = half_chord(chest.heart, grid)
    solids = [(heart, chest.heart.z), *((half_chord(part, grid), part.z) for part in chest.mediastinum)]
    cloud = _cloud(grid, rng)
    lengths = []
    for side, lung, dome in zip((-1, 1), chest.lungs, chest.domes, strict=True):
        half = np.minimum(half_chord(lung, grid), 0.42 * body)
        taken = overlap(half, lung.z, half_chord(dome, grid), dome.z)
        for solid, z in solids:
            taken = np.maximum(taken, overlap(half, lung.z, solid, z))
        aerated = np.maximum(2 * half - taken, 0)
        for effusion in chest.effusions:
            if effusion.side == side:
                aerated = aerated * (1 - _fluid(effusion.level, lung, side, grid))
        lengths.append(aerated)
        total += np.float32(LUNG - SOFT) * aerated
        for haze in chest.hazes:
            if haze.x * side > 0:
                spot = np.exp(-0.5 * (((grid.x - haze.x) / haze.rx) ** 2 + ((grid.y - haze.y) / haze.ry) ** 2))
                total += np.float32(haze.strength) * spot * aerated * (0.75 + 0.5 * cloud)
    lung = lengths[0] + lengths[1]
    consolidation = np.zeros_like(total)
    for opacity, strength in chest.opacities:
        consolidation += np.float32(strength) * np.minimum(2 * half_chord(opacity, grid), lung) * (0.6 + 0.8 * cloud)
    # Filled lung is no denser than soft tissue.
    total += np.minimum(consolidation, np.float32(0.9 * (SOFT - LUNG)) * lung)
    vessels = np.zeros_like(total)
    for vessel in chest.vessels:
        add_tube(vessels, vessel, grid, SOFT - LUNG)
    total += np.where(lung > 0.5, 1.35 * vessels, 0)
    for part in chest.soft:
        total += np.float32(SOFT) * half_chord(part, grid)
    for bubble in chest.air:
        total -= np.float32(SOFT) * half_chord(bubble, grid) * 1.6
    for airway in chest.airways:
        add_tube(total, airway, grid, -0.8 * SOFT)
    for line in chest.lines:
        add_tube(total, line, grid, 0.5)
    for rib in chest.ribs:
        add_tube(total, rib, grid, BONE - SOFT)
    for bone in chest.bones:
        add_tube(total, bone, grid, BONE - SOFT)
    total += _spine(grid)
    return np.where(body > 0, np.maximum(total, 0), 0).astype(np.float32), lengths[0], lengths[1]


def _torso(chest: Chest, grid: Grid) -> Image:
    """Thickness of the trunk: neck, shoulders, chest wall, and arms held away."""
    y = grid.y - np.float32(chest.shoulder)
    rise = 1 / (1 + np.exp(-(y + 1.5) / 0.9))
    flare = 9.5 * np.exp(-(((y - 2.0) / 5.2) ** 2))
    half = 5.6 + (chest.half_width - 5.6 + flare) * rise
    across = np.clip(np.abs(grid.x) / half, 0, 1)
    depth = chest.half_depth * (0.55 + 0.45 * rise)
    return (2 * depth * (1 - across**2.6) ** np.float32(1 / 2.6)).astype(np.float32)


def _fluid(level: float, lung: Ellipsoid, side: int, grid: Grid) -> Image:
    """Share of the lung's length that is fluid: 1 below the meniscus."""
    to_wall = np.clip((lung.x + side * lung.rx - grid.x) * side, 0, None)
    surface = level - 3.0 * np.exp(-to_wall / 1.3)
    return 1 / (1 + np.exp(-np.clip((grid.y - surface) / 0.35, -30, 30)))


def _spine(grid: Grid) -> Image:
    """Vertebral bodies with discs between them, pedicles and spinous processes."""
    height = 2.35
    phase = (grid.y / height) % 1.0
    gap = np.exp(-(((np.minimum(phase, 1 - phase)) / 0.11) ** 2))
    across = np.maximum(1 - (grid.x / (1.75 + 0.2 * gap)) ** 2, 0)
    vertebra = 2.6 * np.sqrt(across) * (1 - 0.55 * gap) * 0.5
    pedicles = sum(np.exp(-(((grid.x - side * 1.25) / 0.32) ** 2) - ((phase - 0.4) / 0.16) ** 2) for side in (-1, 1))
    spinous = 0.7 * np.exp(-((grid.x / 0.28) ** 2) - ((phase - 0.75) / 0.2) ** 2)
    return ((BONE - SOFT) * (vertebra + 0.7 * pedicles + spinous)).astype(np.float32)


def _cloud(grid: Grid, rng: Generator) -> Image:
    """Smooth random texture in [0, 1] with structure of about a centimetre."""
    height, width = grid.x.shape
    field = np.zeros((height, width), np.float32)
    for centimetres, weight in ((3.0, 1.0), (1.2, 0.7), (0.5, 0.4)):
        step = max(1.0, centimetres / grid.spacing)
        coarse = rng.standard_normal((int(height / step) + 3, int(width / step) + 3)).astype(np.float32)
        field += weight * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    field -= field.mean()
    return np.clip(0.5 + 0.28 * field / (field.std() + 1e-6), 0, 1)


def expose(integral: Image, shape: tuple[int, int], rng: Generator, film_height: float) -> Image:
    """Computes the displayed film from line integrals: bright = dense, in [0, 1].

    The steps are primary photons (Beer–Lambert), scatter (a blurred share of them), detector blur, quantum noise,
    logarithm, and a sigmoid film curve around the patient's own range.

    Args:
        integral: (h, w) line integrals, on a grid of at most ``shape``.
        shape: (H, W) of the film.
        rng: Draws exposure and noise.
        film_height: Height of the film (cm).
    """
    primary = np.exp(-integral)
    spread = max(1.0, 3.0 / film_height * integral.shape[0])
    scatter = cv2.GaussianBlur(primary, (0, 0), spread, borderType=cv2.BORDER_REPLICATE)
    signal = primary + np.float32(rng.uniform(0.12, 0.3)) * scatter
    if signal.shape != shape:
        signal = cv2.resize(signal, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    blur = 0.02 / film_height * shape[0]
    signal = cv2.GaussianBlur(np.maximum(signal, 1e-4), (0, 0), max(blur, 0.35))
    # Photons per pixel grow with its area; the relative noise at the pixel shrinks accordingly.
    photons = np.float32(rng.uniform(2.5e5, 9e5) * (film_height / shape[0] / 0.02) ** 2)
    noise = rng.standard_normal(shape, dtype=np.float32) * np.sqrt(signal / photons)
    density = -np.log(np.maximum(signal + noise, 1e-5))
    # The automatic exposure measures the patient, not the air beside the patient.
    step = max(1, shape[0] // 320)
    thin = density[::step, ::step]
    low, high = np.percentile(thin[thin > 0.8], (12, 97))
    contrast = np.float32(rng.uniform(3.4, 4.6) / (high - low))
    shown = 1 / (1 + np.exp(-contrast * (density - np.float32(low + rng.uniform(0.42, 0.5) * (high - low)))))
    return shown.astype(np.float32)
