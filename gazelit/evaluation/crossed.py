"""Differences between arms over patients and seeds at once.

A difference of two arms varies with the test patients and with the seeds of the trainings. Both are sampled and crossed
with each other: every model was tested on every patient. The interval comes from the variance of a
bootstrap that draws patients and seeds independently of each other (the pigeonhole bootstrap of Owen 2007). Its three
terms are taken apart, because each has a known fault with few seeds:

- patients: the variance over draws of patients of the mean over seeds;
- seeds: s² / S. Drawing S seeds with replacement gives (S − 1) / S of that, half of it for two seeds;
- what patients and seeds share (the interaction) is in both and counts once; the plain bootstrap counts it three times.

Each term has degrees of freedom of its own, S − 1 of the seeds'. The critical value is the mean of both terms' Student
quantiles, weighted by the terms (Cochran and Cox 1957). Its intervals are rather too wide. Satterthwaite's single
number of degrees of freedom covers less with two seeds. Simulated coverage stands in ``docs/metrics.md``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from gazelit.evaluation.statistics import LEVEL, Estimate, Floats

#: With fewer seeds the variance of training is unknown, and no p is given.
FEWEST_SEEDS = 2


def crossed_difference(
    values: tuple[Floats, Floats], draws: tuple[Floats, Floats], patients: int, paired: bool, level: float = LEVEL
) -> Estimate:
    """The mean over seeds of the first arm less that of the second, with its interval over patients and seeds.

    Args:
        values: For each arm, (S,) the statistic of every seed.
        draws: For each arm, (S, R) the statistic of every seed in every draw of patients, with the same draws for all.
        patients: Number of patients.
        paired: Whether both arms have the same seeds in the same order. Their difference is then taken seed by seed,
            so that what arms share (an earlier stage) cancels out.
        level: Coverage.

    Returns:
        With one seed of either arm the interval is over patients alone and p is NaN.
    """
    nothing = float("nan")
    value = float(np.mean(values[0]) - np.mean(values[1]))
    seeds = min(len(of_arm) for of_arm in values)
    # Arms with different seeds have a term each; with the same seeds there is one, that of their differences.
    terms = [(values[0] - values[1], draws[0] - draws[1])] if paired else list(zip(values, draws, strict=True))
    whole = draws[0].mean(axis=0) - draws[1].mean(axis=0)
    drawn = np.isfinite(whole)
    if not np.isfinite(value) or patients < 2 or drawn.sum() < 2:
        return Estimate(value, nothing, nothing, nothing, seeds)
    of_patients = float(whole[drawn].var(ddof=1))
    total, parts = of_patients, [(of_patients, patients - 1)]
    for of_seed, by_draw in terms:
        count = len(of_seed)
        if count < FEWEST_SEEDS:
            continue
        of_seeds = float(of_seed.var(ddof=1) / count)
        each = float(by_draw[:, drawn].var(axis=1, ddof=1).mean())
        together = float(by_draw[:, drawn].mean(axis=0).var(ddof=1))
        shared = max(0.0, (each - together) / (count - 1))
        total += of_seeds - min(shared, of_seeds)
        parts.append((of_seeds, count - 1))
    if total <= 0:
        # Nothing varies: the same predictions, or the same on every case.
        return Estimate(value, value, value, (1.0 if value == 0 else 0.0) if seeds >= FEWEST_SEEDS else nothing, seeds)
    error = float(np.sqrt(total))
    reach = _critical(1 - level, parts) * error
    p = _p(abs(value) / error, parts) if seeds >= FEWEST_SEEDS else nothing
    return Estimate(value, value - reach, value + reach, p, seeds)


def crossed_value(values: Floats, draws: Floats, patients: int, level: float = LEVEL) -> Estimate:
    """The mean over seeds with its interval over patients and seeds: the difference from an arm that is always 0.

    Args:
        values: (S,) the statistic of every seed.
        draws: (S, R) the same of every seed in every draw of patients.
        patients: Number of patients.
        level: Coverage.

    Returns:
        With one seed the interval is over patients alone. p is that the statistic is zero.
    """
    nothing = np.zeros_like(values), np.zeros_like(draws)
    return crossed_difference((values, nothing[0]), (draws, nothing[1]), patients, True, level)


def _critical(alpha: float, parts: Sequence[tuple[float, int]]) -> float:
    """Two-sided critical value of a sum of variances, given as (variance, degrees of freedom)."""
    variances, freedom = np.array(parts).T
    return float(variances @ -stdtrit(freedom, alpha / 2) / variances.sum())


def _p(ratio: float, parts: Sequence[tuple[float, int]]) -> float:
    """The level at which the critical value equals the ratio of difference and standard error."""
    least = 1e-12
    if ratio >= _critical(least, parts):
        return least
    # Imported here, because it takes 15 MB and only several seeds need it.
    from scipy import optimize

    return float(optimize.brentq(lambda alpha: _critical(alpha, parts) - ratio, least, 1.0))
