"""The scores of predicted paths in reports and tables of predictions, and which of some paths stands for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gazelit.metrics.scanpath.multimatch import multimatch
from gazelit.metrics.scanpath.paths import LONGEST_FIXATION, Paths, every_pair
from gazelit.metrics.scanpath.strings import scanmatch, sed
from gazelit.metrics.scanpath.values import Scores

Path = NDArray[np.floating]


def path_scores(predicted: Sequence[Path], read: Sequence[Path], size: tuple[int, int]) -> dict[str, Scores]:
    """Scores pairs of paths: ScanMatch, the same with time, edits over the longer length, and MultiMatch's mean.

    Args:
        predicted: N paths (n, 3): x, y in working pixels with centres at integers, as networks and batches have them,
            and seconds. Points beside the image count at its edge.
        read: N readings, likewise.
        size: Width and height in pixels.

    Returns:
        By name, N scores each; NaN where a metric is undefined, as MultiMatch is below three fixations.
    """
    first, second = ([from_corner(path, size) for path in paths] for paths in (predicted, read))
    return {
        "scanmatch": scanmatch(first, second, size=size),
        "scanmatch_50ms": scanmatch(first, second, size=size, time_bin=0.05),
        "sed": sed(first, second, size=size, normalise=True),
        "multimatch": multimatch(first, second, size=size).mean,
    }


def most_typical(paths: Sequence[Path], size: tuple[int, int]) -> int:
    """The number of the path that is most like the others, by ScanMatch 16 × 12 without durations.

    Args:
        paths: N paths (n, 3), from the image's upper left corner.
        size: Width and height in pixels.
    """
    packed = Paths.of(paths)
    likeness = scanmatch(*every_pair(packed, packed), size=size).values.reshape(len(packed), len(packed))
    return int(np.nanargmax(likeness.sum(axis=1)))


def from_corner(path: Path, size: tuple[int, int]) -> NDArray[np.float64]:
    """A path with positions from the image's upper left corner, as the metrics take it."""
    xy = np.clip(path[:, :2].astype(np.float64) + 0.5, 0, np.array(size))
    return np.column_stack([xy, np.minimum(path[:, 2], LONGEST_FIXATION)])
