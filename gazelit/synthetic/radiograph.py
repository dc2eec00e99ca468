"""Beer–Lambert projection of a patient of the hard cohort, and the film that a digital system shows of it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from gazelit.synthetic.findings import Item
from gazelit.synthetic.patient import Lung, Patient
from gazelit.synthetic.projection import BONE, LUNG, SOFT, Grid, Image, add_tube, half_chord, overlap
from gazelit.synthetic.shapes import Ellipsoid, Tube

#: Sharpness with which parts of the heart melt into one shadow: the exponent of a smooth maximum.
_MELT = 6.0
#: Number of points that represent a segment of a thin vessel.
_SPLATS = 6


@dataclass(frozen=True)
class Projection:
    """Line integrals along the rays of a film.

    Attributes:
        integral: (H, W) line integrals of attenuation.
        added: (H, W) part of the integrals that findings and distractors add.
        right: (H, W) length of aerated right lung (cm).
        left: (H, W) length of aerated left lung (cm).
    """

    integral: Image
    added: Image
    right: Image
    left: Image


@dataclass(frozen=True)
class Exposure:
    """How a film is exposed and shown.

    Attributes:
        scatter: Scattered radiation as a share of the primary.
        photons: Photons in air on a pixel of 0.2 mm.
        flat: Share of the coarse contrast that the system removes.
        slope: Slope of the film curve.
        middle: Middle of the film curve, as a share of the patient's range.
    """

    scatter: float
    photons: float
    flat: float
    slope: float
    middle: float


def draw_exposure(rng: Generator) -> Exposure:
    """Draws how a film is exposed and shown."""
    return Exposure(
        rng.uniform(0.15, 0.4), rng.uniform(1.5e4, 5e4), rng.uniform(0.42, 0.58), rng.uniform(5.0, 6.2),
        rng.uniform(0.38, 0.54),
    )  # fmt: skip


def project(patient: Patient, grid: Grid, rng: Generator) -> Projection:
    """Attenuation along every ray, with the air-filled lung length it contains.

    Args:
        patient: The patient, findings and distractors included.
        grid: Pixel centres in chest coordinates, (H, W).
        rng: Draws irregular outlines and textures.
    """
    waver = [smooth_noise(grid, rng, 5.0) for _ in range(4)]
    cloud = np.clip(0.5 + 0.28 * smooth_noise(grid, rng, 2.5, 1.0, 0.45), 0, 1)
    lung_grid = Grid(grid.x + 0.16 * waver[0], grid.y + 0.16 * waver[1], grid.spacing)
    soft_grid = Grid(grid.x + 0.18 * waver[2], grid.y + 0.18 * waver[3], grid.spacing)
    body = _trunk(patient, grid)
    total = np.float32(SOFT) * body
    heart, great = _melted(patient.heart, soft_grid), _melted(patient.vessels_of_mediastinum, soft_grid)
    added = np.zeros_like(total)
    lengths = []
    for lung in patient.lungs:
        half = np.minimum(_lung_half(lung, lung_grid), 0.42 * body)
        taken = np.maximum(overlap(half, 0.0, heart, 2.0), overlap(half, 0.0, great, 0.0))
        # The lung is deep around the heart, so the heart's border is sharp; lung behind the heart shows the spine.
        length = np.maximum(2 * half - taken, 0) * _above_dome(lung, lung_grid)
        for effusion in patient.effusions:
            if effusion.side == lung.side:
                fluid = length * _fluid(effusion.level, lung, grid)
                added += np.float32(SOFT - LUNG) * fluid
                length = length - fluid
        lengths.append(length.astype(np.float32))
    air = lengths[0] + lengths[1]
    total -= np.float32(SOFT - LUNG) * air
    fine = smooth_noise(grid, rng, 0.55, 0.3)
    total += (0.0016 * patient.texture) * air * np.maximum(fine, -1.2)
    vessels = np.zeros_like(total)
    _add_vessels(vessels, patient.vessels, grid, 1.5 * (SOFT - LUNG))
    inside = np.clip(air / 3.0, 0, 1)
    total += inside * vessels
    findings = np.zeros_like(total)
    _add_oedema(findings, patient, grid, air, cloud)
    for part in patient.soft:
        total += np.float32(SOFT) * half_chord(part, grid) * np.clip(body / 6, 0, 1)
    for bubble in patient.air:
        total -= np.float32(1.5 * SOFT) * half_chord(bubble, soft_grid)
    lumen = np.zeros_like(total)
    for airway in patient.airways:
        branch = np.zeros_like(total)
        add_tube(branch, airway, grid, 1.0)
        lumen = np.maximum(lumen, branch)
    total -= np.float32(0.75 * SOFT) * cv2.GaussianBlur(lumen, (0, 0), max(0.4, 0.06 / grid.spacing))
    bones = np.zeros_like(total)
    for tube, weight in (*patient.ribs, *patient.bones):
        add_tube(bones, tube, grid, weight * (BONE - SOFT))
    for blade in patient.blades:
        bones += np.float32(0.8 * (BONE - SOFT)) * half_chord(blade, soft_grid)
    total += bones * np.clip(body / 4, 0, 1)
    total += _spine(patient, grid)
    for line, strength in patient.folds:
        total += _fold(line, strength, grid)
    for item in patient.items:
        add_item(findings, item, grid, inside, cloud)
    total = np.where(body > 0, np.maximum(total + findings, 0), 0).astype(np.float32)
    return Projection(total, np.where(body > 0, added + findings, 0).astype(np.float32), lengths[0], lengths[1])


def add_item(total: Image, item: Item, grid: Grid, inside: Image, cloud: Image) -> None:
    """Adds a finding or distractor to line integrals, in place; heart, oedema and effusions are drawn elsewhere.

    Args:
        total: (H, W) line integrals.
        item: What to add.
        grid: Pixel centres.
        inside: (H, W) 1 in the lung, 0 outside it.
        cloud: (H, W) texture in [0, 1].
    """
    if item.kind in ("heart", "oedema", "effusion"):
        return
    dx, dy = grid.x - np.float32(item.x), grid.y - np.float32(item.y)
    distance = np.hypot(dx, dy)
    if item.kind == "nodule":
        edge = distance / item.radius * (1 + 0.35 * (cloud - 0.5))
        total += np.float32(item.strength) * inside * np.exp(-0.7 * edge**4)
    elif item.kind == "consolidation":
        edge = distance * (1 + 0.9 * (cloud - 0.5)) - item.radius
        shape = 1 / (1 + np.exp(np.clip(edge / (0.22 * item.radius), -20, 20)))
        bronchi = np.zeros_like(total)
        toward = np.arctan2(item.y - 1.5, item.x)
        origin = np.array([item.x, item.y]) - 1.15 * item.radius * np.array([np.cos(toward), np.sin(toward)])
        for turn in (-0.45, -0.1, 0.3):
            way = np.array([np.cos(toward + turn), np.sin(toward + turn)])
            bent = way + 0.25 * np.array([-way[1], way[0]])
            middle = origin + item.radius * way
            add_tube(
                bronchi, Tube(np.stack([origin, middle, middle + 0.8 * item.radius * bent]), 0.15, 0.06), grid, 1.0
            )
        filled = (0.35 + 1.1 * cloud) * (1 - np.clip(1.8 * bronchi, 0, 0.6))
        total += np.float32(item.strength) * inside * shape * filled
    elif item.kind == "nipple":
        total += np.float32(item.strength) / (1 + np.exp(np.clip((distance - item.radius) / 0.07, -20, 20)))
    elif item.kind == "granuloma":
        edge = distance * (1 + 0.4 * (cloud - 0.5)) / item.radius
        total += np.float32(item.strength) * inside * np.exp(-(edge**6))
    elif item.kind == "electrode":
        total += np.float32(item.strength) * (distance < item.radius) * (0.4 + 0.6 * (distance < 0.45 * item.radius))
        wire = np.array([[item.x, item.y], *_wire(item)])
        add_tube(total, Tube(wire, 0.07, 0.07), grid, 2.5 * item.strength)
    else:
        along, across = np.array([np.cos(item.angle), np.sin(item.angle)]), 0.35
        centre = np.array([item.x, item.y])
        lines = np.zeros_like(total)
        for step in (0.0,) if item.kind == "band" else (-across, 0.1, across):
            shift = step * np.array([-along[1], along[0]])
            bow = 0.06 * item.length * np.array([-along[1], along[0]])
            ends = [centre + shift + s * 0.5 * item.length * along + (1 - s * s) * bow for s in (-1, -0.4, 0.3, 1)]
            radius = 0.17 if item.kind == "band" else 0.08
            add_tube(lines, Tube(np.stack(ends), radius, 0.6 * radius), grid, item.strength / (2 * radius))
        total += inside * cv2.GaussianBlur(lines, (0, 0), max(0.4, 0.05 / grid.spacing))


def _wire(item: Item) -> list[list[float]]:
    way = np.array([np.cos(item.angle), np.sin(item.angle)])
    side = np.array([-way[1], way[0]])
    return [
        [float(v) for v in (item.x, item.y) + length * way + bow * side]
        for length, bow in ((3, 0.5), (7, 0.2), (14, 1.5))
    ]


def _add_vessels(target: Image, vessels: list[Tube], grid: Grid, weight: float) -> None:
    """Adds vessels to line integrals, in place.

    A vessel thinner than a pixel is spread over the pixels it passes, by its cross-section. All such vessels are added
    at once: one by one they would take most of the time of a small film.
    """
    fine = [vessel for vessel in vessels if vessel.start < grid.spacing]
    for vessel in vessels:
        if vessel.start >= grid.spacing:
            add_tube(target, vessel, grid, weight)
    if not fine:
        return
    # Points along every segment, with the volume that each represents.
    share = (np.arange(_SPLATS) + 0.5) / _SPLATS
    axis = np.array([vessel.points for vessel in fine])
    points = axis[:, :-1, None] + share[:, None] * np.diff(axis, axis=1)[:, :, None]
    length = np.linalg.norm(np.diff(axis, axis=1), axis=2)[:, :, None] / _SPLATS
    segments = axis.shape[1] - 1
    along = (np.arange(segments)[:, None] + share) / segments
    start, end = (np.array([getattr(vessel, name) for vessel in fine])[:, None, None] for name in ("start", "end"))
    volume = (np.pi * (start + (end - start) * along) ** 2 * length).ravel()
    across, down = _pixels_of(points.reshape(-1, 2), grid)
    column, row = np.floor(across).astype(int), np.floor(down).astype(int)
    right, lower = across - column, down - row
    height, width = target.shape
    inside = (column >= 0) & (column < width - 1) & (row >= 0) & (row < height - 1)
    for dx in (0, 1):
        for dy in (0, 1):
            part = volume * np.where(dx, right, 1 - right) * np.where(dy, lower, 1 - lower)
            index = ((row + dy) * width + column + dx)[inside]
            density = np.bincount(index, part[inside], height * width) * (weight / grid.spacing**2)
            target += density.reshape(height, width).astype(np.float32)


def _pixels_of(points: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Fractional columns and rows of chest coordinates (N, 2); the grid is affine."""
    height, width = grid.x.shape
    origin = np.array([grid.x[0, 0], grid.y[0, 0]], float)
    step = np.array(
        [[grid.x[0, -1] - origin[0], grid.x[-1, 0] - origin[0]], [grid.y[0, -1] - origin[1], grid.y[-1, 0] - origin[1]]]
    ) / [width - 1, height - 1]
    across, down = np.linalg.solve(step, (points - origin).T)
    return across, down


def _lung_half(lung: Lung, grid: Grid) -> Image:
    spread = lung.spread(grid.y)
    middle, reach = (lung.top + lung.bottom) / 2, (lung.bottom - lung.top) / 2
    u = np.abs(grid.x - lung.side * (lung.inner + lung.half * spread)) / (lung.half * spread)
    v = np.abs(grid.y - np.float32(middle)) / np.float32(reach)
    inside = 1 - (u**2.6 + v**2.6) ** np.float32(2 / 2.6)
    return (np.float32(lung.depth) * np.sqrt(np.maximum(inside, 0))).astype(np.float32)


def _above_dome(lung: Lung, grid: Grid) -> Image:
    """Share of the lung's length that lies above the diaphragm, with a little lung behind the dome."""
    out = (lung.side * grid.x - (lung.inner + lung.half + lung.slant)) / lung.half
    fall = np.where(out > 0, lung.fall * np.abs(out) ** 2.7, 0.30 * lung.fall * np.abs(out) ** 2.0)
    surface = lung.dome + fall
    for amplitude, length, phase in lung.waves:
        surface = surface + amplitude * np.sin(2 * np.pi * grid.x / length + phase)
    below = grid.y - surface
    share = 1 / (1 + np.exp(np.clip(below / 0.07, -30, 30)))
    behind = 0.16 * np.exp(-np.clip(below, 0, None) / 1.6)
    return np.maximum(share, np.where(below > 0, behind, 1) * (below < 8))


def _melted(parts: list[Ellipsoid], grid: Grid) -> Image:
    total = np.zeros_like(grid.x)
    for part in parts:
        total += half_chord(part, grid) ** np.float32(_MELT)
    return total ** np.float32(1 / _MELT)


def _fluid(level: float, lung: Lung, grid: Grid) -> Image:
    to_wall = np.clip(lung.wall - lung.side * grid.x, 0, None)
    surface = level - 2.4 * np.exp(-to_wall / 1.1)
    return 1 / (1 + np.exp(-np.clip((grid.y - surface) / 0.3, -30, 30)))


def _trunk(patient: Patient, grid: Grid) -> Image:
    """Thickness of neck, shoulders, chest wall and belly."""
    y = grid.y - np.float32(patient.shoulder)
    rise = 1 / (1 + np.exp(-np.clip((y + 1.6) / 1.1, -30, 30)))
    flare = 7.5 * np.exp(-(((y - 2.5) / 5.5) ** 2))
    half = 5.6 + (patient.half_width - 5.6 + flare) * rise
    across = np.clip(np.abs(grid.x) / half, 0, 1)
    belly = 1 + 0.12 / (1 + np.exp(-(grid.y - 13) / 2.0))
    depth = patient.half_depth * (0.52 + 0.48 * rise) * belly
    turned = 1 + 0.5 * np.sin(patient.rotation) * grid.x / half
    return (2 * depth * turned * (1 - across**2.5) ** np.float32(1 / 2.5)).astype(np.float32)


def _spine(patient: Patient, grid: Grid) -> Image:
    """Vertebral bodies that grow downwards, with end plates, discs, pedicles, processes; they follow the curve."""
    x = grid.x - patient.spine(grid.y)
    # Heights grow from 1.9 to 2.9 cm: the level is the integral of their inverse.
    rate = 0.022
    level = np.log(np.maximum(2.25 + rate * (grid.y + 3), 1.2)) / rate
    phase = level % 1.0
    edge = np.minimum(phase, 1 - phase)
    half = 1.45 + 0.018 * (grid.y + 18) + 0.22 * np.exp(-((edge / 0.16) ** 2))
    across = np.clip(1 - np.abs(x / half) ** 3, 0, 1)
    disc = np.exp(-((edge / 0.075) ** 4))
    plate = np.exp(-(((edge - 0.10) / 0.03) ** 2))
    bone = np.sqrt(across) * (0.85 - 0.42 * disc + 0.16 * plate)
    ring = sum(
        np.exp(-((np.hypot((x - side * 0.62 * half) / 0.9, (phase - 0.36) * 2.3) - 0.30) ** 2) / 0.012)
        for side in (-1, 1)
    )
    spinous = np.exp(-((x / 0.20) ** 2) - ((phase - 0.72) / 0.16) ** 2)
    wings = np.exp(-(((np.abs(x) - half - 0.5) / 0.75) ** 2) - ((phase - 0.35) / 0.13) ** 2)
    return (0.62 * (BONE - SOFT) * (bone + 0.22 * ring + 0.38 * spinous + 0.28 * wings)).astype(np.float32)


def _fold(line: np.ndarray, strength: float, grid: Grid) -> Image:
    """Attenuation that ends abruptly at a line and fades away from it."""
    x = np.interp(grid.y, line[:, 1], line[:, 0])
    within = np.clip((grid.y - line[0, 1]) / 2, 0, 1) * np.clip((line[-1, 1] - grid.y) / 2, 0, 1)
    beyond = (grid.x - x) * np.sign(line[0, 0])
    return (strength * within * np.where(beyond > 0, np.exp(-beyond / 2.0), 0)).astype(np.float32)


def _add_oedema(total: Image, patient: Patient, grid: Grid, air: Image, cloud: Image) -> None:
    """Haze about the hila and short lines at the chest wall, in place."""
    if not patient.oedema:
        return
    lines = np.zeros_like(total)
    for lung in patient.lungs:
        name = "right" if lung.side < 0 else "left"
        x, y = patient.landmarks[f"{name} hilar structures"]
        spot = np.exp(-0.5 * (((grid.x - 1.35 * x) / 3.2) ** 2 + ((grid.y - y - 1.0) / 4.4) ** 2))
        total += np.float32(patient.oedema) * spot * air * (0.6 + 0.8 * cloud)
        for number in range(4):
            edge, height = lung.side * 0.97 * lung.wall, lung.dome - 0.8 - 0.75 * number
            ends = np.array([[edge, height], [edge - lung.side * 1.3, height + 0.1]])
            add_tube(lines, Tube(ends, 0.06, 0.05), grid, 12 * patient.oedema)
    total += lines * np.clip(air / 2, 0, 1)


def smooth_noise(grid: Grid, rng: Generator, *centimetres: float) -> Image:
    """Random field (H, W) of mean 0 and standard deviation 1 with structure of the given sizes, the first strongest."""
    height, width = grid.x.shape
    field = np.zeros((height, width), np.float32)
    # The lattice is in cm of the film, not in pixels, so that a film has the same field at every size.
    extent = (height * grid.spacing, width * grid.spacing)
    for number, size in enumerate(centimetres):
        shape = (round(extent[0] / size) + 3, round(extent[1] / size) + 3)
        coarse = rng.standard_normal(shape).astype(np.float32)
        fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        field += np.float32(0.7**number) * fine
    field -= field.mean()
    return field / (field.std() + np.float32(1e-6))


def develop(
    integral: Image, shape: tuple[int, int], exposure: Exposure, film_height: float, rng: Generator | None
) -> Image:
    """Computes the film that a digital system shows from line integrals: bright = dense, in [0, 1].

    The steps are primary photons, scatter, detector blur, quantum noise and logarithm. Then, as such systems do, part
    of the coarse contrast is removed, so that lung and mediastinum are both readable, and a sigmoid is applied over
    the patient's own range.

    Args:
        integral: (h, w) line integrals, on a grid of at most ``shape``.
        shape: (H, W) of the film.
        exposure: How the film is exposed and shown.
        film_height: Height of the film (cm).
        rng: Draws the noise; no noise unless given.
    """
    primary = np.exp(-integral)
    spread = max(1.0, 3.0 / film_height * integral.shape[0])
    signal = primary + np.float32(exposure.scatter) * _coarse_blur(primary, spread)
    if signal.shape != shape:
        signal = cv2.resize(signal, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    blur = 0.02 / film_height * shape[0]
    signal = cv2.GaussianBlur(np.maximum(signal, 1e-4), (0, 0), max(blur, 0.35))
    if rng is not None:
        photons = np.float32(exposure.photons * (film_height / shape[0] / 0.02) ** 2)
        signal = signal + rng.standard_normal(shape, dtype=np.float32) * np.sqrt(signal / photons)
    density = np.minimum(-np.log(np.maximum(signal, 1e-5)), 8.0)
    step = max(1, shape[0] // 320)
    thin = density[::step, ::step]
    patient = thin > 0.8
    low, high = np.percentile(thin[patient], (4, 96))
    scale = np.float32(high - low)
    level = (density - np.float32(low)) / scale
    coarse = _coarse_blur(np.clip(level, 0, 1.2), 4.5 / film_height * shape[0])
    level = level - np.float32(exposure.flat) * (coarse - np.float32(0.5)) * np.clip(density, 0, 1)
    shown = 1 / (1 + np.exp(-np.float32(exposure.slope) * (level - np.float32(exposure.middle))))
    return (shown ** np.float32(0.75)).astype(np.float32)


def _coarse_blur(image: Image, sigma: float) -> Image:
    """Gaussian blur; if σ is large, it is computed on a smaller image."""
    step = max(1, int(sigma / 4))
    if step == 1:
        blurred = cv2.GaussianBlur(image, (0, 0), max(sigma, 0.35), borderType=cv2.BORDER_REPLICATE)
        return blurred.astype(np.float32, copy=False)
    height, width = image.shape
    small = cv2.resize(image, (max(2, width // step), max(2, height // step)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / step, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
