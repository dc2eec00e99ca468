"""The regions of a film that a model of scanpaths has learned, with a picture of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from gazelit.data.images.geometry import Letterbox
from gazelit.models.regions import RegionMaps
from gazelit.models.scanpath_net import ScanpathNetwork

#: Regions with a smaller share of the static map are not drawn.
SMALLEST_SHARE = 0.005
#: At this many standard deviations a Gaussian has half of its height.
_HALF_HEIGHT = float(np.sqrt(2 * np.log(2)))
_COLOUR = "#a8e6ff"
_TEXT = 12


@dataclass(frozen=True)
class FilmRegions:
    """Where the K regions of a model lie on a film; the number of a region is the same on every film.

    Attributes:
        centre: (K, 2) float64 x, y in pixels of the film, centres at integers.
        spread: (K, 2) float64 standard deviation along x and y (pixels).
        share: (K,) float64 part of the static map, which sums to 1.
    """

    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    share: NDArray[np.float64]

    def primitives(self) -> dict[str, list[float]]:
        """The regions in the form of the JSON."""
        (x, y), (spread_x, spread_y) = self.centre.T.round(2).tolist(), self.spread.T.round(2).tolist()
        return {"x": x, "y": y, "spread_x": spread_x, "spread_y": spread_y, "share": self.share.round(5).tolist()}


def on_film(maps: RegionMaps, stride: int, box: Letterbox) -> FilmRegions:
    """The regions of a single film, from its working resolution to its own pixels.

    Args:
        maps: Of one film, S = 1.
        stride: Side of a cell in working pixels.
        box: How the film lies in the working image.
    """
    chance = maps.chance[0].double().cpu().numpy()
    centre = maps.centre[0].double().cpu().numpy()
    spread = np.empty_like(centre)
    for axis, along in ((0, chance.sum(1)), (1, chance.sum(2))):
        pixel = (np.arange(along.shape[1]) + 0.5) * stride - 0.5
        spread[:, axis] = np.sqrt((along * (pixel - centre[:, axis, None]) ** 2).sum(1))
    share = maps.log_size[0].double().softmax(0).cpu().numpy()
    # A spread is a difference of positions.
    return FilmRegions(box.to_original(centre), box.to_original(centre + spread) - box.to_original(centre), share)


def regions_of(network: nn.Module, images: Tensor, boxes: Sequence[Letterbox]) -> list[FilmRegions | None]:
    """The regions of a batch of films (B, 1, H, W); None each of a network that has learned none."""
    if not isinstance(network, ScanpathNetwork) or network.regions is None:
        return [None] * len(boxes)
    with torch.inference_mode():
        maps = network.film_map(network.film_features(images)).regions
    assert maps is not None
    rows = (maps.rows(torch.tensor([row], device=images.device)) for row in range(len(boxes)))
    return [on_film(film, network.map_stride, box) for film, box in zip(rows, boxes, strict=True)]


def draw_regions(film: NDArray[np.uint8], regions: FilmRegions, shape: tuple[int, int]) -> Image.Image:
    """Draws regions over their film: ellipses at half of their height, with their numbers from 0.

    Args:
        film: (h, w) as :func:`gazelit.deploy.preparing.shrunk` gives it.
        regions: In pixels of the whole film.
        shape: Height and width of the whole film.
    """
    picture = Image.fromarray(film).convert("RGB")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_TEXT)
    scale = np.array(film.shape[::-1]) / np.array(shape[::-1])
    for number in np.flatnonzero(regions.share >= SMALLEST_SHARE):
        x, y = (regions.centre[number] + 0.5) * scale - 0.5
        across, down = regions.spread[number] * scale * _HALF_HEIGHT
        draw.ellipse((x - across, y - down, x + across, y + down), outline=_COLOUR, width=1)
        draw.text((x, y), str(number), fill=_COLOUR, font=font, anchor="mm")
    return picture
