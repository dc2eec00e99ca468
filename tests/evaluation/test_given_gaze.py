"""Gaze at test in the report: each model against itself, and never among the arms."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from gazelit.evaluation.compare import compare, comparison_lines
from gazelit.evaluation.given_gaze import given_gaze, long_rows, records_of, section
from tests.evaluation.test_compare import NAMES, result


def told(arm, seed, fold=None, without=0, **options):
    """A model that is much better with gaze, of which the first films have none."""
    plain, better = result(arm, seed, fold, skill=0.5, **options), result(arm, seed, fold, skill=3.0, **options)
    table = plain.predictions.assign(gaze_given=np.arange(len(plain.predictions)) >= without)
    for name in NAMES:
        table[f"with_gaze_p_{name}"] = better.predictions[f"p_{name}"]
    return replace(plain, predictions=table)


def macro(table, before=""):
    return np.mean([roc_auc_score(table["label"] == k, table[f"{before}p_{name}"]) for k, name in enumerate(NAMES)])


def test_two_rows_a_model_with_their_difference_and_the_number_of_films():
    results = [told("joint", seed, without=4) for seed in range(3)] + [result("image", seed) for seed in range(3)]
    (row,) = given_gaze(results, NAMES)
    assert (row.arm, row.films, row.films_with_gaze) == ("joint", 60, 56)
    values = [np.mean([macro(one.predictions, before) for one in results[:3]]) for before in ("", "with_gaze_")]
    assert row.without.estimates["auroc_macro"].value == pytest.approx(values[0])
    assert row.given.estimates["auroc_macro"].value == pytest.approx(values[1])
    difference = row.given.differences["auroc_macro"]
    assert difference.value == pytest.approx(values[1] - values[0])
    assert difference.low < difference.value < difference.high
    # The maps do not depend on the gaze that is given.
    assert "cc" not in row.given.estimates
    text = "\n".join(section([row]))
    assert f"| joint, gaze in training only | none | {values[0]:.3f} (" in text
    assert f"| joint, gaze at test | 56 of 60 | {values[1]:.3f} (" in text
    assert "Films without gaze are diagnosed by the gaze that the model predicts" in text
    assert records_of([row])["joint"]["films_with_gaze"] == 56
    table = long_rows([row])
    assert set(table["data"]) == {"test, given the reader's gaze"}
    assert set(table["arm"]) == {"joint, gaze at test"}


def test_the_arms_never_see_it():
    results = [told("joint", 0), result("image", 0)]
    blind = [replace(one, predictions=one.predictions.filter(regex="^(?!with_gaze|gaze_given)")) for one in results]
    assert comparison_lines(compare(results, NAMES)) == comparison_lines(compare(blind, NAMES))
    assert "gaze at test" not in "\n".join(comparison_lines(compare(results, NAMES)))


def test_folds_are_pooled_and_models_without_it_have_no_section():
    results = [told("joint", 0, fold, indexes=range(20 * fold, 20 * fold + 20)) for fold in range(3)]
    (row,) = given_gaze(results, NAMES)
    assert (row.films, row.given.folds) == (60, 3)
    assert given_gaze([result("image", 0)], NAMES) == []
    assert section([]) == []
    assert long_rows([]).empty
