"""Prepares a decoded film for a network; runs in the process that decodes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from gazelit.data.images.dicom import Radiograph
from gazelit.data.images.film_warnings import film_warnings
from gazelit.data.images.geometry import Letterbox
from gazelit.deploy.dicom.header import header_for_results

#: Longest side of the film in an overlay, and the least that a small film is enlarged to.
LONGEST_SIDE, SHORTEST_LONGEST_SIDE = 1024, 384


@dataclass(frozen=True)
class FilmRecord:
    """The record of a film that is kept; its pixels may be a hundred times as many.

    Attributes:
        box: How it was fitted into the working resolution.
        warnings: Of its header and pixels (:func:`gazelit.data.images.film_warnings.film_warnings`).
        thumbnail: (h, w) uint8, the film at the size in which overlays show it.
        display: (H, W) uint8, the film as displayed; kept only for DICOM results.
        header: The part of its header for DICOM results; None if the film is no DICOM file, or without such results.
    """

    box: Letterbox
    warnings: tuple[str, ...]
    thumbnail: NDArray[np.uint8]
    display: NDArray[np.uint8] | None = None
    header: Dataset | None = None


@dataclass(frozen=True)
class Prepared:
    """A film ready for the network.

    Attributes:
        image: (H, W) float32 in [0, 1] at working resolution.
        record: The record of the film.
    """

    image: NDArray[np.float32]
    record: FilmRecord


@dataclass(frozen=True)
class Preparation:
    """Makes a radiograph ready for a network.

    Attributes:
        size: Working resolution (H, W).
        keeps_source: Whether to keep what DICOM results need.
    """

    size: tuple[int, int]
    keeps_source: bool = False

    def __call__(self, film: Radiograph) -> Prepared:
        """Fits a film into the working resolution and collects warnings about it."""
        box = Letterbox.fit(film.pixels.shape[0], film.pixels.shape[1], self.size)
        display, header = None, None
        if self.keeps_source and film.header is not None:
            display, header = _levels(film.pixels), header_for_results(film.header)
        record = FilmRecord(box, film_warnings(film, self.size), _levels(shrunk(film.pixels)), display, header)
        return Prepared(box.apply(film.pixels), record)


def shrunk(film: NDArray[np.float32]) -> NDArray[np.float32]:
    """A film (H, W) at the size in which overlays show it."""
    longest = max(film.shape)
    scale = min(LONGEST_SIDE, max(SHORTEST_LONGEST_SIDE, longest)) / longest
    height, width = (max(1, round(side * scale)) for side in film.shape)
    method = cv2.INTER_AREA if scale <= 1 else cv2.INTER_LINEAR
    return cv2.resize(film, (width, height), interpolation=method).astype(np.float32, copy=False)


def _levels(film: NDArray[np.float32]) -> NDArray[np.uint8]:
    # In one pass, because NumPy's temporary arrays of a large film would exceed the memory of a process that decodes.
    return cv2.convertScaleAbs(film, alpha=255).astype(np.uint8, copy=False)
