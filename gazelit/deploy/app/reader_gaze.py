"""Readers' gaze of a store's cases: the scanpath of each reading, and the map that a model is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gazelit.data.gaze.events import Detection, TimeWindow, detect_fixations
from gazelit.data.gaze.heatmap import fixation_density
from gazelit.data.options import GazeOptions
from gazelit.data.store.schema import PEER
from gazelit.data.store.store import Store
from gazelit.data.working_gaze import WorkingGaze

#: Raw samples are drawn as a line; more points than this cannot be distinguished on it.
MOST_SAMPLES = 2000


@dataclass(frozen=True)
class Scanpath:
    """One reading of one film.

    Attributes:
        reader: The page's name of the reader; ids may be people's names and do not leave the store.
        is_peer: Whether it is of a further reader, on whom nothing is trained.
        kind: ``fixation``; or ``sample`` if fixations cannot be detected.
        events: ``t`` and ``duration`` (s), ``x`` and ``y`` (pixels of the original film), in order of time.
        phrases: ``text``, ``begin`` and ``end`` (s).
    """

    reader: str
    is_peer: bool
    kind: str
    events: pd.DataFrame
    phrases: pd.DataFrame

    def values(self) -> dict[str, Any]:
        """For the page."""
        columns = {name: self.events[name].round(3).tolist() for name in ("t", "duration", "x", "y")}
        phrases = self.phrases[["text", "begin", "end"]].to_dict("records")
        end = max([0.0, *(self.events["t"] + self.events["duration"]), *self.phrases["end"]])
        return {
            "reader": self.reader,
            "is_peer": self.is_peer,
            "kind": self.kind,
            "seconds": round(end, 3),
            "events": columns,
            "phrases": phrases,
        }


class ReaderGaze:
    """The gaze of a store, read when it is first needed.

    Args:
        store: The store.
        data: A checkpoint's record of the gaze that it was trained on; if empty, fixations with σ = 1° or the nearest
            option.
    """

    def __init__(self, store: Store, data: Mapping[str, Any]) -> None:
        self.store = store
        self.options = _options(store, data)

    def scanpaths(self, row: int) -> list[Scanpath]:
        """The readings of a case, those of peers last."""
        phrases = self._phrases[self._phrases["row"] == row]
        found: list[Scanpath] = []
        for events, is_peer in ((self._events, False), (self._peers, True)):
            of_case = events[events["row"] == row]
            for reading, part in of_case.groupby("reading_id", observed=True, sort=True):
                own = phrases[phrases["reading_id"].astype(str) == str(reading)]
                name = self.called(str(part["reader_id"].iloc[0])) or f"Reading {len(found) + 1}"
                kind = str(part["kind"].iloc[0])
                step = 1 if kind == "fixation" or is_peer else -(-len(part) // MOST_SAMPLES)
                found.append(Scanpath(name, is_peer, "fixation" if is_peer else kind, part.iloc[::step], own))
        return found

    def called(self, reader_id: str) -> str:
        """The page's name of a reader; empty for a reader without a reading in the store."""
        number = self._readers.get(reader_id)
        return f"Reader {number}" if number else ""

    def density(self, row: int, reading: int | None = None) -> NDArray[np.float32] | None:
        """The map of a case's readers, (h, w) float32 at the store's resolution without the padding.

        Args:
            row: The case.
            reading: Position among :meth:`scanpaths`; all that models are trained on together unless given.

        Returns:
            The map, which sums to 1; None without gaze, or if the window of the model's training leaves out so much
            that readings cannot be separated.
        """
        points, sigma = self.points(row, reading)
        if not len(points):
            return None
        density = fixation_density(points, self.store.size, sigma).numpy()
        return self.store.letterboxes[row].crop(density) if density.any() else None

    def points(self, row: int, reading: int | None = None) -> tuple[Tensor, Tensor]:
        """Points (N, 3) and their σ (N, 2) in pixels of the store's resolution; see :meth:`density`."""
        own = self._readings(self._events, row)
        of_peer = reading is not None and reading >= own
        gaze = self._working_peers if of_peer else self._working
        part = slice(gaze.starts[row], gaze.starts[row + 1])
        points, sigma = torch.from_numpy(gaze.points[part]), torch.from_numpy(gaze.sigma[part])
        if reading is None:
            return points, sigma
        number = gaze.reading[part]
        alike = len(np.unique(number)) == (self._readings(self._peers, row) if of_peer else own)
        chosen = torch.from_numpy((number == reading - (own if of_peer else 0)) & alike)
        return points[chosen], sigma[chosen]

    def seconds(self) -> NDArray[np.float64]:
        """(N,) seconds of gaze by case, of all readings that models are trained on; NaN without any."""
        total = self._events.groupby("row")["duration"].sum()
        seconds: NDArray[np.float64] = total.reindex(range(len(self.store.cases))).round(2).to_numpy(np.float64)
        return seconds

    def _readings(self, events: pd.DataFrame, row: int) -> int:
        return int(events.loc[events["row"] == row, "reading_id"].nunique())

    @cached_property
    def _events(self) -> pd.DataFrame:
        """The events to draw of the readings that models are trained on."""
        if self.options.kind != "detected" and self.store.about["counts"]["fixations"]:
            return self.store.gaze("fixation")
        samples = self.store.gaze("sample")
        if not np.isfinite(samples[["ppd_x", "ppd_y"]].to_numpy(np.float64)).all():
            return samples
        return detect_fixations(samples, self.options.detection)

    @cached_property
    def _peers(self) -> pd.DataFrame:
        return self.store.gaze(PEER)

    @cached_property
    def _phrases(self) -> pd.DataFrame:
        return self.store.table("phrases").sort_values("begin", kind="stable")

    @cached_property
    def _readers(self) -> dict[str, int]:
        """A number for each reader, from 1; peers come after those that models are trained on."""
        names = [sorted(set(map(str, events["reader_id"].unique())) - {""}) for events in (self._events, self._peers)]
        return {name: number for number, name in enumerate(dict.fromkeys([*names[0], *names[1]]), 1)}

    @cached_property
    def _working(self) -> WorkingGaze:
        return WorkingGaze.of(self.store, self.options, 1)

    @cached_property
    def _working_peers(self) -> WorkingGaze:
        return WorkingGaze.of(self.store, replace(self.options, kind=PEER, window=None), 1)  # type: ignore[arg-type]


def _options(store: Store, data: Mapping[str, Any]) -> GazeOptions:
    """The options by which the training's target became a map, as far as this store's gaze allows them."""
    counts, degrees = store.about["counts"], store.about["pixels_per_degree"] is not None
    kind: Any = data.get("gaze_kind") or ("fixation" if counts["fixations"] else "sample")
    if kind == "fixation" and not counts["fixations"]:
        kind = "sample"
    sigma: float = data.get("sigma") or 1.0
    unit: Any = data.get("sigma_unit") or "deg"
    if unit == "deg" and not degrees:
        sigma, unit = 0.024 * store.size[0], "px"
    window, detection = data.get("window"), data.get("detection")
    return GazeOptions(
        kind,
        data.get("weight") or "duration",
        sigma,
        unit,
        "pooled" if data.get("readings") == "drawn" else data.get("readings") or "pooled",
        TimeWindow(**window) if window else None,
        Detection(**detection) if detection else Detection(),
    )
