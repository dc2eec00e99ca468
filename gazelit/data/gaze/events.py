"""Gaze as events and intervals: fixations from raw samples, saccades between them, and time windows.

Tables here are a store's: ``row`` (the case), ``reading_id``, ``t`` and ``duration`` in s, ``x`` and ``y`` in pixels of
the original image, ``ppd_x`` and ``ppd_y`` in pixels per degree, ordered by case, reading and time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.gaze.detection import Spans, dispersion_events, velocity_events
from gazelit.errors import InputError


@dataclass(frozen=True)
class Detection:
    """How fixations are found in raw samples (Salvucci and Goldberg 2000).

    Attributes:
        method: ``ivt``, by velocity, or ``idt``, by dispersion.
        velocity: Of I-VT: below it the eye fixates (degrees per second).
        dispersion: Of I-DT: extent in x plus extent in y up to which the eye fixates (degrees).
        min_duration: Shortest fixation (s).
        longest_gap: A longer time without a valid sample (a blink, a look off the image) ends a fixation (s).
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
        phrase: The time while a phrase was dictated that matches this regular expression, in either case.
        lag: For ``phrase``: seconds by which looking precedes the words (`gazelit phrases` has the curve).
    """

    first: float | None = None
    last: float | None = None
    phrase: str | None = None
    lag: float = 0.0

    def __post_init__(self) -> None:
        given = [name for name in ("first", "last", "phrase") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError("window: give exactly one of first, last and phrase")
        for name in ("first", "last"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"window.{name}: must be above 0 s, not {value}")
        if self.lag and self.phrase is None:
            raise InputError("window.lag: goes with window.phrase; leave it out")
        if self.phrase is not None:
            try:
                re.compile(self.phrase)
            except re.error as error:
                raise InputError(f"window.phrase: is no regular expression ({error})") from error


def detect_fixations(samples: pd.DataFrame, detection: Detection) -> pd.DataFrame:
    """Fixations in the valid samples of any number of readings.

    A fixation lasts from its first sample to the end of its last; its position is the mean of its samples, weighted by
    their durations.

    Args:
        samples: Valid samples.
        detection: Method and thresholds.

    Returns:
        A table of the same columns and order, one row a fixation, ``kind`` being ``fixation``.

    Raises:
        InputError: Pixels per degree are unknown, so that thresholds in degrees cannot be applied.
    """
    if samples.empty:
        return samples.assign(kind="fixation")
    ppd = samples[["ppd_x", "ppd_y"]].to_numpy(np.float64)
    if not np.isfinite(ppd).all():
        raise InputError("detection: needs pixels per degree, which this source does not give")
    runs = _runs(samples, detection.longest_gap)
    t, duration = samples["t"].to_numpy(np.float64), samples["duration"].to_numpy(np.float64)
    run = np.repeat(np.arange(len(runs) - 1), np.diff(runs))
    mean = np.stack([np.bincount(run, ppd[:, axis]) / np.diff(runs) for axis in (0, 1)], axis=1)
    first, last = _spans(samples[["x", "y"]].to_numpy(np.float64) / mean[run], t, runs, detection)
    long_enough = t[last] + duration[last] - t[first] >= detection.min_duration
    first, last = first[long_enough], last[long_enough]
    event = np.full(len(samples), -1, np.int64)
    length = last - first + 1
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    event[np.repeat(first, length) + within] = np.repeat(np.arange(len(first)), length)
    return _summarise(samples, event, len(first))


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
        The rows that have a part within, with ``duration`` that part and ``t`` its beginning.
    """
    keys = [gaze["row"], gaze["reading_id"]]
    begin, end = gaze["t"], gaze["t"] + gaze["duration"]
    if window.phrase is not None:
        inside, since = seconds_said(gaze, window.phrase, phrases, window.lag)
        begin = np.maximum(begin, since)
    elif window.first is not None:
        limit = begin.groupby(keys, observed=True).transform("min") + window.first
        inside = (np.minimum(end, limit) - begin).to_numpy()
    else:
        assert window.last is not None
        begin = np.maximum(begin, end.groupby(keys, observed=True).transform("max") - window.last)
        inside = (end - begin).to_numpy()
    kept = inside > 0
    return gaze[kept].assign(t=begin[kept], duration=inside[kept]).reset_index(drop=True)


def seconds_said(
    gaze: pd.DataFrame, pattern: str, phrases: pd.DataFrame, lag: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds of each row of gaze during which a matching phrase was dictated; overlapping phrases count once.

    Args:
        gaze: Samples or fixations.
        pattern: Regular expression, in either case.
        phrases: ``row``, ``reading_id``, ``text``, ``begin`` and ``end``.
        lag: Seconds by which looking precedes the words.

    Returns:
        (M,) seconds; and (M,) when the first such phrase of a row began, infinite without any.
    """
    matching = phrases[phrases["text"].str.contains(pattern, case=False, regex=True)]
    matching = matching.assign(begin=matching["begin"] - lag, end=matching["end"] - lag)
    intervals: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for row, reading, begin, end in matching.sort_values("begin")[["row", "reading_id", "begin", "end"]].itertuples(
        index=False
    ):
        spans = intervals.setdefault((row, str(reading)), [])
        if spans and begin <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((begin, end))
    inside, first = np.zeros(len(gaze)), np.full(len(gaze), np.inf)
    start = gaze["t"].to_numpy()
    end = start + gaze["duration"].to_numpy()
    for key, rows in gaze.groupby(["row", "reading_id"], observed=True).indices.items():
        row, reading = key
        for since, until in intervals.get((int(row), str(reading)), []):
            seconds = np.minimum(end[rows], until) - np.maximum(start[rows], since)
            inside[rows] += np.clip(seconds, 0, None)
            first[rows] = np.where(seconds > 0, np.minimum(first[rows], since), first[rows])
    return inside, first


def _runs(samples: pd.DataFrame, longest_gap: float) -> NDArray[np.int64]:
    """Where each stretch without a gap begins, and the number of samples."""
    row, reading = samples["row"].to_numpy(), samples["reading_id"].astype("category").cat.codes.to_numpy()
    breaks = (np.diff(row) != 0) | (np.diff(reading) != 0) | (np.diff(samples["t"].to_numpy()) > longest_gap)
    return np.concatenate([[0], np.flatnonzero(breaks) + 1, [len(samples)]]).astype(np.int64)


def _spans(
    degrees: NDArray[np.float64], t: NDArray[np.float64], runs: NDArray[np.int64], detection: Detection
) -> Spans:
    """First and last sample of each fixation, however short."""
    if detection.method == "ivt":
        return velocity_events(degrees, t, runs, detection.velocity)
    # I-DT counts samples; a run has equal steps but for jitter, hence its usual one.
    least = np.full(len(runs) - 1, len(t) + 1)
    for number in np.flatnonzero(np.diff(runs) >= 3):
        interval = float(np.median(np.diff(t[runs[number] : runs[number + 1]])))
        samples = detection.min_duration / interval if interval > 0 else len(t)
        least[number] = max(2, round(min(samples, len(t))))
    return dispersion_events(degrees, runs, detection.dispersion, least)


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
