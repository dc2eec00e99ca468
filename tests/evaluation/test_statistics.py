"""Intervals and tests against scipy, statsmodels and definitions; coverage and level by simulation."""

import itertools
import tracemalloc

import numpy as np
import pytest
from scipy import stats
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from gazelit.errors import InputError
from gazelit.evaluation.hypothesis_tests import (
    corrected_resampled_t,
    delong,
    holm,
    mcnemar,
    paired_t,
    permutation,
    wilcoxon,
)
from gazelit.evaluation.statistics import (
    auroc_of,
    average_of,
    bootstrap_weights,
    drawn,
    estimate,
    mean_of,
    sensitivity_of,
    value_of,
)


def test_auroc_equals_scikit_learn_with_ties_and_repeated_cases():
    rng = np.random.default_rng(0)
    for _ in range(20):
        score, positive = rng.integers(0, 6, 40) / 6, rng.random(40) < 0.4
        weights = rng.integers(0, 4, (3, 40)).astype(float)
        expected = [roc_auc_score(positive, score, sample_weight=row) for row in weights]
        assert auroc_of(score, positive)(weights) == pytest.approx(expected, abs=1e-12)


def test_macro_leaves_out_classes_that_are_absent():
    rng = np.random.default_rng(1)
    probabilities, label = rng.random((30, 3)), np.arange(30) % 2
    macro = average_of([auroc_of(probabilities[:, number], label == number) for number in range(3)])
    expected = np.mean([roc_auc_score(label == column, probabilities[:, column]) for column in (0, 1)])
    assert value_of(macro, 30) == pytest.approx(expected)
    assert np.isnan(value_of(auroc_of(probabilities[:, 0], np.ones(30, bool)), 30))


def test_means_leave_out_cases_without_a_value():
    values = np.array([1.0, np.nan, 4.0])
    weights = np.array([[1.0, 5, 1], [2, 0, 1], [0, 1, 0]])
    assert mean_of(values)(weights) == pytest.approx([2.5, 2.0, np.nan], nan_ok=True)


def test_intervals_of_independent_cases_equal_scipys():
    values = np.random.default_rng(2).gamma(1.0, size=60)
    weights = bootstrap_weights(np.arange(60), resamples=9999)
    ours = estimate(mean_of(values), np.arange(60), weights=weights)
    scipys = bootstrap((values,), np.mean, n_resamples=9999, method="percentile", random_state=0).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((scipys.low, scipys.high), rel=0.03)


def test_cases_of_one_patient_are_drawn_together():
    # Ten patients have twenty equal cases each, so the interval is that of ten values, not of two hundred.
    means = np.random.default_rng(3).normal(size=10)
    values, patients = np.repeat(means, 20), np.repeat(np.arange(10), 20)
    weights = np.asarray(bootstrap_weights(patients, resamples=50))
    assert (weights.reshape(50, 10, 20).std(axis=2) == 0).all()
    assert (weights.sum(1) == 200).all()
    single, few, many = (
        estimate(mean_of(v), g) for v, g in ((values, patients), (means, np.arange(10)), (values, np.arange(200)))
    )
    assert single.high - single.low == pytest.approx(few.high - few.low, rel=0.1)
    assert single.high - single.low > 3 * (many.high - many.low)


def test_statistics_that_are_never_defined_are_nan():
    undefined = estimate(auroc_of(np.arange(4.0), np.ones(4, bool)), np.arange(4))
    assert np.isnan([undefined.value, undefined.low, undefined.high, undefined.p]).all()
    assert np.isnan(value_of(auroc_of(np.zeros(0), np.zeros(0, bool)), 0))


def placements(score, positive):
    """DeLong's structural components, by their definition."""
    up, down = score[positive], score[~positive]
    kernel = (up[:, None] > down[None, :]) + (up[:, None] == down[None, :]) / 2
    return kernel.mean(1), kernel.mean(0)


def test_delong_is_its_definition_with_ties():
    rng = np.random.default_rng(4)
    positive = rng.random(60) < 0.4
    first = np.round(rng.normal(size=60) + positive, 1)
    second = np.round(rng.normal(size=60) + 0.5 * positive + 0.5 * first, 1)
    v10, v01 = zip(*(placements(score, positive) for score in (first, second)), strict=True)
    covariance = np.cov(v10) / positive.sum() + np.cov(v01) / (~positive).sum()
    difference = roc_auc_score(positive, first) - roc_auc_score(positive, second)
    z = difference / np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    ours = delong(first, second, positive)
    assert ours.effect == pytest.approx(difference, abs=1e-12)
    assert ours.statistic == pytest.approx(z, rel=1e-9)
    assert ours.p == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-9)
    assert delong(first, first, positive).p == 1


def test_delong_refuses_scores_that_it_cannot_compare():
    positive = np.array([True, True, False, False])
    with pytest.raises(InputError, match="a score is NaN"):
        delong(np.array([1, 2, 3, np.nan]), np.arange(4.0), positive)
    with pytest.raises(InputError, match="two cases of each class"):
        delong(np.arange(3.0), np.arange(3.0), np.array([True, False, False]))


def test_paired_tests_equal_scipys():
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=30), rng.normal(size=30)
    t, w = paired_t(first - second), wilcoxon(first - second)
    scipys = stats.ttest_rel(first, second)
    assert (t.statistic, t.p) == pytest.approx((scipys.statistic, scipys.pvalue))
    scipys = stats.wilcoxon(first, second)
    assert (w.statistic, w.p) == pytest.approx((scipys.statistic, scipys.pvalue))
    assert t.effect == pytest.approx((first - second).mean() / (first - second).std(ddof=1))


def test_permutation_equals_all_sign_patterns_and_flips_patients_whole():
    d = np.array([0.3, 1.2, -0.4, 0.8, 0.5, 1.1, -0.2, 0.9])
    sums = [abs(np.dot(signs, d)) for signs in itertools.product((-1, 1), repeat=8)]
    exact = np.mean(np.array(sums) >= abs(d.sum()) - 1e-12)
    assert permutation(d, resamples=40_000).p == pytest.approx(exact, abs=0.01)
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    pairs = d.reshape(4, 2).sum(1)
    sums = [abs(np.dot(signs, pairs)) for signs in itertools.product((-1, 1), repeat=4)]
    exact = np.mean(np.array(sums) >= abs(d.sum()) - 1e-12)
    assert permutation(d, groups, resamples=40_000).p == pytest.approx(exact, abs=0.01)


def test_the_corrected_t_is_nadeau_and_bengios():
    d = np.array([0.02, 0.01, 0.03, -0.01, 0.02])
    ours = corrected_resampled_t(d, test_share=0.25)
    t = d.mean() / np.sqrt((1 / 5 + 0.25) * d.var(ddof=1))
    assert ours.statistic == pytest.approx(t)
    assert ours.p == pytest.approx(2 * stats.t.sf(abs(t), 4))
    # Without overlap it is the plain t-test.
    assert corrected_resampled_t(d, 0.0).p == pytest.approx(stats.ttest_1samp(d, 0).pvalue)


def test_mcnemar_equals_statsmodels():
    rng = np.random.default_rng(3)
    first, second = rng.random(80) < 0.7, rng.random(80) < 0.6
    table = [[(first & second).sum(), (first & ~second).sum()], [(~first & second).sum(), (~first & ~second).sum()]]
    ours = mcnemar(first, second)
    assert ours.p == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)
    assert ours.effect == pytest.approx(first.mean() - second.mean())
    assert mcnemar(first, first).p == 1
    # 89 against 91 of 107 (GazeGNN and VCC-Net) can never be significant, whichever cases they share.
    assert (
        min(mcnemar(np.arange(107) < 91, (np.arange(107) < 89 - k) | (np.arange(107) >= 107 - k)).p for k in range(17))
        > 0.4
    )
    with pytest.raises(InputError, match="no case"):
        mcnemar(first[:0], second[:0])


def test_holm_equals_statsmodels_and_leaves_nan_out():
    p = [0.01, 0.04, 0.03, 0.005, 0.2]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist())
    with_gap = holm([0.01, float("nan"), 0.04])
    assert with_gap[0] == pytest.approx(0.02)
    assert np.isnan(with_gap[1])


@pytest.mark.parametrize("test", [paired_t, wilcoxon, permutation])
def test_too_few_differences_are_one_error_and_zeros_are_no_difference(test):
    with pytest.raises(InputError, match="at least two paired differences"):
        test(np.array([1.0, np.nan]))
    assert test(np.zeros(5)).p == 1


#: Bounds of the number of rejections in 200 simulations at a level of 5 %; a binomial count is within them in 99.9 %.
LOWEST, HIGHEST = stats.binom.ppf([0.0005, 0.9995], 200, 0.05)


def equal_models(rng):
    """Scores of two equally good models on 80 cases of 60 patients, and maps' values with a part for each patient."""
    patient = np.r_[np.arange(60), np.arange(20)]
    positive = rng.random(60)[patient] < 0.4
    common = rng.normal(size=60)[patient] + 1.2 * positive
    first, second = (common + rng.normal(size=80) for _ in range(2))
    maps = rng.normal(size=60)[patient] * 0.5 + rng.normal(size=80)
    return patient, positive, first, second, maps


def test_tests_reject_equal_models_at_their_level():
    rng = np.random.default_rng(6)
    rejected = dict.fromkeys(("DeLong", "paired t", "Wilcoxon", "permutation by patient"), 0)
    for _ in range(200):
        patient, positive, first, second, maps = equal_models(rng)
        independent = rng.normal(size=60)
        p = {
            "DeLong": delong(first, second, positive).p,
            "paired t": paired_t(independent).p,
            "Wilcoxon": wilcoxon(independent).p,
            "permutation by patient": permutation(maps, patient, resamples=499).p,
        }
        for name, value in p.items():
            rejected[name] += value < 0.05
    assert {name: count for name, count in rejected.items() if not LOWEST <= count <= HIGHEST} == {}


def test_intervals_cover_at_their_level():
    rng = np.random.default_rng(7)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    missed = {"mean": 0, "AUC": 0}
    for _ in range(200):
        values, positive = rng.gamma(4.0, size=80), np.arange(120) < 60
        mean = estimate(mean_of(values), np.arange(80), weights=bootstrap_weights(np.arange(80), 800))
        score = rng.normal(size=120) + positive
        auc = estimate(auroc_of(score, positive), np.arange(120), weights=bootstrap_weights(np.arange(120), 800))
        missed["mean"] += not mean.low <= 4.0 <= mean.high
        missed["AUC"] += not auc.low <= truth <= auc.high
    assert {name: count for name, count in missed.items() if not LOWEST <= count <= HIGHEST} == {}


@pytest.mark.parametrize("of", [auroc_of, lambda score, positive: sensitivity_of(score, positive, 0.9)])
def test_an_interval_over_many_cases_needs_little_beyond_a_byte_a_draw_and_patient(of):
    generator = np.random.default_rng(0)
    score, positive, patients = generator.normal(size=9000), generator.random(9000) < 0.3, np.arange(9000) // 3
    statistic = of(score, positive)
    tracemalloc.start()
    weights = bootstrap_weights(patients, 400)
    found = drawn(statistic, weights)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All draws as floats take 29 MB; drawn at once by numpy they are the same.
    assert peak < 16e6
    at_once = np.random.default_rng(0).multinomial(3000, np.full(3000, 1 / 3000), size=400)[:, patients]
    assert np.array_equal(weights, at_once)
    assert found.tolist() == statistic(at_once.astype(float)).tolist()


def test_sign_flips_in_parts_are_those_of_all_patterns_at_once():
    d = np.random.default_rng(1).normal(0.3, 1, 30)
    signs = np.random.default_rng(0).integers(0, 2, (9999, 30)) * 2 - 1
    extreme = (np.abs(signs @ d) >= abs(d.sum()) * (1 - 1e-12)).sum()
    assert permutation(d).p == (extreme + 1) / 10_000
