"""Differences over patients and seeds, against the plain crossed bootstrap, and their coverage."""

import numpy as np
import pytest
from scipy import stats

from gazelit.evaluation.crossed import crossed_difference
from gazelit.evaluation.statistics import bootstrap_weights
from tests.evaluation.coverage import misses


def two_way(rng, patients, seeds, of_patient, of_seed, shared):
    table = of_patient * rng.normal(size=patients) + of_seed * rng.normal(size=(seeds, 1))
    return table + shared * rng.normal(size=(seeds, patients))


def as_arms(table, resamples=4000):
    weights = np.asarray(bootstrap_weights(np.arange(table.shape[1]), resamples)) / table.shape[1]
    values, draws = table.mean(axis=1), table @ weights.T
    return (values, np.zeros_like(values)), (draws, np.zeros_like(draws))


def test_finding_f1_the_variance_is_that_of_a_crossed_bootstrap_with_its_known_faults_corrected():
    rng = np.random.default_rng(0)
    patients, seeds = 50, 4
    table = two_way(rng, patients, seeds, 1.0, 0.3, 0.5)
    # The plain bootstrap draws patients and seeds independently, with replacement.
    plain = np.empty(20_000)
    for number in range(len(plain)):
        plain[number] = table[rng.integers(0, seeds, seeds)][:, rng.integers(0, patients, patients)].mean()
    # The terms of a balanced table have closed forms (Owen 2007).
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    residual = table - rows[:, None] - columns + table.mean()
    interaction = (residual**2).sum() / ((seeds - 1) * (patients - 1)) / (seeds * patients)
    of_patients, of_seeds = columns.var(ddof=1) / patients, rows.var(ddof=1) / seeds
    assert plain.var() == pytest.approx((1 - 1 / seeds) * of_seeds + of_patients + interaction, rel=0.05)
    ours = crossed_difference(*as_arms(table), patients, paired=True)
    total = of_patients + of_seeds - interaction
    critical = (of_patients * stats.t.isf(0.025, patients - 1) + of_seeds * stats.t.isf(0.025, seeds - 1)) / (
        of_patients + of_seeds
    )
    assert ours.value == pytest.approx(table.mean())
    assert ours.high - ours.low == pytest.approx(2 * critical * np.sqrt(total), rel=0.03)
    assert ours.seeds == seeds


def test_finding_f1_a_difference_within_the_spread_of_seeds_is_no_finding():
    # Five seeds of an arm that is better on the same patients by 0.06 ± 0.033, as in the finding.
    rng = np.random.default_rng(1)
    first = 0.06 + 0.033 * np.array([-1.3, -0.5, 0.1, 0.6, 1.1]) / 0.93
    table = first[:, None] + 0.02 * rng.normal(size=(5, 200))
    ours = crossed_difference(*as_arms(table), 200, paired=True)
    by_seeds = stats.ttest_1samp(table.mean(axis=1), 0)
    assert ours.p == pytest.approx(by_seeds.pvalue, rel=0.1)
    patients_alone = 2 * stats.norm.sf(table.mean() / (table.mean(axis=0).std(ddof=1) / np.sqrt(200)))
    assert ours.p > 1000 * patients_alone


def test_finding_f1_interval_and_p_agree_and_one_seed_has_no_p():
    rng = np.random.default_rng(2)
    for seeds in (2, 3, 6):
        ours = crossed_difference(*as_arms(two_way(rng, 40, seeds, 1.0, 0.2, 0.3), 500), 40, paired=True)
        shifted = abs(ours.value) > ours.value - ours.low
        assert shifted == (ours.p < 0.05)
    values, draws = as_arms(two_way(rng, 40, 1, 1.0, 0.2, 0.3), 500)
    alone = crossed_difference(values, draws, 40, paired=True)
    assert np.isnan(alone.p)
    assert alone.low < alone.value < alone.high


def test_finding_f1_arms_with_other_seeds_have_a_term_each():
    rng = np.random.default_rng(3)
    tables = [two_way(rng, 30, seeds, 0.0, 0.5, 0.01) for seeds in (4, 3)]
    (first, _), (first_draws, _) = as_arms(tables[0], 500)
    (second, _), (second_draws, _) = as_arms(tables[1], 500)
    ours = crossed_difference((first, second), (first_draws, second_draws), 30, paired=False)
    error = np.sqrt(first.var(ddof=1) / 4 + second.var(ddof=1) / 3)
    assert ours.value == pytest.approx(first.mean() - second.mean())
    assert stats.t.isf(0.025, 3) * error < (ours.high - ours.low) / 2 < stats.t.isf(0.025, 2) * error


def test_a_difference_that_never_varies_and_one_that_is_undefined():
    same = np.zeros((2, 10))
    nothing = crossed_difference(*as_arms(same, 50), 10, paired=True)
    assert (nothing.value, nothing.low, nothing.high, nothing.p) == (0, 0, 0, 1)
    undefined = crossed_difference(*as_arms(same + np.nan, 50), 10, paired=True)
    assert np.isnan([undefined.value, undefined.low, undefined.p]).all()


@pytest.mark.parametrize("seeds", [2, 3])
def test_finding_f1_intervals_cover_at_their_level(seeds):
    """Of 200 simulations as many misses as a binomial count has in 99.9 % of all cases; one seed misses most."""
    most = stats.binom.ppf(0.9995, 200, 0.05) / 200
    assert misses("mean", "seeds alone", 3, 200, seed=5) <= most
    assert misses("mean", "seeds as large as patients", seeds, 200, seed=5) <= most
    assert misses("mean", "seeds alone", 1, 100, seed=5) > 0.5
