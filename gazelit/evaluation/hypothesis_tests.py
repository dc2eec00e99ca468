"""Paired tests and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr

from gazelit.errors import InputError
from gazelit.evaluation.statistics import Floats, folds_of

#: Number of sign patterns that a permutation test computes at a time.
_BLOCK = 64


@dataclass(frozen=True)
class Test:
    """A paired test.

    Attributes:
        name: Name of the test.
        statistic: Its statistic.
        p: Two-sided p.
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

    The test has the form of Sun and Xu (2014), which uses ranks. Cases count as independent; with several images of a
    patient use the bootstrap over patients instead. The test is of these two scores, not of the training that made
    them.

    If every case's placement differs by the same amount, as for AUC 1 against 0, the variance is estimated as zero, and
    z is infinite. p is then that of the sign test over the N cases, which all favour the same score: 2^(1 − N).

    Args:
        first: (N,) scores.
        second: (N,) scores of the same cases.
        positive: (N,) which cases are positive.
        fold: (N,) the fold whose model scored each case. If given, the AUC is that of pairs within a fold
            (:func:`auroc_of`), and folds count as independent.

    Raises:
        InputError: A score is NaN, or a class has fewer than two cases (in every fold).
    """
    scores = np.stack([first, second]).astype(np.float64)
    if np.isnan(scores).any():
        raise InputError("DeLong: a score is NaN; leave its case out")
    parts = []
    for members in folds_of(fold, len(positive)):
        counts = int(positive[members].sum()), int((~positive[members]).sum())
        if min(counts) >= 2:
            parts.append((counts, *_placements(scores[:, members], positive[members])))
    if not parts:
        raise InputError("DeLong: needs at least two cases of each class")
    shares = np.array([m * n for (m, n), _, _ in parts], np.float64)
    shares /= shares.sum()
    difference = float(shares @ [gap for _, gap, _ in parts])
    variance = float(shares**2 @ [spread for _, _, spread in parts])
    if variance <= 1e-20:
        if abs(difference) <= 1e-12:
            return Test("DeLong", 0.0, 1.0, difference)
        cases = sum(m + n for (m, n), _, _ in parts)
        return Test("DeLong", float(np.copysign(np.inf, difference)), 2.0 ** (1 - cases), difference)
    z = difference / np.sqrt(variance)
    return Test("DeLong", float(z), float(2 * ndtr(-abs(z))), difference)


def _placements(scores: Floats, positive: NDArray[np.bool_]) -> tuple[float, float]:
    """The difference of two AUCs and its variance after DeLong, of scores (2, N)."""
    # Imported here, because it takes 40 MB and only comparisons of arms need it.
    from scipy import stats

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

    The statistic is the number of cases that only the first gets right, less the number that only the second gets
    right. The effect is its share of all cases: the difference of the accuracies.

    Args:
        first: (N,) whether the first is right.
        second: (N,) whether the second is right.

    Raises:
        InputError: There is no case.
    """
    from scipy import stats

    if not len(first):
        raise InputError("McNemar: there is no case")
    alone, beaten = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(stats.binomtest(alone, alone + beaten).pvalue) if alone + beaten else 1.0
    return Test("McNemar", float(alone - beaten), p, (alone - beaten) / len(first))


def paired_t(differences: NDArray[np.floating]) -> Test:
    """Student's t-test that paired differences have mean zero; the effect is Cohen's d of the differences."""
    from scipy import stats

    d = _known(differences, "paired t")
    spread = d.std(ddof=1)
    if spread == 0:
        return Test("paired t", 0.0, 1.0 if d.mean() == 0 else 0.0, 0.0 if d.mean() == 0 else float("inf"))
    result = stats.ttest_1samp(d, 0.0)
    return Test("paired t", float(result.statistic), float(result.pvalue), float(d.mean() / spread))


def wilcoxon(differences: NDArray[np.floating]) -> Test:
    """Wilcoxon's signed-rank test of paired differences; the effect is the rank-biserial correlation."""
    from scipy import stats

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
        seed: Seed of the patterns.
    """
    d = _known(differences, "permutation")
    codes = np.arange(len(d))
    if groups is not None:
        codes = np.unique(groups[~np.isnan(differences)], return_inverse=True)[1]
    sums = np.bincount(codes, d)
    generator, observed, extreme = np.random.default_rng(seed), abs(sums.sum()), 0
    # A few patterns at a time: all of them would take 80 kB a patient.
    for start in range(0, resamples, _BLOCK):
        signs = generator.integers(0, 2, (min(_BLOCK, resamples - start), len(sums))) * 2 - 1
        # Equal sums can differ in their last digits if their order differs, so the comparison has a tolerance.
        extreme += int((np.abs(signs @ sums) >= observed * (1 - 1e-12)).sum())
    spread = d.std(ddof=1)
    effect = float(d.mean() / spread) if spread > 0 else 0.0
    return Test("permutation", float(d.mean()), float((extreme + 1) / (resamples + 1)), effect)


def corrected_resampled_t(differences: NDArray[np.floating], test_share: float) -> Test:
    """t-test over folds and seeds that share training data (Nadeau and Bengio 2003; Bouckaert and Frank 2004).

    The variance of the mean of J differences is (1 / J + n_test / n_train) s² instead of s² / J, because training sets
    overlap.

    Args:
        differences: (J,) a difference for each fold and seed.
        test_share: n_test / n_train of a training.

    Raises:
        InputError: There are fewer than two differences.
    """
    d = _known(differences, "corrected resampled t")
    variance = (1 / len(d) + test_share) * d.var(ddof=1)
    if variance == 0:
        return Test("corrected resampled t", 0.0, 1.0 if d.mean() == 0 else 0.0, float(d.mean()))
    t = d.mean() / np.sqrt(variance)
    return Test("corrected resampled t", float(t), float(2 * stdtr(len(d) - 1, -abs(t))), float(d.mean()))


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted after Holm (1979); NaN stays NaN and is not counted.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    known = [number for number, value in enumerate(p) if not np.isnan(value)]
    adjusted = [float("nan")] * len(p)
    largest = 0.0
    for rank, number in enumerate(sorted(known, key=lambda known_number: p[known_number])):
        largest = max(largest, min(1.0, (len(known) - rank) * p[number]))
        adjusted[number] = largest
    return adjusted


def _known(differences: NDArray[np.floating], test: str) -> Floats:
    d = np.asarray(differences, np.float64)
    d = d[~np.isnan(d)]
    if len(d) < 2:
        raise InputError(f"{test}: needs at least two paired differences, not {len(d)}")
    return d
