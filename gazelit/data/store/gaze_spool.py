"""A store's gaze for passes over its cases in order: by blocks of cases, in a temporary file instead of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gazelit.data.row_file import RowFile
from gazelit.data.store.store import GAZE_FILE, ORDER, Store, readable
from gazelit.memory import give_back

#: Rows that are read at a time.
_BATCH = 16_384


class GazeSpool:
    """Valid gaze of a kind, written once into an unnamed file, which is gone when the process ends.

    A store's file may have gaze in any order; here the gaze of a block of cases is contiguous.

    Args:
        store: The store.
        kind: ``sample`` or ``fixation``, as of :meth:`gazelit.data.store.store.Store.gaze`.
        columns: Columns of numbers.
        most: Rows of gaze that a block has on average.

    Attributes:
        blocks: The cases of each block, all of the store's together.
    """

    def __init__(self, store: Store, kind: str, columns: Sequence[str], most: int) -> None:
        cases = len(store.cases)
        self._dtype = np.dtype([("row", "i4"), ("reading_id", "i4"), *((name, "f8") for name in columns)])
        # Where the parts of each block are, in the order of the store's file.
        self._parts: dict[int, list[tuple[int, int]]] = {}
        with readable(store.path / GAZE_FILE) as path:
            step = max(1, cases * most // max(1, pq.read_metadata(path).num_rows))
            self.blocks = [range(start, min(start + step, cases)) for start in range(0, cases, step)]
            self._file = RowFile(self._dtype)
            self._fill(path, kind, step)
        give_back()

    def _fill(self, path: Path, kind: str, step: int) -> None:
        names = [name for name in self._dtype.names or () if name != "reading_id"]
        readings = known = pa.array([], pa.string())
        number: NDArray[np.int32] = np.zeros(0, np.int32)
        for batch in _batches(path, kind, [*names, "reading_id"]):
            rows = np.empty(len(batch), self._dtype)
            for name in names:
                rows[name] = batch.column(name).to_numpy(zero_copy_only=False)
            # Readings are numbered in the file's order, as in the whole table.
            names_here = batch.column("reading_id").dictionary.cast(pa.string())
            if not names_here.equals(known):
                known = names_here
                new = known.filter(pc.is_null(pc.index_in(known, value_set=readings)))
                readings = pa.concat_arrays([readings, new])
                number = pc.index_in(known, value_set=readings).to_numpy(zero_copy_only=False)
            if not len(batch):
                continue
            rows["reading_id"] = number[batch.column("reading_id").indices.to_numpy(zero_copy_only=False)]
            block = rows["row"] // step
            order = np.argsort(block, kind="stable")
            present, begins = np.unique(block[order], return_index=True)
            for number_of_block, part in zip(present.tolist(), np.split(rows[order], begins[1:]), strict=True):
                self._parts.setdefault(number_of_block, []).append((self._file.rows, len(part)))
                self._file.append(part)
        self._file.flush()

    def read(self, number: int) -> pd.DataFrame:
        """The gaze of a block, ordered by case, reading and time; ``reading_id`` is a number for each reading."""
        rows = self._file.read(self._parts.get(number, []))
        rows = rows[np.lexsort([rows[name] for name in reversed(ORDER)])]
        return pd.DataFrame({name: rows[name] for name in self._dtype.names or ()})


def _batches(path: Path, kind: str, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The valid rows of a kind, some at a time (a scan of a data set has whole row groups in memory)."""
    with pq.ParquetFile(path, read_dictionary=["reading_id"]) as file:
        about = file.metadata
        # A scan leaves out the same groups, so that neither numbers their readings.
        groups = [group for group in range(about.num_row_groups) if _may_have(about.row_group(group), kind)]
        columns = [*names, "kind", "valid"]
        for batch in file.iter_batches(_BATCH, groups, columns, use_threads=False):
            is_valid_of_kind = pc.and_(pc.equal(batch.column("kind"), kind), batch.column("valid"))
            yield batch.filter(is_valid_of_kind)


def _may_have(group: pq.RowGroupMetaData, kind: str) -> bool:
    """Whether a row group can have a valid row of a kind, by its statistics."""
    columns = (group.column(number) for number in range(group.num_columns))
    known = {column.path_in_schema: column.statistics for column in columns if column.is_stats_set}
    limits = [(known[name], value) for name, value in (("kind", kind), ("valid", True)) if name in known]
    return all(not found.has_min_max or found.min <= value <= found.max for found, value in limits)
