"""Reads CSV files of datasets, with errors that name file, record and column and never a cell's content."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.csv_stream import READ_ERRORS, open_csv
from gazelit.errors import InputError

CHUNK_ROWS = 200_000
#: No film has more rows or columns.
LARGEST_SIDE = 100_000
#: Other separators of tables that are nevertheless called CSV.
OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def find_table(root: Path, name: str, dataset: str) -> Path:
    """``root/name``, plain or gzipped.

    Raises:
        InputError: There is no such file.
    """
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(f"{root / name}: no such file (nor with .gz); is this the root of {dataset}?")


def read_text(path: Path, needed: Iterable[str], dataset: str) -> pd.DataFrame:
    """A whole table as text: no types are guessed, blanks are empty strings.

    Args:
        path: CSV, plain or gzipped, UTF-8.
        needed: Columns that must be there.
        dataset: Name of the dataset, for the message if a column is missing.

    Raises:
        InputError: The file cannot be read as CSV, or lacks a column.
    """
    table = _read(path, dtype=str, keep_default_na=False)
    require_columns(path, table.columns, needed, dataset)
    return table


def read_text_chunks(path: Path) -> Iterator[pd.DataFrame]:
    """A table as :func:`read_text` gives it, in chunks; the index counts records from 0.

    Args:
        path: CSV, plain or packed, UTF-8.

    Raises:
        InputError: The file cannot be read as CSV.
    """
    with (
        _csv_faults(path),
        open_csv(path) as stream,
        pd.read_csv(stream, dtype=str, keep_default_na=False, chunksize=CHUNK_ROWS) as reader,
    ):
        for chunk in reader:
            _require_no_longer_record(path, chunk)
            yield chunk
            stream.new_chunk()


def require_columns(path: Path, columns: Iterable[str], needed: Iterable[str], dataset: str) -> None:
    """Raises InputError if a needed column is missing, with the cause if the header shows it."""
    present = list(columns)
    missing = [name for name in needed if name not in present]
    if missing:
        raise InputError(f"{path}: column {', '.join(missing)} is missing{separator_hint(present)}; is this {dataset}?")


def separator_hint(columns: Iterable[str]) -> str:
    """A hint for the message if the header is a single cell that another separator would split."""
    names = [str(name) for name in columns]
    for separator, name in OTHER_SEPARATORS.items():
        if len(names) <= 2 and any(separator in header for header in names):
            return f" (its header is separated by {name}: write the table with commas and decimal points)"
    return ""


def number_hint(text: str) -> str:
    """A hint about the meaning of a cell that is no number; never its content."""
    if re.fullmatch(r"[-+]?\d+,\d*", text.strip()):
        return " (a decimal comma? write 0.5, not 0,5)"
    if text.strip().lower() in ("true", "false", "yes", "no"):
        return " (write 1 and 0)"
    return ""


def is_text(value: object) -> bool:
    """Whether a value is a string that a file can hold: JSON also allows halves of characters (surrogates)."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


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
        cell = text.iloc[wrong[0]]
        fault = "is empty" if cell == "" else f"is not a number{number_hint(cell)}"
        raise InputError(f"{path}: record {wrong[0] + 1}: {column} {fault}")
    return values


def sides(path: Path, table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """A text column of heights or widths in pixels, as float64.

    Raises:
        InputError: A cell is no whole number from 1 to 100,000.
    """
    values = numbers(path, table, column)
    wrong = np.flatnonzero((values < 1) | (values > LARGEST_SIDE) | (values % 1 != 0))
    if len(wrong):
        raise InputError(f"{path}: record {wrong[0] + 1}: {column} is no size in pixels")
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
    """A large table in chunks, with only the given columns; the index counts records from 0.

    Args:
        path: CSV, plain or gzipped, UTF-8.
        columns: Type (``str`` or ``float64``) by column. Empty cells are NaN.
        dataset: Name of the dataset, for the message if a column is missing.

    Raises:
        InputError: The file cannot be read, lacks a column, or holds text where a number belongs.
    """
    # The first record is checked, too: if it has more fields than the header, pandas would take its first field as an
    # index.
    require_columns(path, _read(path, nrows=1, dtype=str).columns, columns, dataset)
    try:
        with (
            open_csv(path) as stream,
            pd.read_csv(stream, usecols=list(columns), dtype=dict(columns), chunksize=CHUNK_ROWS) as reader,
        ):
            for chunk in reader:
                yield chunk
                stream.new_chunk()
    except InputError:
        raise
    except READ_ERRORS as error:
        raise InputError(_what_is_wrong(path, columns, error)) from error


def _what_is_wrong(path: Path, columns: Mapping[str, str], error: Exception) -> str:
    """Finds the cell that pandas could not convert; pandas' own message would quote the content."""
    floats = [name for name, kind in columns.items() if kind == "float64"]
    try:
        with (
            open_csv(path) as stream,
            pd.read_csv(stream, usecols=floats, dtype=str, chunksize=CHUNK_ROWS) as reader,
        ):
            for chunk in reader:
                stream.new_chunk()
                for name in floats:
                    wrong = np.flatnonzero(chunk[name].notna() & pd.to_numeric(chunk[name], errors="coerce").isna())
                    if len(wrong):
                        hint = number_hint(chunk[name].iloc[wrong[0]])
                        return f"{path}: record {chunk.index[wrong[0]] + 1}: {name} is not a number{hint}"
    except READ_ERRORS:
        pass
    return f"{path}: {_reason(error)}"


def _read(path: Path, **options: Any) -> pd.DataFrame:
    with _csv_faults(path), open_csv(path) as stream:
        table = pd.read_csv(stream, **options)
    _require_no_longer_record(path, table)
    return table


@contextmanager
def _csv_faults(path: Path) -> Iterator[None]:
    """Says what is wrong with a file that pandas cannot read."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except READ_ERRORS as error:
        raise InputError(f"{path}: {_reason(error)}") from error


def _require_no_longer_record(path: Path, table: pd.DataFrame) -> None:
    """Raises InputError if pandas took a first field for an index."""
    if not isinstance(table.index, pd.RangeIndex):
        raise InputError(
            f"{path}: its records have more fields than its header (a comma too many at the end of a line?)"
        )


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
