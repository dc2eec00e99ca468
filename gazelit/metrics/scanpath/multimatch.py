"""MultiMatch: two scanpaths compared as sequences of saccades, in five dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gazelit.errors import InputError
from gazelit.metrics.compiled import compiled
from gazelit.metrics.scanpath.paths import check_size, pack_pair
from gazelit.metrics.scanpath.values import Score, Scores, Settings, wrap

#: Least number of fixations; paths with fewer have too few saccades to align.
FEWEST = 3


@dataclass(frozen=True)
class Simplification:
    """Limits below which consecutive saccades are joined.

    Attributes:
        amplitude: Saccades shorter than this (pixels) are joined with the next saccade.
        direction: Saccades whose directions differ by less than this (degrees) are joined.
        duration: Saccades are joined only if the fixation between them is shorter than this (s).
    """

    amplitude: float
    direction: float
    duration: float


class MultiMatch(NamedTuple):
    """Similarities in the five dimensions, each in [0, 1]; a :class:`Score` each, or :class:`Scores` for lists.

    Attributes:
        shape: Similarity of the aligned saccades as vectors.
        direction: Similarity of their angles.
        length: Similarity of their amplitudes.
        position: Similarity of their starting points.
        duration: Similarity of the durations of the fixations before them.
    """

    shape: Any
    direction: Any
    length: Any
    position: Any
    duration: Any

    @property
    def settings(self) -> Settings:
        """The settings on which the similarities depend."""
        return self.shape.settings

    @property
    def mean(self) -> Any:
        """The mean of the five."""
        values = np.mean([np.asarray(dimension, np.float64) for dimension in self], axis=0)
        return Scores(values, self.settings) if isinstance(self.shape, Scores) else Score(float(values), self.settings)


def multimatch(a: Any, b: Any, *, size: Sequence[float], simplify: Simplification | None = None) -> MultiMatch:
    """MultiMatch: shape, direction, length, position and duration of aligned saccades.

    Scanpaths become the vectors between fixations. The shortest path through the matrix of the vectors' differences
    aligns them; along it the median of each difference is taken: shape 1 − Δ / (2 · diagonal), direction
    1 − angle / π, length and position 1 − difference / diagonal, duration 1 − difference / the longer duration. Of
    shortest paths that tie, that with more diagonal steps is taken. A saccade of length 0 counts as directed right.

    With ``simplify``, saccades are first joined by direction and by amplitude in turn until no more can be joined, as
    in the published toolbox: it joins a short last saccade with the saccade before, and keeps one more duration than
    saccades.

    Source: Jarodzka, Holmqvist and Nyström, ETRA 2010; Dewhurst et al., Behavior Research Methods 44, 1079 (2012).

    Args:
        a: (n, 3) array of x, y (pixels) and duration (s), or a list of such.
        b: The same, of as many.
        size: Width and height of the image (or screen) in pixels.
        simplify: When saccades are joined; none are unless given.

    Returns:
        The five similarities; NaN if a path has fewer than three fixations.

    Raises:
        InputError: A path or an option cannot be used.

    Example:
        The same saccades, 40 pixels to the right on an image whose diagonal is 500.

        >>> a = [[50, 50, 0.2], [150, 50, 0.3], [150, 250, 0.2]]
        >>> b = [[x + 40, y, duration] for x, y, duration in a]
        >>> [round(float(value), 4) for value in multimatch(a, b, size=(300, 400))]
        [1.0, 1.0, 1.0, 0.92, 1.0]
    """
    size = check_size(size)
    paths_a, paths_b, is_single = pack_pair(a, b)
    for paths, name in ((paths_a, "a"), (paths_b, "b")):
        paths.require_on_image(size, name)
    thresholds = np.full(3, -1.0)
    if simplify is not None:
        thresholds[:] = simplify.amplitude, math.radians(simplify.direction), simplify.duration
        if not (thresholds >= 0).all():
            raise InputError("simplify: amplitude, direction and duration must not be below 0")
    values = np.full((len(paths_a), 5), np.nan)
    _compare(
        paths_a.points,
        paths_a.first,
        paths_a.last,
        paths_b.points,
        paths_b.first,
        paths_b.last,
        np.hypot(*size),
        thresholds,
        values,
    )
    parameters = (
        ("amplitude", None if simplify is None else f"< {simplify.amplitude:g} px"),
        ("direction", None if simplify is None else f"< {simplify.direction:g}°"),
        ("duration", None if simplify is None else f"< {simplify.duration:g} s"),
        ("simplified", "no" if simplify is None else None),
    )
    settings = Settings("MultiMatch", size, length_rule="median along the alignment", parameters=parameters)
    return MultiMatch(*(wrap(column.copy(), settings, is_single) for column in values.T))


@compiled
def _vectors(points, saccades, durations):  # type: ignore[no-untyped-def]
    """Saccades (start x, start y, Δx, Δy) and durations of a path; returns their numbers."""
    count = len(points)
    for step in range(count - 1):
        saccades[step, 0], saccades[step, 1] = points[step, 0], points[step, 1]
        saccades[step, 2] = points[step + 1, 0] - points[step, 0]
        saccades[step, 3] = points[step + 1, 1] - points[step, 1]
    for step in range(count):
        durations[step] = points[step, 2]
    return count - 1, count


@compiled
def _join(saccades, step, kept):  # type: ignore[no-untyped-def]
    """Writes the sum of a saccade and the next saccade to row ``kept``."""
    saccades[kept, 0], saccades[kept, 1] = saccades[step, 0], saccades[step, 1]
    saccades[kept, 2] = saccades[step, 2] + saccades[step + 1, 2]
    saccades[kept, 3] = saccades[step, 3] + saccades[step + 1, 3]


@compiled
def _keep(saccades, step, kept):  # type: ignore[no-untyped-def]
    for axis in range(4):
        saccades[kept, axis] = saccades[step, axis]


@compiled
def _simplify_direction(saccades, durations, count, fixations, direction, duration):  # type: ignore[no-untyped-def]
    # Saccades are joined in place: rows are never written before they are read.
    last_duration = durations[fixations - 1]
    step, kept = 0, 0
    while step < count:
        is_joined = False
        if step < count - 1 and durations[step + 1] < duration:
            dot = saccades[step, 2] * saccades[step + 1, 2] + saccades[step, 3] * saccades[step + 1, 3]
            lengths = math.hypot(saccades[step, 2], saccades[step, 3]) * math.hypot(
                saccades[step + 1, 2], saccades[step + 1, 3]
            )
            # A saccade of length 0 has no direction.
            is_joined = lengths > 0 and math.acos(min(1.0, max(-1.0, dot / lengths))) < direction
        durations[kept] = durations[step]
        if is_joined:
            _join(saccades, step, kept)
        else:
            _keep(saccades, step, kept)
        step += 2 if is_joined else 1
        kept += 1
    durations[kept] = last_duration
    return kept, kept + 1


@compiled
def _simplify_amplitude(saccades, durations, count, fixations, amplitude, duration):  # type: ignore[no-untyped-def]
    last_duration, before_last = durations[fixations - 1], durations[fixations - 2]
    last_x, last_y = saccades[count - 1, 2], saccades[count - 1, 3]
    previous_x, previous_y = saccades[count - 2, 2], saccades[count - 2, 3]
    step, kept, further = 0, 0, 0
    while step < count:
        is_short = math.hypot(saccades[step, 2], saccades[step, 3]) < amplitude
        if step == count - 1 and kept > 0 and is_short and (last_duration < duration or before_last < duration):
            # The toolbox replaces the last kept saccade by the last two original saccades, and also keeps the
            # duration before.
            saccades[kept - 1, 2], saccades[kept - 1, 3] = previous_x + last_x, previous_y + last_y
            further = 1
            break
        is_joined = step < count - 1 and is_short and (durations[step + 1] < duration or durations[step] < duration)
        durations[kept] = durations[step]
        if is_joined:
            _join(saccades, step, kept)
        else:
            _keep(saccades, step, kept)
        step += 2 if is_joined else 1
        kept += 1
    if further:
        durations[kept] = durations[step - 1]
    durations[kept + further] = last_duration
    return kept, kept + further + 1


@compiled
def _simplify(saccades, durations, count, fixations, thresholds):  # type: ignore[no-untyped-def]
    """Joins saccades until none is joined; returns the numbers of saccades and durations."""
    before = -1
    while fixations != before:
        before = fixations
        count, fixations = _simplify_direction(saccades, durations, count, fixations, thresholds[1], thresholds[2])
        if count > 1:
            count, fixations = _simplify_amplitude(saccades, durations, count, fixations, thresholds[0], thresholds[2])
    return count


@compiled
def _angle(x, y):  # type: ignore[no-untyped-def]
    angle = math.atan2(y, x)
    return angle + 2 * math.pi if angle < 0 else angle


@compiled
def _trace(work, rows, columns, path):  # type: ignore[no-untyped-def]
    """Writes the shortest path through a matrix of costs, from its last corner; returns its length."""
    # The start of every path has cost zero, so that equal sums stay equal.
    work[0, 0] = 0.0
    for row in range(rows):
        for column in range(columns):
            if row == 0 and column == 0:
                continue
            best = np.inf
            if row > 0:
                best = work[row - 1, column]
            if column > 0:
                best = min(best, work[row, column - 1])
            if row > 0 and column > 0:
                best = min(best, work[row - 1, column - 1])
            work[row, column] += best
    row, column, count = rows - 1, columns - 1, 0
    while True:
        path[count, 0], path[count, 1] = row, column
        count += 1
        if row == 0 and column == 0:
            return count
        if row == 0:
            column -= 1
        elif column == 0:
            row -= 1
        elif work[row - 1, column - 1] <= min(work[row - 1, column], work[row, column - 1]):
            row, column = row - 1, column - 1
        elif work[row - 1, column] <= work[row, column - 1]:
            row -= 1
        else:
            column -= 1


@compiled
def _compare(a, first_a, last_a, b, first_b, last_b, diagonal, thresholds, values):  # type: ignore[no-untyped-def]
    longest_a, longest_b = 0, 0
    for pair in range(len(values)):
        longest_a = max(longest_a, last_a[pair] - first_a[pair])
        longest_b = max(longest_b, last_b[pair] - first_b[pair])
    saccades_a, saccades_b = np.empty((longest_a + 1, 4)), np.empty((longest_b + 1, 4))
    durations_a, durations_b = np.empty(longest_a + 2), np.empty(longest_b + 2)
    work = np.empty((longest_a + 1, longest_b + 1))
    path = np.empty((longest_a + longest_b + 2, 2), np.int64)
    differences = np.empty((5, longest_a + longest_b + 2))
    for pair in range(len(values)):
        if min(last_a[pair] - first_a[pair], last_b[pair] - first_b[pair]) < FEWEST:
            continue
        rows, fixations_a = _vectors(a[first_a[pair] : last_a[pair]], saccades_a, durations_a)
        columns, fixations_b = _vectors(b[first_b[pair] : last_b[pair]], saccades_b, durations_b)
        if thresholds[0] >= 0:
            rows = _simplify(saccades_a, durations_a, rows, fixations_a, thresholds)
            columns = _simplify(saccades_b, durations_b, columns, fixations_b, thresholds)
        for row in range(rows):
            for column in range(columns):
                x = saccades_a[row, 2] - saccades_b[column, 2]
                y = saccades_a[row, 3] - saccades_b[column, 3]
                work[row, column] = math.sqrt(x * x + y * y)
        steps = _trace(work, rows, columns, path)
        for step in range(steps):
            saccade_a, saccade_b = saccades_a[path[step, 0]], saccades_b[path[step, 1]]
            angle = abs(_angle(saccade_a[2], saccade_a[3]) - _angle(saccade_b[2], saccade_b[3]))
            duration_a, duration_b = durations_a[path[step, 0]], durations_b[path[step, 1]]
            longer = max(duration_a, duration_b)
            differences[0, step] = math.hypot(saccade_a[2] - saccade_b[2], saccade_a[3] - saccade_b[3])
            differences[1, step] = min(angle, 2 * math.pi - angle)
            differences[2, step] = abs(math.hypot(saccade_a[2], saccade_a[3]) - math.hypot(saccade_b[2], saccade_b[3]))
            differences[3, step] = math.hypot(saccade_a[0] - saccade_b[0], saccade_a[1] - saccade_b[1])
            differences[4, step] = abs(duration_a - duration_b) / longer if longer > 0 else 0.0
        scales = (2 * diagonal, math.pi, diagonal, diagonal, 1.0)
        for dimension in range(5):
            values[pair, dimension] = 1 - np.median(differences[dimension, :steps]) / scales[dimension]
