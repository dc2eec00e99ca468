"""The part of a film where a predicted map has most of its mass, and its outline."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from gazelit.data.images.geometry import Letterbox
from gazelit.errors import InputError

#: Share of the map's mass that a region holds by default.
SHARE = 0.5
#: An outline keeps within this many pixels of the region's edge.
_OUTLINE_WITHIN = 0.5


def mass_region(density: NDArray[np.float32], box: Letterbox, share: float = SHARE) -> NDArray[np.bool_]:
    """The smallest part of a film that holds a share of its map's mass (a highest-density region).

    The threshold lies half-way between the values on its two sides, so that an edge of the map stays where it is when
    the map is enlarged to the film.

    Args:
        density: (H, W) map at working resolution, not negative; the padding is left out.
        box: How the film lies in it.
        share: Of the mass, above 0 and below 1.

    Returns:
        (height, width) of the film, true within; of a uniform map the whole film.

    Raises:
        InputError: ``share`` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise InputError(f"share: must be above 0 and below 1, not {share:g}")
    ranked = np.sort(box.crop(density), axis=None)[::-1].astype(np.float64)
    # Ties are inside together.
    last = ranked[min(int(np.searchsorted(np.cumsum(ranked), share * ranked.sum())), ranked.size - 1)]
    outside = ranked[ranked < last]
    if not outside.size:
        return np.ones((box.height, box.width), bool)
    enlarged = box.restore(density)
    region: NDArray[np.bool_] = enlarged > (last + outside[0]) / 2
    # A film much smaller than the working image may lose a region of a pixel; its peak is always inside.
    region[np.unravel_index(int(enlarged.argmax()), enlarged.shape)] = True
    return region


def peak_outline(region: NDArray[np.bool_], at: tuple[int, int]) -> NDArray[np.float64]:
    """Outline of the connected part of a region that holds a pixel.

    Args:
        region: (H, W).
        at: Row and column of a pixel inside.

    Returns:
        (N, 2) x, y of a closed line, whose last point is the first, within half a pixel of the part's edge; in DICOM's
        coordinates, in which the centre of the first pixel is at (0.5, 0.5) (PS3.3 C.18.6).
    """
    _, parts = cv2.connectedComponents(region.astype(np.uint8), connectivity=4)
    part = (parts == parts[at]).astype(np.uint8)
    # Doubled, the border pixels' centres are a quarter of a pixel within the edge.
    contours, _ = cv2.findContours(
        cv2.resize(part, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    contour = max(contours, key=len).astype(np.float32)
    line = cv2.approxPolyDP(contour, 2 * _OUTLINE_WITHIN, closed=True)[:, 0].astype(np.float64)
    line = (line + 0.5) / 2
    return np.concatenate([line, line[:1]])


def peak_of(density: NDArray[np.float32], box: Letterbox) -> tuple[int, int]:
    """Row and column, on the film, of the largest value of a map at working resolution (H, W)."""
    enlarged = box.restore(density)
    row, column = np.unravel_index(int(enlarged.argmax()), enlarged.shape)
    return int(row), int(column)
