"""Bones of the hard cohort: ribs that follow the chest wall, clavicles with their inner ends, shoulder blades."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator

from gazelit.synthetic.shapes import Ellipsoid, Tube

if TYPE_CHECKING:
    from gazelit.synthetic.patient import Lung

RIBS = 10


def ribs(rng: Generator, lungs: tuple[Lung, Lung], front: float) -> list[tuple[Tube, float]]:
    """Posterior ribs, nearly level and dense, and anterior ribs, steep and faint, with the weight of each.

    Args:
        rng: Draws irregularities.
        lungs: The lungs, whose wall the ribs follow.
        front: How far rotation moves structures in front (cm).
    """
    found = []
    bone = rng.uniform(0.8, 1.15)
    for lung in lungs:
        spacing = (lung.dome + 5.5 - lung.top) / RIBS * rng.normal(1.0, 0.02)
        for number in range(RIBS):
            top = lung.top + 0.4 + spacing * number * (0.88 + 0.012 * number) + rng.normal(0, 0.1)
            t = np.linspace(0, 1, 22)
            drop = 1.4 + 0.36 * number + rng.normal(0, 0.15)
            y = top - 0.75 * np.sin(np.pi * t) + drop * t**2.2
            wall = lung.inner + 2 * lung.half * lung.spread(np.array(top + drop)) + 0.25
            # The first ribs are short and close to the apex.
            wall *= 0.66 if number == 0 else 0.86 if number == 1 else 1.0
            x = lung.side * (1.9 + (wall - 1.9) * np.sin(0.5 * np.pi * t))
            found.append(
                (
                    Tube(np.stack([x - 0.8 * front * (1 - t), y], axis=1), 0.66, 0.55, 0.42),
                    (0.62 if number < 8 else 0.38) * bone,
                )
            )
            if number < 8:
                s = np.linspace(0, 1, 14)
                reach = 0.62 - 0.02 * number + rng.normal(0, 0.02)
                x = lung.side * wall * (1 - reach * s**1.5) + 0.8 * front * s
                y = top + drop + (2.5 + 0.55 * number) * s**0.8 + 0.15 * np.sin(np.pi * s)
                found.append((Tube(np.stack([x, y], axis=1), 0.52, 0.66, 0.40), (0.42 if number < 5 else 0.28) * bone))
    return found


def clavicles(rng: Generator, size: float, lungs: tuple[Lung, Lung], front: float) -> list[tuple[Tube, float]]:
    """Clavicles with their thick inner ends, and the inner and outer edges of the shoulder blades."""
    found = []
    for lung in lungs:
        t = np.linspace(0, 1, 20)
        lift = lung.top + rng.normal(4.4, 0.5)
        x = lung.side * (1.6 + 14.2 * size * t) + front
        y = lift - 3.2 * t - 0.7 * np.sin(2 * np.pi * t) * rng.uniform(0.6, 1.2)
        shaft = np.stack([x, y], axis=1)
        found.append((Tube(shaft, 0.62, 0.62, 0.3), 0.72))
        found.append((Tube(shaft[:4], 0.95, 0.6, 0.35), 0.22))
        s = np.linspace(0, 1, 14)
        out = rng.uniform(-0.5, 1.6)
        inner = lung.side * (lung.wall + out - 0.8 * s + 0.9 * np.sin(np.pi * s))
        found.append((Tube(np.stack([inner, lung.top + 2.5 + 11.5 * s], axis=1), 0.22, 0.16, 0.9), 0.55))
        outer = lung.side * (lung.wall + out + 4.6 * (1 - s) - 0.5 * s)
        found.append((Tube(np.stack([outer, lung.top + 2.0 + 12.0 * s], axis=1), 0.42, 0.25, 0.6), 0.55))
    return found


def shoulders(rng: Generator, size: float) -> list[Ellipsoid]:
    """Blades as thin plates and the heads of the upper arms."""
    found = []
    for side in (-1, 1):
        found.append(Ellipsoid(side * (15.3 * size + rng.normal(0, 0.5)), -3.4, 0, 2.5, 6.3, 0.35, side * 0.3, 2.4))
        found.append(Ellipsoid(side * (17.4 * size), -8.6 + rng.normal(0, 0.5), 0, 2.3, 2.4, 1.7))
        found.append(Ellipsoid(side * (14.6 * size), -9.4 + rng.normal(0, 0.4), 0, 2.2, 0.8, 0.6, side * -0.35))
    return found
