"""Regions of an image, whose numbers are the letters of the Sequence Score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from gazelit.errors import InputError
from gazelit.files import read_json, write_json
from gazelit.metrics.scanpath.paths import are_on_image


class Regions(ABC):
    """Assigns points of an image to regions."""

    @abstractmethod
    def of(self, points: NDArray[np.float64]) -> NDArray[np.int64]:
        """The number of the region, from 0, of (n, 2) points in pixels.

        Raises:
            InputError: A point belongs to no region.
        """


@dataclass(frozen=True, eq=False)
class Clusters(Regions):
    """Clusters of the fixations on an image, by mean shift; a point belongs to the nearest centre.

    Attributes:
        centres: (K, 2) x and y in pixels.
        bandwidth: Bandwidth of the kernel in pixels.
    """

    centres: NDArray[np.float64]
    bandwidth: float

    @classmethod
    def fit(cls, paths: Sequence[ArrayLike], bandwidth: float | None = None) -> Clusters:
        """Clusters the fixations of an image's readers (scikit-learn's mean shift).

        Leave out the paths that are scored: a path scores too high with clusters that it helped to make.

        Args:
            paths: (n, 3) arrays.
            bandwidth: In pixels; the mean distance to the nearest 30 % of the fixations unless given.

        Raises:
            InputError: There is no fixation, or the bandwidth is not above 0.
        """
        points = np.concatenate([np.empty((0, 2)), *(np.asarray(path, np.float64)[:, :2] for path in paths)])
        if not len(points):
            raise InputError("paths: hold no fixation to cluster")
        from sklearn.cluster import MeanShift, estimate_bandwidth

        width = float(estimate_bandwidth(points) if bandwidth is None else bandwidth)
        if bandwidth is not None and not width > 0:
            raise InputError(f"bandwidth: must be above 0 pixels, not {width:g}")
        # Fixations on a single point have no spread, and are a single cluster whatever the kernel.
        centres = MeanShift(bandwidth=width).fit(points).cluster_centers_ if width > 0 else points[:1]
        return cls(centres, width)

    def of(self, points: NDArray[np.float64]) -> NDArray[np.int64]:
        """See :class:`Regions`."""
        return cdist(points, self.centres).argmin(axis=1)


@dataclass(frozen=True, eq=False)
class LabelMap(Regions):
    """A segmentation of the image, such as its anatomy.

    Attributes:
        labels: (H, W) whole numbers from 0, one for each pixel.
    """

    labels: NDArray[np.integer]

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
            raise InputError("labels: must be an (H, W) array of whole numbers from 0")

    def of(self, points: NDArray[np.float64]) -> NDArray[np.int64]:
        """See :class:`Regions`."""
        height, width = self.labels.shape
        outside = np.flatnonzero(~are_on_image(points, (width, height)))
        if len(outside):
            raise InputError(
                f"fixation {outside[0] + 1} lies off the label map of {width} × {height} pixels; leave it out"
            )
        column = np.clip(np.floor(points[:, 0]), 0, width - 1).astype(np.int64)
        row = np.clip(np.floor(points[:, 1]), 0, height - 1).astype(np.int64)
        return self.labels[row, column].astype(np.int64)


def save_clusters(path: str | Path, clusters: dict[str, Clusters]) -> None:
    """Writes the clusters of some images as JSON, so that their scores can be computed again."""
    content = {
        name: {"bandwidth": stored.bandwidth, "centres": stored.centres.tolist()} for name, stored in clusters.items()
    }
    write_json(path, content)


def load_clusters(path: str | Path) -> dict[str, Clusters]:
    """Reads a file of :func:`save_clusters`.

    Raises:
        InputError: The file does not have this form.
    """
    content: Any = read_json(path)
    try:
        return {
            name: Clusters(np.array(stored["centres"], np.float64).reshape(-1, 2), float(stored["bandwidth"]))
            for name, stored in content.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: holds no clusters; write them with save_clusters") from error
