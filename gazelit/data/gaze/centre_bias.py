"""The mean map of films: the baseline that a predicted map has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gazelit.data.gaze.heatmap import fixation_counts, fixation_density
from gazelit.data.working_gaze import Gaze
from gazelit.density import CentreBias


def mean_maps(gaze: Gaze, groups: Sequence[NDArray[np.int64]], size: tuple[int, int]) -> list[CentreBias]:
    """The mean map of the cases of each group, without augmentation, in one pass over the gaze.

    In each group a further case with a uniform map counts, so that no pixel has density 0; a KLD or an information gain
    would be infinite there.

    Args:
        gaze: The gaze of all cases, in working pixels.
        groups: The cases of each group.
        size: Working resolution (H, W).
    """
    height, width = size
    density = [torch.full(size, 1 / (height * width), dtype=torch.float64) for _ in groups]
    counts = [torch.zeros(size, dtype=torch.float64) for _ in groups]
    group_of = np.repeat(np.arange(len(groups)), [len(rows) for rows in groups])
    rows = np.concatenate([np.zeros(0, np.int64), *groups])
    order = np.argsort(rows, kind="stable")
    for row, group in zip(rows[order].tolist(), group_of[order].tolist(), strict=True):
        points, sigma, _ = map(torch.from_numpy, gaze.of_case(row))
        if not len(points):
            continue
        density[group] += fixation_density(points[None], size, sigma[None])[0]
        counts[group] += fixation_counts(points[None], size)[0]
    return [CentreBias((each / each.sum()).float(), count.float()) for each, count in zip(density, counts, strict=True)]


class CentreBiases:
    """The mean map that each case is scored against: that of the training cases.

    In an external test, which has no training cases, it is that of the cases of the other half of the patients.

    Args:
        gaze: The readers' own gaze, whatever gaze the model was trained on, so that all models are scored against the
            same map.
        size: Working resolution (H, W).
        train: Rows of the training cases.
        test: Rows of the test cases.
        patients: (N,) patient of every case.
        seed: Of the halves.
    """

    def __init__(
        self,
        gaze: Gaze,
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
        self._maps = mean_maps(gaze, sources, size)

    def __call__(self, index: Tensor) -> CentreBias:
        """Maps (B, H, W) of the cases whose rows are ``index`` (B,)."""
        chosen = [self._maps[group] for group in self._group[index.numpy()]]
        return CentreBias(torch.stack([bias.density for bias in chosen]), torch.stack([bias.counts for bias in chosen]))


def _halves(rows: NDArray[np.int64], patients: NDArray[np.generic], seed: int) -> NDArray[np.int64]:
    """The half of the patients, 0 or 1, that each case of some rows belongs to; −1 for other cases."""
    half = np.full(len(patients), -1)
    names, codes = np.unique(patients[rows], return_inverse=True)
    half[rows] = np.random.default_rng(seed).permutation(len(names))[codes] % 2
    return half
