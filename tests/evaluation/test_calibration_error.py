"""Calibration errors against simulations whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from gazelit.evaluation.calibration_error import Judged, calibration_errors
from gazelit.evaluation.statistics import bootstrap_weights

CASES = 300


def simulate(rng, gap):
    """Probabilities, and outcomes whose true probability is lower by ``gap`` everywhere: ECE and RMS are ``gap``."""
    confidence = rng.uniform(0.3, 0.95, CASES)
    return Judged(confidence, (rng.random(CASES) < confidence - gap).astype(float), np.arange(CASES))


def plain(model):
    order = np.array_split(np.argsort(model.confidence, kind="stable"), 15)
    gaps = np.array([(model.confidence[part] - model.right[part]).mean() for part in order])
    return np.abs(gaps).mean(), (gaps**2).mean()


@pytest.mark.parametrize("gap", [0.0, 0.15])
def test_finding_f5_the_square_is_unbiased_and_the_bias_of_the_mean_gap_is_small(gap):
    rng = np.random.default_rng(0)
    weights = np.ones((2, CASES))
    found, naive = [], []
    for _ in range(400):
        model = simulate(rng, gap)
        errors = calibration_errors([model], np.arange(CASES), weights)
        found.append([errors["ece_corrected"].value, errors["rmsce"].value ** 2])
        naive.append(plain(model))
    found, naive = np.array(found), np.array(naive)
    # Clipping at zero leaves a small bias for a perfect model; without clipping there is none.
    assert found[:, 1].mean() == pytest.approx(gap**2, abs=0.002)
    assert naive[:, 1].mean() - gap**2 > 0.008
    bias, naive_bias = found[:, 0].mean() - gap, naive[:, 0].mean() - gap
    assert abs(bias) < (0.65 * naive_bias if gap == 0 else 0.011)


@pytest.mark.parametrize("gap", [0.0, 0.15])
def test_finding_f5_intervals_of_calibration_errors_cover_at_their_level(gap):
    rng = np.random.default_rng(1)
    missed = {"ece_corrected": 0, "rmsce": 0}
    for number in range(150):
        model = simulate(rng, gap)
        errors = calibration_errors([model], np.arange(CASES), bootstrap_weights(np.arange(CASES), 300, number))
        for name, error in errors.items():
            missed[name] += not error.low <= gap <= error.high
    assert missed["rmsce"] <= stats.binom.ppf(0.9995, 150, 0.05)
    # The remaining bias of the mean gap lowers its coverage to 90 % where gaps are as large as their noise.
    assert missed["ece_corrected"] <= stats.binom.ppf(0.9995, 150, 0.1)


def test_finding_f5_a_patients_cases_do_not_count_as_many():
    rng = np.random.default_rng(2)
    few = simulate(rng, 0.0)
    again = Judged(np.repeat(few.confidence[:60], 5), np.repeat(few.right[:60], 5), np.arange(300))
    weights = np.ones((2, 300))
    together = calibration_errors([again], np.repeat(np.arange(60), 5), weights)
    apart = calibration_errors([again], np.arange(300), weights)
    # If the copies counted as 300 patients, noise would look like a certain error.
    assert together["rmsce"].value < apart["rmsce"].value
    assert together["ece_corrected"].value < apart["ece_corrected"].value
    assert calibration_errors([], np.arange(3), np.ones((2, 3))) == {}


def test_several_seeds_have_the_mean_of_their_errors():
    rng = np.random.default_rng(3)
    models = [simulate(rng, gap) for gap in (0.1, 0.3)]
    weights = bootstrap_weights(np.arange(CASES), 50)
    each = [calibration_errors([model], np.arange(CASES), weights)["ece_corrected"].value for model in models]
    both = calibration_errors(models, np.arange(CASES), weights)["ece_corrected"]
    assert both.value == pytest.approx(np.mean(each))
    assert both.low < both.value < both.high
