"""Where films are looked at on average: what a predicted map has to beat."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gazelit.data.dataset import WorkingGaze
from gazelit.data.gaze.heatmap import fixation_counts, fixation_density
from gazelit.density import CentreBias


def mean_map(gaze: WorkingGaze, rows: NDArray[np.int64], size: tuple[int, int]) -> CentreBias:
    """Where some cases were looked at on average, without augmentation.

    One case more counts that was looked at evenly, so that no pixel is impossible: a KLD or an information gain would
    be infinite there.

    Args:
        gaze: The gaze of all cases, in working pixels.
        rows: The cases.
        size: Working resolution (H, W).
    """
    height, width = size
    density = torch.full(size, 1 / (height * width), dtype=torch.float64)
    counts = torch.zeros(size, dtype=torch.float64)
    for row in rows:
        part = slice(gaze.starts[row], gaze.starts[row + 1])
        if part.start == part.stop:
            continue
        points = torch.from_numpy(gaze.points[part])[None]
        density += fixation_density(points, size, torch.from_numpy(gaze.sigma[part])[None])[0]
        counts += fixation_counts(points, size)[0]
    return CentreBias((density / density.sum()).float(), counts.float())


class CentreBiases:
    """The mean map that each case is scored against: that of the training cases.

    In an external test, which has no training cases, it is that of the cases of the other half of the patients.

    Args:
        gaze: The readers' own gaze, whatever the model was given, so that all models are scored against the same.
        size: Working resolution (H, W).
        train: Rows of the training cases.
        test: Rows of the test cases.
        patients: (N,) patient of every case.
        seed: Of the halves.
    """

    def __init__(
        self,
        gaze: WorkingGaze,
        size: tuple[int, int],
        train: NDArray[np.int64],
        test: NDArray[np.int64],
        patients: NDArray[np.generic],
        seed: int,
    ) -> None:
        if len(train):
            self._group, sources = np.zeros(len(patients), int), [train]
        else:
            self._group = _halves(test, patients, seed)
            sources = [np.flatnonzero(self._group == half) for half in (1, 0)]
        self._maps = [mean_map(gaze, rows, size) for rows in sources]

    def __call__(self, index: Tensor) -> CentreBias:
        """Maps (B, H, W) of the cases whose rows are ``index`` (B,)."""
        chosen = [self._maps[group] for group in self._group[index.numpy()]]
        return CentreBias(torch.stack([bias.density for bias in chosen]), torch.stack([bias.counts for bias in chosen]))


def _halves(rows: NDArray[np.int64], patients: NDArray[np.generic], seed: int) -> NDArray[np.int64]:
    """Which half of the patients of some rows each case is of, −1 for other cases."""
    half = np.full(len(patients), -1)
    names, codes = np.unique(patients[rows], return_inverse=True)
    half[rows] = np.random.default_rng(seed).permutation(len(names))[codes] % 2
    return half
