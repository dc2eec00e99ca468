"""Shapes of which bodies are made, in cm, and the position of a body before the detector.

Coordinates: x to the patient's left (the film's right), y down, z towards the detector; the origin is the midline at
the carina.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ellipsoid:
    """A body ``(|u/rx|^p + |v/ry|^p)^(2/p) + (w/rz)^2 ≤ 1``, with (u, v) turned in the film plane.

    Attributes:
        x: Centre.
        y: Centre.
        z: Centre.
        rx: Semi-axis.
        ry: Semi-axis.
        rz: Semi-axis along the beam.
        angle: Turn in the film plane (rad).
        power: 2 for an ellipsoid; with greater powers it fills more of its box.
    """

    x: float
    y: float
    z: float
    rx: float
    ry: float
    rz: float
    angle: float = 0.0
    power: float = 2.0


@dataclass(frozen=True)
class Tube:
    """A tube along a polyline, tapering linearly.

    Attributes:
        points: (N, 2) x, y of its axis.
        start: Radius at the first point.
        end: Radius at the last point.
        wall: Thickness of a dense wall as a share of the radius; 1 is solid.
    """

    points: np.ndarray
    start: float
    end: float
    wall: float = 1.0


@dataclass(frozen=True)
class Haze:
    """Extra attenuation of lung within a soft-edged spot: a Gaussian of the film plane.

    Attributes:
        x: Centre.
        y: Centre.
        rx: Standard deviation.
        ry: Standard deviation.
        strength: Extra attenuation per cm of lung at the centre.
    """

    x: float
    y: float
    rx: float
    ry: float
    strength: float


@dataclass(frozen=True)
class Effusion:
    """Fluid in a costophrenic angle, with a meniscus that climbs the chest wall.

    Attributes:
        side: −1 for the patient's right, 1 for the left.
        level: y of the fluid's surface away from the wall.
    """

    side: int
    level: float


@dataclass(frozen=True)
class Position:
    """How a patient stands before the detector.

    Attributes:
        x: Shift on the film (cm).
        y: Shift on the film (cm).
        scale: Magnification.
        angle: Tilt (rad).
    """

    x: float
    y: float
    scale: float
    angle: float

    def to_film(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Converts chest coordinates to cm on the film, from its centre."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return self.scale * (c * x - s * y) + self.x, self.scale * (s * x + c * y) + self.y

    def to_chest(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The inverse of :meth:`to_film`."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        u, v = (x - self.x) / self.scale, (y - self.y) / self.scale
        return c * u + s * v, -s * u + c * v
