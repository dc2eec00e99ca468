"""The films of a store, mapped for long use, with a check that they are still those of the opened store."""

from __future__ import annotations

import os
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gazelit.data.store.store import Store
from gazelit.errors import InputError


class FilmsInUse:
    """A store's ``images.npy`` as :meth:`gazelit.data.store.store.Store.images` maps it, indexed by the store's row.

    If another process truncates the file, the kernel ends a process that reads it (SIGBUS). If a new store is made in
    its place, its rows are other films. A file that is open can still be read after it was removed or replaced.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._path = store.path / "images.npy"
        self._was = _identity(os.stat(self._path)) if self._path.is_file() else None
        self._file: IO[bytes] | None = None
        self._images: NDArray[np.unsignedinteger] | None = None

    def __getitem__(self, row: int) -> NDArray[np.unsignedinteger]:
        """A film (H, W).

        Raises:
            InputError: The file is missing or damaged, or another one than when the store was opened.
        """
        if self._file is None or self._images is None:
            self._images = self._store.images()
            self._file = self._path.open("rb")
        # The check before each film takes a microsecond.
        if _identity(os.fstat(self._file.fileno())) != self._was:
            raise InputError(
                f"{self._path}: was changed while it was in use; `gazelit verify {self._store.path}` says whether it "
                "is whole, prepare it anew if not, and run the command again"
            )
        film: NDArray[np.unsignedinteger] = self._images[row]
        return film

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memory map would send its whole content to worker processes.
        return {**self.__dict__, "_file": None, "_images": None}


def _identity(about: os.stat_result) -> tuple[int, int, int, int]:
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
