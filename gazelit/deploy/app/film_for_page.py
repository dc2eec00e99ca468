"""Prepares a film for the page, in the process that decodes, which imports this module."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gazelit.data.images.dicom import Radiograph
from gazelit.deploy.preparing import Preparation, Prepared, shrunk


@dataclass(frozen=True)
class FilmForPage:
    """A film ready for the network and for the page.

    Attributes:
        prepared: For the network, with what DICOM results take over.
        picture: (h, w) float32 in [0, 1] at the size in which overlays show it; with more than their 8 bits, because
            the page has a window.
    """

    prepared: Prepared
    picture: NDArray[np.float32]


@dataclass(frozen=True)
class PagePreparation:
    """Makes :class:`FilmForPage` of a radiograph.

    Attributes:
        size: Working resolution (H, W).
    """

    size: tuple[int, int]

    def __call__(self, film: Radiograph) -> FilmForPage:
        """Prepares a film."""
        return FilmForPage(Preparation(self.size, keeps_source=True)(film), shrunk(film.pixels))
