import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score

from gazelit.evaluation.statistics import auroc, auroc_macro, bootstrap_interval


def test_auroc_equals_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    for _ in range(20):
        score, positive = rng.integers(0, 6, 40) / 6, rng.random(40) < 0.4
        assert auroc(score, positive) == pytest.approx(roc_auc_score(positive, score), abs=1e-12)


def test_macro_leaves_out_classes_that_are_absent():
    rng = np.random.default_rng(1)
    probabilities, label = rng.random((30, 3)), np.arange(30) % 2
    expected = np.mean([roc_auc_score(label == one, probabilities[:, one]) for one in (0, 1)])
    assert auroc_macro(probabilities, label) == pytest.approx(expected)
    assert np.isnan(auroc(probabilities[:, 0], np.ones(30, bool)))


def test_interval_of_independent_cases_equals_scipys():
    values = np.random.default_rng(2).gamma(2.0, size=60)
    ours = bootstrap_interval(np.arange(60), lambda rows: float(values[rows].mean()), resamples=8000)
    theirs = bootstrap((values,), np.mean, n_resamples=8000, method="percentile", random_state=0).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), rel=0.03)


def test_cases_of_one_patient_are_drawn_together():
    # Ten patients with twenty equal cases each: the interval is that of ten values, not of two hundred.
    means = np.random.default_rng(3).normal(size=10)
    values, patients = np.repeat(means, 20), np.repeat(np.arange(10), 20)
    low, high = bootstrap_interval(patients, lambda rows: float(values[rows].mean()))
    few = bootstrap_interval(np.arange(10), lambda rows: float(means[rows].mean()))
    many = bootstrap_interval(np.arange(200), lambda rows: float(values[rows].mean()))
    assert high - low == pytest.approx(few[1] - few[0], rel=0.1)
    assert high - low > 3 * (many[1] - many[0])


def test_undefined_draws_are_left_out_and_never_defined_is_nan():
    assert np.isnan(bootstrap_interval(np.arange(4), lambda rows: float("nan"), resamples=20)).all()
