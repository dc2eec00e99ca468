"""Gaze as events and intervals: fixations from raw samples, saccades between them, and time windows.

Tables here are a store's: ``row`` (the case), ``reading_id``, ``t`` and ``duration`` in s, ``x`` and ``y`` in pixels of
the original image, ``ppd_x`` and ``ppd_y`` in pixels per degree, ordered by case, reading and time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.errors import InputError

#: Time goes to pymovements as whole microseconds.
_TICKS = 1_000_000


@dataclass(frozen=True)
class Detection:
    """How fixations are found in raw samples (Salvucci and Goldberg 2000).

    Attributes:
        method: ``ivt``, by velocity, or ``idt``, by dispersion.
        velocity: Of I-VT: below it the eye fixates (degrees per second).
        dispersion: Of I-DT: extent in x plus extent in y up to which the eye fixates (degrees).
        min_duration: Shortest fixation (s).
        longest_gap: A longer time without a valid sample (a blink, a look beside the image) ends a fixation (s).
    """

    method: Literal["ivt", "idt"] = "ivt"
    velocity: float = 30.0
    dispersion: float = 1.0
    min_duration: float = 0.06
    longest_gap: float = 0.075

    def __post_init__(self) -> None:
        for name in ("velocity", "dispersion", "min_duration", "longest_gap"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: must be above 0, not {getattr(self, name)}")


@dataclass(frozen=True)
class TimeWindow:
    """The part of each reading that counts; exactly one of the three.

    Attributes:
        first: The first seconds.
        last: The last seconds.
        phrase: While something was said that contains this regular expression, in either case.
    """

    first: float | None = None
    last: float | None = None
    phrase: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("first", "last", "phrase") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError("window: give exactly one of first, last and phrase")
        for name in ("first", "last"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"window.{name}: must be above 0 s, not {value}")
        if self.phrase is not None:
            try:
                re.compile(self.phrase)
            except re.error as error:
                raise InputError(f"window.phrase: is no regular expression ({error})") from error


def detect_fixations(samples: pd.DataFrame, detection: Detection) -> pd.DataFrame:
    """Fixations in the valid samples of any number of readings.

    A fixation lasts from its first sample to the end of its last; it lies at the mean of its samples, weighted by their
    durations.

    Args:
        samples: Valid samples.
        detection: Method and thresholds.

    Returns:
        A table of the same columns and order, one row a fixation, ``kind`` being ``fixation``.

    Raises:
        InputError: Pixels per degree are unknown, so that thresholds in degrees mean nothing.
    """
    if samples.empty:
        return samples.assign(kind="fixation")
    ppd = samples[["ppd_x", "ppd_y"]].to_numpy(np.float64)
    if not np.isfinite(ppd).all():
        raise InputError("detection: needs pixels per degree, which this source does not give")
    t, duration = samples["t"].to_numpy(), samples["duration"].to_numpy()
    event = np.full(len(samples), -1, np.int64)
    count = 0
    for begin, end in _runs(samples, detection.longest_gap):
        degrees = samples[["x", "y"]].to_numpy(np.float64)[begin:end] / ppd[begin:end].mean(axis=0)
        for first, last in _find(degrees, t[begin:end], detection):
            if t[begin + last] + duration[begin + last] - t[begin + first] < detection.min_duration:
                continue
            event[begin + first : begin + last + 1] = count
            count += 1
    return _summarise(samples, event, count)


def saccades(fixations: pd.DataFrame) -> pd.DataFrame:
    """The jumps between successive fixations of each reading.

    Args:
        fixations: Ordered by case, reading and time.

    Returns:
        ``row``, ``reading_id``, ``t`` and ``duration`` (s) of the flight, ``amplitude`` (degrees; NaN where pixels per
        degree are unknown) and ``direction`` (degrees, 0 to the right, 90 up).
    """
    before, after = fixations.iloc[:-1].reset_index(drop=True), fixations.iloc[1:].reset_index(drop=True)
    same = (before["row"] == after["row"]) & (before["reading_id"].astype(str) == after["reading_id"].astype(str))
    dx = (after["x"] - before["x"]) / (before["ppd_x"] + after["ppd_x"]) * 2
    dy = (after["y"] - before["y"]) / (before["ppd_y"] + after["ppd_y"]) * 2
    leave = before["t"] + before["duration"]
    table = pd.DataFrame(
        {
            "row": before["row"],
            "reading_id": before["reading_id"],
            "t": leave,
            "duration": (after["t"] - leave).clip(lower=0),
            "amplitude": np.hypot(dx, dy),
            "direction": np.degrees(np.arctan2(-dy, dx)) % 360,
        }
    )
    return table[same].reset_index(drop=True)


def clip_to_window(gaze: pd.DataFrame, window: TimeWindow, phrases: pd.DataFrame) -> pd.DataFrame:
    """The gaze within a window; a row that lies partly within keeps that part of its duration.

    A reading begins with its first row and ends with the end of its last.

    Args:
        gaze: Samples or fixations.
        window: Which part counts.
        phrases: ``row``, ``reading_id``, ``text``, ``begin`` and ``end``; used by ``phrase`` alone.

    Returns:
        The rows that have a part within, with ``duration`` that part.
    """
    keys = [gaze["row"], gaze["reading_id"]]
    start, end = gaze["t"], gaze["t"] + gaze["duration"]
    if window.phrase is not None:
        inside = _overlap_with_phrases(gaze, window.phrase, phrases)
    elif window.first is not None:
        limit = start.groupby(keys, observed=True).transform("min") + window.first
        inside = (np.minimum(end, limit) - start).to_numpy()
    else:
        assert window.last is not None
        limit = end.groupby(keys, observed=True).transform("max") - window.last
        inside = (end - np.maximum(start, limit)).to_numpy()
    kept = inside > 0
    return gaze[kept].assign(duration=inside[kept]).reset_index(drop=True)


def _overlap_with_phrases(gaze: pd.DataFrame, pattern: str, phrases: pd.DataFrame) -> NDArray[np.float64]:
    """Seconds of each row during which a matching phrase was said; phrases that overlap count once."""
    said = phrases[phrases["text"].str.contains(pattern, case=False, regex=True)]
    intervals: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for row, reading, begin, end in said.sort_values("begin")[["row", "reading_id", "begin", "end"]].itertuples(
        index=False
    ):
        spans = intervals.setdefault((row, str(reading)), [])
        if spans and begin <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((begin, end))
    inside = np.zeros(len(gaze))
    start = gaze["t"].to_numpy()
    end = start + gaze["duration"].to_numpy()
    for place, rows in gaze.groupby(["row", "reading_id"], observed=True).indices.items():
        row, reading = place
        for since, until in intervals.get((int(row), str(reading)), []):
            inside[rows] += np.clip(np.minimum(end[rows], until) - np.maximum(start[rows], since), 0, None)
    return inside


def _runs(samples: pd.DataFrame, longest_gap: float) -> list[tuple[int, int]]:
    """Stretches without a gap: [begin, end) of each."""
    row, reading = samples["row"].to_numpy(), samples["reading_id"].astype("category").cat.codes.to_numpy()
    breaks = (np.diff(row) != 0) | (np.diff(reading) != 0) | (np.diff(samples["t"].to_numpy()) > longest_gap)
    edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(samples)]
    return list(pairwise(edges))


def _find(degrees: NDArray[np.float64], t: NDArray[np.float64], detection: Detection) -> list[tuple[int, int]]:
    """First and last sample of each fixation within a run."""
    # Imported here, because it takes two seconds and most runs use published fixations.
    from pymovements.events import idt, ivt

    if len(t) < 3:
        return []
    ticks = np.round((t - t[0]) * _TICKS).astype(np.int64)
    if detection.method == "ivt":
        if not (np.diff(ticks) > 0).all():
            return []
        # From the times themselves: trackers are not as regular as their name plate.
        velocity = np.gradient(degrees, ticks / _TICKS, axis=0)
        found = ivt(velocity, ticks, minimum_duration=1, velocity_threshold=detection.velocity)
        first, last = (np.searchsorted(ticks, found.frame[name].to_numpy()) for name in ("onset", "offset"))
        return list(zip(first.tolist(), last.tolist(), strict=True))
    # pymovements' I-DT wants equal steps; a run has them but for jitter, so samples are counted instead.
    interval = float(np.median(np.diff(t)))
    least = max(2, round(detection.min_duration / interval))
    if len(t) < least:
        return []
    found = idt(degrees, minimum_duration=least, dispersion_threshold=detection.dispersion)
    first, last = (found.frame[name].to_numpy().astype(int) for name in ("onset", "offset"))
    # A fixation that dispersion ended holds the sample that ended it, unless it is the run's last.
    return [
        (a, b - 1 if b > a and _dispersion(degrees[a : b + 1]) > detection.dispersion else b)
        for a, b in zip(first.tolist(), last.tolist(), strict=True)
    ]


def _dispersion(degrees: NDArray[np.float64]) -> float:
    return float(np.ptp(degrees, axis=0).sum())


def _summarise(samples: pd.DataFrame, event: NDArray[np.int64], count: int) -> pd.DataFrame:
    inside = event >= 0
    part, number = samples[inside], event[inside]
    first = np.searchsorted(number, np.arange(count))
    last = np.append(first[1:], len(number)) - 1 if count else first
    fixations = part.iloc[first].reset_index(drop=True)
    t, duration = part["t"].to_numpy(), part["duration"].to_numpy()
    weight = np.maximum(duration, 1e-9)
    total = np.bincount(number, weight, count)
    for column in ("x", "y", "ppd_x", "ppd_y"):
        fixations[column] = np.bincount(number, weight * part[column].to_numpy(), count) / total
    fixations["duration"] = t[last] + duration[last] - t[first]
    return fixations.assign(kind="fixation")
