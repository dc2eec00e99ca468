"""The prepared store: every film decoded once, at the working resolution, with its gaze beside it.

A store is a folder that :func:`gazelit.data.store.prepare.prepare` writes:

- ``store.json``: what it is;
- ``images.npy``: (N, H, W) unsigned integers, memory-mapped;
- ``cases.parquet``: the table of images with their letterbox; its row number names a case in the other tables;
- ``gaze.parquet``: gaze in original pixels;
- ``regions.parquet``, ``phrases.parquet``, ``readings.parquet``, ``recordings.parquet``: boxes and ellipses, dictated
  phrases, readings with their readers, and the tracker's runs;
- ``masks.npy``, ``masks.parquet``: (M, H, W / 8) bits, and the cases that they belong to;
- ``digests.json``: a digest of every film and mask, for :func:`gazelit.data.store.verify.verify`;
- ``skipped.csv``: cases that were left out, with the reason;
- ``films.csv``, ``inputs.json``: by these it is found whether its sources are unchanged
  (:mod:`gazelit.data.store.inputs`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gazelit.data.images.geometry import Letterboxes
from gazelit.data.store.digests import sample_digest
from gazelit.data.store.schema import GAZE_TEXT, LETTERBOX_COLUMNS
from gazelit.errors import InputError
from gazelit.files import ARRAY_ERRORS, read_json
from gazelit.memory import give_back

FORMAT = 2
STORE_FILE = "store.json"
GAZE_FILE = "gaze.parquet"
#: Columns by which gaze is ordered.
ORDER = ["row", "reading_id", "t"]


@dataclass(frozen=True)
class Store:
    """A prepared store.

    Attributes:
        path: Its folder.
        about: The content of ``store.json``.
    """

    path: Path
    about: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path, check: bool = True) -> Store:
        """Opens a store.

        Args:
            path: Its folder.
            check: Whether to check the files' sizes and samples of their content, which takes milliseconds; ``gazelit
                verify`` checks all of it.

        Raises:
            InputError: There is no store, it was written by another version of the format, or a file of it is missing
                or damaged.
        """
        path = Path(path)
        if not (path / STORE_FILE).is_file():
            raise InputError(f"no prepared store at {path}; make one with `gazelit prepare`")
        about = read_json(path / STORE_FILE)
        if not isinstance(about, dict):
            raise InputError(f"{path / STORE_FILE}: not what `gazelit prepare` writes; prepare it anew")
        if about.get("format") != FORMAT:
            raise InputError(
                f"{path}: store format {about.get('format')}, but this version reads {FORMAT}; prepare it anew"
            )
        _check_about(path, about)
        if check:
            _check(path, about)
        return cls(path, about)

    @property
    def size(self) -> tuple[int, int]:
        """Working resolution (H, W)."""
        height, width = self.about["size"]
        return height, width

    @property
    def largest(self) -> int:
        """The integer that stands for 1.0."""
        return 2 ** int(self.about["bits"]) - 1

    @cached_property
    def cases(self) -> pd.DataFrame:
        """One row a case: the images' columns, without ``path``."""
        with readable(self.path / "cases.parquet") as file:
            return pd.read_parquet(file)

    def gaze(self, kind: str, valid_only: bool = True, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Gaze of a kind (``sample`` or ``fixation``), ordered by case, reading and time.

        Args:
            kind: Kind of the rows.
            valid_only: Leave out blinks, lost eyes and rows off the image.
            columns: Columns to read, with ``row``, ``reading_id`` and ``t`` among them; all unless given.

        Returns:
            ``row`` (the case) and the schema's columns without ``image_id``; text columns categorical.
        """
        filters: list[tuple[str, str, Any]] = [("kind", "==", kind)]
        if valid_only:
            filters.append(("valid", "==", True))
        text = [name for name in GAZE_TEXT if name != "image_id"]
        with readable(self.path / GAZE_FILE) as file:
            table = pq.read_table(file, columns=columns, filters=filters, read_dictionary=text)
            # Column by column, each freed once it is copied, so that millions of rows are in memory only once.
            frame = table.to_pandas(strings_to_categorical=True, split_blocks=True, self_destruct=True)
            del table
            give_back()
            if _is_ordered(frame):
                return frame
            return frame.sort_values(ORDER, kind="stable", ignore_index=True)

    @property
    def gaze_rows(self) -> int:
        """Number of rows of gaze, of every kind."""
        with readable(self.path / GAZE_FILE) as file:
            return int(pq.read_metadata(file).num_rows)

    def table(self, name: str) -> pd.DataFrame:
        """``regions``, ``phrases``, ``readings`` or ``recordings``; ``row`` names the case."""
        with readable(self.path / f"{name}.parquet") as file:
            return pd.read_parquet(file)

    def table_of(self, name: str, row: int) -> pd.DataFrame:
        """A case's rows of a table; the table is read only once, so that the time is linear in the number of cases."""
        if name not in self._tables:
            table = self.table(name)
            self._tables[name] = table, table.groupby("row").indices
        table, indices = self._tables[name]
        return table.iloc[indices.get(row, [])]

    @cached_property
    def _tables(self) -> dict[str, tuple[pd.DataFrame, Mapping[Any, NDArray[np.int64]]]]:
        return {}

    def images(self) -> NDArray[np.unsignedinteger]:
        """(N, H, W) memory map."""
        with readable(self.path / "images.npy") as file:
            return np.load(file, mmap_mode="r", allow_pickle=False)

    def masks(self, row: int) -> dict[str, NDArray[np.bool_]]:
        """A case's masks (H, W) by name."""
        names = self.table_of("masks", row)["name"]
        if names.empty:
            return {}
        with readable(self.path / "masks.npy") as file:
            planes = np.load(file, mmap_mode="r", allow_pickle=False)
            return {name: np.unpackbits(planes[plane], axis=-1).astype(bool) for plane, name in names.items()}

    @cached_property
    def letterboxes(self) -> Letterboxes:
        """How each case was fitted into the working resolution."""
        with readable(self.path / "cases.parquet"):
            fields = self.cases[["height", "width", *LETTERBOX_COLUMNS]].to_numpy(np.int32)
        return Letterboxes(self.size, fields)


def _is_ordered(gaze: pd.DataFrame) -> bool:
    """Whether gaze is ordered already, as in most sources; sorting would copy all of it."""
    case, reading, time = (np.diff(gaze[name].cat.codes if name == "reading_id" else gaze[name]) for name in ORDER)
    later = (reading > 0) | ((reading == 0) & (time >= 0))
    return bool(((case > 0) | ((case == 0) & later)).all() and gaze["reading_id"].notna().all())


@contextmanager
def readable(file: Path) -> Iterator[Path]:
    """Turns any error of reading into one that names the file; a foreign store may hold anything."""
    # Reading a pipe could wait forever.
    if not file.is_file():
        raise InputError(f"{file}: is missing; the store is damaged, remove it and prepare it anew")
    try:
        yield file
    except InputError:
        raise
    except (*ARRAY_ERRORS, LookupError, TypeError, pa.ArrowException) as error:
        raise InputError(
            f"{file}: cannot be read ({type(error).__name__}); the store is damaged, remove it and prepare it anew"
        ) from error


def _check_about(path: Path, about: dict[str, Any]) -> None:
    """Raises InputError if ``store.json`` lacks an entry that is needed, or holds one in another form."""
    size, files = about.get("size"), about.get("bytes")
    is_sound = (
        isinstance(size, list)
        and len(size) == 2
        and all(type(side) is int and side > 0 for side in size)
        and isinstance(files, dict)
        and all(type(length) is int for length in files.values())
        and isinstance(about.get("samples", {}), dict)
        and about.get("bits") in (8, 16)
        and isinstance(about.get("counts"), dict)
    )
    if not is_sound:
        raise InputError(f"{path / STORE_FILE}: not what `gazelit prepare` writes; prepare it anew")


def _check(path: Path, about: dict[str, Any]) -> None:
    """Raises InputError if a file is missing, or its size or a sample of its content has changed."""
    # A store of an earlier version has no samples.
    samples = about.get("samples", {})
    for name, size in about["bytes"].items():
        file = path / name
        found = file.stat().st_size if file.is_file() else None
        if found is None:
            raise InputError(f"{file}: is missing; the store is damaged, remove it and prepare it anew")
        if found != size:
            raise InputError(
                f"{file}: is not as long as it was written; the store is damaged, remove it and prepare it anew"
            )
        if name in samples and sample_digest(file) != samples[name]:
            raise InputError(
                f"{file}: its content is not what was written; `gazelit verify {path}` says where, prepare it anew"
            )
