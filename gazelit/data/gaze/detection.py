"""I-VT and I-DT: fixations in raw samples, for all runs of a store at once (Salvucci and Goldberg 2000).

A run is a stretch of samples without a gap. Samples come as arrays over all runs, one after the other.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

#: Samples closer in time than this are one instant: the velocity between them would be noise over nothing (s).
INSTANT = 1e-6
#: A run with fewer instants has no velocity worth the name.
FEWEST_INSTANTS = 3

Spans = tuple[NDArray[np.int64], NDArray[np.int64]]


def velocity_events(
    degrees: NDArray[np.float64], t: NDArray[np.float64], runs: NDArray[np.int64], most: float
) -> Spans:
    """I-VT: stretches of samples in which the eye is slower than a threshold.

    Velocity is the derivative of the parabola through a sample and its two neighbours, from their own times; at the
    ends of a run that of the line to the one neighbour. Samples of one instant count as one, at their mean.

    Args:
        degrees: (N, 2) places in degrees.
        t: (N,) times in s, ascending within a run.
        runs: (R + 1,) where each run begins, and N.
        most: Below it the eye fixates (degrees per second).

    Returns:
        First and last sample of each stretch.
    """
    run = np.repeat(np.arange(len(runs) - 1), np.diff(runs))
    ticks = np.round((t - t[runs[run]]) / INSTANT)
    new = np.ones(len(t), bool)
    new[1:] = (np.diff(ticks) != 0) | (np.diff(run) != 0)
    instant = np.cumsum(new) - 1
    count = np.bincount(instant)
    position = np.stack([np.bincount(instant, degrees[:, axis]) / count for axis in (0, 1)], axis=1)
    run_of = run[new]
    velocity = _velocity(position, ticks[new] * INSTANT, run_of)
    enough = np.bincount(run_of, minlength=len(runs) - 1) >= FEWEST_INSTANTS
    slow = ((np.hypot(*velocity.T) < most) & enough[run_of])[instant]
    begins = slow & ~(np.append(False, slow[:-1]) & (run == np.append(-1, run[:-1])))
    ends = slow & ~(np.append(slow[1:], False) & (run == np.append(run[1:], -1)))
    return np.flatnonzero(begins), np.flatnonzero(ends)


def _velocity(position: NDArray[np.float64], t: NDArray[np.float64], run: NDArray[np.int64]) -> NDArray[np.float64]:
    """(M, 2) degrees per second; NaN in a run of a single instant."""
    velocity = np.full(position.shape, np.nan)
    if len(position) < 2:
        return velocity
    step = np.diff(t)[:, None]
    same = run[1:] == run[:-1]
    slope = np.divide(np.diff(position, axis=0), step, where=same[:, None], out=np.full((len(step), 2), np.nan))
    velocity[1:][same] = slope[same]
    # The first instant of a run takes the slope after it.
    first = same & np.append(True, ~same[:-1])
    velocity[:-1][first] = slope[first]
    inner = np.flatnonzero(same[1:] & same[:-1])
    before, after = step[inner], step[inner + 1]
    velocity[inner + 1] = (slope[inner] * after + slope[inner + 1] * before) / (before + after)
    return velocity


def dispersion_events(
    degrees: NDArray[np.float64], runs: NDArray[np.int64], most: float, least: NDArray[np.int64]
) -> Spans:
    """I-DT: stretches of samples whose extent in x plus extent in y stays within a threshold.

    A stretch begins with the first window of ``least`` samples within the threshold and grows until a sample breaks it.
    That sample belongs to no fixation; the search goes on after it.

    Args:
        degrees: (N, 2) places in degrees.
        runs: (R + 1,) where each run begins, and N.
        most: Dispersion up to which the eye fixates (degrees).
        least: (R,) fewest samples of a fixation in each run, at least 2.

    Returns:
        First and last sample of each stretch.
    """
    found: list[tuple[int, int]] = []
    for begin, end, window in zip(runs[:-1].tolist(), runs[1:].tolist(), least.tolist(), strict=True):
        if end - begin >= window:
            found += [(begin + a, begin + b) for a, b in _dispersed_run(degrees[begin:end], most, window)]
    first, last = np.array(found, np.int64).reshape(-1, 2).T
    return first, last


def _dispersed_run(degrees: NDArray[np.float64], most: float, window: int) -> list[tuple[int, int]]:
    views = [sliding_window_view(degrees[:, axis], window) for axis in (0, 1)]
    starts = np.flatnonzero(sum(view.max(-1) - view.min(-1) for view in views) <= most)
    found = []
    first = 0
    while (at := np.searchsorted(starts, first)) < len(starts):
        first = int(starts[at])
        end, broken = _grown(degrees, first, first + window, most)
        found.append((first, end - 1))
        first = end + broken
    return found


def _grown(degrees: NDArray[np.float64], first: int, end: int, most: float) -> tuple[int, bool]:
    """End of the fixation that begins with [first, end), and whether the sample there is the one that broke it."""
    low, high = degrees[first:end].min(axis=0), degrees[first:end].max(axis=0)
    if (high - low).sum() >= most:
        return end, False
    length = 2 * (end - first)
    while end < len(degrees):
        part = degrees[end : end + length]
        lows = np.minimum(np.minimum.accumulate(part), low)
        highs = np.maximum(np.maximum.accumulate(part), high)
        extent = (highs - lows).sum(axis=1)
        reached = int(np.argmax(extent >= most)) if extent[-1] >= most else -1
        if reached >= 0:
            # Exactly on the threshold is still within it, and ends the growth.
            within = bool(extent[reached] <= most)
            return end + reached + within, not within
        end, low, high, length = end + len(part), lows[-1], highs[-1], 2 * length
    return end, False
