"""Scanpaths for prediction and for learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Path = NDArray[np.float64]


@dataclass(frozen=True)
class Trials:
    """Scanpaths with their films and the findings that were searched for.

    Attributes:
        table: ``film`` and ``finding``, a row for each scanpath.
        paths: (n, 3) float64 each: x, y in pixels from the upper left corner, duration in s. The first ``given``
            fixations are the same for all.
        size: Width and height of the image in pixels.
        given: Number of fixations at the start that are given and not predicted.
    """

    table: pd.DataFrame
    paths: list[Path]
    size: tuple[int, int]
    given: int = 1

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: NDArray[np.integer]) -> Trials:
        """Some of the scanpaths."""
        return Trials(
            self.table.iloc[rows].reset_index(drop=True), [self.paths[row] for row in rows], self.size, self.given
        )

    def rows_of(self, **values: str) -> NDArray[np.int64]:
        """The rows of the scanpaths of a film, of a finding, or of both."""
        kept = np.ones(len(self), bool)
        for column, value in values.items():
            kept &= (self.table[column] == value).to_numpy()
        return np.flatnonzero(kept)

    def predicted(self) -> list[Path]:
        """The fixations after those that are given."""
        return [path[self.given :] for path in self.paths]


def from_centre(paths: Sequence[Path], size: tuple[int, int]) -> list[Path]:
    """Scanpaths that begin with a fixation on the centre of the image, where the readers' gaze was at the start.

    This fixation lasts 0 s, so that no model has to predict its duration; it has no letter if letters are units of
    time.
    """
    start = np.array([[size[0] / 2, size[1] / 2, 0.0]])
    return [np.concatenate([start, path]) for path in paths]
