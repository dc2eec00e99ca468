"""The table of gaze of a manifest: checked chunk by chunk, kept on disk, given out in the order of a store.

Each chunk is put on disk ordered by reading. When all have been read, the readings are parted into blocks, in order;
a block's rows lie together in each chunk. Memory grows with the readings alone, not with their gaze.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.row_file import RowFile
from gazelit.data.sources.manifest_tables import fault_rows, has_columns, numbers, read_manifest_chunks
from gazelit.data.store.schema import GAZE_KINDS
from gazelit.errors import InputError

GAZE_NEEDED = ("image_id", "x", "y", "duration")
#: Rows of gaze in memory at a time; a reading is not parted.
BLOCK_ROWS = 100_000
_OPTIONAL_NUMBERS = ("t", "ppd_x", "ppd_y", "pupil")
_ANGLES = ("ppd_x", "ppd_y")
_FALSE = ("0", "0.0", "false")
_TRUE = ("1", "1.0", "true", "")
#: A kind's number is its index here, so that numbers and names have the same order.
_KINDS = sorted(GAZE_KINDS)
#: Whose a row is; texts by their numbers.
_WHOSE = ("image", "reading_id", "reader_id", "recording_id")


class ManifestGaze:
    """A manifest's gaze on disk.

    Attributes:
        image_ids: What the numbers in the column ``image`` of its tables stand for.
        rows: How many it has.
    """

    def __init__(self, rows: RowFile, runs: list[_Run], texts: dict[str, _Texts]) -> None:
        rows.flush()
        self._file, self.rows = rows, rows.rows
        self._texts = {column: found.table() for column, found in texts.items()}
        self.image_ids = self._texts["image"]
        # Readings in their order, and how many rows come before each.
        order = np.argsort(np.array(self._texts["reading_id"], object))
        self._rank = np.empty(len(order), np.int32)
        self._rank[order] = np.arange(len(order), dtype=np.int32)
        before = np.zeros(len(order) + 1, np.int64)
        for run in runs:
            before[self._rank[run.readings] + 1] += np.diff(run.starts)
        first = np.flatnonzero(np.diff(np.cumsum(before)[:-1] // BLOCK_ROWS, prepend=-1))
        bounds = np.append(first, len(order))
        # Where each block's rows are in each run.
        self._starts = [run.starts[np.searchsorted(self._rank[run.readings], bounds)] for run in runs]
        self._blocks = len(first)

    @classmethod
    def read(
        cls, path: Path, images: pd.DataFrame | None, name_of_images: str, faults: list[str]
    ) -> ManifestGaze | None:
        """Reads a table of gaze, or finds out what is wrong with it.

        Args:
            path: CSV or Parquet.
            images: The table of images; None if it cannot be read.
            name_of_images: Its file's name.
            faults: Gets a line for everything that is wrong.
        """
        reader = _Reader(path, images, name_of_images)
        found: list[str] = []
        try:
            for chunk in read_manifest_chunks(path):
                if not has_columns(path, chunk, GAZE_NEEDED, found):
                    break
                reader.add(chunk)
            found += reader.faults()
        except InputError as error:
            found.append(str(error))
        faults += found
        return None if found or images is None or reader.rows is None else cls(reader.rows, reader.runs, reader.texts)

    def tables(self) -> Iterator[pd.DataFrame]:
        """The gaze by whole readings, ordered by reading, kind and time.

        Yields:
            Columns as of :data:`gazelit.data.store.schema.GAZE_COLUMNS`, as far as they were given and ``t``, and the
            number of the image.
        """
        for number in range(self._blocks):
            rows = self._file.read(
                (start, end - start) for start, end in (starts[number : number + 2] for starts in self._starts)
            )
            rank = self._rank[rows["reading_id"]]
            columns = {name: rows[name] for name in self._file.dtype.names or () if name not in (*_WHOSE, "kind")}
            if "t" not in columns:
                duration = pd.Series(rows["duration"])
                columns["t"] = (duration.groupby([rank, rows["kind"]]).cumsum() - duration).to_numpy()
            order = np.lexsort([columns["t"], rows["kind"], rank])
            table = pd.DataFrame({name: values[order] for name, values in columns.items()})
            table["kind"] = pd.Series(_KINDS, dtype="str").take(rows["kind"][order]).array
            table["image"] = rows["image"][order]
            for name in _WHOSE:
                column = "image_id" if name == "image" else name
                table[column] = self._texts[name].take(rows[name][order]).array
            yield table


class _Run(NamedTuple):
    """A chunk on disk, ordered by reading.

    Attributes:
        readings: Numbers of the readings, in the order of their texts.
        starts: The row of the file that each begins with, and the row after the last.
    """

    readings: NDArray[np.int32]
    starts: NDArray[np.int64]


class _Texts:
    """Different texts, with a number each in the order in which they first came."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._number = {text: number for number, text in enumerate(dict.fromkeys(known))}

    def __len__(self) -> int:
        return len(self._number)

    def numbers(self, texts: pd.Series) -> NDArray[np.int32]:
        """The number of each; new ones get the next."""
        codes, different = pd.factorize(texts)
        number = [self._number.setdefault(text, len(self._number)) for text in different]
        return np.array(number, np.int32)[codes]

    def table(self) -> pd.Series:
        """The texts by number."""
        return pd.Series(list(self._number), dtype="str")


class _Reader:
    """Checks the chunks of a table, and puts them on disk as long as nothing is wrong.

    Attributes:
        rows: What is on disk; None before the first chunk.
        runs: Where each chunk is.
        texts: Of the numbers in the file.
    """

    def __init__(self, path: Path, images: pd.DataFrame | None, name_of_images: str) -> None:
        self._path, self._name_of_images = path, name_of_images
        self.texts = {name: _Texts() for name in _WHOSE}
        self._known: int | None = None
        if images is not None:
            self.texts["image"] = _Texts(images["image_id"])
            self._known = len(self.texts["image"])
        self.rows: RowFile | None = None
        self.runs: list[_Run] = []
        self._records = 0
        # In the order of the checks, not of the records.
        self._faults: dict[str, list[str]] = {}
        self._image_of_reading: NDArray[np.int32] = np.zeros(0, np.int32)
        self._apart: set[int] = set()

    def add(self, table: pd.DataFrame) -> None:
        """Takes the next chunk."""
        values = self._checked_numbers(table)
        kind = table["kind"].replace("", "fixation") if "kind" in table else pd.Series("fixation", table.index)
        self._check("kind", ~kind.isin(GAZE_KINDS), f"kind is none of {', '.join(GAZE_KINDS)}")
        valid = table["valid"].str.lower() if "valid" in table else pd.Series("1", table.index)
        self._check("valid", ~valid.isin([*_TRUE, *_FALSE]), "valid is neither 1 nor 0")
        reading = _reading_of(table)
        image, number = self.texts["image"].numbers(table["image_id"]), self.texts["reading_id"].numbers(reading)
        self._note_readings(number, image)
        if self._known is not None:
            self._check("image", image >= self._known, f"image_id is not in {self._name_of_images}")
        self._records += len(table)
        if self._apart or any(self._faults.values()):
            return
        fields = [
            *((name, "i4") for name in _WHOSE),
            ("kind", "i1"),
            ("valid", "?"),
            *((name, "f8") for name in values),
        ]
        rows = np.empty(len(table), np.dtype(fields))
        rows["image"], rows["reading_id"], rows["valid"] = image, number, valid.isin(_TRUE)
        rows["kind"] = pd.Categorical(kind, _KINDS).codes
        for name in ("reader_id", "recording_id"):
            texts = table[name] if name in table else pd.Series("", table.index)
            rows[name] = self.texts[name].numbers(texts)
        for name, column in values.items():
            rows[name] = column
        self._keep(rows, reading)

    def faults(self) -> list[str]:
        """Everything that is wrong, when all chunks have been read."""
        if self._apart:
            texts = self.texts["reading_id"].table().iloc[sorted(self._apart)]
            self._records = 0
            for table in read_manifest_chunks(self._path):
                self._check("apart", _reading_of(table).isin(texts), "reading_id belongs to several images")
                self._records += len(table)
        return list(chain.from_iterable(self._faults.values()))

    def _checked_numbers(self, table: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
        # A lost eye has no position; such rows are kept as not valid.
        values = {name: self._numbers(table, name, True) for name in ("x", "y")}
        values["duration"] = self._numbers(table, "duration", False)
        self._check("negative", values["duration"] < 0, "duration is negative")
        for name in _OPTIONAL_NUMBERS:
            if name in table:
                values[name] = self._numbers(table, name, name != "t")
        for name in _ANGLES:
            if name in table:
                self._check(f"{name} above 0", values[name] <= 0, f"{name} is not above 0")
        return values

    def _numbers(self, table: pd.DataFrame, column: str, blank: bool) -> NDArray[np.float64]:
        return numbers(self._path, table, column, blank, self._faults.setdefault(column, []), self._records)

    def _check(self, check: str, wrong: pd.Series | NDArray[np.bool_], fault: str) -> None:
        fault_rows(self._path, wrong, fault, self._faults.setdefault(check, []), self._records)

    def _note_readings(self, number: NDArray[np.int32], image: NDArray[np.int32]) -> None:
        """Notes which image each reading is of, and the readings that are of several."""
        new = len(self.texts["reading_id"]) - len(self._image_of_reading)
        self._image_of_reading = np.append(self._image_of_reading, np.full(new, -1, np.int32))
        # Assigned from the last to the first: the first row of a reading stays.
        unknown = np.flatnonzero(self._image_of_reading[number] < 0)[::-1]
        self._image_of_reading[number[unknown]] = image[unknown]
        self._apart.update(number[self._image_of_reading[number] != image].tolist())
        # They come before the images in the list of faults.
        self._faults.setdefault("apart", [])

    def _keep(self, rows: NDArray[np.void], reading: pd.Series) -> None:
        """Puts a chunk's rows on disk, ordered by reading and then as they came."""
        if self.rows is None:
            self.rows = RowFile(rows.dtype)
        present, first, reading_of_row = np.unique(rows["reading_id"], return_index=True, return_inverse=True)
        order = np.argsort(reading.to_numpy(object)[first])
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        ordered = np.argsort(rank[reading_of_row], kind="stable")
        starts = np.searchsorted(rank[reading_of_row][ordered], np.arange(len(order) + 1)) + self.rows.rows
        self.runs.append(_Run(present[order], starts))
        self.rows.append(rows[ordered])


def _reading_of(table: pd.DataFrame) -> pd.Series:
    """The reading of each row: that of its image unless it names another."""
    if "reading_id" not in table:
        return table["image_id"]
    return table["reading_id"].where(table["reading_id"] != "", table["image_id"])
