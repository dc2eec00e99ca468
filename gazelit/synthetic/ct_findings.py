"""Findings that are put into a CT, as changes of attenuation: a heart of another size, oedema, fluid, opacities.

Opacities are consolidations and nodules. Each finding is a body in the volume, confined to its lung or lobe.
Coordinates are those of :mod:`gazelit.synthetic.ct_projection`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gazelit.synthetic.ct_anatomy import Anatomy, LungShape
from gazelit.synthetic.ct_projection import Floats, Volume
from gazelit.synthetic.projection import SOFT

#: How far beyond the heart the warp reaches: above, below, behind, in front (cm).
_GIVE = (4.0, 2.5, 2.0, 1.0)


@dataclass(frozen=True)
class HeartWarp:
    """A smooth sideways warp that gives the heart another width and does not move the chest wall.

    Attributes:
        anatomy: Anatomy of the body.
        lattice: A volume of the body, on whose lattice the warp is computed (its values are not used).
        ratio: Width of the warped heart over the inner width of the chest.
    """

    anatomy: Anatomy
    lattice: Volume
    ratio: float

    @cached_property
    def shifts(self) -> dict[int, NDArray[np.float32]]:
        """Sideways distance (cm) that the tissue at each point of the lattice has come, for the slices that change.

        Tissue from the midline to the edge of the heart is stretched uniformly; tissue from there to the chest wall
        makes room for it. The wall, and everything outside it, stays.
        """
        y, z, x = self.lattice.axes()
        rows, depth = self.anatomy.heart_rows, self.anatomy.heart_depth
        along = _plateau(z, rows[0], rows[1], _GIVE[0], _GIVE[1])
        deep = _plateau(y, depth[0], depth[1], _GIVE[2], _GIVE[3])
        return {
            int(number): self._shift(int(number), x.astype(np.float32))
            * (deep[number] * along[:, None]).astype(np.float32)
            for number in np.flatnonzero(deep)
        }

    def _shift(self, number: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        right, left, middle = self.anatomy.heart
        reach = self.anatomy.reach[number]
        shift = np.zeros((len(reach), len(x)), np.float32)
        for lung, side, half in ((0, -1, middle - right), (1, 1, left - middle)):
            wall = np.maximum(reach[:, lung] - side * middle, 0.1)[:, None].astype(np.float32)
            # A twelfth of the way to the wall, at least, stays lung.
            edge = np.minimum(np.float32(half), np.float32(0.92) * wall)
            new = np.minimum(edge * np.float32(self.ratio / self.anatomy.heart_ratio), wall - (wall - edge) / 12)
            out = side * (x - np.float32(middle))
            source = np.where(out < new, out * (edge / new), edge + (out - new) * ((wall - edge) / (wall - new)))
            shift += np.where((out > 0) & (out < wall), side * (source - out), 0)
        return shift

    def apply(self, volume: Volume) -> Volume:
        """The warped volume, of the same slices as the lattice."""
        values = volume.values.copy()
        size = (values.shape[2], values.shape[1])
        column, row = (axis.astype(np.float32) for axis in np.meshgrid(np.arange(size[0]), np.arange(size[1])))
        onto, flags = _onto(self.lattice, volume), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        for number, coarse in self.shifts.items():
            shift = cv2.warpAffine(coarse, onto, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
            across = column + shift / np.float32(volume.spacing[2])
            plane = np.ascontiguousarray(volume.values[number])
            values[number] = cv2.remap(plane, across, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return replace(volume, values=values)

    def point(self, point: Floats) -> Floats:
        """The point (y, z, x) to which a point of the body is moved."""
        y, z, x = self.lattice.axes()
        shift = self.shifts.get(int(np.argmin(np.abs(y - point[0]))))
        if shift is None:
            return point
        source = x + shift[int(np.argmin(np.abs(z - point[1])))]
        return np.array([point[0], point[1], np.interp(point[2], source, x)])


def _plateau(value: Floats, low: float, high: float, before: float, after: float) -> Floats:
    """1 between two bounds, falling smoothly to 0 within a distance of them."""
    off = np.clip(np.maximum((low - value) / before, (value - high) / after), 0, 1)
    return np.asarray(np.cos(0.5 * np.pi * off) ** 2)


def cloud(rng: Generator, volume: Volume, size: float) -> NDArray[np.float32]:
    """Smooth noise in [0, 1] on a volume's lattice (Y, Z, X), whose structure has the given size (cm)."""
    depth, rows, columns = volume.values.shape[:3]
    lattice = [
        round(count * step / size) + 3 for count, step in zip((depth, rows, columns), volume.spacing, strict=True)
    ]
    coarse = rng.standard_normal(lattice).astype(np.float32)
    planes = np.stack([cv2.resize(plane, (columns, rows), interpolation=cv2.INTER_CUBIC) for plane in coarse])
    at = np.linspace(0, lattice[0] - 1.001, depth)
    first, share = at.astype(int), (at % 1).astype(np.float32)[:, None, None]
    field = planes[first] * (1 - share) + planes[first + 1] * share
    return np.clip(0.5 + 0.35 * field, 0, 1).astype(np.float32)


def opacity(
    rng: Generator, kind: str, attenuation: Volume, lobe: Volume, centre: Floats, radius: float, share: float
) -> tuple[Volume, float]:
    """A nodule or a consolidation within a lobe.

    Consolidation is ill-defined, uneven and crossed by air bronchograms.

    Args:
        rng: Draws the texture.
        kind: ``nodule`` or ``consolidation``.
        attenuation: Attenuation of the body.
        lobe: Share of the lobe in each value, in the same slices.
        centre: (y, z, x).
        radius: cm.
        share: Share of the lung that it fills in its middle; 1 is soft tissue.

    Returns:
        The attenuation that it adds, and the integral of this along the beam through the centre.
    """
    around = attenuation.part(attenuation.box(centre - 1.8 * radius, centre + 1.8 * radius))
    y, z, x = around.axes()
    offset = np.stack(np.meshgrid(y - centre[0], z - centre[1], x - centre[2], indexing="ij"), axis=3, dtype=np.float32)
    distance = np.linalg.norm(offset, axis=3) / radius
    if kind == "nodule":
        shape = np.exp(-0.7 * (distance * (1 + 0.35 * (cloud(rng, around, 0.55) - 0.5))) ** 4)
    else:
        texture = cloud(rng, around, 1.2)
        edge = (distance * (1 + 0.9 * (texture - 0.5)) - 1) / 0.22
        shape = (0.35 + 1.1 * texture) / (1 + np.exp(np.clip(edge, -20, 20)))
        shape *= 1 - 0.9 * _bronchi(rng, offset, centre, radius)
    # Tissue without air, such as a vessel, gains nothing.
    room = np.clip(np.float32(SOFT) - around.values, 0, None)
    added = share * np.clip(shape, 0, 1) * _sampled(lobe, around) * room
    near = np.hypot(*np.meshgrid(z - centre[1], x - centre[2], indexing="ij")) <= max(0.3 * radius, around.spacing[1])
    through = float(added.sum(axis=0)[near].mean()) * around.spacing[0] if near.any() else 0.0
    return replace(around, values=added.astype(np.float32)), through


def _bronchi(rng: Generator, offset: NDArray[np.float32], centre: Floats, radius: float) -> NDArray[np.float32]:
    """1 in three airways that fan out from the hilar side, 0 outside them."""
    outwards = centre - np.array([0.0, 1.5, 0.0])
    outwards = outwards / (np.linalg.norm(outwards) + 1e-9)
    beyond = offset + (0.9 * radius * outwards).astype(np.float32)
    inside = np.zeros(offset.shape[:3], np.float32)
    for _ in range(3):
        way = outwards + rng.normal(0, 0.3, 3)
        way = (way / np.linalg.norm(way)).astype(np.float32)
        along = np.clip(beyond @ way, 0, 1.7 * radius)
        gap = np.linalg.norm(beyond - along[..., None] * way, axis=3)
        inside = np.maximum(inside, np.clip((0.22 - 0.05 * along / radius - gap) / 0.1, 0, 1))
    return inside


def _sampled(volume: Volume, like: Volume) -> NDArray[np.float32]:
    """A volume's values on the lattice of another one that has the same slices."""
    first = round((like.origin[0] - volume.origin[0]) / volume.spacing[0])
    onto, flags = _onto(volume, like), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    depth, rows, columns = like.values.shape
    planes = np.ascontiguousarray(volume.values[first : first + depth], np.float32)
    return np.stack([cv2.warpAffine(plane, onto, (columns, rows), flags=flags) for plane in planes])


def _onto(volume: Volume, like: Volume) -> Floats:
    """(2, 3) matrix from column and row in a slice of ``like`` to those in a slice of ``volume``."""
    across, down = ((like.origin[n] - volume.origin[n]) / volume.spacing[n] for n in (2, 1))
    return np.array([[like.spacing[2] / volume.spacing[2], 0, across], [0, like.spacing[1] / volume.spacing[1], down]])


def spot_in(rng: Generator, lobe: Volume, radius: float, low: float, high: float) -> Floats:
    """Draws a point (y, z, x) of a lobe between two heights, away from its edge by about the radius if the lobe allows.

    Args:
        rng: Draws the point.
        lobe: (Y, Z, X) bool.
        radius: Radius of the finding (cm).
        low: Least z.
        high: Greatest z.
    """
    _, z, _ = lobe.axes()
    within = lobe.values & ((z > low) & (z < high))[:, None]
    within = within if within.any() else lobe.values.astype(bool)
    # Distance in the coronal plane, which the film shows.
    depth = np.stack([
        cv2.distanceTransform(plane.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_3) for plane in lobe.values
    ]) * lobe.spacing[1]  # fmt: skip
    deep = np.argwhere(within & (depth >= min(0.8 * radius, 0.9 * float(depth[within].max()))))
    return np.array(lobe.origin) + deep[int(rng.integers(len(deep)))] * lobe.spacing


def fluid(lung: Volume, wall: Volume, shape: LungShape, level: float) -> Volume:
    """Share of fluid of a small effusion in the outer part of a pleural space, with a meniscus.

    Args:
        lung: (Y, Z, X) share of lung.
        wall: Distance to the chest wall (cm), on the same lattice.
        shape: Shape of the lung.
        level: z of the surface away from the wall; the meniscus climbs the wall by 2.4 cm.
    """
    rows = lung.box(np.array([-99.0, level - 3.5, -99.0]), np.array([99.0, 99.0, 99.0]))
    lower = lung.part(rows)
    _, z, x = lower.axes()
    surface = level - 2.4 * np.exp(-wall.values[rows] / np.float32(1.1))
    share = 1 / (1 + np.exp(np.clip((surface - z[:, None].astype(np.float32)) / np.float32(0.3), -20, 20)))
    # Fluid behind the belly is left out: a frontal film of a small effusion shows only a blunt angle.
    outer = 1 / (1 + np.exp(np.clip((0.62 * shape.wall - shape.side * x) / 0.6, -20, 20)))
    return replace(lower, values=(lower.values * share * outer).astype(np.float32))


def oedema(rng: Generator, lungs: Volume, hila: tuple[Floats, Floats], strength: float) -> Volume:
    """Attenuation that fluid in the lung adds about the hila.

    Args:
        rng: Draws the texture.
        lungs: (Y, Z, X) share of aerated lung.
        hila: Points (y, z, x), right and left.
        strength: 1/cm of lung at a hilum.
    """
    # Oedema is so smooth that every second slice is enough.
    lungs = Volume(lungs.values[::2], lungs.origin, (2 * lungs.spacing[0], *lungs.spacing[1:]))
    y, z, x = lungs.axes()
    spot = np.zeros(lungs.values.shape, np.float32)
    for hilum in hila:
        # The haze spreads outwards from the hilum, in the shape of wings.
        centre = hilum * [1, 1, 1.35] + [0, 1.0, 0]
        deep, down, across = (
            np.exp(-0.5 * ((axis - middle) / spread) ** 2).astype(np.float32)
            for axis, middle, spread in zip((y, z, x), centre, (6.0, 4.4, 3.2), strict=True)
        )
        spot = np.maximum(spot, deep[:, None, None] * down[:, None] * across)
    values = np.float32(strength) * spot * lungs.values * (0.6 + 0.8 * cloud(rng, lungs, 1.5))
    return replace(lungs, values=values.astype(np.float32))
