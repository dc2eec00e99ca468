"""Intervals, paired tests and corrections: what is said of a number besides its value.

A statistic here is a function of weights: it takes how often each case was drawn, (R, N), and gives R values. So a
thousand draws are a few array operations, and cases of one patient are drawn together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gazelit.errors import InputError

Floats = NDArray[np.float64]
#: From weights (R, N) to values (R,); NaN where a draw leaves it undefined, such as a class that was not drawn.
Statistic = Callable[[Floats], Floats]

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: Of the cases as they are; may be infinite.
        low: Lower bound; NaN where there is none: the statistic undefined or infinite, or a single patient.
        high: Upper bound.
        p: Of a difference: two-sided, that it is zero; NaN of other numbers, and where there is none.
        seeds: Of a difference: the number of seeds its interval and p are over.
    """

    value: float
    low: float
    high: float
    p: float = float("nan")
    seeds: int = 0


def mean_of(values: NDArray[np.floating]) -> Statistic:
    """The mean over cases; those without a value (NaN) do not count, infinite ones make it infinite."""
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
        fold: (N,) which model scored each case. Only pairs of one model are then compared: scores of models that were
            trained apart have no common scale (Forman and Scholz 2010).
    """
    parts = [_pairs(score, positive, members) for members in _folds(fold, len(score))]

    def statistic(weights: Floats) -> Floats:
        won, pairs = (sum(column) for column in zip(*(part(weights) for part in parts), strict=True))
        with np.errstate(invalid="ignore"):
            return np.asarray(won / pairs, np.float64)

    return statistic if len(score) else lambda weights: np.full(len(weights), np.nan)


def sensitivity_of(
    score: NDArray[np.floating],
    positive: NDArray[np.bool_],
    specificity: float,
    fold: NDArray[np.integer] | None = None,
) -> Statistic:
    """The largest sensitivity at a specificity of at least so much; NaN with one class only.

    The threshold is found anew in every draw, and in every fold where there are several: their scores have no common
    scale.

    Args:
        score: (N,).
        positive: (N,) which cases are positive.
        specificity: In (0, 1).
        fold: (N,) which model scored each case.
    """
    parts = [_hits(score, positive, members, specificity) for members in _folds(fold, len(score))]

    def statistic(weights: Floats) -> Floats:
        hits, positives = (sum(column) for column in zip(*(part(weights) for part in parts), strict=True))
        with np.errstate(invalid="ignore"):
            return np.asarray(hits / positives, np.float64)

    return statistic if len(score) else lambda weights: np.full(len(weights), np.nan)


def _folds(fold: NDArray[np.integer] | None, cases: int) -> list[NDArray[np.intp]]:
    if fold is None:
        return [np.arange(cases)]
    return [np.flatnonzero(fold == number) for number in np.unique(fold)]


def _pairs(
    score: NDArray[np.floating], positive: NDArray[np.bool_], members: NDArray[np.intp]
) -> Callable[[Floats], tuple[Floats, Floats]]:
    """From weights (R, N) to the weight of pairs that are in order, and of all pairs, among the members."""
    order, starts, is_positive = _ranked(score, positive, members)

    def pairs(weights: Floats) -> tuple[Floats, Floats]:
        drawn = weights[:, order]
        # By distinct score: the weight of positives and of negatives, and of negatives below.
        ups = np.add.reduceat(drawn * is_positive, starts, axis=1)
        downs = np.add.reduceat(drawn * (1 - is_positive), starts, axis=1)
        below = np.cumsum(downs, axis=1) - downs
        return (ups * (below + downs / 2)).sum(1), ups.sum(1) * downs.sum(1)

    return pairs


def _hits(
    score: NDArray[np.floating], positive: NDArray[np.bool_], members: NDArray[np.intp], specificity: float
) -> Callable[[Floats], tuple[Floats, Floats]]:
    """From weights (R, N) to the weight of positives found at the specificity, and of all, among the members.

    Draws with one class only have neither.
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
    statistic: Statistic, groups: NDArray[np.generic], *, level: float = LEVEL, weights: Floats | None = None
) -> Estimate:
    """A statistic with its percentile bootstrap interval over patients.

    Args:
        statistic: What is estimated.
        groups: (N,) the patient of every case.
        level: Coverage.
        weights: The draws, where several estimates share them; drawn here unless given.
    """
    value = value_of(statistic, len(groups))
    if len(np.unique(groups)) < 2:
        return Estimate(value, float("nan"), float("nan"))
    return percentile(value, statistic(bootstrap_weights(groups) if weights is None else weights), level)


def percentile(value: float, draws: Floats, level: float = LEVEL) -> Estimate:
    """A value with the percentile interval of its bootstrap draws (R,); none where it is undefined or infinite."""
    draws = draws[np.isfinite(draws)]
    if not len(draws) or not np.isfinite(value):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))


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


def delong(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    positive: NDArray[np.bool_],
    fold: NDArray[np.integer] | None = None,
) -> Test:
    """Whether two scores of the same cases have the same AUC (DeLong, DeLong and Clarke-Pearson 1988).

    In the form of Sun and Xu (2014), which ranks. Cases count as independent: with several images of a patient the
    bootstrap over patients is the one to trust. It tests these two scores, not the training that made them.

    Where every case's placement differs by the same amount the variance is estimated as zero, as for AUC 1 against 0,
    and z is infinite. p is then that of the sign test over the N cases, which all speak for the same score: 2^(1 − N).

    Args:
        first: (N,) scores.
        second: (N,) scores of the same cases.
        positive: (N,) which cases are positive.
        fold: (N,) which models scored each case: the AUC is then that of pairs within a fold (:func:`auroc_of`), and
            folds count as independent.

    Raises:
        InputError: A score is NaN, or a class has fewer than two cases (in every fold).
    """
    scores = np.stack([first, second]).astype(np.float64)
    if np.isnan(scores).any():
        raise InputError("DeLong: a score is NaN; leave its case out")
    parts = []
    for members in _folds(fold, len(positive)):
        counts = int(positive[members].sum()), int((~positive[members]).sum())
        if min(counts) >= 2:
            parts.append((counts, *_placements(scores[:, members], positive[members])))
    if not parts:
        raise InputError("DeLong: needs at least two cases of each class")
    shares = np.array([m * n for (m, n), _, _ in parts], np.float64)
    shares /= shares.sum()
    difference = float(shares @ [one for _, one, _ in parts])
    variance = float(shares**2 @ [one for _, _, one in parts])
    if variance <= 1e-20:
        if abs(difference) <= 1e-12:
            return Test("DeLong", 0.0, 1.0, difference)
        cases = sum(m + n for (m, n), _, _ in parts)
        return Test("DeLong", float(np.copysign(np.inf, difference)), 2.0 ** (1 - cases), difference)
    z = difference / np.sqrt(variance)
    return Test("DeLong", float(z), float(2 * stats.norm.sf(abs(z))), difference)


def _placements(scores: Floats, positive: NDArray[np.bool_]) -> tuple[float, float]:
    """The difference of two AUCs and its variance after DeLong, of scores (2, N)."""
    positives, negatives = scores[:, positive], scores[:, ~positive]
    m, n = positives.shape[1], negatives.shape[1]
    ranks = np.stack([stats.rankdata(np.concatenate(pair)) for pair in zip(positives, negatives, strict=True)])
    above = (ranks[:, :m] - np.stack([stats.rankdata(row) for row in positives])) / n
    below = 1 - (ranks[:, m:] - np.stack([stats.rankdata(row) for row in negatives])) / m
    covariance = np.cov(above) / m + np.cov(below) / n
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return float(above[0].mean() - above[1].mean()), float(variance)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Test:
    """McNemar's exact test that two classifiers are right equally often on the same cases.

    The statistic is the number of cases that only the first gets right, less those that only the second does; the
    effect is that number's share of all cases, the difference of the accuracies.

    Args:
        first: (N,) where the first is right.
        second: (N,) where the second is right.

    Raises:
        InputError: There is no case.
    """
    if not len(first):
        raise InputError("McNemar: there is no case")
    alone, beaten = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(stats.binomtest(alone, alone + beaten).pvalue) if alone + beaten else 1.0
    return Test("McNemar", float(alone - beaten), p, (alone - beaten) / len(first))


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
    for rank, number in enumerate(sorted(known, key=lambda place: p[place])):
        largest = max(largest, min(1.0, (len(known) - rank) * p[number]))
        adjusted[number] = largest
    return adjusted


def _known(differences: NDArray[np.floating], test: str) -> Floats:
    d = np.asarray(differences, np.float64)
    d = d[~np.isnan(d)]
    if len(d) < 2:
        raise InputError(f"{test}: needs at least two paired differences, not {len(d)}")
    return d
