"""Writes the gaze of a source into a store: it is read once, kept on disk, and never whole in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gazelit.data.store.schema import GAZE_COLUMNS, GAZE_KINDS, GAZE_TEXT, PEER, Recording
from gazelit.memory import give_back

_GAZE_SCHEMA = pa.schema(
    [("row", pa.int32())]
    + [
        (name, pa.string() if name in GAZE_TEXT else pa.bool_() if name == "valid" else pa.float64())
        for name in GAZE_COLUMNS
        if name != "image_id"
    ]
)


#: Rows of a row group of ``gaze.parquet``, after which the next begins; a table of the source also begins a row group.
GROUP_ROWS = 2**20


class GazeRows:
    """All rows of a recording's gaze, in a file beside the store that is being built.

    Args:
        spool: The file.
        groups: How many of its row groups each row group of the store is made of.
        digest: SHA-256 of all rows.
        seen: (images,) bool, whether an image has valid gaze.
    """

    def __init__(self, spool: Path, groups: list[int], digest: str, seen: NDArray[np.bool_]) -> None:
        self._spool, self._groups = spool, groups
        self.digest = digest
        self.seen = seen

    @classmethod
    def spool(cls, recording: Recording, building: Path) -> GazeRows:
        """Writes the source's gaze into a file beside the store, with rows of the table of images instead of ids."""
        path = building / "work" / "gaze.parquet"
        path.parent.mkdir(exist_ok=True)
        rows = pd.Index(recording.images["image_id"])
        seen = np.zeros(len(rows), bool)
        digest = hashlib.sha256()
        groups: list[int] = []
        with pq.ParquetWriter(path, _GAZE_SCHEMA, compression="lz4") as writer:
            for pieces in recording.gaze_tables():
                room = 0
                for part in pieces:
                    part.insert(0, "row", rows.get_indexer(part["image_id"]).astype(np.int32))
                    part = part.drop(columns="image_id")
                    # The gaze of further readers is not trained on.
                    seen[part.loc[part["valid"] & (part["kind"] != PEER), "row"]] = True
                    digest.update(pd.util.hash_pandas_object(part, index=False).to_numpy().tobytes())
                    room = _append(writer, pa.Table.from_pandas(part, _GAZE_SCHEMA, preserve_index=False), groups, room)
        give_back()
        return cls(path, groups, digest.hexdigest(), seen)

    def discard(self) -> None:
        """Removes the file."""
        self._spool.unlink()

    def write(self, kept: NDArray[np.int64], building: Path) -> tuple[dict[str, int], list[float] | None]:
        """Writes ``gaze.parquet`` of the images in the store; returns counts by kind, and pixels per degree."""
        position = np.full(len(self.seen), -1, np.int32)
        position[kept] = np.arange(len(kept), dtype=np.int32)
        counts = dict.fromkeys(GAZE_KINDS, 0)
        valid = 0
        total, known = np.zeros(2), 0
        with (
            pq.ParquetFile(self._spool) as spool,
            pq.ParquetWriter(building / "gaze.parquet", _GAZE_SCHEMA, compression="zstd") as writer,
        ):
            end = 0
            for count in self._groups:
                group = _kept_rows(spool, range(end, end + count), position)
                end += count
                for kind in GAZE_KINDS:
                    counts[kind] += pc.sum(pc.equal(group["kind"], kind), min_count=0).as_py()
                valid += pc.sum(group["valid"], min_count=0).as_py()
                angles = group.select(["ppd_x", "ppd_y"]).to_pandas().dropna().to_numpy()
                total, known = total + angles.sum(axis=0), known + len(angles)
                writer.write_table(group)
                del group
                give_back()
        ppd = [round(float(value), 3) for value in total / known] if known else None
        return {**{f"{kind}s": count for kind, count in counts.items()}, "valid": valid}, ppd


def _append(writer: pq.ParquetWriter, part: pa.Table, groups: list[int], room: int) -> int:
    """Writes a piece of a table into row groups of which none is in two of the store's.

    Args:
        writer: Of the file beside the store.
        part: The piece.
        groups: Row groups of that file in each of the store's so far.
        room: Rows that the last of the store's has room for.

    Returns:
        The room that is left.
    """
    start = 0
    while True:
        if room == 0:
            groups.append(0)
            room = GROUP_ROWS
        piece = part.slice(start, room)
        writer.write_table(piece)
        groups[-1] += 1
        start, room = start + len(piece), room - len(piece)
        if start == len(part):
            return room


def _kept_rows(spool: pq.ParquetFile, groups: range, position: NDArray[np.int32]) -> pa.Table:
    """The rows of the images in the store, with their case's number; columns are read in turn."""
    row = position[spool.read_row_groups(groups, ["row"], use_threads=False).column(0).to_numpy()]
    is_kept = pa.array(row >= 0)
    columns = [pa.array(row[row >= 0])]
    for name in _GAZE_SCHEMA.names[1:]:
        column = spool.read_row_groups(groups, [name], use_threads=False).column(0)
        columns.append(column.filter(is_kept).combine_chunks())
    return pa.Table.from_arrays(columns, schema=_GAZE_SCHEMA)
