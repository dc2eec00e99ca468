"""Writes the gaze of a source into a store: it is read once, kept on disk, and never whole in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gazelit.data.store.schema import GAZE_COLUMNS, GAZE_KINDS, GAZE_TEXT, PEER, Recording

_GAZE_SCHEMA = pa.schema(
    [("row", pa.int32())]
    + [
        (name, pa.string() if name in GAZE_TEXT else pa.bool_() if name == "valid" else pa.float64())
        for name in GAZE_COLUMNS
        if name != "image_id"
    ]
)


class GazeRows:
    """All rows of a recording's gaze, in a file beside the store that is being built.

    Attributes:
        digest: SHA-256 of all rows.
        seen: (images,) bool, whether an image has valid gaze.
    """

    def __init__(self, spool: Path, digest: str, seen: NDArray[np.bool_]) -> None:
        self._spool = spool
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
        with pq.ParquetWriter(path, _GAZE_SCHEMA, compression="lz4") as writer:
            for part in recording.gaze_parts():
                part.insert(0, "row", rows.get_indexer(part["image_id"]).astype(np.int32))
                part = part.drop(columns="image_id")
                # The gaze of further readers is not trained on.
                seen[part.loc[part["valid"] & (part["kind"] != PEER), "row"]] = True
                digest.update(pd.util.hash_pandas_object(part, index=False).to_numpy().tobytes())
                writer.write_table(pa.Table.from_pandas(part, _GAZE_SCHEMA, preserve_index=False))
        return cls(path, digest.hexdigest(), seen)

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
            for group in range(spool.num_row_groups):
                part = spool.read_row_group(group).to_pandas()
                part["row"] = position[part["row"]]
                part = part[part["row"] >= 0]
                for kind in GAZE_KINDS:
                    counts[kind] += int((part["kind"] == kind).sum())
                valid += int(part["valid"].sum())
                angles = part[["ppd_x", "ppd_y"]].dropna().to_numpy()
                total, known = total + angles.sum(axis=0), known + len(angles)
                writer.write_table(pa.Table.from_pandas(part, _GAZE_SCHEMA, preserve_index=False))
        ppd = [round(float(value), 3) for value in total / known] if known else None
        return {**{f"{kind}s": count for kind, count in counts.items()}, "valid": valid}, ppd
