"""Metrics that turn a scanpath into a string: ScanMatch, string edit distance, Sequence Score."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gazelit.errors import InputError
from gazelit.metrics.compiled import compiled
from gazelit.metrics.scanpath.paths import Paths, check_grid, check_size, check_time_bin, pack_pair
from gazelit.metrics.scanpath.regions import Clusters, Regions
from gazelit.metrics.scanpath.values import Settings, wrap

LONGER = "over the longer"


class _Strings(NamedTuple):
    """Strings of numbers, packed: string i is ``letters[first[i]:last[i]]``."""

    letters: NDArray[np.uint32]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        return self.last - self.first


def scanmatch(
    a: Any,
    b: Any,
    *,
    size: Sequence[float],
    bins: int | Sequence[int] = (16, 12),
    time_bin: float | None = None,
    threshold: float = 3.5,
    gap: float = 0.0,
) -> Any:
    """ScanMatch: the best alignment of two strings of grid cells, as a share of the best possible.

    A pair of cells scores ``threshold`` − their Euclidean distance in cells; Needleman and Wunsch's algorithm maximises
    the sum F of an alignment, in which an unmatched letter costs ``gap``. The score is F over the best score of a pair
    times the length of the longer string. With ``time_bin`` each letter is repeated round(duration / time bin) times,
    so that short fixations may vanish; halves are rounded up, as MATLAB does.

    Source: Cristino, Mathôt, Theeuwes and Gilchrist, Behavior Research Methods 42, 692 (2010).

    Args:
        a: (n, 3) array of x, y (pixels from the upper left corner) and duration (s), or a list of such.
        b: The same, of as many.
        size: Width and height of the image in pixels.
        bins: Columns and rows of the grid.
        time_bin: Seconds that a letter stands for; durations do not count unless given.
        threshold: Distance in cells above which a pair of letters scores less than a gap of cost 0.
        gap: Score of each letter without a partner, at most 0.

    Returns:
        A :class:`Score`, or :class:`Scores` for lists; at most 1, and 1 for equal strings. NaN if both strings are
        empty.

    Raises:
        InputError: A path or an option cannot be used.

    Example:
        >>> a = [[100, 100, 0.2], [300, 100, 0.3], [300, 500, 0.2]]
        >>> score = scanmatch(a, a, size=(640, 512), time_bin=0.1)
        >>> print(score, score.settings)
        1.0 ScanMatch (16 × 12, 100 ms, gap 0, threshold 3.5, over the longer, of 640 × 512 px)
    """
    if not threshold > 0:
        raise InputError(f"threshold: must be above 0 cells, not {threshold:g}")
    if not gap <= 0:
        raise InputError(f"gap: is added for each unmatched letter and must not be above 0, is {gap:g}")
    size, grid = check_size(size), check_grid(bins)
    paths_a, paths_b, is_single = pack_pair(a, b)
    time_bin = check_time_bin(time_bin)
    letters_a = _repeated(paths_a.cells(size, grid, "a"), paths_a, time_bin)
    letters_b = _repeated(paths_b.cells(size, grid, "b"), paths_b, time_bin)
    substitution = _substitution(grid, float(threshold))
    best = _aligned(letters_a, letters_b, substitution, gap)
    longer = np.maximum(letters_a.counts, letters_b.counts)
    settings = Settings("ScanMatch", size, grid, time_bin, float(gap), LONGER, (("threshold", threshold),))
    return wrap(_ratio(best, threshold * longer), settings, is_single)


def sed(a: Any, b: Any, *, size: Sequence[float], bins: int | Sequence[int] = 5, normalise: bool = False) -> Any:
    """String edit distance: insertions, deletions and substitutions that turn one string of grid cells into the other.

    Source: Levenshtein (1966), on scanpaths Brandt and Stark (1997). A cell is floor(x · columns / width), so that the
    grid has exactly the given number of columns.

    Args:
        a: (n, 3) array of x, y (pixels from the upper left corner) and duration (s), or a list of such.
        b: The same, of as many.
        size: Width and height of the image in pixels.
        bins: Columns and rows of the grid; one number for both.
        normalise: Whether to divide by the length of the longer path.

    Returns:
        A :class:`Score`, or :class:`Scores` for lists; 0 for equal strings, normalised at most 1. Normalised NaN if
        both paths are empty.

    Raises:
        InputError: A path or an option cannot be used.

    Example:
        One fixation of three is missing.

        >>> a = [[100, 100, 0.2], [300, 100, 0.3], [300, 500, 0.2]]
        >>> float(sed(a, a[:2], size=(640, 512)))
        1.0
    """
    size, grid = check_size(size), check_grid(bins)
    paths_a, paths_b, is_single = pack_pair(a, b)
    letters_a, letters_b = paths_a.cells(size, grid, "a"), paths_b.cells(size, grid, "b")
    values = np.empty(len(paths_a))
    _edits(letters_a, paths_a.first, paths_a.last, letters_b, paths_b.first, paths_b.last, values)
    if normalise:
        values = _ratio(values, np.maximum(paths_a.counts, paths_b.counts).astype(np.float64))
    settings = Settings("SED", size, grid, None, None, LONGER if normalise else "raw edits")
    return wrap(values, settings, is_single)


def sequence_score(a: Any, b: Any, *, regions: Regions | Sequence[Regions], time_bin: float | None = None) -> Any:
    """Sequence Score: the longest common subsequence of regions that two scanpaths visit, over the longer path.

    A pair of equal regions scores 1, any other 0, a gap 0 (Needleman and Wunsch). With :class:`Clusters` of the image's
    fixations it is the Sequence Score, with a :class:`LabelMap` the Semantic Sequence Score. The regions are part of
    the score: keep them, or it cannot be computed again.

    Source: Yang, Huang, Chen, Wei, Ahn, Zelinsky, Samaras and Hoai, CVPR 2020.

    Args:
        a: (n, 3) array of x, y (pixels from the upper left corner) and duration (s), or a list of such.
        b: The same, of as many.
        regions: Regions of the image; for lists the same for all pairs, or a list with regions for each pair.
        time_bin: Seconds that a letter stands for; durations do not count unless given.

    Returns:
        A :class:`Score`, or :class:`Scores` for lists, in [0, 1]. NaN if both strings are empty.

    Raises:
        InputError: A path or an option cannot be used, or the numbers of regions and pairs differ.
    """
    paths_a, paths_b, is_single = pack_pair(a, b)
    time_bin = check_time_bin(time_bin)
    of_pair = [regions] * len(paths_a) if isinstance(regions, Regions) else list(regions)
    if len(of_pair) != len(paths_a):
        raise InputError(f"regions: are {len(of_pair)} for {len(paths_a)} pairs; give one, or one for each pair")
    letters_a = _repeated(_visited(paths_a, of_pair, "a"), paths_a, time_bin)
    letters_b = _repeated(_visited(paths_b, of_pair, "b"), paths_b, time_bin)
    most = 1 + max(int(strings.letters.max(initial=0)) for strings in (letters_a, letters_b))
    common = _aligned(letters_a, letters_b, np.eye(most), 0.0)
    longer = np.maximum(letters_a.counts, letters_b.counts)
    kinds = sorted({type(region).__name__ for region in of_pair})
    bandwidths = sorted({region.bandwidth for region in of_pair if isinstance(region, Clusters)})
    parameters = (
        ("regions", "+".join(kinds)),
        ("bandwidth", "–".join(f"{value:.3g}" for value in {*bandwidths[:1], *bandwidths[-1:]}) or None),
    )
    settings = Settings("Sequence Score", None, None, time_bin, 0.0, LONGER, parameters)
    return wrap(_ratio(common, longer.astype(np.float64)), settings, is_single)


@lru_cache(maxsize=16)
def _substitution(grid: tuple[int, int], threshold: float) -> NDArray[np.float64]:
    """Scores of all pairs of cells; cached, because a grid is used for many batches."""
    column, row = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    return threshold - np.hypot(column[:, None] - column, row[:, None] - row)


def _visited(paths: Paths, regions: Sequence[Regions], name: str) -> NDArray[np.uint32]:
    """(M,) the number of the region of each point."""
    visited = np.zeros(len(paths.points), np.uint32)
    for number, (first, last, region) in enumerate(zip(paths.first, paths.last, regions, strict=True), start=1):
        try:
            visited[first:last] = region.of(paths.points[first:last, :2])
        except InputError as error:
            raise InputError(f"{name}: path {number}, {error}") from error
    return visited


def _repeated(letters: NDArray[np.uint32], paths: Paths, time_bin: float | None) -> _Strings:
    """The strings of paths, with each letter repeated in proportion to the duration of its fixation."""
    if time_bin is None:
        return _Strings(letters, paths.first, paths.last)
    # 75 ms are one and a half bins of 50 ms, which 0.075 / 0.05 misses by a rounding error.
    times = np.floor(paths.points[:, 2] / time_bin + (0.5 + 1e-9)).astype(np.int64)
    ends = np.concatenate([[0], np.cumsum(times)])
    return _Strings(np.repeat(letters, times), ends[paths.first], ends[paths.last])


def _aligned(a: _Strings, b: _Strings, substitution: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    scores = np.empty(len(a.first))
    _align(*a, *b, substitution, float(gap), scores)
    return scores


def _ratio(values: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(values, scale, out=np.full(len(values), np.nan), where=scale > 0)


@partial(compiled, has_nan=False)
def _align(a, first_a, last_a, b, first_b, last_b, substitution, gap, scores):  # type: ignore[no-untyped-def]
    """Needleman and Wunsch's best score of each pair of strings."""
    longest = 0
    for pair in range(len(scores)):
        longest = max(longest, last_b[pair] - first_b[pair])
    row = np.empty(longest + 1)
    for pair in range(len(scores)):
        letters_b = b[first_b[pair] : last_b[pair]]
        for index in range(len(letters_b) + 1):
            row[index] = gap * index
        for step in range(first_a[pair], last_a[pair]):
            matches = substitution[a[step]]
            diagonal = row[0]
            left = diagonal + gap
            row[0] = left
            for index in range(len(letters_b)):
                # Terms that do not depend on the cell to the left are computed first.
                above = row[index + 1]
                best = max(diagonal + matches[letters_b[index]], above + gap)
                left = max(best, left + gap)
                row[index + 1] = left
                diagonal = above
        scores[pair] = row[len(letters_b)]


@partial(compiled, has_nan=False)
def _edits(a, first_a, last_a, b, first_b, last_b, distances):  # type: ignore[no-untyped-def]
    """Levenshtein's distance of each pair of strings of numbers."""
    longest = 0
    for pair in range(len(distances)):
        longest = max(longest, last_b[pair] - first_b[pair])
    row = np.empty(longest + 1, np.int32)
    unit = np.int32(1)
    for pair in range(len(distances)):
        letters_b = b[first_b[pair] : last_b[pair]]
        for index in range(len(letters_b) + 1):
            row[index] = np.int32(index)
        for step in range(first_a[pair], last_a[pair]):
            letter = a[step]
            diagonal = row[0]
            left = np.int32(diagonal + unit)
            row[0] = left
            for index in range(len(letters_b)):
                above = row[index + 1]
                changed = diagonal if letter == letters_b[index] else np.int32(diagonal + unit)
                best = min(changed, np.int32(above + unit))
                left = min(best, np.int32(left + unit))
                row[index + 1] = left
                diagonal = above
        distances[pair] = row[len(letters_b)]
