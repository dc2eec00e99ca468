"""The bytes of a CSV for pandas, with bounds: pandas alone takes memory for whatever a file holds."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from gazelit.errors import InputError

#: Bytes of a line: a report in a cell has thousands, a mask as run lengths tens of thousands.
LONGEST_LINE = 2**16
#: Bytes of what is read in one chunk: 200,000 rows of EGD-CXR's ``eye_gaze.csv`` take 110 million.
LARGEST_CHUNK = 2**28
#: Largest ratio of unpacked to packed size, and the number of unpacked bytes that is always allowed.
LARGEST_RATIO, UNPACKED_FREE = 100, 2**24
#: What reading a damaged CSV raises; Python's own readers of packed files have more of their own.
READ_ERRORS = (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError, OverflowError, MemoryError)
_BLOCK = 2**18
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
#: What pandas would unpack by itself, without a bound.
_ARCHIVES = (".zip", ".zst", ".tar", ".tgz")


class CsvStream:
    """A CSV's bytes, plain or packed, that refuses lines, chunks and unpacked sizes that no table has.

    Args:
        path: The file, for messages too.
        file: It, opened and unpacked.
        is_packed: Whether the file is packed.
    """

    def __init__(self, path: Path, file: IO[bytes], is_packed: bool) -> None:
        self._path, self._file = path, file
        self._most = LARGEST_RATIO * os.stat(path).st_size + UNPACKED_FREE if is_packed else None
        self._total = self._in_chunk = self._open = 0

    def read(self, size: int = _BLOCK) -> bytes:
        """The next bytes, at most ``size``.

        Raises:
            InputError: There are more than a table has.
        """
        block = self._file.read(min(size, _BLOCK) if size > 0 else _BLOCK)
        self._total += len(block)
        self._in_chunk += len(block)
        if self._most is not None and self._total > self._most:
            raise InputError(
                f"{self._path}: unpacks to more than {LARGEST_RATIO} times its size, as no table does; unpack it "
                "yourself if you trust it"
            )
        if self._in_chunk > LARGEST_CHUNK:
            raise InputError(
                f"{self._path}: its records are too long: {LARGEST_CHUNK >> 20} MB hold fewer than are read at once "
                "(a quote that is not closed?)"
            )
        self._check_lines(block)
        return block

    def new_chunk(self) -> None:
        """Begins a new chunk: the bytes read so far have been used."""
        self._in_chunk = 0

    def __iter__(self) -> Iterator[bytes]:
        """Blocks; pandas takes an object for a file only if it can be iterated over."""
        return iter(self.read, b"")

    def _check_lines(self, block: bytes) -> None:
        # The line that the block begins in has begun this many bytes before it. Of several lines within the bound only
        # the last one's end is looked for, so that this costs next to nothing.
        position = -self._open
        while len(block) - position > LONGEST_LINE:
            position = self._last_end(block, max(0, position), position + LONGEST_LINE)
            if position < 0:
                raise InputError(_longest_cell(self._path, self._total - len(block)))
        self._open = len(block) - max(position, self._last_end(block, max(0, position), len(block)))

    @staticmethod
    def _last_end(block: bytes, first: int, last: int) -> int:
        """The position after the last end of a line; −1 without one. Old files end lines with a carriage return."""
        found = block.rfind(b"\n", first, last)
        return (found if found >= 0 else block.rfind(b"\r", first, last)) + 1 or -1


@contextmanager
def open_csv(path: Path) -> Iterator[CsvStream]:
    """Opens a CSV, plain or packed (``.gz``, ``.bz2``, ``.xz``).

    Raises:
        InputError: It is no regular file, or an archive of another kind.
    """
    # Reading a pipe would wait, and a device has no end.
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no file")
    suffix = path.suffix.lower()
    if suffix in _ARCHIVES:
        raise InputError(f"{path}: is an archive; give the CSV that is in it, or a .csv.gz")
    opener = _OPENERS.get(suffix, open)
    with opener(path, "rb") as file:
        yield CsvStream(path, file, suffix in _OPENERS)


def _longest_cell(path: Path, begin: int) -> str:
    """Which cell it is that has made a line too long: the line begins before the byte ``begin``, or soon after."""
    with _OPENERS.get(path.suffix.lower(), open)(path, "rb") as file:
        header = file.readline(LONGEST_LINE)
        number, line, read = 0, header, len(header)
        while len(line) < LONGEST_LINE and read < begin + 2 * _BLOCK + LONGEST_LINE:
            line = file.readline(LONGEST_LINE)
            read += len(line)
            number += 1
    if b"\r" in header.rstrip(b"\r\n"):
        # Lines that end with it alone: what was read is no header.
        number = 0
    # Not by quotes, which are what may be wrong.
    names, cells = (text.decode("utf-8", "replace").strip().split(",") for text in (header, line))
    longest = max(range(len(cells)), key=lambda at: len(cells[at]), default=0)
    where = f"record {number}: {names[longest]}" if number and longest < len(names) else "a line"
    return f"{path}: {where} is longer than {LONGEST_LINE} bytes (a quote that is not closed?); no table has such cells"
