"""Intervals for what is reported."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


def bootstrap_interval(
    groups: NDArray[np.generic],
    statistic: Callable[[NDArray[np.int64]], float],
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval over groups: patients are drawn with replacement, with all their cases.

    Args:
        groups: (N,) the patient of every case.
        statistic: From case positions, repeats included, to a number; NaN where it is undefined (a class not drawn).
        seed: Of the draws.
        resamples: Number of draws.
        level: Coverage.

    Returns:
        Lower and upper bound; NaN if the statistic was never defined.
    """
    generator = np.random.default_rng(seed)
    _, codes = np.unique(groups, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    values = np.empty(resamples)
    for draw in range(resamples):
        chosen = generator.integers(0, len(members), len(members))
        values[draw] = statistic(np.concatenate([members[one] for one in chosen]))
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def auroc(score: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve as the Mann–Whitney statistic, ties counting one half; NaN with one class only."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    _, where, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[where]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auroc_macro(probabilities: NDArray[np.floating], label: NDArray[np.integer]) -> float:
    """Mean one-versus-rest AUC over the classes that are present and not alone."""
    values = [auroc(probabilities[:, one], label == one) for one in range(probabilities.shape[1])]
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
