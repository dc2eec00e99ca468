"""The expected scanpath of a film, by reader, from a model of scanpaths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from gazelit.data.images.geometry import Letterbox
from gazelit.deploy.film_sketch import FilmSketch
from gazelit.errors import InputError
from gazelit.metrics.scanpath.summary import from_corner, most_typical
from gazelit.models.scanpath_decoding import Readings, sample
from gazelit.models.scanpath_net import ScanpathNetwork

#: Names all readers that a model knows.
EVERYBODY = "all"
#: Paths that are drawn for each reader, and their seed.
DRAWS, SEED = 16, 0
#: A fixation of a quarter of a second has this share of the film's longer side as radius; its area grows with duration.
_RADIUS = 0.014
_COLOUR = "#ffe9a8"
_TEXT = 14


@dataclass(frozen=True)
class ExpectedScanpath:
    """A path that is typical of a reader over a film.

    Attributes:
        reader: ``reader_id``; None for an unknown reader, the mean of the readers of the training.
        path: (n, 3) float64 x, y in pixels of the film (centres at integers) and s.
    """

    reader: str | None
    path: NDArray[np.float64]

    def primitives(self) -> dict[str, object]:
        """The path in the form of the JSON; the start of a fixation is the end of the one before."""
        x, y, duration = self.path.round(3).T.tolist()
        begin = np.concatenate([[0.0], np.cumsum(self.path[:-1, 2])]).round(3).tolist()
        return {"reader": self.reader, "t": begin, "duration": duration, "x": x, "y": y}


def readers_to_show(network: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """The readers whose paths are wanted.

    Args:
        network: The network of the model.
        names: ``reader_id`` of each, or ``all``.

    Raises:
        InputError: The network predicts no scanpaths, or does not know a reader.
    """
    if not names:
        return ()
    if not isinstance(network, ScanpathNetwork):
        raise InputError("reader: the model predicts no scanpaths; give a checkpoint of the stage scanpath")
    if list(names) == [EVERYBODY]:
        return network.readers
    unknown = [name for name in names if name not in network.readers]
    if unknown:
        known = f"it knows {', '.join(network.readers)}" if network.readers else "it knows none by name"
        raise InputError(f"reader: the model has not learned {', '.join(unknown)}; {known}")
    return tuple(dict.fromkeys(names))


def expected_scanpaths(
    network: ScanpathNetwork, features: Tensor, box: Letterbox, readers: Sequence[str]
) -> tuple[ExpectedScanpath, ...]:
    """The typical paths of an unknown and each known reader: of ``DRAWS`` drawn paths the one most like the others.

    The likeliest path (:func:`gazelit.models.scanpath_decoding.likeliest`) is one that nobody takes: it stays where the
    density is greatest. A reader's path does not depend on which others are asked for.

    Args:
        network: In evaluation mode.
        features: (1, width, h, w) of the film, from ``network.film_features``.
        box: How the film lies in the working image.
        readers: Names that the network knows.
    """
    found, (height, width) = [], box.size
    for name in (None, *readers):
        number = 0 if name is None else network.readers.index(name) + 1
        drawn = sample(network, features, Readings.of(features, number), DRAWS, SEED)
        paths = [path.double().numpy() for path in drawn]
        path = paths[most_typical([from_corner(each, (width, height)) for each in paths], (width, height))]
        # A path may touch the padding of a letterboxed film.
        xy = np.clip(box.to_original(path[:, :2]), 0, (box.width - 1, box.height - 1))
        found.append(ExpectedScanpath(name, np.column_stack([xy, path[:, 2]])))
    return tuple(found)


def draw_scanpath(film: NDArray[np.uint8], scanpath: ExpectedScanpath, shape: tuple[int, int]) -> Image.Image:
    """Draws a path over its film: circles whose area is the duration, numbered in their order.

    Args:
        film: (h, w) as :func:`gazelit.deploy.preparing.shrunk` gives it.
        scanpath: In pixels of the whole film.
        shape: Height and width of the whole film.
    """
    sketch = FilmSketch(film, shape, _COLOUR, _TEXT)
    sketch.line(scanpath.path[:, :2])
    for number, (x, y, duration) in enumerate(scanpath.path, start=1):
        sketch.circle(np.array([x, y]), number, _RADIUS * max(shape) * float(np.sqrt(duration / 0.25)))
    return sketch.picture
