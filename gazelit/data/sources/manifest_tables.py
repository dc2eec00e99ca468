"""Tables of a manifest as text, CSV or Parquet, whole or in chunks, and what is wrong with them by record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gazelit.data.tables import CHUNK_ROWS, number_hint, read_text, read_text_chunks, separator_hint
from gazelit.errors import InputError

#: Rows of a Parquet file that are accepted even if it is small.
MOST_ROWS = 100_000


def read_manifest_table(path: Path) -> pd.DataFrame:
    """A whole table as text; blanks are empty strings.

    Raises:
        InputError: It cannot be read.
    """
    if path.suffix != ".parquet":
        return read_text(path, [], "a manifest")
    with _parquet(path):
        return _as_text(pq.read_table(path).to_pandas(ignore_metadata=True))


def read_manifest_chunks(path: Path) -> Iterator[pd.DataFrame]:
    """The same in chunks, at least one.

    Raises:
        InputError: It cannot be read.
    """
    if path.suffix != ".parquet":
        yield from read_text_chunks(path)
        return
    with _parquet(path), pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        if len(set(schema.names)) < len(schema.names):
            raise InputError(f"{path}: cannot be read as Parquet (two columns have one name)")
        # Whole numbers of which one is missing are read as 1.0, 2.0: in every chunk alike.
        whole = [field.name for field in schema if pa.types.is_integer(field.type)]
        blank = {
            name
            for batch in (file.iter_batches(CHUNK_ROWS, columns=whole) if whole else ())
            for name in whole
            if batch.column(name).null_count
        }
        as_read = pa.schema([field.with_type(pa.float64()) if field.name in blank else field for field in schema])
        yield _as_text(schema.empty_table().to_pandas(ignore_metadata=True))
        for batch in file.iter_batches(CHUNK_ROWS):
            table = pa.Table.from_batches([batch]).cast(as_read, safe=False)
            yield _as_text(table.to_pandas(ignore_metadata=True))


@contextmanager
def _parquet(path: Path) -> Iterator[None]:
    """Says what is wrong with a file that Arrow cannot read."""
    # A pipe would be waited for.
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no file")
    try:
        # Equal values take no space, so that a small file may hold any number of rows.
        if pq.read_metadata(path).num_rows > MOST_ROWS + path.stat().st_size:
            raise InputError(f"{path}: claims more rows than it has bytes, as no table does")
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError, LookupError, MemoryError, OverflowError, TypeError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error.__class__.__name__})") from error


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    """What a CSV would hold, so that both are checked alike."""
    # Bytes that are no text are only noticed here.
    return table.astype(object).where(table.notna(), "").astype(str)


def has_columns(path: Path, table: pd.DataFrame, needed: Sequence[str], faults: list[str]) -> bool:
    """Whether a table has these columns; it is a fault if not."""
    missing = [name for name in needed if name not in table]
    if missing:
        cause = separator_hint(table.columns)
        faults.append(f"{path}: column {', '.join(missing)} is missing{cause} (see Manifest in docs/data.md)")
    return not missing


def numbers(
    path: Path, table: pd.DataFrame, column: str, blank: bool, faults: list[str], first: int = 0
) -> NDArray[np.float64]:
    """A column of text as numbers, NaN where it has none.

    Args:
        path: Of the table.
        table: It, or a chunk of it.
        column: Its name.
        blank: Whether cells may be empty.
        faults: Gets a line for each cell that is no number.
        first: Records before the chunk.
    """
    text = table[column].str.strip()
    values = pd.to_numeric(text, errors="coerce").to_numpy(np.float64, copy=True)
    allowed = (blank & text.str.lower().isin(("", "nan"))).to_numpy()
    for row in np.flatnonzero(~np.isfinite(values) & ~allowed):
        faults.append(f"{path}: record {first + row + 1}: {column} is not a number{number_hint(text.iloc[row])}")
    return values


def fault_rows(path: Path, wrong: pd.Series | NDArray[np.bool_], fault: str, faults: list[str], first: int = 0) -> None:
    """Adds a line for each record that is wrong; ``first`` records came before."""
    faults += [f"{path}: record {first + row + 1}: {fault}" for row in np.flatnonzero(wrong)]
