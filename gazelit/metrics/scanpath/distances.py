"""Distances between scanpaths as sequences or sets of points: time-delay embedding, DTW, Fréchet and others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gazelit.errors import InputError
from gazelit.metrics.compiled import compiled
from gazelit.metrics.scanpath.paths import check_size, pack_pair
from gazelit.metrics.scanpath.values import Settings, wrap


def tde(a: Any, b: Any, *, k: int = 3, reduce: Literal["mean", "hausdorff"] = "mean") -> Any:
    """Time-delay embedding distance: how far each window of ``k`` fixations of ``a`` is from the nearest of ``b``.

    The distance of two windows is the mean of the Euclidean distances of their fixations. It is asymmetric: ``a`` is
    the simulated path and ``b`` the human path.

    Source: Wang, Chen, Wang, Jiang, Fang and Yao, CVPR 2011; FixaTons (Zanca et al. 2018).

    Args:
        a: (n, 3) array of x, y (pixels) and duration (s), or a list of such.
        b: The same, of as many.
        k: Number of fixations in a window.
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
    _embedding(*paths_a.columns, *paths_b.columns, int(k), reduce == "mean", values)
    settings = Settings("TDE", parameters=(("k", k), ("reduce", reduce)), length_rule="over the windows of a")
    return wrap(values, settings, is_single)


def stde(a: Any, b: Any, *, size: Sequence[float]) -> Any:
    """Scaled time-delay embedding similarity: the mean over all window lengths of exp(−TDE).

    Coordinates are divided by the longer side of the image; window lengths are 1 to the shorter path's length.

    Source: Zanca, Serchi, Piu, Rosini and Rufa, FixaTons, arXiv 1802.02534 (2018).

    Args:
        a: (n, 3) array of x, y (pixels) and duration (s), the simulated path, or a list of such.
        b: The human path, or a list of as many.
        size: Width and height of the image in pixels.

    Returns:
        A :class:`Score` in (0, 1], or :class:`Scores` for lists; NaN if a path is empty.

    Raises:
        InputError: A path or an option cannot be used.
    """
    size = check_size(size)
    paths_a, paths_b, is_single = pack_pair(a, b)
    values = np.full(len(paths_a), np.nan)
    _scaled_embedding(*paths_a.columns, *paths_b.columns, max(size), values)
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

    Example:
        The same path 3 pixels further down, fixation by fixation.

        >>> a, b = [[10, 10, 0.2], [90, 10, 0.3]], [[10, 13, 0.2], [90, 13, 0.3]]
        >>> float(dtw(a, b)), float(dtw([a, a], [a, b]).mean())
        (6.0, 3.0)
    """
    return _warped(a, b, "DTW", "sum along the alignment")


def frechet(a: Any, b: Any) -> Any:
    """Discrete Fréchet distance: the least possible largest distance along an alignment, exact.

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
    """Hausdorff distance: the largest distance from a fixation of either path to the nearest of the other path.

    The order of fixations does not count.

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

    The order of fixations does not count.

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


def _warped(a: Any, b: Any, metric: str, length_rule: str) -> Any:
    paths_a, paths_b, is_single = pack_pair(a, b)
    values = np.full(len(paths_a), np.nan)
    _warp(*paths_a.columns, *paths_b.columns, metric == "DTW", values)
    return wrap(values, Settings(metric, length_rule=length_rule), is_single)


def _nearest_distances(a: Any, b: Any) -> tuple[NDArray[np.float64], NDArray[np.int64], bool]:
    """(N, 4): sum and largest of the nearest distances from a to b, then from b to a; NaN if one is empty."""
    paths_a, paths_b, is_single = pack_pair(a, b)
    values = np.full((len(paths_a), 4), np.nan)
    _nearest(*paths_a.columns, *paths_b.columns, values)
    return values, np.stack([paths_a.counts, paths_b.counts]), is_single


@partial(compiled, has_nan=False)
def _squares(x, y, xs, ys, row):  # type: ignore[no-untyped-def]
    """Squared distances from a point to the points of a path."""
    for index in range(len(xs)):
        row[index] = (x - xs[index]) * (x - xs[index]) + (y - ys[index]) * (y - ys[index])


@partial(compiled, has_nan=False)
def _roots(row, count):  # type: ignore[no-untyped-def]
    for index in range(count):
        row[index] = math.sqrt(row[index])


@compiled
def _longest(first, last):  # type: ignore[no-untyped-def]
    longest = 0
    for pair in range(len(first)):
        longest = max(longest, last[pair] - first[pair])
    return longest


@partial(compiled, has_nan=False)
def _warp(x_a, y_a, first_a, last_a, x_b, y_b, first_b, last_b, is_sum, values):  # type: ignore[no-untyped-def]
    longest = _longest(first_b, last_b)
    row, costs = np.empty(longest + 1), np.empty(longest)
    for pair in range(len(values)):
        xs, ys = x_b[first_b[pair] : last_b[pair]], y_b[first_b[pair] : last_b[pair]]
        if len(xs) == 0 or first_a[pair] == last_a[pair]:
            continue
        row[: len(xs) + 1] = np.inf
        row[0] = 0.0
        for step in range(first_a[pair], last_a[pair]):
            _squares(x_a[step], y_a[step], xs, ys, costs)
            _roots(costs, len(xs))
            diagonal = row[0]
            row[0] = np.inf
            left = np.inf
            for index in range(len(xs)):
                above = row[index + 1]
                before = min(min(diagonal, above), left)
                left = costs[index] + before if is_sum else max(costs[index], before)
                row[index + 1] = left
                diagonal = above
        values[pair] = row[len(xs)]


@partial(compiled, has_nan=False)
def _nearest(x_a, y_a, first_a, last_a, x_b, y_b, first_b, last_b, values):  # type: ignore[no-untyped-def]
    longest = _longest(first_b, last_b)
    nearest, squares = np.empty(longest), np.empty(longest)
    for pair in range(len(values)):
        xs, ys = x_b[first_b[pair] : last_b[pair]], y_b[first_b[pair] : last_b[pair]]
        if len(xs) == 0 or first_a[pair] == last_a[pair]:
            continue
        nearest[: len(xs)] = np.inf
        total, largest = 0.0, 0.0
        for step in range(first_a[pair], last_a[pair]):
            _squares(x_a[step], y_a[step], xs, ys, squares)
            least = np.inf
            for index in range(len(xs)):
                least = min(least, squares[index])
                nearest[index] = min(nearest[index], squares[index])
            total += math.sqrt(least)
            largest = max(largest, math.sqrt(least))
        _roots(nearest, len(xs))
        values[pair, 0], values[pair, 1] = total, largest
        values[pair, 2], values[pair, 3] = nearest[: len(xs)].sum(), nearest[: len(xs)].max()


@partial(compiled, has_nan=False)
def _matrix(x_a, y_a, xs, ys, distances):  # type: ignore[no-untyped-def]
    for row in range(len(x_a)):
        _squares(x_a[row], y_a[row], xs, ys, distances[row])
        _roots(distances[row], len(xs))


@partial(compiled, has_nan=False)
def _grown(window, distances, k):  # type: ignore[no-untyped-def]
    """Grows windows of k − 1 fixations by one; returns sum and largest of the rows' least."""
    rows, columns = distances.shape[0] - k + 1, distances.shape[1] - k + 1
    total, largest = 0.0, 0.0
    for row in range(rows):
        sums, further = window[row], distances[row + k - 1]
        least = np.inf
        for column in range(columns):
            grown = sums[column] + further[column + k - 1]
            sums[column] = grown
            least = min(least, grown)
        total += least
        largest = max(largest, least)
    return total, largest


@compiled
def _embedding(x_a, y_a, first_a, last_a, x_b, y_b, first_b, last_b, k, is_mean, values):  # type: ignore[no-untyped-def]
    for pair in range(len(values)):
        rows, columns = last_a[pair] - first_a[pair], last_b[pair] - first_b[pair]
        if min(rows, columns) < k:
            continue
        a, b = slice(first_a[pair], last_a[pair]), slice(first_b[pair], last_b[pair])
        distances, window = np.empty((rows, columns)), np.zeros((rows, columns))
        _matrix(x_a[a], y_a[a], x_b[b], y_b[b], distances)
        total, largest = 0.0, 0.0
        for length in range(1, k + 1):
            total, largest = _grown(window, distances, length)
        values[pair] = total / (k * (rows - k + 1)) if is_mean else largest / k


@compiled
def _scaled_embedding(x_a, y_a, first_a, last_a, x_b, y_b, first_b, last_b, scale, values):  # type: ignore[no-untyped-def]
    for pair in range(len(values)):
        rows, columns = last_a[pair] - first_a[pair], last_b[pair] - first_b[pair]
        most = min(rows, columns)
        if most == 0:
            continue
        a, b = slice(first_a[pair], last_a[pair]), slice(first_b[pair], last_b[pair])
        distances, window = np.empty((rows, columns)), np.zeros((rows, columns))
        _matrix(x_a[a], y_a[a], x_b[b], y_b[b], distances)
        similarity = 0.0
        for k in range(1, most + 1):
            total, _ = _grown(window, distances, k)
            similarity += math.exp(-total / (k * (rows - k + 1) * scale))
        values[pair] = similarity / most
