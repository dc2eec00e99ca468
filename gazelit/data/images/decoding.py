"""Decodes one film from its file to its pixels in the store; a module of its own, because every worker imports it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from gazelit.data.images.dicom import (
    MAX_PIXELS,
    Radiograph,
    check_length,
    mask_of,
    radiograph_of,
    read_film,
    read_radiograph,
)
from gazelit.data.images.geometry import Letterbox
from gazelit.data.images.guard import Workers
from gazelit.errors import InputError

#: A file, and the (height, width) that the source announced.
Job = tuple[str, tuple[int, int]]
ParsedT = TypeVar("ParsedT")
#: Address space that a worker may take for every pixel of the limit, besides what its libraries take.
_MEMORY_PER_PIXEL = 13


@dataclass(frozen=True)
class Identity:
    """Identifies a file, to find whether it is still the one that was read.

    Attributes:
        size: Bytes; −1 for a file that could not be read.
        modified: Time of modification, ns.
        changed: Time of the last change of content or attributes, ns; unlike the former, no program sets it.
        content: XXH3 of the bytes, 128 bits as hexadecimal digits; empty if it could not be read.
    """

    size: int = -1
    modified: int = 0
    changed: int = 0
    content: str = ""

    @classmethod
    def of(cls, path: str, content: str = "") -> Identity:
        """Looks at a file, without reading it."""
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return cls()
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, content)

    def still(self, path: str) -> bool:
        """Whether a file is still this one: by its times, and by its content where they differ."""
        now = Identity.of(path)
        if (now.size, now.modified, now.changed) == (self.size, self.modified, self.changed):
            return True
        return now.size == self.size and bool(self.content) and content_hash(path) == self.content


def content_hash(path: str) -> str:
    """XXH3 of a file's bytes; empty if it cannot be read."""
    digest = xxhash.xxh3_128()
    try:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


@dataclass(frozen=True)
class Outcome:
    """The result of decoding a film.

    Attributes:
        photometric: Its photometric interpretation.
        reason: Why it failed, if it did.
        file: The identity of the file that was read.
    """

    photometric: str = ""
    reason: str | None = None
    file: Identity = Identity()


Decoded = tuple[NDArray[np.unsignedinteger] | None, Outcome]


def decode(job: Job, size: tuple[int, int], bits: int, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decodes a film to the working resolution.

    Args:
        job: The film.
        size: Working resolution (H, W).
        bits: 8 or 16.
        max_pixels: See :func:`gazelit.data.images.dicom.read_radiograph`.

    Returns:
        (H, W) unsigned integers, or None, and the outcome.
    """
    path, expected = job
    radiograph, file, reason = _parsed(path, max_pixels, radiograph_of)
    if radiograph is None:
        return None, Outcome(reason=reason, file=file)
    pixels = radiograph.pixels
    if pixels.shape != expected:
        sizes = [f"{height} × {width}" for height, width in (pixels.shape, expected)]
        return None, Outcome(reason=f"{path}: has {sizes[0]} pixels, but {sizes[1]} were announced", file=file)
    working = Letterbox.fit(*pixels.shape, size).apply(pixels)
    largest = 2**bits - 1
    stored = np.round(working * largest).clip(0, largest).astype(np.uint8 if bits == 8 else np.uint16)
    return stored, Outcome(radiograph.photometric, file=file)


def read_mask(job: Job, size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> Decoded:
    """Reads a mask, a picture of its image's size whose non-zero pixels are inside, to the working resolution.

    Returns:
        (H, W / 8) packed bits, or None, and the outcome.
    """
    path, expected = job
    values, file, reason = _parsed(path, max_pixels, mask_of)
    if values is None:
        return None, Outcome(reason=reason, file=file)
    if values.shape != expected:
        reason = f"{path}: a mask of another size than its image, or not single-channel"
        return None, Outcome(reason=reason, file=file)
    mask = Letterbox.fit(*expected, size).apply((values > 0).astype(np.float32)) >= 0.5
    return np.packbits(mask, axis=-1), Outcome(file=file)


def _parsed(
    path: str, max_pixels: int, parse: Callable[[bytes, str, int], ParsedT]
) -> tuple[ParsedT | None, Identity, str | None]:
    """The content of a file and its identity, or why it cannot be read."""
    file = Identity.of(path)
    try:
        content = read_film(path, max_pixels)
        file = replace(file, content=xxhash.xxh3_128(content).hexdigest())
        return parse(content, path, max_pixels), file, None
    except InputError as error:
        return None, file, str(error)


def memory_for(max_pixels: int) -> int:
    """Bytes that decoding one film of ``max_pixels`` may take; never less than for a film of the usual limit."""
    return _MEMORY_PER_PIXEL * max(max_pixels, MAX_PIXELS)


@dataclass(frozen=True)
class Refused:
    """Replaces a film that cannot be read; holds the reason."""

    reason: str


@dataclass(frozen=True)
class FilmBytes:
    """The content of a film's file, and what to call it in messages."""

    content: bytes
    name: str


@dataclass(frozen=True)
class Reader(Generic[ParsedT]):
    """Reads whole films and calls a function on each, in the process that decodes.

    Attributes:
        prepare: Function that is called on a film; defined at a module's top level, because it is pickled.
        max_pixels: Films that claim more are refused.
    """

    prepare: Callable[[Radiograph], ParsedT]
    max_pixels: int = MAX_PIXELS

    def __call__(self, film: str | FilmBytes) -> ParsedT | Refused:
        """The function's result for a film, given its path or its bytes, or why the film cannot be read."""
        try:
            if isinstance(film, str):
                return self.prepare(read_radiograph(film, self.max_pixels))
            check_length(len(film.content), film.name, self.max_pixels)
            return self.prepare(radiograph_of(film.content, film.name, self.max_pixels))
        except InputError as error:
            return Refused(str(error))


def film_readers(reader: Reader[ParsedT], count: int = 1) -> Workers[str | FilmBytes, ParsedT | Refused]:
    """Processes that read whole films, so that a malformed film cannot end this one."""
    # Whole films are large: one is used, one is ready.
    return Workers(reader, count, memory_for(reader.max_pixels), held=2)
