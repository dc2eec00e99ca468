"""The films of a store while something reads them for hours: mapped, and the ones they were when it began."""

from __future__ import annotations

import os
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gazelit.data.store.store import Store
from gazelit.errors import InputError


class FilmsInUse:
    """A store's ``images.npy`` as :meth:`gazelit.data.store.store.Store.images` maps it, indexed by the store's row.

    The kernel ends a process (SIGBUS) that reads what another one has cut off the file; a store that is made anew in
    its place has other films in the same rows. What was removed or replaced goes on to be read where it is open.

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
        # Before each film: it costs a microsecond.
        if _identity(os.fstat(self._file.fileno())) != self._was:
            raise InputError(
                f"{self._path}: was changed while it was in use; `gazelit verify {self._store.path}` says whether it "
                "is whole, prepare it anew if not, and run the command again"
            )
        film: NDArray[np.unsignedinteger] = self._images[row]
        return film

    def __getstate__(self) -> dict[str, Any]:
        # A memory map would be sent to worker processes as its content.
        return {**self.__dict__, "_file": None, "_images": None}


def _identity(about: os.stat_result) -> tuple[int, int, int, int]:
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
