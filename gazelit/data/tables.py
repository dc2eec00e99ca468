"""Reading other people's CSV files, with errors that name file, record and column and never a cell's content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.errors import InputError

CHUNK_ROWS = 200_000


def find_table(root: Path, name: str, dataset: str) -> Path:
    """``root/name``, plain or gzipped.

    Raises:
        InputError: There is neither.
    """
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(f"{root / name}: no such file (nor with .gz); is this the root of {dataset}?")


def read_text(path: Path, needed: Iterable[str], dataset: str) -> pd.DataFrame:
    """A whole table as text: nothing is guessed, blanks are empty strings.

    Args:
        path: CSV, plain or gzipped, UTF-8.
        needed: Columns that must be there.
        dataset: Named when they are not.

    Raises:
        InputError: The file cannot be read as CSV, or lacks a column.
    """
    table = _read(path, dtype=str, keep_default_na=False)
    require_columns(path, table.columns, needed, dataset)
    return table


def require_columns(path: Path, columns: Iterable[str], needed: Iterable[str], dataset: str) -> None:
    """Raises InputError if a needed column is missing."""
    there = set(columns)
    missing = [name for name in needed if name not in there]
    if missing:
        raise InputError(f"{path}: column {', '.join(missing)} is missing; is this {dataset}?")


def numbers(path: Path, table: pd.DataFrame, column: str, blank: bool = False) -> NDArray[np.float64]:
    """A text column as float64.

    Args:
        path: Named in errors.
        table: From :func:`read_text`.
        column: Its name.
        blank: Whether empty cells are allowed; they become NaN.

    Raises:
        InputError: A cell is no finite number.
    """
    text = table[column].str.strip()
    values = pd.to_numeric(text, errors="coerce").to_numpy(np.float64, copy=True)
    wrong = np.flatnonzero(~np.isfinite(values) & ~(blank & (text == "").to_numpy()))
    if len(wrong):
        raise InputError(f"{path}: record {wrong[0] + 1}: {column} is not a number")
    return values


def unique(path: Path, table: pd.DataFrame, column: str) -> None:
    """Raises InputError if a column repeats a value or has a blank."""
    blank = np.flatnonzero(table[column].str.strip() == "")
    if len(blank):
        raise InputError(f"{path}: record {blank[0] + 1}: {column} is empty")
    twice = np.flatnonzero(table[column].duplicated())
    if len(twice):
        raise InputError(f"{path}: {len(twice)} {column} are listed more than once, the first in record {twice[0] + 1}")


def read_chunks(path: Path, columns: Mapping[str, str], dataset: str) -> Iterator[pd.DataFrame]:
    """A large table in chunks, of the columns given alone; the index counts records from 0.

    Args:
        path: CSV, plain or gzipped, UTF-8.
        columns: Type (``str`` or ``float64``) by column. Empty cells are NaN.
        dataset: Named when a column is missing.

    Raises:
        InputError: The file cannot be read, lacks a column, or holds text where a number belongs.
    """
    require_columns(path, _read(path, nrows=0).columns, columns, dataset)
    try:
        with pd.read_csv(path, usecols=list(columns), dtype=dict(columns), chunksize=CHUNK_ROWS) as reader:
            yield from reader
    except (ValueError, UnicodeDecodeError, OSError, EOFError) as error:
        raise InputError(_what_is_wrong(path, columns, error)) from error


def _what_is_wrong(path: Path, columns: Mapping[str, str], error: Exception) -> str:
    """Looks for the cell that pandas could not convert; its own message would quote the content."""
    floats = [name for name, kind in columns.items() if kind == "float64"]
    try:
        with pd.read_csv(path, usecols=floats, dtype=str, chunksize=CHUNK_ROWS) as reader:
            for chunk in reader:
                for name in floats:
                    wrong = np.flatnonzero(chunk[name].notna() & pd.to_numeric(chunk[name], errors="coerce").isna())
                    if len(wrong):
                        return f"{path}: record {chunk.index[wrong[0]] + 1}: {name} is not a number"
    except (ValueError, UnicodeDecodeError, OSError, EOFError):
        pass
    return f"{path}: {_reason(error)}"


def _read(path: Path, **options: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(path, **options)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, pd.errors.EmptyDataError):
        return "is empty"
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8 text"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied)"
    if isinstance(error, pd.errors.ParserError):
        return "cannot be read as CSV (a record has more fields than the header, or a quote is not closed)"
    return f"cannot be read as CSV ({error.__class__.__name__})"
