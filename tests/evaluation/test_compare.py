"""Comparison of arms, subgroups and the report page, from tables that the tests make."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from gazelit.errors import InputError
from gazelit.evaluation.compare import Result, compare, pooled
from gazelit.evaluation.subgroups import SMALL, subgroups
from gazelit.reporting.figures import learning_curve_figure
from gazelit.reporting.page import Block, Document, Picture, Section, to_markdown, to_page
from gazelit.reporting.sections.arms import comparison, paired_blocks
from gazelit.reporting.sections.diagnosis import subgroup_blocks
from gazelit.reporting.sections.training import learning_curve
from gazelit.reporting.tables import Table

NAMES = ["a", "b", "c"]
DATA = {
    "fingerprint": "f", "gaze_kind": "fixation", "weight": "duration", "sigma": 1.0, "sigma_unit": "deg",
    "size": [64, 64], "readings": "pooled", "class_names": NAMES, "synthetic": True, "n": {"train": 60, "test": 20},
}  # fmt: skip


def document(*blocks: Block) -> Document:
    return Document("T", [], [], [], [], [Section("S", blocks)])


def lines_of(blocks: list[Block]) -> list[str]:
    """The blocks as lines of Markdown."""
    return to_markdown(document(*blocks)).splitlines()[4:]


def result(arm, seed, fold=None, *, skill=1.0, indexes=range(60), **data):
    rng = np.random.default_rng([seed, len(arm), int(10 * skill)])
    index = np.array(indexes)
    label = index % 3
    logits = rng.normal(size=(len(index), 3)) + skill * np.eye(3)[label]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    table = pd.DataFrame(
        {"index": index, "patient": index // 2, "label": label, "cc": rng.normal(0.5, 0.1, len(index))}
    )
    table[[f"p_{name}" for name in NAMES]] = probabilities
    return Result(Path("run"), arm, seed, fold, ["s"], Path("c"), 60.0, {}, table, {"data": {**DATA, **data}})


def test_values_are_means_over_seeds_and_differences_are_paired():
    results = [result(arm, seed, skill=skill) for arm, skill in (("one", 2.0), ("two", 0.2)) for seed in (0, 1)]
    first, second = compare(results, NAMES)
    expected = [
        np.mean([roc_auc_score(r.predictions["label"] == k, r.predictions[f"p_{NAMES[k]}"]) for k in range(3)])
        for r in results
    ]
    assert first.estimates["auroc_macro"].value == pytest.approx(np.mean(expected[:2]))
    assert first.spread["auroc_macro"] == pytest.approx(np.std(expected[:2], ddof=1))
    assert first.differences == {}
    difference = second.differences["auroc_macro"]
    assert difference.value == pytest.approx(np.mean(expected[2:]) - np.mean(expected[:2]))
    assert difference.low < difference.value < difference.high < 0
    assert difference.p < 0.05
    lines = lines_of(comparison([first, second]))
    assert any(line.startswith("| two | one | -") for line in lines)


def test_several_labels_have_intervals_over_the_cases_where_they_are_known():
    single = result("one", 0)
    truth = np.eye(3)[single.predictions["label"]]
    truth[::4, 1] = np.nan
    table = single.predictions.drop(columns="label")
    table[[f"y_{name}" for name in NAMES]] = truth
    estimates = compare([replace(single, predictions=table)], NAMES)[0].estimates
    known = ~np.isnan(truth[:, 1])
    assert estimates["auroc_b"].value == pytest.approx(roc_auc_score(truth[known, 1], table["p_b"][known]))
    assert estimates["auroc_b"].low < estimates["auroc_b"].value < estimates["auroc_b"].high
    three = [estimates[f"auroc_{name}"].value for name in NAMES]
    assert estimates["auroc_macro"].value == pytest.approx(np.mean(three))
    assert "accuracy" not in estimates


def test_every_pair_of_arms_is_compared():
    results = [result(arm, 0, skill=skill) for arm, skill in (("one", 2.0), ("two", 1.0), ("three", 0.1))]
    summaries = compare(results, NAMES)
    values = [summary.estimates["auroc_macro"].value for summary in summaries]
    assert summaries[0].against == summaries[1].against == {}
    pair = summaries[2].against["two"]["auroc_macro"]
    assert pair.value == pytest.approx(values[2] - values[1])
    alone = compare(results[1:], NAMES)[1].differences["auroc_macro"]
    assert (pair.low, pair.high) == pytest.approx((alone.low, alone.high))
    text = "\n".join(lines_of(comparison(summaries)))
    assert f"| three | two | {pair.value:+.3f} (" in text
    assert text.count("| arm | less |") == 1


def test_paired_tests_are_those_of_the_mean_over_seeds():
    results = [result(arm, seed, skill=skill) for arm, skill in (("one", 2.0), ("two", 0.2)) for seed in (0, 1)]
    tables = {name: pooled([first for first in results if first.arm == name]) for name in ("one", "two")}
    lines = lines_of(paired_blocks(tables, NAMES))
    label = tables["one"][0]["label"].to_numpy()
    first, second = (
        np.mean([table[[f"p_{name}" for name in NAMES]] for table in tables[arm].values()], axis=0)
        for arm in ("one", "two")
    )
    difference = roc_auc_score(label == 1, second[:, 1]) - roc_auc_score(label == 1, first[:, 1])
    models = "| two, ensemble of 2 seeds | one, ensemble of 2 seeds |"
    assert any(line.startswith(f"{models} AUC b | {difference:+.3f} |") for line in lines)
    accuracy = (second.argmax(1) == label).mean() - (first.argmax(1) == label).mean()
    assert any(line.startswith(f"{models} accuracy | {accuracy:+.3f} |") for line in lines)
    cc = [np.mean([table["cc"] for table in tables[arm].values()], axis=0) for arm in ("two", "one")]
    p = stats.wilcoxon(cc[0] - cc[1]).pvalue
    row = next(line for line in lines if line.startswith("| two | CC |"))
    assert row.split(" | ")[2:4] == [f"{(cc[0] - cc[1]).mean():+.3f}", f"{p:.3f}"]
    assert paired_blocks({"one": tables["one"]}, NAMES) == []


def test_paired_tests_leave_out_missing_metrics_and_classes():
    first, second = result("one", 0), result("two", 0)
    maps_only = second.predictions.drop(columns=[f"p_{name}" for name in NAMES])
    lines = "\n".join(lines_of(paired_blocks({"one": {0: first.predictions}, "two": {0: maps_only}}, NAMES)))
    assert "AUC" not in lines
    assert "| two | CC |" in lines
    absent = [table.predictions.assign(label=table.predictions["label"].replace(2, 1)) for table in (first, second)]
    lines = "\n".join(lines_of(paired_blocks({"one": {0: absent[0]}, "two": {0: absent[1]}}, NAMES)))
    assert "| AUC b |" in lines
    assert "| AUC c |" not in lines
    assert "nan" not in lines


def test_a_learning_curve_has_a_point_for_every_number_of_cases_with_gaze():
    results = [
        result("all", 0), result("few", 0, gaze_cases=20), result("none", 0, gaze_control="none"),
        result("shuffled", 0, gaze_control="shuffled"),
    ]  # fmt: skip
    curve = learning_curve(results, compare(results, NAMES))
    assert [(count, arm) for count, arm, _ in curve["macro AUC"]] == [(0, "none"), (20, "few"), (60, "all")]
    assert len(learning_curve_figure(curve).axes) == 2
    assert learning_curve(results[:1], compare(results[:1], NAMES)) == {}


def test_folds_are_pooled_to_every_case_once():
    folds = [result("one", 0, fold, indexes=range(fold, 60, 3)) for fold in range(3)]
    assert pooled(folds)[0]["index"].tolist() == list(range(60))
    with pytest.raises(InputError, match="seed 0 tested a case twice"):
        pooled([*folds, folds[0]])
    with pytest.raises(InputError, match="seed 1 was tested on other cases"):
        pooled([*folds, result("one", 1, 0, indexes=range(20))])


def test_results_that_cannot_be_compared_are_refused():
    with pytest.raises(
        InputError, match=r"another sigma than 'one' \(sigma 2\.0 and 1\.0\); their numbers cannot be compared"
    ):
        compare([result("one", 0), result("two", 0, sigma=2.0)], NAMES)
    with pytest.raises(InputError, match="'two' was tested on other cases than 'one'"):
        compare([result("one", 0), result("two", 0, indexes=range(1, 61))], NAMES)


def test_a_class_that_is_absent_and_predictions_that_are_no_numbers_leave_defined_values():
    absent = result("one", 0, indexes=[number for number in range(60) if number % 3])
    (summary,) = compare([absent], NAMES)
    assert np.isnan(summary.estimates["auroc_a"].value)
    assert 0.5 < summary.estimates["auroc_macro"].value < 1
    broken = result("one", 0)
    broken.predictions.loc[3, "p_a"] = np.nan
    with pytest.raises(InputError, match="1 predictions of arm 'one' are not numbers"):
        compare([broken], NAMES)


def test_a_single_case_has_values_but_no_interval_and_no_silent_nan():
    first, second = (result(arm, 0, indexes=[4]) for arm in ("one", "two"))
    summaries = compare([first, second], NAMES)
    assert summaries[0].estimates["cc"].value == first.predictions["cc"][0]
    assert np.isnan(summaries[0].estimates["cc"].low)
    tables = {"one": {0: first.predictions}, "two": {0: second.predictions}}
    text = "\n".join(lines_of([*comparison(summaries), *paired_blocks(tables, NAMES)]))
    assert "nan" not in text
    assert f"| one | – | {first.predictions['cc'][0]:.3f} |" in text


def test_subgroups_have_the_metrics_of_their_cases_alone():
    table = result("one", 0, skill=1.0, indexes=range(200)).predictions
    cases = pd.DataFrame({"gender": ["F", "M", "F", "M", None] * 40, "view": "PA", "age": np.arange(200) % 80 + 10})
    found = {(group.kind, group.name): group for group in subgroups([table], cases, NAMES)}
    rows = table[cases["gender"].eq("F").to_numpy()]
    female = found["sex", "F"]
    assert female.n == 80
    assert female.estimates["cc"].value == pytest.approx(rows["cc"].mean())
    assert not female.is_small
    # A single view makes no groups, and AUC is undefined within a class.
    assert not [key for key in found if key[0] == "view"]
    assert "auroc_macro" not in found["class", "a"].estimates
    assert sum(subgroup.n for subgroup in found.values() if subgroup.kind == "age") == 200
    small = [subgroup for subgroup in found.values() if subgroup.n < SMALL]
    assert all("few" in str(subgroup_blocks([subgroup], "one")[1].rows[0]) for subgroup in small)


def test_the_page_is_one_file_with_its_pictures_and_escapes_foreign_text(tmp_path):
    from matplotlib.figure import Figure

    from gazelit.reporting.figures import save

    save(Figure(figsize=(1, 1)), tmp_path / "figures" / "a.png")
    page = to_page(document(Table(["a", "b"], [["<script>", 2]]), Picture("figures/a.png", "x")), tmp_path)
    assert 'src="data:image/png;base64,iVBOR' in page
    assert "figures/a.png" not in page
    assert "<script>" not in page
    assert '<td class="n" data-label="b">2</td>' in page
    assert "http" not in page


def test_centre_bias_and_oracle_stand_below_the_arms_in_the_same_table():
    arms = compare([result("one", 0), result("two", 0)], NAMES)
    text = lines_of(
        comparison(arms, {"baseline/centre/cc": 0.25, "baseline/oracle/cc": 0.75, "baseline/reader/cc": 0.5})
    )
    table = [line for line in text if line.startswith("|")]
    columns = [cell.strip().split(" ")[0] for cell in table[0].split("|")]
    rows = {line.split("|")[1].strip(): line.split("|") for line in table}
    for name, value in (("centre bias", "0.250"), ("oracle", "0.750")):
        cells = [cell.strip() for cell in rows[name]]
        assert cells[columns.index("CC")] == value
        assert cells[columns.index("macro")] == "–"
    assert "reader" not in rows
    assert "centre bias" not in "\n".join(lines_of(comparison(arms)))
