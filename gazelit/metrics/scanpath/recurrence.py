"""Cross-recurrence quantification of two scanpaths."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from gazelit.errors import InputError
from gazelit.metrics.compiled import compiled
from gazelit.metrics.scanpath.paths import Paths, pack_pair
from gazelit.metrics.scanpath.values import Settings, wrap


class CrossRecurrence(NamedTuple):
    """The four measures in percent; a :class:`Score` each, or :class:`Scores` for lists.

    Attributes:
        rec: Share of pairs of fixations that are recurrent, 0 to 100.
        det: Share of the recurrent pairs on diagonal lines: the same positions in the same order, 0 to 100.
        lam: Share on vertical and horizontal lines: the same position for several fixations, 0 to 100.
        corm: Centre of recurrence mass, −100 to 100; above 0 if ``b`` looks later at the same positions.
    """

    rec: Any
    det: Any
    lam: Any
    corm: Any

    @property
    def settings(self) -> Settings:
        """The settings on which the measures depend."""
        return self.rec.settings


def cross_recurrence(
    a: Any, b: Any, *, radius: float, shortest_line: int = 2, truncate: bool = False
) -> CrossRecurrence:
    """Cross-recurrence quantification: which fixations of two scanpaths are near each other, and in which order.

    c_ij is 1 where fixations a_i and b_j are at most ``radius`` apart, C its sum. REC = 100 C / (n m). DET = 100 times
    the share of C on diagonal lines (both paths forward) of at least ``shortest_line``. LAM = 100 times the pairs on
    vertical lines and those on horizontal lines, over 2 C. CORM = 100 Σ (j − i) c_ij / ((N − 1) C), N the longer
    length.

    Source: Anderson, Anderson, Kingstone and Bischof, Behavior Research Methods 47, 1377 (2015), who truncate the
    longer path (``truncate``); for paths of one length both are the same.

    Args:
        a: (n, 3) array of x, y (pixels) and duration (s), or a list of such.
        b: The same, of as many.
        radius: Radius in pixels, about the size of the fovea or of the objects (the source: 1° to 2°).
        shortest_line: Fewest recurrent pairs of a line.
        truncate: Whether the longer path is cut to the length of the shorter path.

    Returns:
        The four measures. NaN: REC if a path is empty; DET, LAM and CORM if nothing recurs; CORM also of two paths of
        one fixation.

    Raises:
        InputError: A path or an option cannot be used.
    """
    if not radius >= 0:
        raise InputError(f"radius: must be at least 0 pixels, not {radius}")
    if shortest_line < 2:
        raise InputError(f"shortest_line: must be at least 2, not {shortest_line}")
    paths_a, paths_b, is_single = pack_pair(a, b)
    if truncate:
        counts = np.minimum(paths_a.counts, paths_b.counts)
        paths_a, paths_b = (Paths(paths.points, paths.first, paths.first + counts) for paths in (paths_a, paths_b))
    values = np.full((len(paths_a), 4), np.nan)
    _quantify(*paths_a.columns, *paths_b.columns, float(radius), int(shortest_line), values)
    parameters = (("radius", f"{radius:g} px"), ("lines of at least", shortest_line))
    rule = "longer path cut" if truncate else "whole paths"
    settings = Settings("cross-recurrence", length_rule=rule, parameters=parameters)
    return CrossRecurrence(*(wrap(column.copy(), settings, is_single) for column in values.T))


@compiled
def _added(run, shortest):  # type: ignore[no-untyped-def]
    """Number of pairs that a line adds to the pairs on lines when it reaches this length."""
    return np.int32(run >= shortest) + np.int32(run == shortest) * np.int32(shortest - 1)


@partial(compiled, has_nan=False)
def _quantify(x_a, y_a, first_a, last_a, x_b, y_b, first_b, last_b, radius, shortest, values):  # type: ignore[no-untyped-def]
    longest = 0
    for pair in range(len(values)):
        longest = max(longest, last_b[pair] - first_b[pair])
    near, vertical = np.empty(longest, np.int32), np.empty(longest, np.int32)
    # Lengths of lines that end in the row before and in this row, a column to the right.
    before, diagonal = np.empty(longest + 1, np.int32), np.empty(longest + 1, np.int32)
    unit = np.int32(1)
    for pair in range(len(values)):
        xs, ys = x_b[first_b[pair] : last_b[pair]], y_b[first_b[pair] : last_b[pair]]
        rows, columns = last_a[pair] - first_a[pair], len(xs)
        if rows == 0 or columns == 0:
            continue
        vertical[:columns], before[: columns + 1], diagonal[0] = 0, 0, 0
        recurrent, lag, on_diagonals, on_straight = 0, 0, 0, 0
        for row in range(rows):
            x, y = x_a[first_a[pair] + row], y_a[first_a[pair] + row]
            for column in range(columns):
                square = (x - xs[column]) * (x - xs[column]) + (y - ys[column]) * (y - ys[column])
                near[column] = np.int32(square <= radius * radius)
            for column in range(columns):
                recurrent += near[column]
                lag += near[column] * (column - row)
                vertical[column] = (vertical[column] + unit) * near[column]
                on_straight += _added(vertical[column], shortest)
                diagonal[column + 1] = (before[column] + unit) * near[column]
                on_diagonals += _added(diagonal[column + 1], shortest)
            horizontal = np.int32(0)
            for column in range(columns):
                horizontal = np.int32((horizontal + unit) * near[column])
                on_straight += _added(horizontal, shortest)
            before, diagonal = diagonal, before
            before[0] = 0
        values[pair, 0] = 100 * recurrent / (rows * columns)
        if recurrent == 0:
            continue
        values[pair, 1] = 100 * on_diagonals / recurrent
        values[pair, 2] = 100 * on_straight / (2 * recurrent)
        if max(rows, columns) > 1:
            values[pair, 3] = 100 * lag / ((max(rows, columns) - 1) * recurrent)
