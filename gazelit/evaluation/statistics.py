"""Intervals, paired tests and corrections: what is said of a number besides its value.

A statistic here is a function of weights: it takes how often each case was drawn, (R, N), and gives R values. So a
thousand draws are a few array operations, and cases of one patient are drawn together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gazelit.errors import InputError

Floats = NDArray[np.float64]
#: From weights (R, N) to values (R,); NaN where a draw leaves it undefined, such as a class that was not drawn.
Statistic = Callable[[Floats], Floats]

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: Of the cases as they are.
        low: Lower bound; NaN if the statistic was never defined, and of a single patient.
        high: Upper bound.
        p: Of a difference: two-sided, that it is zero; NaN of other numbers.
    """

    value: float
    low: float
    high: float
    p: float = float("nan")


def mean_of(values: NDArray[np.floating]) -> Statistic:
    """The mean over cases; those without a value (NaN) do not count."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0).astype(np.float64)

    def statistic(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return (weights @ filled) / (weights @ known.astype(np.float64))

    return statistic


def auroc_of(score: NDArray[np.floating], positive: NDArray[np.bool_]) -> Statistic:
    """Area under the ROC curve as the Mann–Whitney statistic, ties counting one half; NaN with one class only."""
    order = np.argsort(score, kind="stable")
    _, tie = np.unique(score[order], return_inverse=True)
    starts = np.flatnonzero(np.diff(tie, prepend=-1))
    is_positive = positive[order].astype(np.float64)

    def statistic(weights: Floats) -> Floats:
        drawn = weights[:, order]
        # By distinct score: the weight of positives and of negatives, and of negatives below.
        ups = np.add.reduceat(drawn * is_positive, starts, axis=1)
        downs = np.add.reduceat(drawn * (1 - is_positive), starts, axis=1)
        below = np.cumsum(downs, axis=1) - downs
        with np.errstate(invalid="ignore"):
            return (ups * (below + downs / 2)).sum(1) / (ups.sum(1) * downs.sum(1))

    if not len(score):
        return lambda weights: np.full(len(weights), np.nan)
    return statistic


def average_of(statistics: Sequence[Statistic]) -> Statistic:
    """The mean of several statistics of the same cases, over those that are defined: macro averages, seeds."""

    def statistic(weights: Floats) -> Floats:
        values = np.stack([one(weights) for one in statistics])
        known = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            return np.where(known, values, 0.0).sum(0) / known.sum(0)

    return statistic


def difference_of(one: Statistic, other: Statistic) -> Statistic:
    """The first statistic less the second, on the same draws."""
    return lambda weights: one(weights) - other(weights)


def remembered(statistic: Statistic, weights: Floats) -> Statistic:
    """The same statistic, evaluated on these draws once: for many differences that share them."""
    draws = statistic(weights)
    return lambda asked: draws if asked is weights else statistic(asked)


def value_of(statistic: Statistic, cases: int) -> float:
    """A statistic of the cases as they are."""
    return float(statistic(np.ones((1, cases)))[0])


def bootstrap_weights(groups: NDArray[np.generic], resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """How often each case is drawn when patients are drawn with replacement, with all their cases.

    Args:
        groups: (N,) the patient of every case.
        resamples: Number R of draws.
        seed: Of the draws.

    Returns:
        (R, N).
    """
    _, codes = np.unique(groups, return_inverse=True)
    count = int(codes.max(initial=-1)) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / max(count, 1)), size=resamples)
    return drawn[:, codes].astype(np.float64)


def estimate(
    statistic: Statistic,
    groups: NDArray[np.generic],
    *,
    method: Literal["percentile", "bca"] = "percentile",
    level: float = 0.95,
    weights: Floats | None = None,
    is_difference: bool = False,
) -> Estimate:
    """A statistic with its bootstrap interval over patients.

    Args:
        statistic: What is estimated.
        groups: (N,) the patient of every case.
        method: ``percentile``, or ``bca``: corrected for bias and for a spread that changes with the value (Efron
            1987), with a jackknife over patients.
        level: Coverage.
        weights: The draws, where several estimates share them; drawn here unless given.
        is_difference: Whether to test that the value is zero: by the share of draws on either side of it.
    """
    value = value_of(statistic, len(groups))
    if len(np.unique(groups)) < 2:
        return Estimate(value, float("nan"), float("nan"))
    draws = statistic(bootstrap_weights(groups) if weights is None else weights)
    draws = draws[~np.isnan(draws)]
    if not len(draws) or np.isnan(value):
        return Estimate(value, float("nan"), float("nan"))
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        tails = _bca_tails(tails, draws, value, statistic, groups)
    low, high = np.quantile(draws, tails)
    p = float("nan")
    if is_difference:
        # Counting the data as they are among the draws keeps p above zero.
        p = float(min(1.0, 2 * (1 + min((draws <= 0).sum(), (draws >= 0).sum())) / (len(draws) + 1)))
    return Estimate(value, float(low), float(high), p)


def _bca_tails(tails: Floats, draws: Floats, value: float, statistic: Statistic, groups: NDArray[np.generic]) -> Floats:
    share = ((draws < value).sum() + (draws == value).sum() / 2) / len(draws)
    if not 0 < share < 1:
        return tails
    bias = stats.norm.ppf(share)
    _, codes = np.unique(groups, return_inverse=True)
    left_out = (codes[None, :] != np.arange(codes.max() + 1)[:, None]).astype(np.float64)
    jackknife = statistic(left_out)
    deviation = np.nanmean(jackknife) - jackknife[~np.isnan(jackknife)]
    spread = (deviation**2).sum()
    acceleration = (deviation**3).sum() / (6 * spread**1.5) if spread > 0 else 0.0
    shifted = bias + stats.norm.ppf(tails)
    return stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))


@dataclass(frozen=True)
class Test:
    """A paired test.

    Attributes:
        name: Of the test.
        statistic: Its statistic.
        p: Two-sided.
        effect: Effect size: a difference of AUC, Cohen's d of paired differences, or the rank-biserial correlation.
    """

    __test__ = False

    name: str
    statistic: float
    p: float
    effect: float


def delong(one: NDArray[np.floating], other: NDArray[np.floating], positive: NDArray[np.bool_]) -> Test:
    """Whether two scores of the same cases have the same AUC (DeLong, DeLong and Clarke-Pearson 1988).

    In the form of Sun and Xu (2014), which ranks. Cases count as independent: with several images of a patient the
    bootstrap over patients is the one to trust.

    Args:
        one: (N,) scores.
        other: (N,) scores of the same cases.
        positive: (N,) which cases are positive.

    Raises:
        InputError: A score is NaN, or a class has fewer than two cases.
    """
    scores = np.stack([one, other]).astype(np.float64)
    if np.isnan(scores).any():
        raise InputError("DeLong: a score is NaN; leave its case out")
    positives, negatives = scores[:, positive], scores[:, ~positive]
    if positives.shape[1] < 2 or negatives.shape[1] < 2:
        raise InputError("DeLong: needs at least two cases of each class")
    m, n = positives.shape[1], negatives.shape[1]
    ranks = np.stack([stats.rankdata(np.concatenate(pair)) for pair in zip(positives, negatives, strict=True)])
    above = (ranks[:, :m] - np.stack([stats.rankdata(row) for row in positives])) / n
    below = 1 - (ranks[:, m:] - np.stack([stats.rankdata(row) for row in negatives])) / m
    difference = float(above[0].mean() - above[1].mean())
    covariance = np.cov(above) / m + np.cov(below) / n
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if variance <= 1e-20:
        return Test("DeLong", 0.0, 1.0, difference)
    z = difference / np.sqrt(variance)
    return Test("DeLong", float(z), float(2 * stats.norm.sf(abs(z))), difference)


def mcnemar(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> Test:
    """McNemar's exact test that two classifiers are right equally often on the same cases.

    The statistic is the number of cases that only the first gets right, less those that only the second does; the
    effect is that number's share of all cases, the difference of the accuracies.

    Args:
        one: (N,) where the first is right.
        other: (N,) where the second is right.

    Raises:
        InputError: There is no case.
    """
    if not len(one):
        raise InputError("McNemar: there is no case")
    first, second = int((one & ~other).sum()), int((other & ~one).sum())
    p = float(stats.binomtest(first, first + second).pvalue) if first + second else 1.0
    return Test("McNemar", float(first - second), p, (first - second) / len(one))


def paired_t(differences: NDArray[np.floating]) -> Test:
    """Student's t-test that paired differences have mean zero; the effect is Cohen's d of the differences."""
    d = _known(differences, "paired t")
    spread = d.std(ddof=1)
    if spread == 0:
        return Test("paired t", 0.0, 1.0 if d.mean() == 0 else 0.0, 0.0 if d.mean() == 0 else float("inf"))
    result = stats.ttest_1samp(d, 0.0)
    return Test("paired t", float(result.statistic), float(result.pvalue), float(d.mean() / spread))


def wilcoxon(differences: NDArray[np.floating]) -> Test:
    """Wilcoxon's signed-rank test of paired differences; the effect is the rank-biserial correlation."""
    d = _known(differences, "Wilcoxon")
    d = d[d != 0]
    if not len(d):
        return Test("Wilcoxon", 0.0, 1.0, 0.0)
    result = stats.wilcoxon(d)
    ranks = stats.rankdata(np.abs(d))
    effect = (ranks[d > 0].sum() - ranks[d < 0].sum()) / ranks.sum()
    return Test("Wilcoxon", float(result.statistic), float(result.pvalue), float(effect))


def permutation(
    differences: NDArray[np.floating], groups: NDArray[np.generic] | None = None, resamples: int = 9999, seed: int = 0
) -> Test:
    """Sign-flip permutation test that paired differences have mean zero; the effect is Cohen's d.

    Args:
        differences: (N,).
        groups: (N,) patients, whose differences change sign together; every case by itself unless given.
        resamples: Number of random sign patterns.
        seed: Of them.
    """
    d = _known(differences, "permutation")
    codes = np.arange(len(d))
    if groups is not None:
        codes = np.unique(groups[~np.isnan(differences)], return_inverse=True)[1]
    sums = np.bincount(codes, d)
    signs = np.random.default_rng(seed).integers(0, 2, (resamples, len(sums))) * 2 - 1
    observed = abs(sums.sum())
    # Sums in another order differ in their last digits: what ties, counts.
    extreme = (np.abs(signs @ sums) >= observed * (1 - 1e-12)).sum()
    spread = d.std(ddof=1)
    effect = float(d.mean() / spread) if spread > 0 else 0.0
    return Test("permutation", float(d.mean()), float((extreme + 1) / (resamples + 1)), effect)


def corrected_resampled_t(differences: NDArray[np.floating], test_share: float) -> Test:
    """t-test over folds and seeds that share training data (Nadeau and Bengio 2003; Bouckaert and Frank 2004).

    The variance of the mean of J differences is (1 / J + n_test / n_train) s² instead of s² / J, because training sets
    overlap.

    Args:
        differences: (J,) one for each fold and seed.
        test_share: n_test / n_train of one of them.

    Raises:
        InputError: There are fewer than two differences.
    """
    d = _known(differences, "corrected resampled t")
    variance = (1 / len(d) + test_share) * d.var(ddof=1)
    if variance == 0:
        return Test("corrected resampled t", 0.0, 1.0 if d.mean() == 0 else 0.0, float(d.mean()))
    t = d.mean() / np.sqrt(variance)
    return Test("corrected resampled t", float(t), float(2 * stats.t.sf(abs(t), len(d) - 1)), float(d.mean()))


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted after Holm (1979); NaN stays NaN and is not counted."""
    known = [number for number, value in enumerate(p) if not np.isnan(value)]
    adjusted = [float("nan")] * len(p)
    largest = 0.0
    for rank, number in enumerate(sorted(known, key=lambda one: p[one])):
        largest = max(largest, min(1.0, (len(known) - rank) * p[number]))
        adjusted[number] = largest
    return adjusted


def _known(differences: NDArray[np.floating], test: str) -> Floats:
    d = np.asarray(differences, np.float64)
    d = d[~np.isnan(d)]
    if len(d) < 2:
        raise InputError(f"{test}: needs at least two paired differences, not {len(d)}")
    return d
