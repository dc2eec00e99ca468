"""Distances between scanpaths as sequences or sets of points: time-delay embedding, DTW, Fréchet and their kin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gazelit.errors import InputError
from gazelit.metrics.compiled import compiled
from gazelit.metrics.scanpath.paths import Paths, check_size, pack_pair
from gazelit.metrics.scanpath.values import Settings, wrap


def tde(a: Any, b: Any, *, k: int = 3, reduce: Literal["mean", "hausdorff"] = "mean") -> Any:
    """Time-delay embedding distance: how far each window of ``k`` fixations of ``a`` is from the nearest of ``b``.

    The distance of two windows is the mean of the Euclidean distances of their fixations. It is asymmetric: ``a`` is
    the simulated path and ``b`` the human one.

    Source: Wang, Chen, Wang, Jiang, Fang and Yao, CVPR 2011; FixaTons (Zanca et al. 2018).

    Args:
        a: (n, 3) array of x, y (pixels) and duration (s), or a list of such.
        b: The same, of as many.
        k: Fixations in a window.
        reduce: ``mean`` over the windows of ``a``, or their largest (``hausdorff``).

    Returns:
        A :class:`Score` in pixels, or :class:`Scores` for lists; NaN if a path is shorter than ``k``.

    Raises:
        InputError: A path or an option cannot be used.
    """
    if k < 1 or int(k) != k:
        raise InputError(f"k: must be a whole number above 0, not {k}")
    if reduce not in ("mean", "hausdorff"):
        raise InputError(f"reduce: must be mean or hausdorff, not {reduce}")
    paths_a, paths_b, is_single = pack_pair(a, b)
    values = np.full(len(paths_a), np.nan)
    _embedding(*_columns(paths_a), *_columns(paths_b), int(k), reduce == "mean", values)
    settings = Settings("TDE", parameters=(("k", k), ("reduce", reduce)), length_rule="over the windows of a")
    return wrap(values, settings, is_single)


def stde(a: Any, b: Any, *, size: Sequence[float]) -> Any:
    """Scaled time-delay embedding similarity: the mean over all window lengths of exp(−TDE).

    Coordinates are divided by the longer side of the image; window lengths are 1 to the shorter path's length.

    Source: Zanca, Serchi, Piu, Rosini and Rufa, FixaTons, arXiv 1802.02534 (2018).

    Args:
        a: (n, 3) array of x, y (pixels) and duration (s), the simulated path, or a list of such.
        b: The same of the human, of as many.
        size: Width and height of the image in pixels.

    Returns:
        A :class:`Score` in (0, 1], or :class:`Scores` for lists; NaN if a path is empty.

    Raises:
        InputError: A path or an option cannot be used.
    """
    size = check_size(size)
    paths_a, paths_b, is_single = pack_pair(a, b)
    values = np.full(len(paths_a), np.nan)
    _scaled_embedding(*_columns(paths_a), *_columns(paths_b), max(size), values)
    settings = Settings("STDE", size, parameters=(("k", "all"),), length_rule="over the windows of a")
    return wrap(values, settings, is_single)


def dtw(a: Any, b: Any) -> Any:
    """Dynamic time warping: the least sum of Euclidean distances along an alignment of all fixations, exact.

    Source: Sakoe and Chiba, IEEE Trans. ASSP 26, 43 (1978).

    Args:
        a: (n, 3) array of x, y (pixels) and duration (s), or a list of such.
        b: The same, of as many.

    Returns:
        A :class:`Score` in pixels, or :class:`Scores` for lists; it grows with the paths' lengths. NaN if a path is
        empty.

    Raises:
        InputError: A path cannot be used.
    """
    return _warped(a, b, "DTW", "sum along the alignment")


def frechet(a: Any, b: Any) -> Any:
    """Discrete Fréchet distance: the largest distance along the alignment that keeps it least, exact.

    Source: Eiter and Mannila, TU Wien CD-TR 94/64 (1994).

    Args:
        a: (n, 3) array of x, y (pixels) and duration (s), or a list of such.
        b: The same, of as many.

    Returns:
        A :class:`Score` in pixels, or :class:`Scores` for lists; NaN if a path is empty.

    Raises:
        InputError: A path cannot be used.
    """
    return _warped(a, b, "Fréchet", "largest along the alignment")


def hausdorff(a: Any, b: Any) -> Any:
    """Hausdorff distance: the largest distance from a fixation of either path to the nearest of the other.

    Order does not count.

    Args:
        a: (n, 3) array of x, y (pixels) and duration (s), or a list of such.
        b: The same, of as many.

    Returns:
        A :class:`Score` in pixels, or :class:`Scores` for lists; NaN if a path is empty.

    Raises:
        InputError: A path cannot be used.
    """
    nearest, _, is_single = _nearest_distances(a, b)
    return wrap(nearest[:, 1:4:2].max(axis=1), Settings("Hausdorff", length_rule="largest, both ways"), is_single)


def eyenalysis(a: Any, b: Any, *, normalise: Literal["longer", "both"] = "longer") -> Any:
    """Eyenalysis: the distances from each fixation of either path to the nearest of the other, summed and normalised.

    Order does not count.

    Source: Mathôt, Cristino, Gilchrist and Theeuwes, Journal of Eye Movement Research 5(1):4 (2012).

    Args:
        a: (n, 3) array of x, y (pixels) and duration (s), or a list of such.
        b: The same, of as many.
        normalise: Divide by the ``longer`` path's length, as the authors do, or by ``both`` lengths together, which
            gives the mean nearest distance.

    Returns:
        A :class:`Score` in pixels, or :class:`Scores` for lists; NaN if a path is empty.

    Raises:
        InputError: A path or an option cannot be used.
    """
    if normalise not in ("longer", "both"):
        raise InputError(f"normalise: must be longer or both, not {normalise}")
    nearest, counts, is_single = _nearest_distances(a, b)
    scale = counts.max(axis=0) if normalise == "longer" else counts.sum(axis=0)
    rule = "over the longer" if normalise == "longer" else "over both lengths"
    values = (nearest[:, 0] + nearest[:, 2]) / np.maximum(scale, 1)
    return wrap(values, Settings("Eyenalysis", length_rule=rule), is_single)


def _columns(paths: Paths) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    return paths.points, paths.first, paths.last


def _warped(a: Any, b: Any, metric: str, length_rule: str) -> Any:
    paths_a, paths_b, is_single = pack_pair(a, b)
    values = np.full(len(paths_a), np.nan)
    _warp(*_columns(paths_a), *_columns(paths_b), metric == "DTW", values)
    return wrap(values, Settings(metric, length_rule=length_rule), is_single)


def _nearest_distances(a: Any, b: Any) -> tuple[NDArray[np.float64], NDArray[np.int64], bool]:
    """(N, 4): sum and largest of the nearest distances from a to b, then from b to a; NaN if one is empty."""
    paths_a, paths_b, is_single = pack_pair(a, b)
    values = np.full((len(paths_a), 4), np.nan)
    _nearest(*_columns(paths_a), *_columns(paths_b), values)
    return values, np.stack([paths_a.counts, paths_b.counts]), is_single


@compiled
def _distance(a, b):  # type: ignore[no-untyped-def]
    x, y = a[0] - b[0], a[1] - b[1]
    return math.sqrt(x * x + y * y)


@compiled
def _warp(a, first_a, last_a, b, first_b, last_b, is_sum, values):  # type: ignore[no-untyped-def]
    longest = 0
    for pair in range(len(values)):
        longest = max(longest, last_b[pair] - first_b[pair])
    row = np.empty(longest + 1)
    for pair in range(len(values)):
        count = last_b[pair] - first_b[pair]
        if count == 0 or first_a[pair] == last_a[pair]:
            continue
        row[: count + 1] = np.inf
        row[0] = 0.0
        for step in range(first_a[pair], last_a[pair]):
            diagonal = row[0]
            row[0] = np.inf
            for place in range(count):
                above = row[place + 1]
                cost = _distance(a[step], b[first_b[pair] + place])
                before = min(diagonal, min(above, row[place]))
                row[place + 1] = cost + before if is_sum else max(cost, before)
                diagonal = above
        values[pair] = row[count]


@compiled
def _nearest(a, first_a, last_a, b, first_b, last_b, values):  # type: ignore[no-untyped-def]
    longest = 0
    for pair in range(len(values)):
        longest = max(longest, last_b[pair] - first_b[pair])
    nearest = np.empty(longest)
    for pair in range(len(values)):
        count = last_b[pair] - first_b[pair]
        if count == 0 or first_a[pair] == last_a[pair]:
            continue
        nearest[:count] = np.inf
        total, largest = 0.0, 0.0
        for step in range(first_a[pair], last_a[pair]):
            least = np.inf
            for place in range(count):
                distance = _distance(a[step], b[first_b[pair] + place])
                least = min(least, distance)
                nearest[place] = min(nearest[place], distance)
            total += least
            largest = max(largest, least)
        values[pair, 0], values[pair, 1] = total, largest
        values[pair, 2], values[pair, 3] = nearest[:count].sum(), nearest[:count].max()


@compiled
def _window_distances(a, b, k, is_mean):  # type: ignore[no-untyped-def]
    """Mean or largest distance of the windows of ``a`` to the nearest window of ``b``."""
    total, largest = 0.0, 0.0
    for start_a in range(len(a) - k + 1):
        least = np.inf
        for start_b in range(len(b) - k + 1):
            distance = 0.0
            for step in range(k):
                distance += _distance(a[start_a + step], b[start_b + step])
            least = min(least, distance)
        total += least / k
        largest = max(largest, least / k)
    return total / (len(a) - k + 1) if is_mean else largest


@compiled
def _embedding(a, first_a, last_a, b, first_b, last_b, k, is_mean, values):  # type: ignore[no-untyped-def]
    for pair in range(len(values)):
        if min(last_a[pair] - first_a[pair], last_b[pair] - first_b[pair]) < k:
            continue
        values[pair] = _window_distances(a[first_a[pair] : last_a[pair]], b[first_b[pair] : last_b[pair]], k, is_mean)


@compiled
def _scaled_embedding(a, first_a, last_a, b, first_b, last_b, scale, values):  # type: ignore[no-untyped-def]
    for pair in range(len(values)):
        rows, columns = last_a[pair] - first_a[pair], last_b[pair] - first_b[pair]
        most = min(rows, columns)
        if most == 0:
            continue
        # Sums over windows that grow by one fixation: window k of (i, j) is window k − 1 and the distance at its end.
        point = np.empty((rows, columns))
        for row in range(rows):
            for column in range(columns):
                point[row, column] = _distance(a[first_a[pair] + row], b[first_b[pair] + column])
        window = np.zeros((rows, columns))
        similarity = 0.0
        for k in range(1, most + 1):
            total = 0.0
            for row in range(rows - k + 1):
                least = np.inf
                for column in range(columns - k + 1):
                    window[row, column] += point[row + k - 1, column + k - 1]
                    least = min(least, window[row, column])
                total += least
            similarity += math.exp(-total / (k * (rows - k + 1) * scale))
        values[pair] = similarity / most
