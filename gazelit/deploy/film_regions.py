"""The regions of a film that a model of scanpaths has learned, with a picture of them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gazelit.data.images.geometry import Letterbox
from gazelit.deploy.film_sketch import FilmSketch
from gazelit.models.regions import RegionMaps

#: Regions with a smaller share of the static map are not drawn.
SMALLEST_SHARE = 0.005
_COLOUR = "#a8e6ff"
_TEXT = 12


@dataclass(frozen=True)
class FilmRegions:
    """Where the K regions of a model lie on a film; the number of a region is the same on every film.

    A region's core is where its chance is at least half of its greatest, connected with that cell. Beyond it a region
    has tails, which may reach over the whole film.

    Attributes:
        centre: (K, 2) float64 x, y of the core's centre of mass in pixels of the film, centres at integers.
        radius: (K,) float64 radius of a circle of the core's area (pixels).
        share: (K,) float64 part of the static map; sums to 1.
    """

    centre: NDArray[np.float64]
    radius: NDArray[np.float64]
    share: NDArray[np.float64]

    def primitives(self) -> dict[str, list[float]]:
        """The regions in the form of the JSON."""
        x, y = self.centre.T.round(2).tolist()
        return {"x": x, "y": y, "radius": self.radius.round(2).tolist(), "share": self.share.round(5).tolist()}


def on_film(maps: RegionMaps, film: int, stride: int, box: Letterbox) -> FilmRegions:
    """The regions of a film, from its working resolution to its own pixels.

    Args:
        maps: Of a batch of films.
        film: Number of the film in the batch.
        stride: Side of a cell in working pixels.
        box: How the film lies in the working image.
    """
    chances = maps.chance[film].double().cpu().numpy()
    centre, cells = np.empty((len(chances), 2)), np.empty(len(chances))
    for number, chance in enumerate(chances):
        _, part = cv2.connectedComponents((chance >= chance.max() / 2).astype(np.uint8), connectivity=4)
        core = part == part.flat[chance.argmax()]
        centre[number] = np.average(np.argwhere(core)[:, ::-1], axis=0, weights=chance[core])
        cells[number] = core.sum()
    # The sides of a cell on the film.
    side = box.to_original(np.full((1, 2), float(stride))) - box.to_original(np.zeros((1, 2)))
    share = maps.log_size[film].double().softmax(0).cpu().numpy()
    return FilmRegions(box.to_original((centre + 0.5) * stride - 0.5), np.sqrt(cells * side.prod() / np.pi), share)


def draw_regions(film: NDArray[np.uint8], regions: FilmRegions, shape: tuple[int, int]) -> Image.Image:
    """Draws regions over their film: circles of their cores' area, with their numbers from 0.

    Args:
        film: (h, w) as :func:`gazelit.deploy.preparing.shrunk` gives it.
        regions: In pixels of the whole film.
        shape: Height and width of the whole film.
    """
    sketch = FilmSketch(film, shape, _COLOUR, _TEXT)
    for number in np.flatnonzero(regions.share >= SMALLEST_SHARE):
        sketch.circle(regions.centre[number], int(number), float(regions.radius[number]))
    return sketch.picture
