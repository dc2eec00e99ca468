"""Warnings that a model's reading of a film is doubtful, from the film's header and pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gazelit.data.images.dicom import Radiograph

#: Modality of radiographs, and of scanned and converted ones (PS3.3 C.7.3.1.1.1); DR is an old one of vendors.
_RADIOGRAPHY = ("CR", "DX", "DR", "RG", "RF", "XA", "SC", "OT")
#: What a header calls the chest, as a part of the defined terms of PS3.16 annex L and of what vendors write.
_CHEST = ("CHEST", "THORAX", "LUNG", "HEART")
#: ViewPosition of films that are no frontal ones (DICOM's defined terms, and what vendors write).
LATERAL_VIEWS = ("LATERAL", "LAT", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "XTABLE")
#: SD of a range of 1 below which a film shows nothing.
FLAT_IMAGE = 0.03
#: Films are smooth: neighbouring pixels of noise are not alike (correlation).
LEAST_SMOOTH = 0.5
#: 12-bit values in a 16-bit file reach a sixteenth of its range, 14-bit ones a quarter.
LEAST_BRIGHTEST = 0.26
#: Share of pixels at either end of the range.
MOST_CLIPPED = 0.75
#: Long by short side; films of the chest have up to 1.4.
MOST_OBLONG = 2.0
#: Number of rows that are checked; this is enough for a film.
_ROWS = 256


def film_warnings(film: Radiograph, size: tuple[int, int]) -> tuple[str, ...]:
    """Warnings about a film, for a user who is to trust a model's reading of it; empty if there are none.

    A film that shows something else than a frontal chest, and whose header does not say so, is not noticed.

    Args:
        film: The film.
        size: Working resolution (H, W) of the model.
    """
    return (*_of_header(film), *_of_pixels(film, size))


def _of_header(film: Radiograph) -> Iterator[str]:
    view = film.view.upper()
    if view in LATERAL_VIEWS:
        yield f"lateral: the view is {view}, but models are trained on frontal films"
    # Free text of a header is not repeated: it may hold what identifies a patient.
    if film.modality and film.modality.upper() not in _RADIOGRAPHY:
        yield "no radiograph: the header names another modality"
    if film.body_part and not any(term in film.body_part.upper() for term in _CHEST):
        yield "not a chest: the header names another body part"
    if film.is_burned_in:
        yield "burnt-in text: the header says that the pixels hold annotations; they may identify the patient"
    if film.is_colour:
        yield "colour: radiographs are grey; the luminance is read"


def _of_pixels(film: Radiograph, size: tuple[int, int]) -> Iterator[str]:
    pixels = film.pixels
    height, width = pixels.shape
    if max(height, width) > MOST_OBLONG * min(height, width):
        yield f"oblong: {height} × {width} pixels is no chest film's shape"
    if 2 * height < size[0] and 2 * width < size[1]:
        yield f"small: {height} × {width} pixels are enlarged to {size[0]} × {size[1]}"
    seen = pixels[:: max(1, height // _ROWS)]
    deviation = float(seen.std(dtype=np.float64))
    if pixels.max() < LEAST_BRIGHTEST:
        yield (
            f"out of range: the brightest pixel is at {pixels.max():.0%} of the range; "
            "were values of fewer bits stored in more?"
        )
    elif deviation < FLAT_IMAGE:
        yield f"flat: hardly any contrast (SD {deviation:.3f} of a range of 1)"
    clipped = float(((seen == 0) | (seen == 1)).mean())
    if clipped > MOST_CLIPPED:
        yield f"out of range: {clipped:.0%} of the pixels are black or white; is the window, or the range, the film's?"
    if deviation > 0 and width > 1 and _neighbours_alike(seen) < LEAST_SMOOTH:
        yield "noise: neighbouring pixels are not alike, as they are in films"


def _neighbours_alike(pixels: NDArray[np.float32]) -> float:
    """Correlation of each pixel with the one to its right; 1 where one of the two does not vary."""
    left, right = pixels[:, :-1], pixels[:, 1:]
    spread = float(left.std(dtype=np.float64) * right.std(dtype=np.float64))
    if spread == 0:
        return 1.0
    product = np.multiply(left, right).mean(dtype=np.float64)
    return float(product - left.mean(dtype=np.float64) * right.mean(dtype=np.float64)) / spread
