"""A prepared store for the page: its cases with the model's readings, filtered, sorted and one by one.

Cases are numbered as by `gazelit inspect`; their ids do not leave the store.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.images.geometry import Letterbox
from gazelit.data.store.schema import SPLITS
from gazelit.data.store.store import Store
from gazelit.deploy.app.known_split import known_split
from gazelit.deploy.app.pictures import film_values, map_values
from gazelit.deploy.app.reader_gaze import ReaderGaze
from gazelit.deploy.app.reading_room import ReadingRoom, inner_map, words
from gazelit.deploy.app.scores import score
from gazelit.deploy.preparing import FilmRecord, Prepared, shrunk
from gazelit.deploy.reading import Reading
from gazelit.errors import InputError

#: Number of cases on a page of the list, and in a batch of the network when it reads the store.
PAGE, BATCH = 25, 4
#: Orders of the list, and whether the largest come first.
SORTS = {"row": False, "distance": True, "cc": False, "probability": True, "seconds": True}


@dataclass(frozen=True)
class Query:
    """Which cases are listed, and in what order.

    Attributes:
        label: The label column that is 1; any unless given.
        split: The split; any unless given.
        class_name: The class whose probability ``low``, ``high`` and the order refer to.
        low: Least probability.
        high: Highest probability.
        distance: Least distance between probabilities and labels.
        cc: Highest correlation of the predicted with the readers' map.
        sort: One of :data:`SORTS`.
        page: From 0.
    """

    label: str = ""
    split: str = ""
    class_name: str = ""
    low: float = 0.0
    high: float = 1.0
    distance: float = 0.0
    cc: float = 1.0
    sort: str = "row"
    page: int = 0


class Library:
    """The cases of a store.

    Args:
        store: The store.
        room: The model, if there is one.
    """

    def __init__(self, store: Store, room: ReadingRoom | None) -> None:
        self.store, self.room = store, room
        data: Mapping[str, Any] = room.model.stamp["data"] if room else {}
        self.gaze = ReaderGaze(store, data)
        self.labels: list[str] = list(store.about["label_columns"])
        self.classes = [name for name in (room.model.class_names if room else ()) if name in self.labels]
        self.split, self.split_note = known_split(store, data) if room else (_unsplit(store), "")
        self._scores: dict[int, dict[str, float]] = {}
        self._stop = threading.Event()
        self._survey: threading.Thread | None = None
        self._failure = ""
        self._opened: tuple[int, Reading] | None = None

    def about(self) -> dict[str, Any]:
        """The description of the store for the page; no path and no id."""
        present = [name for name in self.labels if (self.store.cases[name] == 1).any()]
        return {
            "source": self.store.about["source"],
            "synthetic": bool(self.store.about["synthetic"]),
            "cases": len(self.store.cases),
            "labels": present,
            "classes": list(self.room.model.class_names) if self.room else [],
            "splits": [name for name in SPLITS if (self.split == name).any()],
            "split_note": self.split_note,
            "page": PAGE,
        }

    def survey(self) -> dict[str, Any]:
        """Number of cases that the model has read, and whether it is still reading."""
        under_way = self._survey is not None and self._survey.is_alive()
        count = len(self.store.cases)
        return {"read": len(self._scores), "cases": count, "under_way": under_way, "error": self._failure}

    def start_survey(self) -> None:
        """Reads all cases with the model, in a thread of its own, test cases first; continues where it was stopped."""
        if self.room is None or self.survey()["under_way"]:
            return
        self._stop.clear()
        self._survey = threading.Thread(target=self._read_all, daemon=True)
        self._survey.start()

    def stop_survey(self) -> None:
        """Stops after the current batch of cases, and waits for it."""
        self._stop.set()
        if self._survey is not None:
            self._survey.join()

    def find(self, query: Query) -> dict[str, Any]:
        """A page of the cases that a query chooses.

        Cases that the model has not read are left out if a filter or the order needs its reading.

        Raises:
            InputError: A label, split, class or order is unknown.
        """
        self._check(query)
        table = self._table(query.class_name)
        chosen = pd.Series(True, index=table.index)
        if query.label:
            chosen &= self.store.cases[query.label].to_numpy() == 1
        if query.split:
            chosen &= table["split"] == query.split
        if query.low > 0 or query.high < 1:
            chosen &= table["probability"].between(query.low, query.high)
        if query.distance > 0:
            chosen &= table["distance"] >= query.distance
        if query.cc < 1:
            chosen &= table["cc"] <= query.cc
        if query.sort != "row":
            chosen &= table[query.sort].notna()
        found = table[chosen].sort_values(query.sort, ascending=not SORTS[query.sort], kind="stable")
        part = found.iloc[query.page * PAGE : (query.page + 1) * PAGE]
        cells = part.astype(object).where(part.notna(), None).to_dict("records")
        cases = [{**case, "labels": self.labels_of(case["row"])} for case in cells]
        return {"total": len(found), "page": query.page, "cases": cases, "survey": self.survey()}

    def labels_of(self, row: int) -> list[str]:
        """The labels of a case that are 1: those of the model's classes, or all of the store's."""
        case = self.store.cases.iloc[row]
        return [name for name in self.classes or self.labels if case[name] == 1]

    def case(self, row: int, reading: int | None) -> dict[str, Any]:
        """The page's data of a case.

        Args:
            row: The case.
            reading: The reading whose map is shown beside the prediction; all readers' unless given.

        Raises:
            InputError: There is no such case or reading.
        """
        if not 0 <= row < len(self.store.cases):
            raise InputError(f"case: there is no {row}; the store has {len(self.store.cases)}")
        scanpaths = self.gaze.scanpaths(row)
        if reading is not None and not 0 <= reading < len(scanpaths):
            raise InputError(f"reading: there is no {reading}; the case has {len(scanpaths)}")
        prediction = self._reading(row) if self.room else None
        thumbnail = shrunk(self._film(row))
        density = self.gaze.density(row, reading)
        predicted = inner_map(prediction) if prediction else None
        if prediction:
            self._scores[row] = score(prediction, self.store, row, self.classes, self.gaze)
        box = self.store.letterboxes[row]
        return {
            "row": row,
            "height": box.height,
            "width": box.width,
            "split": self.split[row],
            "labels": self.labels_of(row),
            "film": film_values(thumbnail),
            "maps": map_values(thumbnail.shape, readers=density, predicted=predicted),
            "readings": [scanpath.values() for scanpath in scanpaths],
            "regions": self._regions_of(row),
            "prediction": self._words(prediction) if prediction else None,
            "scores": self._scores.get(row, {}),
        }

    def _reading(self, row: int) -> Reading:
        """The model's reading of a case; the last one is kept, because expected scanpaths take long."""
        opened = self._opened
        if opened is None or opened[0] != row:
            assert self.room is not None
            opened = self._opened = row, self.room.predict([self._prepared(row)], with_paths=True)[0]
        return opened[1]

    def _words(self, reading: Reading) -> dict[str, Any]:
        """A reading in words; readers that the model has learned are named like the store's, never by their ids."""
        answer = words(reading)
        for number, path in enumerate(answer["scanpaths"]):
            if path["reader"] is not None:
                path["reader"] = self.gaze.called(path["reader"]) or f"Reader of the training {number}"
        return answer

    def _check(self, query: Query) -> None:
        for name, value, known in (
            ("label", query.label, self.labels),
            ("split", query.split, SPLITS),
            ("class", query.class_name, self.room.model.class_names if self.room else ()),
        ):
            if value and value not in known:
                raise InputError(f"{name}: '{value}' is none of {', '.join(known) or 'none'}")
        if query.sort not in SORTS:
            raise InputError(f"sort: '{query.sort}' is none of {', '.join(SORTS)}")

    def _table(self, class_name: str) -> pd.DataFrame:
        """By case, in the store's order: ``row``, ``split``, ``seconds`` of gaze, and scores or NaN."""
        scores = self._scores.copy()
        rows = range(len(self.store.cases))
        table = pd.DataFrame({"row": rows, "split": self.split.to_numpy(), "seconds": self._seconds})
        for column, key in (("distance", "distance"), ("cc", "cc"), ("probability", f"p_{class_name}")):
            table[column] = [scores.get(row, {}).get(key, np.nan) for row in rows]
        return table

    @cached_property
    def _seconds(self) -> NDArray[np.float64]:
        """Seconds of gaze by case, of all its readings; NaN without any."""
        return self.gaze.seconds()

    @cached_property
    def _images(self) -> NDArray[np.unsignedinteger[Any]]:
        return self.store.images()

    def _film(self, row: int) -> NDArray[np.float32]:
        """A case's film at the store's resolution, without the padding."""
        stored = self.store.letterboxes[row].crop(self._images[row])
        return np.ascontiguousarray(stored, np.float32) * np.float32(1 / self.store.largest)

    def _prepared(self, row: int) -> Prepared:
        """A case's film for the network; where the store has the network's size, bit for bit as it is stored."""
        assert self.room is not None
        film, original = self._film(row), self.store.letterboxes[row]
        box = Letterbox.fit(original.height, original.width, self.room.model.size)
        image = replace(box, height=film.shape[0], width=film.shape[1]).apply(film)
        # Warnings about a film were given when it was prepared; for the stored film, its size would give a wrong one.
        return Prepared(image, FilmRecord(box, (), np.zeros((1, 1), np.uint8)))

    def _read_all(self) -> None:
        assert self.room is not None
        self._failure = ""
        order = np.argsort(self.split.map({"test": 0, "val": 1}).fillna(2).to_numpy(), kind="stable")
        waiting = [row for row in order.tolist() if row not in self._scores]
        for first in range(0, len(waiting), BATCH):
            if self._stop.is_set():
                return
            rows = waiting[first : first + BATCH]
            try:
                predictions = self.room.predict([self._prepared(row) for row in rows])
            except InputError as error:
                self._failure = str(error)
                return
            for row, prediction in zip(rows, predictions, strict=True):
                self._scores[row] = score(prediction, self.store, row, self.classes, self.gaze)

    @cached_property
    def _regions(self) -> pd.DataFrame:
        return self.store.table("regions")

    def _regions_of(self, row: int) -> list[dict[str, Any]]:
        """The marked regions, each shape once."""
        found = self._regions.loc[self._regions["row"] == row, ["name", "shape", "x1", "y1", "x2", "y2"]]
        regions: list[dict[str, Any]] = found.drop_duplicates().round(2).to_dict("records")
        return regions


def _unsplit(store: Store) -> pd.Series:
    return pd.Series("", index=store.cases.index, dtype=object)
