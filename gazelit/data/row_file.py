"""Rows of numbers on disk instead of in memory, for as long as a command runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
from numpy.typing import NDArray

from gazelit.errors import InputError


class RowFile:
    """Rows in a file without a name, in the folder that ``TMPDIR`` names, which is gone when the process ends.

    Args:
        dtype: Of a row, with fields.

    Raises:
        InputError: No file can be made there.
    """

    def __init__(self, dtype: np.dtype[np.void]) -> None:
        self.dtype = dtype
        self.rows = 0
        with _room():
            # It is closed with this object; the user does not see an unnamed file.
            self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115

    def append(self, rows: NDArray[np.void]) -> None:
        """Writes rows after those that are there.

        Raises:
            InputError: There is no room for them.
        """
        with _room():
            self._file.write(rows.tobytes())
        self.rows += len(rows)

    def flush(self) -> None:
        """Ends the writing: only now can rows be read, also by processes that are forked.

        Raises:
            InputError: There is no room for the last rows.
        """
        with _room():
            self._file.flush()

    def read(self, parts: Iterable[tuple[int, int]]) -> NDArray[np.void]:
        """Rows of several parts, in the order of the parts.

        Args:
            parts: First row and number of rows of each.
        """
        slices = list(parts)
        rows: NDArray[np.void] = np.empty(sum(count for _, count in slices), self.dtype)
        start = 0
        for first, count in slices:
            # Forked processes of a loader share the file and its read position.
            read = os.pread(self._file.fileno(), count * self.dtype.itemsize, first * self.dtype.itemsize)
            rows[start : start + count] = np.frombuffer(read, self.dtype)
            start += count
        return rows


@contextmanager
def _room() -> Iterator[None]:
    """Raises InputError with advice if the temporary file cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{tempfile.gettempdir()}: gaze cannot be kept there while the command runs ({error.strerror}); make room, "
            "or name another folder with the variable TMPDIR"
        ) from error
