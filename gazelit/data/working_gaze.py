"""The gaze of a store's cases in working pixels: all of it in memory, or read from the store by blocks of cases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.gaze.events import clip_to_window, detect_fixations
from gazelit.data.gaze.heatmap import SMALLEST_SIGMA
from gazelit.data.gaze.sequences import Events
from gazelit.data.options import GazeControl, GazeOptions
from gazelit.data.store.gaze_spool import GazeSpool
from gazelit.data.store.store import Store
from gazelit.errors import InputError

#: Rows of gaze that are converted to working pixels at a time, in float64.
_BLOCK = 100_000
#: Columns of gaze that training needs, besides the pixels per degree.
_COLUMNS = ["row", "reading_id", "reader_id", "t", "duration", "x", "y"]
#: Columns of gaze that points are made from, besides those that identify them.
_NUMBERS = ["t", "duration", "x", "y", "ppd_x", "ppd_y"]
#: Rows of gaze in memory at a time if cases are taken in order; about 15 MB while they are read.
BLOCK_ROWS = 50_000


class CaseGaze(NamedTuple):
    """A case's gaze in working pixels.

    Attributes:
        points: (M, 3) float32 x, y, weight, in order of time within a reading.
        sigma: (M, 2) float32, σ of each point.
        reading: (M,) number, from 0, of the case's reading that a point is of.
    """

    points: NDArray[np.float32]
    sigma: NDArray[np.float32]
    reading: NDArray[np.int64]


@dataclass(frozen=True)
class GazePoints:
    """The gaze of successive cases of a store, in working pixels.

    Attributes:
        points: (M, 3) float32 x, y, weight, case after case and in order of time within a reading.
        sigma: (M, 2) float32, σ of each point.
        reading: (M,) number, from 0, of its case's reading that a point is of.
        starts: (N + 1,) index of each case's first point.
    """

    points: NDArray[np.float32]
    sigma: NDArray[np.float32]
    reading: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of_table(
        cls, gaze: pd.DataFrame, cases: range, store: Store, options: GazeOptions, downscale: int
    ) -> GazePoints:
        """Converts these cases' gaze from a table that :meth:`gazelit.data.store.store.Store.gaze` has ordered.

        Raises:
            InputError: σ is in degrees, but the viewing geometry of the gaze is not known.
        """
        row = gaze["row"].to_numpy()
        starts = np.searchsorted(row, np.arange(cases.start, cases.stop + 1))
        reading = np.zeros(len(gaze), np.int64)
        if len(gaze):
            name = gaze["reading_id"].astype("category").cat.codes.to_numpy()
            new = np.diff(name, prepend=name[0]) != 0
            reading = np.cumsum(new)
            reading -= reading[starts[row - cases.start]]
        weight = gaze["duration"].to_numpy() if options.weight == "duration" else np.ones(len(gaze))
        if options.readings == "equal":
            weight = weight / pd.Series(weight).groupby([row, reading]).transform("sum").to_numpy().clip(1e-12)
        points, sigma = np.empty((len(gaze), 3), np.float32), np.empty((len(gaze), 2), np.float32)
        points[:, 2] = weight
        smallest = np.inf
        for start in range(0, len(gaze), _BLOCK):
            part = slice(start, start + _BLOCK)
            rows, fixations = row[part], gaze.iloc[part]
            scale = store.letterboxes.scale[rows] / downscale
            corner = store.letterboxes.corner[rows] / downscale
            # Letterbox.to_working for these cases at once, then the change to the coarser grid: pixel centres are at
            # integers.
            points[part, :2] = (fixations[["x", "y"]].to_numpy(np.float64) + 0.5) * scale - 0.5 + corner
            of_points = np.broadcast_to(options.sigma * _unit(fixations, scale, options.sigma_unit), (len(rows), 2))
            if not np.isfinite(of_points).all():
                raise InputError(
                    "gaze.sigma_unit: deg needs pixels per degree, which this source does not give; use px or image_px"
                )
            smallest = min(smallest, of_points.min())
            sigma[part] = of_points
        if not smallest >= SMALLEST_SIGMA:
            raise InputError(
                f"gaze.sigma: comes to {smallest:.3g} working pixels for some gaze; at least {SMALLEST_SIGMA} is "
                "needed. Are the pixels per degree right?"
            )
        return cls(points, sigma, reading, starts)

    def part(self, case: int) -> slice:
        """The slice of a case's points, by its number among the cases."""
        return slice(self.starts[case], self.starts[case + 1])

    def of_case(self, case: int) -> CaseGaze:
        """A case's gaze, by its number among the cases; the arrays are views."""
        part = self.part(case)
        return CaseGaze(self.points[part], self.sigma[part], self.reading[part])


@dataclass(frozen=True)
class WorkingGaze(GazePoints):
    """The gaze of all of a store's cases, in memory.

    Attributes:
        events: Times, readers and findings of the points.
    """

    events: Events

    @classmethod
    def of(cls, store: Store, options: GazeOptions, downscale: int) -> WorkingGaze:
        """Reads a store's gaze.

        Raises:
            InputError: σ is in degrees, but the viewing geometry of the gaze is not known.
        """
        gaze = _events(store, options)
        found = GazePoints.of_table(gaze, range(len(store.cases)), store, options, downscale)
        return cls(found.points, found.sigma, found.reading, found.starts, Events.of(store, gaze, options))

    @property
    def whole(self) -> WorkingGaze:
        """As :attr:`GazeInBlocks.whole`."""
        return self

    def controlled(
        self, control: GazeControl, rows: NDArray[np.int64], patients: NDArray[np.generic], seed: int
    ) -> WorkingGaze:
        """The same gaze, except that some cases have other gaze or none, as a control of what a model learns from gaze.

        Args:
            control: ``shuffled``: each case has the gaze of a case of another patient; ``centre``: points drawn from
                all these cases' points, as many as the case has; ``order``: its own fixations in random order within
                each reading; ``phrases``: phrases are rolled by a random number of events; ``none``: no gaze; ``true``:
                its own.
            rows: The cases that are changed, and from which gaze is taken.
            patients: (N,) patient of every case.
            seed: Seed of the shuffling.

        Raises:
            InputError: Gaze cannot be shuffled because one patient has most of the cases.
        """
        if control == "true" or not len(rows):
            return self
        generator = np.random.default_rng(seed)
        if control == "phrases":
            shares = self.events.phrase_shares.copy()
            for row in rows:
                part = self.part(row)
                shares[part] = self.events.moved(part, self.reading[part], generator)
            return replace(self, events=replace(self.events, phrase_shares=shares))
        parts = [np.arange(self.starts[row], self.starts[row + 1]) for row in range(len(self.starts) - 1)]
        pool = np.concatenate([parts[row] for row in rows])
        if control == "shuffled":
            donors = _donors(rows, patients, generator)
        for position, row in enumerate(rows):
            own = self.starts[row + 1] - self.starts[row]
            if control == "none":
                parts[row] = pool[:0]
            elif control == "centre":
                drawn = np.sort(generator.choice(pool, own)) if len(pool) else pool
                # In the order of time, because a stage may predict sequences.
                parts[row] = drawn[np.argsort(self.events.times[drawn, 0], kind="stable")]
            elif control == "order":
                draws = generator.random(len(parts[row]))
                parts[row] = parts[row][np.lexsort((draws, self.reading[parts[row]]))]
            else:
                donor = donors[position]
                parts[row] = np.arange(self.starts[donor], self.starts[donor + 1])
        order = np.concatenate(parts)
        starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        reading = self.reading[order] * (control != "centre")
        events = self.events.take(order)
        if control == "order":
            events = events.in_turn(self.events, np.repeat(np.arange(len(parts)), np.diff(starts)), reading)
        return WorkingGaze(self.points[order], self.sigma[order], reading, starts.astype(np.int64), events)

    def without(self, left_out: NDArray[np.bool_]) -> WorkingGaze:
        """The same gaze without some of its points (M,)."""
        kept = np.flatnonzero(~left_out)
        starts = np.searchsorted(kept, self.starts)
        row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        # Numbers of a case's readings must have no gaps, because a drawn reading is a random number below their count.
        reading = pd.Series(self.reading[kept]).groupby(row).rank("dense").to_numpy(np.int64) - 1
        return WorkingGaze(self.points[kept], self.sigma[kept], reading, starts, self.events.take(kept))


class GazeInBlocks:
    """The same gaze for cases that are taken in the store's order: a block of them at a time is in memory.

    Args:
        store: The store.
        options: How gaze becomes points.
        downscale: Integer factor between the store's resolution and the working one.
    """

    def __init__(self, store: Store, options: GazeOptions, downscale: int) -> None:
        self._store, self._options, self._downscale = store, options, downscale
        self._held: tuple[range, GazePoints] | None = None

    def of_case(self, case: int) -> CaseGaze:
        """A case's gaze.

        Raises:
            InputError: As of :meth:`GazePoints.of_table`.
        """
        if self._held is None or case not in self._held[0]:
            # The block before is freed first.
            self._held = None
            number = case // len(self._spool.blocks[0])
            cases, gaze = self._spool.blocks[number], _events_in(self._spool.read(number), self._options)
            self._held = cases, GazePoints.of_table(gaze, cases, self._store, self._options, self._downscale)
        return self._held[1].of_case(case - self._held[0].start)

    @cached_property
    def whole(self) -> WorkingGaze:
        """All of it with its events, for code that needs events, or cases in any order."""
        return WorkingGaze.of(self._store, self._options, self._downscale)

    @cached_property
    def _spool(self) -> GazeSpool:
        kind = "sample" if self._options.kind == "detected" else self._options.kind
        return GazeSpool(self._store, kind, _NUMBERS, BLOCK_ROWS)

    def __getstate__(self) -> dict[str, Any]:
        # A loader's process that is not forked makes its own copy.
        return {name: value for name, value in self.__dict__.items() if name != "_spool"} | {"_held": None}


#: Gaze of all of a store's cases.
Gaze = WorkingGaze | GazeInBlocks


def gaze_in_order(store: Store, options: GazeOptions, downscale: int) -> Gaze:
    """The gaze for passes over cases in the store's order: by blocks if there is much of it.

    Raises:
        InputError: As of :meth:`GazePoints.of_table`.
    """
    # Phrases are matched in the whole table of dictation.
    by_phrase = options.window is not None and options.window.phrase is not None
    if by_phrase or store.gaze_rows <= BLOCK_ROWS:
        return WorkingGaze.of(store, options, downscale)
    return GazeInBlocks(store, options, downscale)


def _donors(
    rows: NDArray[np.int64], patients: NDArray[np.generic], generator: np.random.Generator
) -> NDArray[np.int64]:
    """For every row the row of another patient; each row is used once."""
    # Rows are sorted by patient and rolled by the largest number of cases of one patient, so that no patient keeps
    # their own gaze.
    shuffled = generator.permutation(rows)
    _, codes, counts = np.unique(patients[shuffled], return_inverse=True, return_counts=True)
    if counts.max() * 2 > len(rows):
        raise InputError("gaze.control: one patient has over half of the cases, too many to shuffle between patients")
    ordered = shuffled[np.argsort(codes, kind="stable")]
    donor = dict(zip(ordered.tolist(), np.roll(ordered, counts.max()).tolist(), strict=True))
    return np.array([donor[row] for row in rows.tolist()])


def _unit(gaze: pd.DataFrame, scale: NDArray[np.float64], name: str) -> NDArray[np.float64] | float:
    """Working pixels for each unit of σ, at each row of gaze."""
    if name == "deg":
        return gaze[["ppd_x", "ppd_y"]].to_numpy(np.float64) * scale
    return scale if name == "image_px" else 1.0


def _events(store: Store, options: GazeOptions) -> pd.DataFrame:
    if options.kind == "detected":
        gaze = store.gaze("sample")
    else:
        angles = ["ppd_x", "ppd_y"] if options.sigma_unit == "deg" else []
        gaze = store.gaze(options.kind, columns=[*_COLUMNS, *angles])
    return _events_in(gaze, options, store)


def _events_in(gaze: pd.DataFrame, options: GazeOptions, store: Store | None = None) -> pd.DataFrame:
    """The wanted events of a table of gaze; ``store`` has the phrases, which a window may need."""
    if options.kind == "detected":
        gaze = detect_fixations(gaze, options.detection)
    if options.window is not None:
        gaze = clip_to_window(gaze, options.window, pd.DataFrame() if store is None else store.table("phrases"))
    return gaze
