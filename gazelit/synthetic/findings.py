"""Findings and distractors of the hard cohort: their kind, position and faintness.

The classes differ only in findings. Distractors are drawn from the same distribution in every class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.random import Generator

from gazelit.synthetic.shapes import Effusion

if TYPE_CHECKING:
    from gazelit.synthetic.patient import Lung

DISTRACTORS = ("nipple", "granuloma", "electrode", "scar", "band")


@dataclass(frozen=True)
class Item:
    """A finding or distractor, which may draw the eye.

    Attributes:
        kind: ``consolidation``, ``nodule``, ``heart``, ``oedema``, ``effusion``, or a distractor.
        finding: Whether it belongs to the diagnosis; a distractor if not.
        x: Centre (cm).
        y: Centre (cm).
        radius: Half of its extent (cm).
        strength: Attenuation it adds along the ray through its centre.
        subtle: Whether a reader can be expected to miss it.
        angle: Angle of a line or band (rad).
        length: Length of a line or band (cm).
    """

    kind: str
    finding: bool
    x: float
    y: float
    radius: float
    strength: float
    subtle: bool = False
    angle: float = 0.0
    length: float = 0.0


class Depicted(Protocol):
    """The person on a film; see :class:`gazelit.synthetic.patient.Patient`."""

    label: str
    heart_ratio: float
    lungs: tuple[Lung, Lung]
    rotation: float
    oedema: float
    effusions: list[Effusion]
    items: list[Item]
    landmarks: dict[str, tuple[float, float]]


def add_findings(rng: Generator, patient: Depicted) -> None:
    """Adds the findings of the patient's class, in place."""
    if patient.label == "CHF":
        add_heart_failure(rng, patient)
    elif patient.label == "pneumonia":
        _pneumonia(rng, patient)


def add_distractors(rng: Generator, patient: Depicted) -> None:
    """Adds distractors, in place: two on average, of the same kinds in every class."""
    for _ in range(int(rng.choice(5, p=(0.08, 0.25, 0.34, 0.22, 0.11)))):
        kind = str(rng.choice(DISTRACTORS, p=(0.25, 0.25, 0.15, 0.17, 0.18)))
        lung = patient.lungs[int(rng.integers(2))]
        if kind == "nipple":
            x, y = lung.side * rng.uniform(0.55, 0.80) * lung.wall, lung.dome + rng.uniform(-3.2, 0.2)
            item = Item(kind, False, x, y, rng.uniform(0.4, 0.6), rng.uniform(0.30, 0.65))
        elif kind == "granuloma":
            x, y = _within(rng, lung, 0.1, 0.95)
            item = Item(kind, False, x, y, rng.uniform(0.22, 0.42), rng.uniform(0.55, 1.25))
        elif kind == "electrode":
            x, y = lung.side * rng.uniform(0.3, 0.95) * lung.wall, rng.uniform(-6, 12)
            item = Item(kind, False, x, y, rng.uniform(0.45, 0.6), rng.uniform(0.5, 1.0), angle=rng.uniform(-2.6, -0.5))
        elif kind == "scar":
            x, y = _within(rng, lung, 0.05, 0.6)
            item = Item(
                kind, False, x, y, 0.55, rng.uniform(0.25, 0.50), angle=rng.uniform(0, np.pi), length=rng.uniform(1, 2)
            )
        else:
            x, y = _within(rng, lung, 0.72, 0.95)
            item = Item(
                kind, False, x, y, 0.6, rng.uniform(0.20, 0.45), angle=rng.normal(0, 0.25), length=rng.uniform(3, 5.5)
            )
        patient.items.append(item)


def _within(rng: Generator, lung: Lung, low: float, high: float) -> tuple[float, float]:
    """Draws a point in the lung between two shares of its height."""
    y = lung.top + (lung.dome - lung.top) * rng.uniform(low, high)
    x = lung.centre(np.array(y)) + lung.side * rng.uniform(-0.35, 0.7) * lung.half * lung.spread(np.array(y))
    return float(x), float(y)


def _pneumonia(rng: Generator, patient: Depicted) -> None:
    """Adds a faint opacity: ill-defined consolidation, or a nodule of 1.2 to 2.2 cm."""
    lung = patient.lungs[int(rng.integers(2))]
    low = rng.random() < 0.6
    x, y = _within(rng, lung, 0.5, 0.93) if low else _within(rng, lung, 0.15, 0.5)
    subtle = rng.random() < 0.6
    if rng.random() < 0.4:
        strength = rng.uniform(0.55, 0.95) if subtle else rng.uniform(0.95, 1.65)
        item = Item("nodule", True, x, y, rng.uniform(0.6, 1.1), strength, subtle)
    else:
        strength = rng.uniform(0.60, 1.05) if subtle else rng.uniform(1.05, 1.90)
        item = Item("consolidation", True, x, y, rng.uniform(1.5, 2.7), strength, subtle)
    patient.items.append(item)


def add_heart_failure(rng: Generator, patient: Depicted) -> None:
    """Adds the signs of heart failure: usually a large heart, sometimes oedema, sometimes small effusions."""
    severity = rng.beta(1.3, 2.2)
    x, y = patient.landmarks["left heart border"]
    patient.items.append(Item("heart", True, x - 0.2, y, 1.6, patient.heart_ratio, patient.heart_ratio < 0.52))
    if rng.random() < 0.25 + 0.5 * severity:
        patient.oedema = 0.028 + 0.042 * severity
        for name in ("right", "left"):
            x, y = patient.landmarks[f"{name} hilar structures"]
            patient.items.append(
                Item("oedema", True, x * 1.25, y + 0.5, 2.2, 14 * patient.oedema, patient.oedema < 0.045)
            )
    for lung in patient.lungs:
        if rng.random() < 0.10 + 0.4 * severity:
            depth = rng.uniform(1.2, 3.4)
            patient.effusions.append(Effusion(lung.side, lung.dome + lung.fall - depth))
            centre = (lung.side * 0.90 * lung.wall, lung.dome + lung.fall - depth - 0.6)
            patient.items.append(Item("effusion", True, *centre, 1.3, 0.1 * depth, depth < 2.0))
