"""Cone-beam projection of a volume of attenuation, slice by slice.

A plane of the body falls on the film by a homography, so the line integral of a volume is the sum of its coronal
slices, each warped by its own homography, times the slices' thickness along the ray. With linear interpolation in the
slices and the midpoint rule across them this is the shear-warp factorisation (Lacroute and Levoy, SIGGRAPH 1994).

Coordinates of a body: x to the patient's left (the film's right), z downwards, y towards the detector, in cm from the
carina, in arrays of the order (y, z, x).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gazelit.synthetic.projection import Image
from gazelit.synthetic.shapes import Position

#: Distance from the X-ray source to the carina (cm): 180 cm to the detector, the chest in front of it.
SOURCE = 165.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Volume:
    """Values on a lattice.

    Attributes:
        values: (Y, Z, X), or (Y, Z, X, C) of at most four channels.
        origin: y, z and x of the centre of the first value (cm).
        spacing: cm between values along y, z and x.
    """

    values: NDArray[Any]
    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]

    def axes(self) -> tuple[Floats, Floats, Floats]:
        """Coordinates of the values along y, z and x (cm)."""
        y, z, x = (
            start + step * np.arange(count)
            for start, step, count in zip(self.origin, self.spacing, self.values.shape[:3], strict=True)
        )
        return y, z, x

    def box(self, low: Floats, high: Floats) -> tuple[slice, slice, slice]:
        """Slices of the values between two corners (y, z, x)."""
        first = np.ceil((low - self.origin) / self.spacing).astype(int)
        last = np.floor((high - self.origin) / self.spacing).astype(int) + 1
        y, z, x = (
            slice(int(np.clip(start, 0, count)), int(np.clip(stop, 0, count)))
            for start, stop, count in zip(first, last, self.values.shape[:3], strict=True)
        )
        return y, z, x

    def part(self, box: tuple[slice, slice, slice]) -> Volume:
        """The part of the volume in a box; its values are not copied."""
        y, z, x = (start + step * cut.start for start, step, cut in zip(self.origin, self.spacing, box, strict=True))
        return replace(self, values=self.values[box], origin=(y, z, x))

    def resized(self, spacing: float) -> Volume:
        """The same slices with values about ``spacing`` cm apart, averaged or interpolated."""
        depth, rows, columns = self.values.shape
        size = tuple(
            max(1, round(count * step / spacing))
            for count, step in ((columns, self.spacing[2]), (rows, self.spacing[1]))
        )
        shrinks = size[0] <= columns and size[1] <= rows
        method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        values = np.empty((depth, size[1], size[0]), np.float32)
        for number, plane in enumerate(self.values):
            values[number] = cv2.resize(plane, size, interpolation=method)
        step_z, step_x = rows * self.spacing[1] / size[1], columns * self.spacing[2] / size[0]
        y, z, x = self.origin
        return Volume(
            values,
            (y, z + (step_z - self.spacing[1]) / 2, x + (step_x - self.spacing[2]) / 2),
            (self.spacing[0], step_z, step_x),
        )


@dataclass(frozen=True)
class Pose:
    """How a body stands before the detector.

    Attributes:
        rotation: Turn about the long axis (rad); the front moves to the film's right where it is positive.
        pitch: Lean forwards (rad); the front moves down where it is positive.
        roll: Turn in the film plane that sets the body upright (rad), before the other two.
        position: Shift, scale and tilt on the film.
    """

    rotation: float
    pitch: float
    roll: float
    position: Position

    @property
    def matrix(self) -> Floats:
        """(3, 3) matrix from (x, z, y) of the body to (across, down, towards the detector)."""
        c, s = np.cos(self.rotation), np.sin(self.rotation)
        p, q = np.cos(self.pitch), np.sin(self.pitch)
        a, b = np.cos(self.roll), np.sin(self.roll)
        pitch, yaw = np.array([[1, 0, 0], [0, p, q], [0, -q, p]]), np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        return pitch @ yaw @ np.array([[a, -b, 0], [b, a, 0], [0, 0, 1]])

    def to_plane(self, points: Floats) -> Floats:
        """Where points (N, 3; y, z, x) fall on the plane of the carina, (N, 2) x and y in cm."""
        across, down, depth = self.matrix @ np.asarray(points, float)[:, [2, 1, 0]].T
        return np.column_stack([across, down]) * (SOURCE / (SOURCE + depth))[:, None]


def line_integrals(
    volume: Volume, pose: Pose, shape: tuple[int, int], film: tuple[float, float], endless: bool = False
) -> Image:
    """Integrals along the rays from the source to every pixel of a film.

    Args:
        volume: Values to integrate.
        pose: Pose of the body.
        shape: (H, W) pixels.
        film: Height and width in cm.
        endless: Whether the volume's outermost values go on beyond its edges along x and z; zero if not.

    Returns:
        (H, W), or (H, W, C) for a volume of C channels: the values' unit × cm.
    """
    total = np.zeros((*shape, *volume.values.shape[3:]), np.float32)
    border = cv2.BORDER_REPLICATE if endless else cv2.BORDER_CONSTANT
    for number, depth in enumerate(volume.axes()[0]):
        plane = volume.values[number]
        if cv2.hasNonZero(plane.reshape(len(plane), -1)):
            matrix = _homography(volume, depth, pose, shape, film)
            warped = cv2.warpPerspective(plane, matrix, shape[::-1], flags=cv2.INTER_LINEAR, borderMode=border)
            cv2.accumulate(warped, total)
    total *= np.float32(volume.spacing[0]) * _slant(pose, shape, film).reshape(*shape, *(1,) * (total.ndim - 2))
    return total


def _homography(volume: Volume, depth: float, pose: Pose, shape: tuple[int, int], film: tuple[float, float]) -> Floats:
    """(3, 3) matrix from pixels of a slice to pixels of the film."""
    matrix = pose.matrix
    of_slice = np.array([[volume.spacing[2], 0, volume.origin[2]], [0, volume.spacing[1], volume.origin[1]], [0, 0, 1]])
    turned = np.column_stack([matrix[:, 0], matrix[:, 1], matrix[:, 2] * depth])
    perspective = np.array([[SOURCE, 0, 0], [0, SOURCE, 0], [0, 0, 1]]) @ turned + np.outer([0, 0, SOURCE], [0, 0, 1])
    return _to_pixels(pose.position, shape, film) @ perspective @ of_slice


def _to_pixels(position: Position, shape: tuple[int, int], film: tuple[float, float]) -> Floats:
    c, s = position.scale * np.cos(position.angle), position.scale * np.sin(position.angle)
    on_film = np.array([[c, -s, position.x], [s, c, position.y], [0, 0, 1]])
    rows, columns = shape[0] / film[0], shape[1] / film[1]
    return np.array([[columns, 0, shape[1] / 2 - 0.5], [0, rows, shape[0] / 2 - 0.5], [0, 0, 1]]) @ on_film


def _slant(pose: Pose, shape: tuple[int, int], film: tuple[float, float]) -> Image:
    """Length of each ray in a slice of unit thickness."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    u, v = pose.position.to_chest(((x + 0.5) / shape[1] - 0.5) * film[1], ((y + 0.5) / shape[0] - 0.5) * film[0])
    normal = pose.matrix[:, 2]
    along = (u * normal[0] + v * normal[1] + SOURCE * normal[2]) / np.sqrt(u * u + v * v + SOURCE**2)
    return (1 / along).astype(np.float32)
