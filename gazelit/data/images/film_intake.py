"""Reads films in any form: files, bytes, pictures, arrays."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import tee
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gazelit.data.images.decoding import FilmBytes, Reader, Refused, film_readers
from gazelit.data.images.dicom import MAX_PIXELS, Radiograph
from gazelit.data.images.guard import Lost
from gazelit.data.images.memory_films import radiograph_of_array, radiograph_of_picture
from gazelit.errors import InputError

#: The path of a DICOM, PNG or JPEG file, its bytes, a picture, or an array (:mod:`gazelit.data.images.memory_films`).
PreparedT = TypeVar("PreparedT")
Film = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]


class FilmIntake(Generic[PreparedT]):
    """Reads files, bytes, pictures and arrays, and calls a function on each.

    Files and bytes are decoded in another process, so that a malformed film cannot end this one. Threads may share an
    intake.

    Args:
        prepare: Function that is called on a radiograph; for files and bytes in the process that decodes, so it must be
            picklable.
        max_pixels: Films that claim more are refused.
        workers: Number of processes that decode if there are several films.
    """

    def __init__(
        self, prepare: Callable[[Radiograph], PreparedT], max_pixels: int = MAX_PIXELS, workers: int = 1
    ) -> None:
        self.max_pixels = max_pixels
        self._prepare, self._count = prepare, workers
        self._reader = Reader(prepare, max_pixels)
        self._workers = film_readers(self._reader)
        self._lock = threading.Lock()
        weakref.finalize(self, self._workers.__exit__)

    def read(self, film: Film, bits: int | None = None) -> PreparedT:
        """Reads one film; the process that decodes is kept for the next.

        Args:
            film: The film.
            bits: See :func:`gazelit.data.images.memory_films.radiograph_of_array`.

        Raises:
            InputError: It cannot be read.
        """
        if (job := _job(film, "film")) is None:
            return self._in_memory(film, "film", bits)
        _refuse_bits(job, bits)
        with self._lock:
            try:
                result = next(iter(self._workers.map([job])))
            except BaseException:
                # After an interruption, the process would return this film instead of the next.
                self._workers.__exit__()
                raise
        return _sound(job, result)

    def read_each(self, films: Iterable[Film], bits: int | None = None) -> Iterator[PreparedT | InputError]:
        """Reads films in their order, files ahead of their turn; for a film that cannot be read, yields the error."""
        films, ahead = tee(films)
        jobs = (job for number, film in enumerate(ahead) if (job := _job(film, f"films[{number}]")) is not None)
        with film_readers(self._reader, self._count) as readers:
            results = readers.map(jobs)
            for number, film in enumerate(films):
                name = f"films[{number}]"
                try:
                    if (job := _job(film, name)) is None:
                        yield self._in_memory(film, name, bits)
                    else:
                        result = next(results)
                        _refuse_bits(job, bits)
                        yield _sound(job, result)
                except InputError as error:
                    yield error

    def _in_memory(self, film: Any, name: str, bits: int | None) -> PreparedT:
        if isinstance(film, np.ndarray):
            return self._prepare(radiograph_of_array(film, name, bits, self.max_pixels))
        if isinstance(film, Image.Image):
            _refuse_bits(name, bits)
            return self._prepare(radiograph_of_picture(film, name, self.max_pixels))
        raise InputError(
            f"{name}: a {type(film).__name__} is no film; give a path, bytes, a PIL picture or a NumPy array, or a list"
        )


def _job(film: Any, name: str) -> str | FilmBytes | None:
    """The job for another process; None for a film that is in memory already."""
    if isinstance(film, (bytes, bytearray, memoryview)):
        return FilmBytes(bytes(film), name)
    return os.fsdecode(film) if isinstance(film, (str, os.PathLike)) else None


def _refuse_bits(film: str | FilmBytes, bits: int | None) -> None:
    if bits is not None:
        name = film if isinstance(film, str) else film.name
        raise InputError(f"{name}: bits goes with uint16 arrays; files and pictures say their own, leave it out")


def _sound(job: str | FilmBytes, result: PreparedT | Refused | Lost) -> PreparedT:
    if isinstance(result, Lost):
        raise InputError(f"{job if isinstance(job, str) else job.name}: {result.reason}")
    if isinstance(result, Refused):
        raise InputError(result.reason)
    return result
