"""Gaze as sequences: time, reading, reader and searched finding of each event."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gazelit.data.gaze.events import seconds_said
from gazelit.data.options import GazeOptions
from gazelit.data.store.store import Store

#: Further keys of a batch for a stage with ``needs_events``.
EVENT_KEYS = ("events", "reading", "reader", "finding", "said")


@dataclass(frozen=True)
class Events:
    """Times and conditions of a store's gaze, row by row as :class:`gazelit.data.dataset.WorkingGaze` has its points.

    Attributes:
        times: (M, 2) float32, start from the beginning of the reading and duration (s).
        reader: (M,) int64 number in ``reader_names``; −1 if the source does not name the reader.
        finding: (M,) int64 number in ``finding_names`` of the finding that was searched for; −1 for a free reading.
        reader_names: The store's readers, sorted.
        finding_names: The findings that the store's readers searched for, sorted.
        phrase_shares: (M, F) float32, share of each event's duration during which each of ``gaze.phrases`` was said.
    """

    times: NDArray[np.float32]
    reader: NDArray[np.int64]
    finding: NDArray[np.int64]
    reader_names: tuple[str, ...]
    finding_names: tuple[str, ...]
    phrase_shares: NDArray[np.float32]

    @classmethod
    def of(cls, store: Store, gaze: pd.DataFrame, options: GazeOptions) -> Events:
        """Makes events of a table of gaze that :meth:`gazelit.data.store.store.Store.gaze` has ordered."""
        reader, reader_names = _numbered(gaze["reader_id"])
        readings = store.table("readings")
        finding: NDArray[np.int64] = np.full(len(gaze), -1)
        finding_names: tuple[str, ...] = ()
        if "finding" in readings and readings["finding"].notna().any():
            sought = readings.dropna(subset="finding").set_index("reading_id")["finding"].astype(str)
            finding, finding_names = _numbered(gaze["reading_id"].astype(str).map(sought).fillna(""))
        times = gaze[["t", "duration"]].to_numpy(np.float32)
        duration = gaze["duration"].to_numpy(np.float64).clip(1e-9)
        by_phrase = [
            seconds_said(gaze, pattern, store.table("phrases"), options.phrase_lag)[0] / duration
            for pattern in (options.phrases or {}).values()
        ]
        shares = np.stack(by_phrase, axis=1) if by_phrase else np.zeros((len(gaze), 0))
        return cls(times, reader, finding, reader_names, finding_names, shares.clip(0, 1).astype(np.float32))

    def take(self, order: NDArray[np.int64]) -> Events:
        """The events of some rows."""
        return replace(
            self,
            times=self.times[order],
            reader=self.reader[order],
            finding=self.finding[order],
            phrase_shares=self.phrase_shares[order],
        )

    def moved(self, part: slice, reading: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.float32]:
        """(N, F) ``phrase_shares`` of a case's events, rolled within each reading by a random number of events.

        Args:
            part: The case's events.
            reading: (N,) the reading of each.
            generator: Of the numbers.
        """
        shares = self.phrase_shares[part].copy()
        for number in np.unique(reading):
            rows = np.flatnonzero(reading == number)
            shares[rows] = np.roll(shares[rows], int(generator.integers(len(rows))), axis=0)
        return shares

    def in_turn(self, before: Events, row: NDArray[np.int64], reading: NDArray[np.int64]) -> Events:
        """These events with the beginnings and pauses of ``before``, one after the other, and their own durations.

        Args:
            before: Readings of the same cases with the same numbers of events.
            row: (M,) case of each event.
            reading: (M,) its reading, ascending within a case.
        """
        start, duration = before.times.T.astype(np.float64)
        first = np.flatnonzero(np.diff(row, prepend=-1) | np.diff(reading, prepend=-1))
        pause = start - np.concatenate([[0.0], (start + duration)[:-1]])
        pause[first] = start[first]
        own = self.times[:, 1].astype(np.float64)
        ends = np.cumsum(pause + own)
        # Cumulative sums run over all readings; each reading begins at its first event.
        counts = np.diff(np.append(first, len(row)))
        offset = np.repeat((ends - own - pause)[first], counts)
        times = np.column_stack([ends - own - offset, own]).astype(np.float32)
        return replace(self, times=times)


def _numbered(names: pd.Series) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The number of each name among the sorted names, −1 for an empty name; and the sorted names."""
    values = names.astype("category").cat.remove_unused_categories()
    values = values.cat.reorder_categories(sorted(values.cat.categories))
    known = tuple(map(str, values.cat.categories))
    codes = values.cat.codes.to_numpy(np.int64)
    # Sorted, the empty name is the first.
    return (codes - 1, known[1:]) if known[:1] == ("",) else (codes, known)


def padded(examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The events of several examples, padded to the longest: times and positions with 0, numbers with −1."""
    longest = max(1, *(len(example["events"]) for example in examples))
    batch = {"events": torch.zeros(len(examples), longest, 4)}
    batch |= {key: torch.full((len(examples), longest), -1) for key in EVENT_KEYS[1:-1]}
    batch["said"] = torch.zeros(len(examples), longest, examples[0]["said"].shape[-1])
    for row, example in enumerate(examples):
        for key in EVENT_KEYS:
            batch[key][row, : len(example[key])] = example[key]
    return batch
