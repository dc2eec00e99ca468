"""Checks whether gaze can be in the given units."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.errors import InputError

#: With fewer rows units are not checked.
FEWEST_ROWS = 10
#: From this share of rows on a unit is doubted.
MOST = 0.9
#: Neither fixations nor the samples of a tracker last so long at the median (s).
LONGEST = {"fixation": 10.0, "sample": 0.5}
#: Times that are so many durations apart are in another unit than the durations.
FARTHEST = 100
#: Largest position in percent on an image, and beside it.
MOST_PERCENT, MOST_PERCENT_BESIDE = 100, 110


def require_seconds(path: Path, durations: NDArray[np.float64], field: str) -> None:
    """Raises InputError if durations of fixations can only be milliseconds: half of them last longer than 10 s."""
    longest = LONGEST["fixation"]
    if len(durations) and np.median(durations) > longest:
        raise InputError(
            f"{path}: half of the fixations last longer than {longest:g} s: is {field} in milliseconds? It is read as "
            "seconds; divide it by 1000"
        )


class DoubtsAboutUnits:
    """Collects reasons to doubt the units of a table of gaze, which may come in pieces.

    Shares are compared, and quantiles with limits, so that only counts are kept.

    Args:
        coordinates: ``pixel``, ``normalised`` or ``screen``.
    """

    def __init__(self, coordinates: str) -> None:
        self._coordinates = coordinates
        self._rows = self._seen = 0
        # Of x and y: rows near 0.
        self._small = np.zeros(2, np.int64)
        self._in_percent = True
        self._beside = self._large = 0
        self._widths: Counter[float] = Counter()
        self._heights: Counter[float] = Counter()
        self._percents = _Quantile(0.99, MOST_PERCENT_BESIDE)
        self._durations = {kind: _Quantile(0.5, longest) for kind, longest in LONGEST.items()}
        self._steps = _Quantile(0.5, FARTHEST)

    def add(self, gaze: pd.DataFrame, size: NDArray[np.float64]) -> None:
        """Takes a piece of the table.

        Args:
            gaze: ``x``, ``y``, ``duration`` and ``kind``, perhaps ``t`` and ``reading_id``, as they were given; whole
                readings, their rows in order.
            size: (N, 2) width and height of each row's image.
        """
        self._rows += len(gaze)
        xy = gaze[["x", "y"]].to_numpy(np.float64)
        seen = np.isfinite(xy).all(axis=1)
        self._add_coordinates(xy[seen], size[seen])
        kind, duration = gaze["kind"].to_numpy(object), gaze["duration"].to_numpy(np.float64)
        for name, lengths in self._durations.items():
            lengths.add(duration[kind == name])
        if "t" in gaze and "reading_id" in gaze:
            reading = pd.factorize(gaze["reading_id"])[0]
            follows = (np.diff(reading) == 0) & (kind[1:] == kind[:-1]) & (duration[:-1] > 0)
            self._steps.add(np.diff(gaze["t"].to_numpy(np.float64))[follows] / duration[:-1][follows])

    def _add_coordinates(self, xy: NDArray[np.float64], size: NDArray[np.float64]) -> None:
        self._seen += len(xy)
        self._small += (np.abs(xy) <= 1).sum(axis=0)
        self._in_percent &= bool(((xy <= MOST_PERCENT) & (xy >= 0)).all())
        self._beside += int(((xy < -0.5) | (xy >= size - 0.5)).any(axis=1).sum())
        self._large += int((xy > 1.5).any(axis=1).sum())
        self._percents.add(xy.ravel())
        for counter, sides in ((self._widths, size[:, 0]), (self._heights, size[:, 1])):
            values, counts = np.unique(sides, return_counts=True)
            counter.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def lines(self) -> list[str]:
        """Reasons to doubt the units, a line each."""
        found = self._about_coordinates() if self._seen >= FEWEST_ROWS else []
        for kind, lengths in self._durations.items():
            if lengths.count >= FEWEST_ROWS and lengths.exceeds():
                found.append(
                    f"half of the {kind}s last longer than {LONGEST[kind]:g} s: are these milliseconds? duration is "
                    "in seconds"
                )
        if not found and self._rows >= FEWEST_ROWS and self._steps.exceeds():
            found.append(
                f"half of the rows begin over {FARTHEST} durations apart: is t in milliseconds? t is in seconds"
            )
        return found

    def _about_coordinates(self) -> list[str]:
        rows = self._seen
        if self._coordinates == "pixel":
            small = [float(count / rows) for count in self._small]
            if min(small) >= MOST:
                return [
                    f"{small[0]:.0%} of x and {small[1]:.0%} of y lie between -1 and 1: are these fractions? Give "
                    "coordinates: normalised"
                ]
            if self._in_percent and rows >= 5 * FEWEST_ROWS and _median(self._widths + self._heights) >= 500:
                return [
                    f"no x or y is above 100, on images {_median(self._widths):.0f} pixels wide: are these percent? "
                    "Divide by 100 and give coordinates: normalised"
                ]
            if self._beside / rows >= MOST:
                return [
                    f"{self._beside / rows:.0%} of the rows lie beside their image: are x and y pixels of the screen, "
                    "or of the image in another size? pixel means pixels of the image file; see coordinates"
                ]
        if self._coordinates == "normalised" and self._large / rows >= 0.5:
            unit = "pixels (give coordinates: pixel)" if self._percents.exceeds() else "percent (divide by 100)"
            return [
                f"{self._large / rows:.0%} of the rows have x or y above 1.5: are these {unit}? normalised is 0 to 1"
            ]
        return []


class _Quantile:
    """Whether a quantile of numbers, interpolated linearly, is above a limit; numbers are counted, not kept."""

    def __init__(self, share: float, limit: float) -> None:
        self._share, self._limit = share, limit
        self.count = self._within = 0
        # The numbers next to the limit, which the quantile may lie between.
        self._largest_within, self._smallest_above = -np.inf, np.inf

    def add(self, values: NDArray[np.float64]) -> None:
        is_within = values <= self._limit
        self.count += len(values)
        self._within += int(is_within.sum())
        self._largest_within = max(self._largest_within, values[is_within].max(initial=-np.inf))
        self._smallest_above = min(self._smallest_above, values[~is_within].min(initial=np.inf))

    def exceeds(self) -> bool:
        """Whether it is; not without numbers."""
        lower, between = divmod(self._share * (self.count - 1), 1)
        if not self.count or self._within in (0, self.count):
            return self.count > self._within
        if lower != self._within - 1:
            return lower >= self._within
        return between * (self._smallest_above - self._largest_within) + self._largest_within > self._limit


def _median(counts: Counter[float]) -> float:
    """Median of numbers that were counted."""
    values = np.array(sorted(counts))
    ends = np.cumsum([counts[value] for value in values.tolist()])
    middle = values[np.searchsorted(ends, [(ends[-1] - 1) // 2, ends[-1] // 2], side="right")]
    return float(middle.mean())
