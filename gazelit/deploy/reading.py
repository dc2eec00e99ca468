"""A model's reading of one radiograph."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gazelit.data.images.geometry import Letterbox
from gazelit.deploy.film_regions import FilmRegions, draw_regions
from gazelit.deploy.overlay import draw_overlay
from gazelit.deploy.preparing import FilmRecord
from gazelit.deploy.scanpaths import ExpectedScanpath, draw_scanpath
from gazelit.errors import InputError


@dataclass(frozen=True)
class Spread:
    """How far several networks, or several passes of one with dropout, agree on a film.

    Attributes:
        members: Number of networks or passes.
        deviations: By class, standard deviation of the probability; empty without a classifier.
        mutual_information: Mutual information of the class and the network, in nats (Houlsby et al. 2011, BALD): the
            disagreement of the networks, without the uncertainty of each; None without a classifier.
        map_correlation: Mean CC of each network's map with their mean; None without a saliency head.
    """

    members: int
    deviations: dict[str, float]
    mutual_information: float | None
    map_correlation: float | None


@dataclass(frozen=True, eq=False)
class Reading:
    """A model's reading of one radiograph.

    Attributes:
        probabilities: By class name; empty for a network without a classifier.
        warnings: Reasons why the reading is doubtful; each a line that begins with its kind, such as ``lateral:``.
        notice: What the model must not be used for.
        film: The record of the film.
        spread: How far several networks agree; None of a single network.
        prediction_set: With fitted guards, the classes that cannot be excluded at the stated coverage, or by label
            ``present``, ``absent``, ``unclear``; None without guards.
        scanpaths: For a model of scanpaths, the expected path of an unknown reader and of the readers that were named.
        regions: For a model of scanpaths that learns regions, where they are.
    """

    probabilities: dict[str, float]
    warnings: tuple[str, ...]
    notice: str
    film: FilmRecord
    spread: Spread | None = None
    prediction_set: list[str] | dict[str, str] | None = None
    _density: NDArray[np.float32] | None = field(default=None, repr=False)
    scanpaths: tuple[ExpectedScanpath, ...] = ()
    regions: FilmRegions | None = None

    def __repr__(self) -> str:
        return f"Reading(probabilities={self.probabilities}, warnings={self.warnings}, shape={self.shape})"

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the film."""
        return self.film.box.height, self.film.box.width

    @property
    def letterbox(self) -> Letterbox:
        """How the film lies in the working map."""
        return self.film.box

    @cached_property
    def working_saliency(self) -> NDArray[np.float32] | None:
        """(h, w) float32 map at working resolution: 0 on the padding, sums to 1; None without a saliency head."""
        if self._density is None:
            return None
        inside = np.where(self.film.box.valid_mask(), self._density, np.float32(0))
        density: NDArray[np.float32] = (inside / inside.sum(dtype=np.float64)).astype(np.float32)
        return density

    @cached_property
    def saliency(self) -> NDArray[np.float32] | None:
        """(H, W) float32 on the pixels of the film, sums to 1; None without a saliency head."""
        if self._density is None:
            return None
        restored = np.clip(self.film.box.restore(self._density), 0, None)
        density: NDArray[np.float32] = (restored / restored.sum(dtype=np.float64)).astype(np.float32)
        return density

    def overlay(self) -> Image.Image:
        """The film with the map over it, a colour bar, and lines on its strength (:mod:`gazelit.deploy.overlay`).

        Raises:
            InputError: The network has no saliency head.
        """
        if self._density is None:
            raise InputError("overlay: the model predicts no saliency map; load one with a saliency head")
        return draw_overlay(self.film.thumbnail, self.film.box.crop(self._density), self.warnings)

    def scanpath_picture(self) -> Image.Image:
        """The film with the expected scanpath of an unknown reader over it.

        Raises:
            InputError: The network predicts no scanpaths.
        """
        if not self.scanpaths:
            raise InputError("scanpath: the model predicts none; load one of the stage scanpath")
        return draw_scanpath(self.film.thumbnail, self.scanpaths[0], self.shape)

    def regions_picture(self) -> Image.Image:
        """The film with the learned regions over it.

        Raises:
            InputError: The network learns none.
        """
        if self.regions is None:
            raise InputError("regions: none were asked for; load a model of the stage scanpath and set its readers")
        return draw_regions(self.film.thumbnail, self.regions, self.shape)
