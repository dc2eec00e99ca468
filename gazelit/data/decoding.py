"""One film from its file to its place in the store; kept apart, because every worker imports it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gazelit.data.dicom import read_radiograph
from gazelit.data.geometry import Letterbox
from gazelit.errors import InputError

#: A file, and the (height, width) that the source announced.
Job = tuple[str, tuple[int, int]]


@dataclass(frozen=True)
class Outcome:
    """What became of a film: its photometric interpretation, or the reason it failed."""

    photometric: str = ""
    reason: str | None = None


Decoded = tuple[NDArray[np.unsignedinteger] | None, Outcome]


def decode(job: Job, size: tuple[int, int], bits: int) -> Decoded:
    """Decodes a film to the working resolution.

    Args:
        job: The film.
        size: Working resolution (H, W).
        bits: 8 or 16.

    Returns:
        (H, W) unsigned integers, or None, and the outcome.
    """
    path, expected = job
    try:
        radiograph = read_radiograph(path)
    except InputError as error:
        return None, Outcome(reason=str(error))
    pixels = radiograph.pixels
    if pixels.shape != expected:
        sizes = [f"{height} × {width}" for height, width in (pixels.shape, expected)]
        return None, Outcome(reason=f"{path}: has {sizes[0]} pixels, but {sizes[1]} were announced")
    working = Letterbox.fit(*pixels.shape, size).apply(pixels)
    largest = 2**bits - 1
    stored = np.round(working * largest).clip(0, largest).astype(np.uint8 if bits == 8 else np.uint16)
    return stored, Outcome(radiograph.photometric)
