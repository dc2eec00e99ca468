"""Difference of probabilities and frequencies, without the bias of binning, and with intervals.

Within a bin the gap between mean probability and frequency is never zero, however good the model: its noise alone gives
an expected calibration error of about 0.8 standard errors. There are three numbers:

- the plain error, ``Σ share × |gap|``, biased upwards;
- the same corrected for its bias as a bootstrap would estimate it (Kumar, Liang and Ma 2019, appendix). No estimator of
  an absolute value is unbiased. Half of the bias is left for a perfect model. If gaps are as large as their noise, the
  error is too small by a tenth of a standard error or less;
- the root mean square error, whose square is unbiased: Σ share × (gap² − standard error²) (Kumar, Liang and Ma 2019;
  Bröcker 2012), set to zero where it is negative.

Standard errors are over patients, all their cases together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from gazelit.evaluation.statistics import LEVEL, Estimate, Floats, Weights, blocks_of
from gazelit.metrics.catalogue import BINS

#: Least number of cases in a bin; fewer cases make fewer bins.
FEWEST_IN_A_BIN = 10


@dataclass(frozen=True)
class Judged:
    """Probabilities of one model and the outcomes.

    Attributes:
        confidence: (M,) probabilities.
        right: (M,) 0 or 1.
        case: (M,) the case of each; a case with several labels has several.
    """

    confidence: Floats
    right: Floats
    case: NDArray[np.intp]


def calibration_errors(
    models: Sequence[Judged], patients: NDArray[np.generic], weights: Weights, level: float = LEVEL
) -> dict[str, Estimate]:
    """``ece_corrected``, and ``rmsce``, debiased, with intervals over patients; means over models (seeds).

    Intervals are basic bootstrap intervals (Davison and Hinkley 1997). Draws of a biased statistic do not scatter round
    the corrected value, so their deviations are applied to the corrected value. Intervals end at 0.

    Args:
        models: A model for each seed, all of the same cases.
        patients: (N,) patient of every case.
        weights: Bootstrap draws of patients.
        level: Coverage.

    Returns:
        Empty without cases.
    """
    if not models or not all(len(model.confidence) for model in models):
        return {}
    absolute, square = zip(*_errors(models, patients, weights), strict=True)
    tails = [(1 - level) / 2, (1 + level) / 2]
    found = {}
    for name, parts in (("ece_corrected", absolute), ("rmsce", square)):
        value = max(0.0, float(np.mean([corrected for corrected, _ in parts])))
        draws = np.mean([drawn for _, drawn in parts], axis=0)
        draws = draws[np.isfinite(draws)]
        ends = [float("nan")] * 2
        if len(np.unique(patients)) > 1 and len(draws):
            below, above = np.quantile(draws - draws.mean(), tails)
            ends = [value - above, value - below]
        result = np.array([value, *ends]).clip(min=0)
        result = np.sqrt(result) if name == "rmsce" else result
        found[name] = Estimate(float(result[0]), float(result[1]), float(result[2]))
    if found["rmsce"].low == 0:
        # Both errors are zero together. The mean gap alone could never be found to be zero, because some of its bias is
        # left.
        found["ece_corrected"] = replace(found["ece_corrected"], low=0.0)
    return found


def _errors(
    models: Sequence[Judged], patients: NDArray[np.generic], weights: Weights
) -> list[tuple[tuple[float, Floats], tuple[float, Floats]]]:
    """For each model its corrected error, this error in draws, its debiased mean square, and the plain one in draws."""
    patient = np.unique(patients, return_inverse=True)[1]
    values, of_draws = [], []
    for model in models:
        gap = model.confidence - model.right
        order = np.argsort(model.confidence, kind="stable")
        bins = np.array_split(order, int(np.clip(len(order) // FEWEST_IN_A_BIN, 1, BINS)))
        codes = patient[model.case]
        absolute = square = 0.0
        errors = []
        for members in bins:
            share, mean = len(members) / len(order), float(gap[members].mean())
            error = _standard_error(gap[members] - mean, codes[members])
            absolute += share * float(2 * abs(mean) - _folded_mean(np.array(mean), error))
            square += share * (mean**2 - error**2)
            errors.append(error)
        values.append((absolute, square))
        of_draws.append(partial(_of_draws, model.case, gap, bins, errors))
    draws = [[errors_of(block) for errors_of in of_draws] for block in blocks_of(weights)]
    found = []
    for (absolute, square), parts in zip(values, zip(*draws, strict=True), strict=True):
        drawn_absolute, drawn_square = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        found.append(((absolute, drawn_absolute), (square, drawn_square)))
    return found


def _of_draws(
    case: NDArray[np.intp], gap: Floats, bins: Sequence[NDArray[np.intp]], errors: Sequence[float], weights: Floats
) -> tuple[Floats, Floats]:
    """The corrected error and the plain mean square in draws (R, N)."""
    absolute, square = np.zeros(len(weights)), np.zeros(len(weights))
    total = weights[:, case].sum(1)
    for members, error in zip(bins, errors, strict=True):
        drawn = weights[:, case[members]]
        count = drawn.sum(1)
        with np.errstate(invalid="ignore"):
            moved = np.where(count > 0, (drawn @ gap[members]) / count, 0.0)
            absolute += count / total * (2 * np.abs(moved) - _folded_mean(moved, error))
            square += count / total * moved**2
    return absolute, square


def _standard_error(deviation: Floats, codes: NDArray[np.intp]) -> float:
    """Standard error of a mean over patients; s / √n if each has one case; 0, meaning unknown, of a single patient."""
    sums = np.bincount(np.unique(codes, return_inverse=True)[1], deviation)
    if len(sums) < 2:
        return 0.0
    return float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(deviation))


def _folded_mean(mean: Floats, error: float) -> Floats:
    """The expected absolute value of normal variables."""
    if error == 0:
        return np.abs(mean)
    ratio = mean / error
    # scipy.stats would work too, but takes 40 MB.
    density = np.exp(-(ratio**2) / 2.0) / np.sqrt(2 * np.pi)
    return np.asarray(2 * error * density + mean * (1 - 2 * ndtr(-ratio)))
