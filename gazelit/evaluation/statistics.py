"""Values and their intervals over patients.

A statistic here is a function of weights: it takes how often each case was drawn, (R, N), and gives R values. So a
thousand draws take a few array operations. Cases of the same patient are drawn together. Statistics get a few draws at
a time (:func:`drawn`), because a table of all draws would take 16 kB a case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: From weights (R, N) to values (R,); NaN for a draw in which it is undefined, such as a draw without a class.
Statistic = Callable[[Floats], Floats]
#: From weights (R, N) to a count and the total of which it is a part: (R,) each.
Counted = Callable[[Floats], tuple[Floats, Floats]]

RESAMPLES = 2000
LEVEL = 0.95
#: Greatest number of draws at a time, and of their values: small enough to stay in the cache.
_BLOCK, _NUMBERS = 64, 250_000
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: Value over all cases; may be infinite.
        low: Lower bound; NaN if the statistic is undefined or infinite, or there is a single patient.
        high: Upper bound.
        p: For a difference: two-sided p that it is zero; NaN for other numbers, and if there is none.
        seeds: For a difference: the number of seeds that its interval and p are over.
    """

    value: float
    low: float
    high: float
    p: float = float("nan")
    seeds: int = 0


@dataclass(frozen=True)
class Draws:
    """How often each case is drawn. Every pass makes the draws again, and always the same draws.

    Attributes:
        codes: (N,) the patient of every case, from 0.
        resamples: Number R of draws.
        seed: Seed of the draws.
    """

    codes: NDArray[np.intp]
    resamples: int
    seed: int

    def __len__(self) -> int:
        return self.resamples

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> Floats:
        """All draws, (R, N)."""
        return np.concatenate([block.astype(dtype or np.float64) for block in self.blocks(_BLOCK)])

    @property
    def cases(self) -> int:
        """Number N of cases."""
        return len(self.codes)

    def blocks(self, rows: int) -> Iterator[Floats]:
        """The draws in blocks (R', N) of at most ``rows`` draws."""
        patients = int(self.codes.max(initial=-1)) + 1
        generator, chances = np.random.default_rng(self.seed), np.full(patients, 1 / max(patients, 1))
        for start in range(0, self.resamples, rows):
            counts = generator.multinomial(patients, chances, size=min(rows, self.resamples - start))
            yield counts[:, self.codes].astype(np.float64)


#: Draws as a table (R, N), or as they are made.
Weights = Floats | Draws


def blocks_of(weights: Weights) -> Iterator[Floats]:
    """Tables (R', N) of a few draws each, in their order."""
    cases = weights.cases if isinstance(weights, Draws) else weights.shape[1]
    rows = max(1, min(_BLOCK, _NUMBERS // max(cases, 1)))
    if isinstance(weights, Draws):
        yield from weights.blocks(rows)
        return
    for start in range(0, max(len(weights), 1), rows):
        yield weights[start : start + rows]


def drawn(statistic: Statistic, weights: Weights) -> Floats:
    """A statistic in every draw, (R,)."""
    return drawn_all({0: statistic}, weights)[0]


def drawn_all(statistics: Mapping[_Key, Statistic], weights: Weights) -> dict[_Key, Floats]:
    """Several statistics in every draw, by key (R,); the draws are unpacked once."""
    found: dict[_Key, list[Floats]] = {key: [] for key in statistics}
    for block in blocks_of(weights):
        for key, statistic in statistics.items():
            found[key].append(statistic(block))
    return {key: np.concatenate(parts) for key, parts in found.items()}


def mean_of(values: NDArray[np.floating]) -> Statistic:
    """The mean over cases; cases without a value (NaN) do not count, infinite values make it infinite."""
    known = (~np.isnan(values)).astype(np.float64)
    filled = np.where(np.isfinite(values), values, 0.0).astype(np.float64)
    endless = {sign: (values == sign * np.inf).astype(np.float64) for sign in (1, -1)}
    has_endless = bool(np.isinf(values).any())

    def statistic(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            mean = (weights @ filled) / (weights @ known)
            if has_endless:
                for sign, where in endless.items():
                    mean = mean + np.where(weights @ where > 0, sign * np.inf, 0.0)
            return mean

    return statistic


def auroc_of(
    score: NDArray[np.floating], positive: NDArray[np.bool_], fold: NDArray[np.integer] | None = None
) -> Statistic:
    """Area under the ROC curve as the Mann–Whitney statistic, ties counting one half; NaN with one class only.

    Args:
        score: (N,).
        positive: (N,) which cases are positive.
        fold: (N,) the fold whose model scored each case. If given, only pairs of the same model are compared, because
            scores of separately trained models have no common scale (Forman and Scholz 2010).
    """
    return _ratio([_pairs(score, positive, members) for members in folds_of(fold, len(score))], len(score))


def sensitivity_of(
    score: NDArray[np.floating],
    positive: NDArray[np.bool_],
    specificity: float,
    fold: NDArray[np.integer] | None = None,
) -> Statistic:
    """The largest sensitivity at a specificity of at least ``specificity``; NaN with one class only.

    The threshold is found anew in every draw and in every fold, because scores of folds have no common scale.

    Args:
        score: (N,).
        positive: (N,) which cases are positive.
        specificity: In (0, 1).
        fold: (N,) the fold whose model scored each case.
    """
    folds = folds_of(fold, len(score))
    return _ratio([_hits(score, positive, members, specificity) for members in folds], len(score))


def _ratio(parts: Sequence[Counted], cases: int) -> Statistic:
    """The sum of the parts' counts over the sum of their totals; NaN where the total is 0."""

    def statistic(weights: Floats) -> Floats:
        found, total = (sum(column) for column in zip(*(part(weights) for part in parts), strict=True))
        with np.errstate(invalid="ignore"):
            return np.asarray(found / total, np.float64)

    return statistic if cases else lambda weights: np.full(len(weights), np.nan)


def folds_of(fold: NDArray[np.integer] | None, cases: int) -> list[NDArray[np.intp]]:
    """The cases of each fold; all cases if there are no folds."""
    if fold is None:
        return [np.arange(cases)]
    return [np.flatnonzero(fold == number) for number in np.unique(fold)]


def _pairs(score: NDArray[np.floating], positive: NDArray[np.bool_], members: NDArray[np.intp]) -> Counted:
    """From weights (R, N) to the weight of pairs that are in order, and of all pairs, among the members."""
    order, starts, is_positive = _ranked(score, positive, members)

    def pairs(weights: Floats) -> tuple[Floats, Floats]:
        drawn = weights[:, order]
        # For each distinct score: the weight of positives, of negatives, and of negatives with lower scores.
        ups = np.add.reduceat(drawn * is_positive, starts, axis=1)
        downs = np.add.reduceat(drawn * (1 - is_positive), starts, axis=1)
        below = np.cumsum(downs, axis=1) - downs
        return (ups * (below + downs / 2)).sum(1), ups.sum(1) * downs.sum(1)

    return pairs


def _hits(
    score: NDArray[np.floating], positive: NDArray[np.bool_], members: NDArray[np.intp], specificity: float
) -> Counted:
    """From weights (R, N) to the weight of positives found at the specificity, and of all, among the members.

    Both are 0 in draws with one class only.
    """
    order, starts, is_positive = _ranked(-score, positive, members)

    def hits(weights: Floats) -> tuple[Floats, Floats]:
        drawn = weights[:, order]
        found = np.cumsum(np.add.reduceat(drawn * is_positive, starts, axis=1), axis=1)
        alarms = np.cumsum(np.add.reduceat(drawn * (1 - is_positive), starts, axis=1), axis=1)
        both = (found[:, -1] > 0) & (alarms[:, -1] > 0)
        allowed = alarms <= (1 - specificity) * alarms[:, -1:] + 1e-9
        best = np.where(allowed, found, 0.0).max(axis=1)
        return np.where(both, best, 0.0), np.where(both, found[:, -1], 0.0)

    return hits


def _ranked(
    score: NDArray[np.floating], positive: NDArray[np.bool_], members: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Members by ascending score, where each distinct score begins, and which of them are positive."""
    order = members[np.argsort(score[members], kind="stable")]
    _, tie = np.unique(score[order], return_inverse=True)
    return order, np.flatnonzero(np.diff(tie, prepend=-1)), positive[order].astype(np.float64)


def average_of(statistics: Sequence[Statistic]) -> Statistic:
    """The mean of several statistics of the same cases, over those that are defined: macro averages, seeds."""

    def statistic(weights: Floats) -> Floats:
        values = np.stack([member(weights) for member in statistics])
        known = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            return np.where(known, values, 0.0).sum(0) / known.sum(0)

    return statistic


def value_of(statistic: Statistic, cases: int) -> float:
    """A statistic of the cases as they are."""
    return float(statistic(np.ones((1, cases)))[0])


def bootstrap_weights(groups: NDArray[np.generic], resamples: int = RESAMPLES, seed: int = 0) -> Draws:
    """How often each case is drawn when patients are drawn with replacement, with all their cases.

    Args:
        groups: (N,) the patient of every case.
        resamples: Number R of draws.
        seed: Seed of the draws.
    """
    return Draws(np.unique(groups, return_inverse=True)[1], resamples, seed)


def estimate(
    statistic: Statistic, groups: NDArray[np.generic], *, level: float = LEVEL, weights: Weights | None = None
) -> Estimate:
    """A statistic with its percentile bootstrap interval over patients; arguments as of :func:`estimates`."""
    return estimates({0: statistic}, groups, level=level, weights=weights)[0]


def estimates(
    statistics: Mapping[_Key, Statistic],
    groups: NDArray[np.generic],
    *,
    level: float = LEVEL,
    weights: Weights | None = None,
) -> dict[_Key, Estimate]:
    """Statistics with their percentile bootstrap intervals over patients, by key; the draws are made once.

    Args:
        statistics: Statistics to estimate.
        groups: (N,) the patient of every case.
        level: Coverage.
        weights: The draws; made here unless given.
    """
    values = {key: value_of(statistic, len(groups)) for key, statistic in statistics.items()}
    if len(np.unique(groups)) < 2:
        return {key: Estimate(value, float("nan"), float("nan")) for key, value in values.items()}
    draws = drawn_all(statistics, bootstrap_weights(groups) if weights is None else weights)
    return {key: percentile(value, draws[key], level) for key, value in values.items()}


def percentile(value: float, draws: Floats, level: float = LEVEL) -> Estimate:
    """A value with the percentile interval of its bootstrap draws (R,); no interval if it is undefined or infinite."""
    draws = draws[np.isfinite(draws)]
    if not len(draws) or not np.isfinite(value):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))
