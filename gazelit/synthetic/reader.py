"""A model of a radiologist's gaze: saccades and fixations on a film, recorded by a 60 Hz tracker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gazelit.synthetic.anatomy import Chest

RATE = 60.0

#: Weight of each landmark in the search, before the reader's own preferences.
SEARCH = {
    "right apical zone": 0.5,
    "left apical zone": 0.5,
    "right upper lung zone": 0.8,
    "left upper lung zone": 0.8,
    "right mid lung zone": 0.9,
    "left mid lung zone": 0.8,
    "right lower lung zone": 1.0,
    "left lower lung zone": 0.9,
    "right hilar structures": 1.3,
    "left hilar structures": 1.3,
    "right costophrenic angle": 1.1,
    "left costophrenic angle": 1.1,
    "cardiac silhouette": 0.7,
    "left heart border": 1.0,
    "aortic knob": 0.6,
    "trachea": 0.4,
    "right clavicle": 0.15,
    "left clavicle": 0.15,
}


@dataclass(frozen=True)
class Fixations:
    """Fixations of the eyes, in chest coordinates.

    Attributes:
        x: (N,) cm.
        y: (N,) cm.
        start: (N,) s.
        duration: (N,) s.
        on_finding: (N,) bool, whether the fixation was drawn to the finding.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    start: NDArray[np.float64]
    duration: NDArray[np.float64]
    on_finding: NDArray[np.bool_]


def read_chest(chest: Chest, rng: Generator) -> Fixations:
    """Simulates one reading.

    The reader searches landmark after landmark, near landmarks first and seldom the same landmark twice. Once noticed,
    the finding draws about half of the looks, and these are longer. Durations are log-normal (median 0.3 s); saccades
    last 2.2 ms a degree plus 21 ms (the main sequence of Carpenter 1988).
    """
    count = int(np.clip(rng.normal(45, 8), 22, 75))
    names = list(SEARCH)
    landmarks = np.array([chest.landmarks[name] for name in names])
    taste = np.array([SEARCH[name] for name in names]) * rng.gamma(4.0, 0.25, len(names))
    targets = np.array([(x, y) for x, y, _ in chest.findings]).reshape(-1, 2)
    pull = np.array([weight for _, _, weight in chest.findings])
    share = rng.uniform(0.45, 0.62) if len(targets) else 0.0
    noticed = int(rng.integers(1, 6))

    x, y, duration, drawn = (np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count, bool))
    gaze = np.array([rng.normal(0, 2), rng.normal(2, 3)])
    inhibited = np.ones(len(names))
    for number in range(count):
        if number >= noticed and rng.random() < share:
            target = targets[rng.choice(len(targets), p=pull / pull.sum())]
            spot = target + rng.normal(0, 0.75, 2)
            drawn[number] = True
            median = 0.38
        else:
            near = np.exp(-np.hypot(*(landmarks - gaze).T) / 9.0)
            weights = taste * inhibited * near
            chosen = rng.choice(len(names), p=weights / weights.sum())
            inhibited[chosen] *= 0.35
            inhibited = np.minimum(1.0, inhibited + 0.04)
            spot = landmarks[chosen] + rng.normal(0, 0.65, 2)
            median = 0.27
        duration[number] = np.clip(median * np.exp(rng.normal(0, 0.42)), 0.1, 1.6)
        x[number], y[number] = spot
        gaze = spot
    jump = np.hypot(np.diff(x, prepend=x[0]), np.diff(y, prepend=y[0]))
    # One degree is about 1.64 cm of film at EGD-CXR's viewing distance.
    flight = 0.021 + 0.0022 * jump / 1.64
    start = rng.uniform(0.1, 0.3) + np.cumsum(flight) + np.concatenate([[0.0], np.cumsum(duration)[:-1]])
    return Fixations(x, y, start, duration, drawn)


@dataclass(frozen=True)
class Samples:
    """Samples of the tracker, in screen coordinates.

    Attributes:
        t: (M,) s.
        x: (M,) fraction of the screen's width; below 0 or above 1 off it.
        y: (M,) fraction of the screen's height.
        fixation: (M,) index of the fixation, or −1 within a saccade.
        valid: (M,) bool, false within saccades and blinks.
        blink: (M,) index of the blink from 1, or 0.
    """

    t: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    fixation: NDArray[np.int64]
    valid: NDArray[np.bool_]
    blink: NDArray[np.int64]


def track(
    screen_x: NDArray[np.float64],
    screen_y: NDArray[np.float64],
    fixations: Fixations,
    bias: tuple[float, float],
    rng: Generator,
) -> Samples:
    """Samples fixations at 60 Hz.

    Args:
        screen_x: (N,) x of each fixation, as a fraction of the screen's width.
        screen_y: (N,) y of each fixation, as a fraction of the screen's height.
        fixations: Times of the fixations.
        bias: The session's constant error (fractions of the screen).
        rng: Draws jitter, noise, blinks and glances off the film.
    """
    end = fixations.start[-1] + fixations.duration[-1]
    t = np.arange(1, int(end * RATE) + 1) / RATE + rng.normal(0, 0.0008, int(end * RATE))
    index = np.clip(np.searchsorted(fixations.start, t, side="right") - 1, 0, None)
    within = (t >= fixations.start[index]) & (t <= fixations.start[index] + fixations.duration[index])
    following = np.minimum(index + 1, len(screen_x) - 1)
    leave = fixations.start[index] + fixations.duration[index]
    travel = np.clip((t - leave) / np.maximum(fixations.start[following] - leave, 1e-6), 0, 1)
    travel = np.where(within, 0.0, travel)
    x = screen_x[index] * (1 - travel) + screen_x[following] * travel + bias[0]
    y = screen_y[index] * (1 - travel) + screen_y[following] * travel + bias[1]
    # 0.3 degrees of noise; 39.87 screen pixels are one degree.
    x = x + rng.normal(0, 0.3 * 39.87 / 1920, len(t))
    y = y + rng.normal(0, 0.3 * 39.87 / 1080, len(t))
    blink = np.zeros(len(t), np.int64)
    for number in range(1, 1 + int(rng.poisson(max(end, 0.0) / 6.0))):
        begin = int(rng.integers(0, len(t)))
        blink[begin : begin + int(rng.integers(6, 14))] = number
    if rng.random() < 0.3:
        # A glance at something beside the screen.
        begin = int(rng.integers(0, len(t)))
        glance = slice(begin, begin + int(rng.integers(8, 25)))
        x[glance] = rng.choice((-0.08, 1.06)) + rng.normal(0, 0.01, len(x[glance]))
    valid = within & (blink == 0)
    return Samples(t, x, y, np.where(within, index, -1), valid, blink)
