"""Scanpaths in the form that the metrics take: checked once and packed into a single array."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gazelit.errors import InputError
from gazelit.metrics.compiled import compiled

#: Longest duration of a fixation (s); a longer duration was given in milliseconds.
LONGEST_FIXATION = 30.0
#: Longest time of a letter (s); a longer time was given in milliseconds.
LONGEST_TIME_BIN = 5.0


@dataclass(frozen=True)
class Paths:
    """Scanpaths, packed: path i is ``points[first[i]:last[i]]``.

    Attributes:
        points: (M, 3) float64: x and y in pixels from the image's upper left corner, duration in seconds.
        first: (N,) row at which each path begins.
        last: (N,) row after the last of each path.
    """

    points: NDArray[np.float64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def of(cls, paths: Sequence[ArrayLike], name: str = "paths") -> Paths:
        """Packs scanpaths.

        Args:
            paths: (n, 3) arrays, each of any length.
            name: Name of the argument, for errors.

        Raises:
            InputError: A path is not an (n, 3) array, holds values that are not finite or a negative duration, or
                durations that can only be milliseconds.
        """
        arrays = [path if isinstance(path, np.ndarray) else _array(path, name) for path in paths]
        try:
            counts = np.fromiter(map(len, arrays), np.int64, len(arrays))
            # Each column is stored contiguously, so that compiled loops read it without a copy.
            points = np.empty((int(counts.sum()), 3), order="F")
            if len(arrays):
                np.concatenate(arrays, out=points)
        except (TypeError, ValueError) as error:
            wrong = next((number for number, array in enumerate(arrays) if not _is_path(array)), 0)
            raise InputError(
                f"{name}: path {wrong + 1} has shape {arrays[wrong].shape}; "
                "give (n, 3) arrays of x, y (pixels) and duration (seconds)"
            ) from error
        last = np.cumsum(counts)
        packed = cls(points, last - counts, last)
        packed._check(name)
        return packed

    def _check(self, name: str) -> None:
        if not len(self.points):
            return
        duration = self.points[:, 2]
        if not np.isfinite(self.points.sum()):
            self._refuse(~np.isfinite(self.points).all(axis=1), name, "holds a value that is not finite; leave it out")
        if duration.min() < 0:
            self._refuse(duration < 0, name, "has a negative duration")
        if duration.max() > LONGEST_FIXATION:
            fault = f"lasts longer than {LONGEST_FIXATION:g} s: durations are in seconds, not in milliseconds"
            self._refuse(duration > LONGEST_FIXATION, name, fault)

    def _refuse(self, wrong: ArrayLike, name: str, fault: str) -> None:
        rows = np.flatnonzero(wrong)
        if len(rows):
            row = int(rows[0])
            # After an empty path, the next path begins at the same row.
            path = int(np.flatnonzero((self.first <= row) & (row < self.last))[0])
            raise InputError(f"{name}: path {path + 1}, fixation {row - self.first[path] + 1} {fault}")

    def __len__(self) -> int:
        return len(self.first)

    @property
    def counts(self) -> NDArray[np.int64]:
        """(N,) number of fixations of each path."""
        return self.last - self.first

    def take(self, indices: NDArray[np.integer]) -> Paths:
        """Some of the paths, possibly repeated, without copying their points."""
        return Paths(self.points, self.first[indices], self.last[indices])

    @property
    def columns(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Positions x and y of all points, and the rows at which each path begins and ends, for compiled loops."""
        return self.points[:, 0], self.points[:, 1], self.first, self.last

    def cells(self, size: tuple[float, float], grid: tuple[int, int], name: str) -> NDArray[np.uint32]:
        """(M,) the cell of each point in a grid over the image, numbered column · rows + row.

        A point's column is floor(x · columns / width), its row likewise; the outer edges belong to the outer cells.

        Raises:
            InputError: A point lies more than half a pixel off the image.
        """
        cells = np.empty(len(self.points), np.uint32)
        if not _number_cells(self.points[:, 0], self.points[:, 1], *size, *grid, cells):
            self.require_on_image(size, name)
        return cells

    def require_on_image(self, size: tuple[float, float], name: str) -> None:
        """Raises InputError if a point lies more than half a pixel off the image."""
        fault = f"lies off the image of {size[0]:g} × {size[1]:g} pixels (size is width, height); leave it out"
        self._refuse(~are_on_image(self.points, size), name, fault)


def are_on_image(points: NDArray[np.float64], size: tuple[float, float]) -> NDArray[np.bool_]:
    """(M,) whether each of (M, 2 or more) points lies on the image, or at most half a pixel off it."""
    # Half a pixel is between the frames whose whole numbers are pixels' corners, and their centres.
    x, y = points[:, 0], points[:, 1]
    return (x >= -0.5) & (x <= size[0] + 0.5) & (y >= -0.5) & (y <= size[1] + 0.5)


@compiled
def _number_cells(x, y, width, height, columns, rows, cells):  # type: ignore[no-untyped-def]
    """Writes the cells; returns whether all points lie on the image."""
    is_inside = True
    for point in range(len(cells)):
        if not (-0.5 <= x[point] <= width + 0.5 and -0.5 <= y[point] <= height + 0.5):
            is_inside = False
        # Values are limited to 0 and above, where truncation equals rounding down.
        column = min(max(x[point] * columns / width, 0.0), columns - 1.0)
        row = min(max(y[point] * rows / height, 0.0), rows - 1.0)
        cells[point] = np.uint32(column) * np.uint32(rows) + np.uint32(row)
    return is_inside


def pack_pair(a: Any, b: Any) -> tuple[Paths, Paths, bool]:
    """Two scanpaths, or two batches of them, packed.

    Args:
        a: (n, 3) array; or a sequence of such, or :class:`Paths`.
        b: The same.

    Returns:
        Both packed, and whether they are one path each.

    Raises:
        InputError: One is a path and the other a batch, or batches differ in length.
    """
    is_single = is_one_path(a)
    if is_single != is_one_path(b):
        raise InputError("a and b: must both be one scanpath or both a list of scanpaths")
    packed = [packed_paths([paths] if is_single else paths, name) for paths, name in ((a, "a"), (b, "b"))]
    if len(packed[0]) != len(packed[1]):
        raise InputError(f"a and b: hold {len(packed[0])} and {len(packed[1])} scanpaths; give pairs")
    return packed[0], packed[1], is_single


def every_pair(a: Paths, b: Paths) -> tuple[Paths, Paths]:
    """Each path of ``a`` with each of ``b``, row after row, for a matrix of ``len(a)`` × ``len(b)`` scores."""
    rows, columns = np.divmod(np.arange(len(a) * len(b)), max(1, len(b)))
    return a.take(rows), b.take(columns)


def check_size(size: Sequence[float]) -> tuple[float, float]:
    """Width and height of the image.

    Raises:
        InputError: They are not two numbers above 0.
    """
    try:
        width, height = (float(side) for side in size)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("size: must be the image's width and height in pixels") from error
    if not (0 < width < np.inf and 0 < height < np.inf):
        raise InputError(f"size: width and height must be above 0, not {width:g} and {height:g}")
    return width, height


def check_grid(bins: int | Sequence[int]) -> tuple[int, int]:
    """Columns and rows of a grid, from one number or two.

    Raises:
        InputError: They are not whole numbers above 0.
    """
    values: list[Any] = list(bins) if isinstance(bins, Iterable) else [bins, bins]
    try:
        is_grid = len(values) == 2 and all(int(value) == value and value >= 1 for value in values)
    except (TypeError, ValueError, OverflowError):
        is_grid = False
    if not is_grid:
        raise InputError(f"bins: must be columns and rows, whole numbers above 0, not {bins}")
    return int(values[0]), int(values[1])


def check_time_bin(time_bin: float | None) -> float | None:
    """Seconds of a letter.

    Raises:
        InputError: It is not above 0, or so long that it must be milliseconds.
    """
    if time_bin is not None and not 0 < time_bin <= LONGEST_TIME_BIN:
        raise InputError(f"time_bin: {time_bin:g} is no time bin in seconds; for 50 ms give 0.05")
    return time_bin


def is_one_path(paths: Any) -> bool:
    """Whether something is a single path: an (n, 3) array, or a list whose first element is a fixation."""
    if isinstance(paths, Paths):
        return False
    if hasattr(paths, "ndim"):
        return int(paths.ndim) == 2
    return len(paths) > 0 and np.ndim(paths[0]) == 1 and len(paths[0]) > 0


def packed_paths(paths: Any, name: str) -> Paths:
    """A batch of scanpaths, packed if it is not; see :meth:`Paths.of`."""
    return paths if isinstance(paths, Paths) else Paths.of(list(paths), name)


def _array(path: ArrayLike, name: str) -> NDArray[np.float64]:
    if isinstance(path, Tensor):
        # NumPy has no bfloat16.
        path = path.detach().cpu().double()
    try:
        array = np.asarray(path, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{name}: holds what is no scanpath; give (n, 3) arrays of x, y (pixels) and duration (seconds)"
        ) from error
    return array.reshape(-1, 3) if not array.size else array


def _is_path(array: NDArray[Any]) -> bool:
    return array.ndim == 2 and array.shape[1] == 3
