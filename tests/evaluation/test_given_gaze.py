"""Gaze at test in the report: each model is compared with itself, and never stands among the arms."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from gazelit.evaluation.compare import compare
from gazelit.evaluation.given_gaze import given_gaze
from gazelit.files import read_json
from gazelit.reporting.sections.arms import comparison
from gazelit.reporting.sections.diagnosis import given_gaze_blocks
from tests.evaluation.test_compare import NAMES, lines_of, result
from tests.evaluation.test_reports import written


def given(arm, seed, fold=None, without=0, **options):
    """A model that is much better with gaze; the first films have no gaze."""
    plain, better = result(arm, seed, fold, skill=0.5, **options), result(arm, seed, fold, skill=3.0, **options)
    table = plain.predictions.assign(gaze_given=np.arange(len(plain.predictions)) >= without)
    for name in NAMES:
        table[f"with_gaze_p_{name}"] = better.predictions[f"p_{name}"]
    return replace(plain, predictions=table)


def macro(table, before=""):
    return np.mean([roc_auc_score(table["label"] == k, table[f"{before}p_{name}"]) for k, name in enumerate(NAMES)])


def test_two_rows_a_model_with_their_difference_and_the_number_of_films(tmp_path):
    results = [given("joint", seed, without=4) for seed in range(3)] + [result("image", seed) for seed in range(3)]
    (row,) = given_gaze(results, NAMES)
    assert (row.arm, row.films, row.films_with_gaze) == ("joint", 60, 56)
    values = [np.mean([macro(trained.predictions, before) for trained in results[:3]]) for before in ("", "with_gaze_")]
    assert row.without.estimates["auroc_macro"].value == pytest.approx(values[0])
    assert row.given.estimates["auroc_macro"].value == pytest.approx(values[1])
    difference = row.given.differences["auroc_macro"]
    assert difference.value == pytest.approx(values[1] - values[0])
    assert difference.low < difference.value < difference.high
    # The maps do not depend on the gaze that is given.
    assert "cc" not in row.given.estimates
    text = written(tmp_path, results, given_gaze=[row])
    assert f"| joint, gaze in training only | none | {values[0]:.3f} (" in text
    assert f"| joint, gaze at test | 56 of 60 | {values[1]:.3f} (" in text
    assert "Films without gaze are diagnosed by the gaze that the model predicts" in text
    assert read_json(tmp_path / "metrics.json")["gaze_at_test"]["joint"]["films_with_gaze"] == 56
    table = pd.read_csv(tmp_path / "report.csv")
    table = table[table["data"] == "test, given the reader's gaze"]
    assert set(table["arm"]) == {"joint, gaze at test"}


def test_the_arms_never_see_it():
    results = [given("joint", 0), result("image", 0)]
    blind = [
        replace(trained, predictions=trained.predictions.filter(regex="^(?!with_gaze|gaze_given)"))
        for trained in results
    ]
    assert comparison(compare(results, NAMES)) == comparison(compare(blind, NAMES))
    assert "gaze at test" not in "\n".join(lines_of(comparison(compare(results, NAMES))))


def test_folds_are_pooled_and_models_without_it_have_no_section():
    results = [given("joint", 0, fold, indexes=range(20 * fold, 20 * fold + 20)) for fold in range(3)]
    (row,) = given_gaze(results, NAMES)
    assert (row.films, row.given.folds) == (60, 3)
    assert given_gaze([result("image", 0)], NAMES) == []
    assert given_gaze_blocks([]) == []
    (row,) = given_gaze([given("joint", 0, fold) for fold in range(2)], NAMES, all_read_all=True)
    assert (row.films, row.given.folds) == (60, 2)
