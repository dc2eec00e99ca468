"""What a report says, shows and withholds, from tables that the tests make."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from gazelit.data.store.schema import PEER
from gazelit.errors import InputError
from gazelit.evaluation.compare import compare, pooled
from gazelit.evaluation.given_gaze import given_gaze
from gazelit.evaluation.hypothesis_tests import delong
from gazelit.evaluation.scores import POOLED_AUC, case_statistics
from gazelit.evaluation.statistics import bootstrap_weights, mean_of, sensitivity_of, value_of
from gazelit.evaluation.subgroups import subgroups
from gazelit.evaluation.yardsticks import reader_ceiling, share_of_the_way
from gazelit.files import read_json, write_json
from gazelit.reporting import collect as collecting
from gazelit.reporting.commands import report
from gazelit.reporting.figures import Panel, roc_figure
from gazelit.reporting.page import Picture, to_page
from gazelit.reporting.records import ExternalRecord, ReportRecord, RunRecord
from gazelit.reporting.report import write_report
from gazelit.reporting.sections.arms import comparison, paired_blocks, resampled_blocks, verdict
from gazelit.reporting.sections.gaze import map_blocks
from gazelit.reporting.tables import Table, code, plain
from gazelit.spreadsheet import without_formulas
from tests.evaluation.test_compare import DATA, NAMES, document, lines_of, result

BASELINES = {
    f"baseline/{name}/{metric}": 0.5
    for name in ("centre", "gaussian", "uniform", "class_centre")
    for metric in ("cc", "kld", "nss", "ig")
}
PROVENANCE = {
    **DATA, "source": "egd-cxr", "sigma_px": [4.0, 4.0], "sigma_deg": 1.0, "split_method": "patient", "split_seed": 0,
    "split_sha256": "0" * 64, "fold": None, "folds": None, "n": {"train": 60, "val": 10, "test": 60},
}  # fmt: skip


def record(**changes):
    metrics = {**BASELINES, "n_test": 60, "n_test_patients": 30, "seed": 0, "n_panels": 0, "test/cc": 0.5}
    curves = {"joint": pd.DataFrame({"epoch": [0, 1], "train/loss": [1.0, 0.5]})}
    data = {**PROVENANCE, **changes.pop("provenance", {})}
    return replace(RunRecord(metrics, [], curves, [], data, []), **changes)


def written(tmp_path, results, external=(), **changes):
    write_report(ReportRecord(results, compare(results, NAMES), record(**changes), external), tmp_path)
    return (tmp_path / "report.md").read_text()


def two_arms(seeds, **data):
    return [
        result(arm, seed, skill=skill, **data) for arm, skill in (("one", 1.5), ("two", 1.0)) for seed in range(seeds)
    ]


def test_finding_f1_a_report_of_one_seed_prints_no_p(tmp_path):
    text = written(tmp_path, two_arms(1))
    assert not re.search(r"p (=|<)|[^a-z]p = ", text)
    assert text.count("no p: one seed") == 2
    assert "what another training would change is not known" in text
    tables = [line for line in text.splitlines() if line.startswith(("| arm | less | of", "| arm | metric | mean"))]
    assert len(tables) == 2
    assert not [line for line in tables if " p " in line or "Holm" in line]
    assert text.count("No p: one seed.") == 2
    assert "**Nothing is concluded**: with one seed" in text
    several = written(tmp_path / "several", two_arms(3))
    assert re.search(r"\| two \| one \| [+-]\d\.\d{3} \([^)]*\), p ", several)
    assert "over patients and seeds, crossed" in several
    assert "one seed" not in several
    assert " | p | p after Holm |" in several


def test_finding_f2_only_pairs_of_a_fold_are_compared_and_the_pooled_auc_is_given_too():
    folds = []
    for fold in range(3):
        part = result("one", 0, fold, indexes=range(fold, 60, 3))
        # Labels are index mod 3, so indexes are chosen such that every fold has all classes.
        table = part.predictions.assign(label=np.arange(20) % 3)
        columns = [f"p_{name}" for name in NAMES]
        table[columns] = np.random.default_rng(fold).random((20, 3)) + fold + np.eye(3)[table["label"]] * 0.4
        folds.append(replace(part, predictions=table))
    (summary,) = compare(folds, NAMES)
    expected = []
    for number, name in enumerate(NAMES):
        pairs, won = 0, 0.0
        for fold in folds:
            positive = fold.predictions["label"] == number
            count = positive.sum() * (~positive).sum()
            pairs, won = pairs + count, won + count * roc_auc_score(positive, fold.predictions[f"p_{name}"])
        expected.append(won / pairs)
        assert summary.estimates[f"auroc_{name}"].value == pytest.approx(won / pairs)
    assert summary.estimates["auroc_macro"].value == pytest.approx(np.mean(expected))
    whole = pd.concat([fold.predictions for fold in folds])
    together = np.mean([roc_auc_score(whole["label"] == k, whole[f"p_{name}"]) for k, name in enumerate(NAMES)])
    assert summary.estimates[POOLED_AUC].value == pytest.approx(together)
    assert together < np.mean(expected) - 0.05
    text = "\n".join(lines_of(comparison([summary])))
    assert "Forman and Scholz 2010" in text
    assert "macro AUC, folds pooled" in text


def test_finding_f3_tests_state_what_they_test():
    results = two_arms(3)
    tables = {name: pooled([tested for tested in results if tested.arm == name]) for name in ("one", "two")}
    lines = lines_of(paired_blocks(tables, NAMES))
    rows = [line for line in lines if line.startswith("| two, ensemble of 3 seeds | one, ensemble of 3 seeds |")]
    assert len(rows) == 4
    assert any("not what another training would" in line for line in lines)
    mixed = lines_of(paired_blocks({"one": tables["one"], "two": {7: tables["two"][0]}}, NAMES))
    assert any(line.startswith("| two, single model, seed 7 | one, ensemble of 3 seeds |") for line in mixed)


def test_finding_f3_delong_over_folds_compares_pairs_within_a_fold():
    rng = np.random.default_rng(0)
    fold, positive = np.repeat([0, 1], 40), np.tile([True, False], 40)
    first, second = (rng.normal(size=80) + positive for _ in range(2))
    each = [delong(first[fold == k], second[fold == k], positive[fold == k]) for k in (0, 1)]
    both = delong(first + 10 * fold, second - 10 * fold, positive, fold)
    assert both.effect == pytest.approx(np.mean([test.effect for test in each]))
    errors = [test.effect / test.statistic for test in each]
    assert both.effect / both.statistic == pytest.approx(np.sqrt(np.sum(np.square(errors))) / 2)


def test_finding_c19_delong_without_variance_does_not_mean_equality():
    positive = np.array([True] * 5 + [False] * 5)
    best, worst = np.where(positive, 1.0, 0.0), np.where(positive, 0.0, 1.0)
    ours = delong(best, worst, positive)
    # All ten cases favour the first score, so p is that of the sign test.
    assert (ours.effect, ours.statistic, ours.p) == (1.0, np.inf, 2.0**-9)
    assert delong(worst, best, positive).statistic == -np.inf
    assert delong(best, best * 3, positive).p == 1


def test_finding_f5_sensitivity_at_a_specificity_is_torchmetrics_and_has_an_interval():
    from torchmetrics.functional.classification import binary_roc

    rng = np.random.default_rng(1)
    for _ in range(20):
        positive = rng.random(50) < 0.4
        score = np.round(rng.normal(size=50) + positive, 1)
        false, true, _ = binary_roc(torch.from_numpy(score).sigmoid(), torch.from_numpy(positive).long())
        ours = value_of(sensitivity_of(score, positive, 0.9), 50)
        assert ours == pytest.approx(true[false <= 0.1 + 1e-9].max().item())
    estimate = compare([result("one", 0)], NAMES)[0].estimates["sensitivity_b"]
    assert 0 <= estimate.low < estimate.value < estimate.high <= 1
    assert np.isnan(value_of(sensitivity_of(score, np.ones(50, bool), 0.9), 50))


def test_finding_f5_brier_and_calibration_have_intervals_in_the_report(tmp_path):
    predictions = result("one", 0).predictions
    text = written(tmp_path, [result("one", 0)])
    brier = ((predictions[["p_a", "p_b", "p_c"]] - np.eye(3)[predictions["label"]]) ** 2).sum(axis=1).mean()
    for name in ("Brier score", "calibration error, bias-corrected", "calibration error, root mean square, debiased"):
        assert re.search(rf"\| {name} \| \d\.\d{{3}} \| \d\.\d{{3}} to \d\.\d{{3}} \|", text), name
    assert f"| Brier score | {brier:.3f} |" in text
    assert "sensitivity to b at a specificity of 0.9" in text
    table = pd.read_csv(tmp_path / "report.csv").set_index("metric")
    assert table.loc["brier", "low"] < brier < table.loc["brier", "high"]
    assert read_json(tmp_path / "metrics.json")["test/rmsce_high"] > 0


def test_finding_f5_the_report_says_what_the_temperature_was_fitted_on(tmp_path):
    run = tmp_path / "run"
    (run / "joint").mkdir(parents=True)
    (run / "joint" / "config.yaml").write_text("checkpoint: {monitor: val/loss}\n")
    single = replace(result("one", 0), run=run, stages=["joint"])
    stamp = {**single.stamp, "calibration": {"split": "val", "n": 31}}
    (selected, calibrated) = collecting.notes([replace(single, stamp=stamp)])
    assert selected == "Checkpoints were selected on the validation split alone, by `val/loss`."
    assert "fitted on the val split (31 cases), which also selected the checkpoint" in calibrated


def test_finding_c15_a_report_repeats_what_is_open_about_a_parent(monkeypatch):
    monkeypatch.setattr(collecting, "_selection", lambda results: "Selected.")
    single = result("one", 0)
    assert collecting.notes([single, single]) == ["Selected."]
    parent = {**single.stamp, "split_note": "stage 'contrastive' was trained on mimic-cxr; this is allowed"}
    child = replace(single, stamp={**single.stamp, "parent": parent})
    _, doubt = collecting.notes([single, child, child])
    assert doubt.startswith("**Of the checkpoints that training started from: stage")
    assert "mimic-cxr; this is allowed.**" in doubt
    teacher = {**parent, "stage": "joint", "taught": ["diagnosis"], "sees_gaze": True}
    student = replace(single, stamp={**single.stamp, "teachers": [teacher]})
    _, taught, doubt = collecting.notes([single, student])
    assert taught == "one was taught diagnosis by a model of stage joint that saw the readers' gaze of training films."
    assert doubt.startswith("**Of the teachers: stage 'contrastive' was trained on mimic-cxr")


@pytest.mark.parametrize(
    "content", [{}, [], {"store": "s", "trained": []}, {"store": 3, "trained": [{}], "commands": []}]
)
def test_a_folder_of_another_kind_is_one_error(content, tmp_path):
    write_json(tmp_path / "run.json", content)
    with pytest.raises(InputError, match=r"run\.json: not what `gazelit run` writes"):
        report([str(tmp_path)])


def test_finding_c16_selection_is_claimed_only_where_it_is_true(tmp_path):
    run = tmp_path / "run"
    (run / "joint").mkdir(parents=True)
    single = replace(result("one", 0), run=run, stages=["joint"])
    for monitor, checkpoint, expected in (
        ("val/loss", "last", "`checkpoint: last`); nothing was selected"),
        ("train/loss", "best", "not on validation cases alone"),
        ("val/selection", "best", "validation split alone, by `val/selection`"),
    ):
        (run / "joint" / "config.yaml").write_text(f"checkpoint: {{monitor: {monitor}}}\n")
        (text,) = collecting.notes([replace(single, kept=checkpoint)])
        assert expected in text
        assert ("alone, by" in text) == (monitor == "val/selection")


def test_finding_c16_published_figures_stand_beside_real_egd_cxr_alone(tmp_path):
    for source, synthetic, shown in (
        ("egd-cxr", False, True), ("egd-cxr+reflacx", False, True), ("reflacx", False, False), ("egd-cxr", True, False)
    ):  # fmt: skip
        provenance = {"source": source, "synthetic": synthetic}
        assert ("GazeGNN" in written(tmp_path, [result("one", 0)], provenance=provenance)) == shown


def test_finding_c14_arms_without_training_gaze_and_infinite_values_are_dashes(tmp_path):
    results = two_arms(2, gaze_control="none")
    broken = results[0].predictions
    broken.loc[3, "kld"] = np.inf
    broken["kld"] = broken["kld"].fillna(0.4)
    broken["ig"] = np.nan
    changes = {"sigma_px": None, "sigma_deg": None}
    text = written(tmp_path, results[:1], provenance=changes)
    assert "Cases with an infinite value, whose mean is a dash: KLD (nats) of one: 1." in text
    assert re.search(r"\| KLD \(nats\), lower is better \| – \| – \|", text)
    undefined = {"baseline/centre/kld": np.inf, "baseline/uniform/cc": None, "baseline/centre/ig": np.nan}
    metrics = record().metrics | undefined
    text = written(tmp_path / "single", results[:1], provenance=changes, metrics=metrics)
    assert not re.search(r"\b(nan|inf|None)\b", text)
    assert "σ = 1 deg. CC" in text
    assert "left out: information gain over the centre bias (bits) of one: 60." in text
    assert "whose mean is a dash: KLD (nats) of one: 1." in text
    assert read_json(tmp_path / "single" / "metrics.json")["baseline/centre/kld"] is None
    assert share_of_the_way(0.5, np.inf, 0.7) is None
    assert share_of_the_way(0.5, None, 0.7) is None


def test_finding_c14_json_takes_infinite_values(tmp_path):
    write_json(tmp_path / "metrics.json", {"test/loss": float("inf"), "deep": [float("-inf"), {"a": float("nan")}]})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"test/loss": None, "deep": [None, {"a": None}]}


def test_an_infinite_case_makes_a_mean_infinite_only_where_it_is_drawn():
    statistic = mean_of(np.array([1.0, np.inf, np.nan, 3.0]))
    weights = np.array([[1.0, 0, 5, 1], [1, 1, 0, 1], [0, 0, 1, 0]])
    assert statistic(weights) == pytest.approx([2.0, np.inf, np.nan], nan_ok=True)


def test_finding_c13_a_metric_that_arms_define_on_other_cases_has_no_difference():
    results = two_arms(2)
    for tested in results:
        tested.predictions["ig"] = np.nan if tested.arm == "one" else 0.7
        tested.predictions["sauc"] = 0.6
    difference = compare(results, NAMES)[1].differences
    assert np.isnan([difference["ig"].value, difference["ig"].p]).all()
    assert difference["sauc"].value == 0


def test_finding_b2_films_leave_no_report_of_real_cases_unasked(tmp_path):
    grey = np.full((8, 8), 0.5, np.float32)
    panel = Panel("case 1", grey, grey, grey, np.ones((2, 3), np.float32))
    results = [result("one", 0)]
    text = written(tmp_path, results, panels=[panel], provenance={"synthetic": False})
    assert "This page shows films and gaze of real cases" in text
    assert (tmp_path / "figures" / "cases.png").is_file()
    text = written(tmp_path, results, provenance={"synthetic": False})
    assert "No film is shown, because the data are of real cases" in text
    assert "cases.png" not in text
    assert not (tmp_path / "figures" / "cases.png").exists()


def test_finding_b3_the_page_takes_pictures_of_its_own_folder_alone(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "link.png").symlink_to(secret)
    (folder / "own.png").write_bytes(b"own")
    (folder / "own.txt").write_bytes(b"text")
    for reference in (
        "../secret.png", str(secret), "link.png", "missing.png", "own.txt", "http://server/a.png", "a%00.png"
    ):  # fmt: skip
        page = to_page(document(Picture(reference, "words")), folder)
        assert "base64" not in page, reference
        assert "<img" not in page
        assert "words" in page
    assert "base64,b3du" in to_page(document(Picture("own.png", "words")), folder)
    # The name of a picture in text is not replaced by the picture.
    assert "<img" not in to_page(document("![words](own.png)"), folder)


def test_finding_b3_a_name_is_escaped(tmp_path):
    name = "![x](../secret.png) | <script>alert(1)</script> `a` [b](http://c)\n# d"
    page = to_page(document(Table(["a"], [[plain(name)]]), f"and {code(name)}"), tmp_path)
    assert "<img" not in page
    assert "<a " not in page
    assert "<script>" not in page
    assert page.count("<tr>") == 2
    assert page.count("<code>") == 1
    results = [replace(tested, arm=f"{name}{tested.arm}") for tested in two_arms(2)]
    written(tmp_path, results)
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page
    assert 'href="' not in page.replace('href="#', "")
    assert page.count("<img") == page.count("data:image/png;base64")


def test_finding_g9_cells_that_a_spreadsheet_would_run_are_text(tmp_path):
    wild = ["=HYPERLINK(1)", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "plain", "-0.5", "+3", "", None]
    table = pd.DataFrame({"=name": wild, "value": np.linspace(-1, 1, len(wild))})
    safe = without_formulas(table)
    assert list(safe) == ["'=name", "value"]
    assert safe["'=name"].tolist()[:6] == [f"'{cell}" for cell in wild[:6]]
    assert safe["'=name"].tolist()[6:-1] == wild[6:-1]
    assert safe["value"].tolist() == table["value"].tolist()
    results = [replace(tested, arm=f"=cmd|{tested.arm}") for tested in two_arms(1)]
    written(tmp_path, results)
    cells = (tmp_path / "report.csv").read_text()
    assert ",'=cmd|one," in cells
    assert ",=cmd" not in cells


def test_finding_f4_peers_of_the_simulator_are_the_ceiling_and_no_target(store, cohort, tmp_path):
    import shutil

    from gazelit.data.datamodule import GazeDataModule
    from gazelit.data.options import LoaderOptions
    from gazelit.data.sources import EGDCXR
    from gazelit.data.store.prepare import prepare
    from gazelit.data.store.store import Store

    shutil.copytree(cohort, tmp_path / "cohort")
    fixations = pd.read_csv(tmp_path / "cohort" / "egd-cxr" / "fixations.csv")
    films = Store.open(store).cases
    rng = np.random.default_rng(0)
    rows = []
    for film in films.itertuples():
        count = int((fixations["DICOM_ID"] == film.image_id).sum())
        for reader in "abc":
            place = {"x": rng.uniform(0, film.width - 1, count), "y": rng.uniform(0, film.height - 1, count)}
            times = {"t": np.arange(count) * 0.3, "duration": 0.3}
            rows.append(pd.DataFrame({"dicom_id": film.image_id, "reader": reader, **times, **place}))
    pd.concat(rows).to_csv(tmp_path / "cohort" / "egd-cxr" / "peer_fixations.csv", index=False)
    source = EGDCXR(tmp_path / "cohort" / "egd-cxr", tmp_path / "cohort" / "mimic-cxr")
    path = prepare(source, tmp_path / "store", size=(64, 64), workers=1).path
    assert Store.open(path).about["counts"]["peers"] == sum(map(len, rows))
    ours, plain_store = (
        GazeDataModule(str(prepared), loader=LoaderOptions(num_workers=0, batch_size=4)) for prepared in (path, store)
    )
    for row in (0, 5):
        pair = zip(ours.readings(row), plain_store.readings(row), strict=True)
        assert all(torch.equal(points, same) for (points, _), (same, _) in pair)
    found = reader_ceiling(ours)
    # The simulator's peers look at the film, these peers at random.
    assert reader_ceiling(plain_store)["baseline/reader_1/cc"] > found["baseline/reader_1/cc"] + 0.2
    cases = len(ours.rows("test"))
    assert {key: value for key, value in found.items() if key.endswith("/n")} == {
        f"baseline/reader_{size}/n": cases for size in (1, 2, 3)
    }
    assert found["baseline/reader/simulated"] == 1
    # By hand: the mean of the three peers' maps against the case's own.
    from gazelit.data.gaze.heatmap import fixation_density
    from gazelit.metrics.functional import cc

    gaze = Store.open(path).gaze(PEER)
    expected = []
    for row in ours.rows("test"):
        box = ours.store.letterboxes[row]
        maps = []
        for _, reading in gaze[gaze["row"] == row].groupby("reading_id", observed=True):
            xy = box.to_working(reading[["x", "y"]].to_numpy())
            points = torch.tensor(np.column_stack([xy, reading["duration"]]), dtype=torch.float32)
            sigma = torch.tensor(reading[["ppd_x", "ppd_y"]].to_numpy() * box.scale, dtype=torch.float32)
            maps.append(fixation_density(points[None], ours.size, sigma[None])[0])
        ((points, sigma),) = ours.readings(int(row))
        target = fixation_density(points[None], ours.size, sigma[None])
        expected.append(cc(torch.stack(maps).mean(0)[None], target, ours.valid_mask(int(row))[None]).item())
    assert found["baseline/reader_3/cc"] == pytest.approx(np.mean(expected), rel=1e-4)
    metrics = {**BASELINES, **{f"baseline/reader_{k}/cc": 0.6 + k / 100 for k in (1, 3)}, **found, "n_panels": 0}
    summary = compare([result("one", 0)], NAMES)[0]
    text = "\n".join(lines_of(map_blocks(PROVENANCE, metrics, summary.estimates, "`one`")))
    assert "mean of 3 other readers" in text
    assert "drawn from the simulator" in text


def test_finding_f5_map_metrics_stand_by_right_and_wrong_diagnosis_and_by_the_finding():
    tables = [result("one", seed, skill=0.8, indexes=range(120)).predictions for seed in (0, 1)]
    cases = pd.DataFrame({"finding_size": np.r_[np.full(30, np.nan), np.linspace(0.01, 0.3, 90)]})
    found = {(group.kind, group.name): group for group in subgroups(tables, cases, NAMES)}
    right = [table[["p_a", "p_b", "p_c"]].to_numpy().argmax(1) == table["label"] for table in tables]
    expected = np.mean([table["cc"][good].mean() for table, good in zip(tables, right, strict=True)])
    assert found["diagnosis", "right"].estimates["cc"].value == pytest.approx(expected)
    assert found["diagnosis", "right"].n + found["diagnosis", "wrong"].n == pytest.approx(120, abs=1)
    sizes = [stratum for kind, stratum in found if kind.startswith("size of the finding")]
    assert len(sizes) == 3
    assert sum(stratum.n for (kind, _), stratum in found.items() if kind.startswith("size of")) == 90


def test_holm_is_over_all_p_of_a_table():
    results = [result(arm, seed, skill=skill) for arm, skill in (("one", 1.5), ("two", 0.9), ("three", 0.4))
               for seed in range(3)]  # fmt: skip
    summaries = compare(results, NAMES)
    p = [summaries[1].differences[key].p for key in ("auroc_macro", "cc")]
    p += [summaries[2].differences[key].p for key in ("auroc_macro", "cc")]
    p += [summaries[2].against["two"][key].p for key in ("auroc_macro", "cc")]
    smallest = min(p)
    printed = re.findall(r"p (?:= )?(< 0\.001|\d\.\d{3})", "\n".join(lines_of(comparison(summaries))))
    assert len(printed) == 6
    expected = min(1.0, 6 * smallest)
    assert min(0.0 if cell.startswith("<") else float(cell) for cell in printed) == pytest.approx(expected, abs=1e-3)


def test_models_of_all_folds_that_read_all_cases_are_averaged_within_a_seed():
    results = [replace(result("one", seed, fold, skill=1 + fold), arm="one") for seed in (0, 1) for fold in (0, 1)]
    (summary,) = compare(results, NAMES, all_read_all=True)
    each = {
        (trained.seed, trained.fold): value_of(case_statistics(trained.predictions, NAMES)["auroc_macro"], 60)
        for trained in results
    }
    by_seed = [np.mean([each[seed, fold] for fold in (0, 1)]) for seed in (0, 1)]
    assert summary.estimates["auroc_macro"].value == pytest.approx(np.mean(by_seed))
    assert summary.spread["auroc_macro"] == pytest.approx(np.std(by_seed, ddof=1))
    assert POOLED_AUC not in summary.estimates


def test_the_resampled_t_has_no_p_with_one_seed():
    results = [
        replace(trained, metrics={"test/cc": 0.5 + 0.01 * trained.fold + (trained.arm == "two") * 0.02 * trained.seed})
        for trained in (
            result(arm, seed, fold, indexes=range(fold, 60, 3))
            for arm in ("one", "two") for seed in (0, 1) for fold in range(3)
        )
    ]  # fmt: skip
    both = lines_of(resampled_blocks(results))
    assert re.search(r"\| two \| CC \| \+0\.010 \| \d+\.\d\d \| 0\.\d{3} \| 0\.\d{3} \|", both[-1])
    alone = lines_of(resampled_blocks([trained for trained in results if trained.seed == 1]))
    assert alone[2] == "| arm | metric | mean difference | t |"


def verdict_of(results):
    return " ".join(verdict(ReportRecord(results, compare(results, NAMES), record())))


def test_the_verdict_gives_the_primary_difference_or_why_nothing_is_concluded():
    sure = [result(arm, seed, skill=skill) for arm, skill in (("one", 0.1), ("two", 3.0)) for seed in range(4)]
    difference = compare(sure, NAMES)[1].differences["auroc_macro"]
    assert difference.p < 0.001
    text = verdict_of(sure)
    numbers = f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
    assert text.startswith(f"two less one, macro AUC: {numbers}, p < 0.001 after Holm. **two is higher**")
    assert "lower" in verdict_of(sure[4:] + sure[:4])
    undecided = verdict_of([result(arm, seed) for arm in ("one", "two") for seed in range(3)])
    assert "**Nothing is concluded**: the data do not separate the two." in undecided
    assert "with one seed it is not known what another training would change" in verdict_of(two_arms(1))
    few = [result(arm, seed, indexes=range(20), skill=skill) for arm, skill in (("one", 0.1), ("two", 3.0))
           for seed in range(2)]  # fmt: skip
    assert "10 test patients are too few" in verdict_of(few)
    alone = verdict_of([result("one", 0)])
    assert "the centre bias has 0.500" in alone
    assert "There is one arm, so nothing is compared" in alone
    many = [result(name, seed) for name in "abcdefg" for seed in range(2)]
    assert verdict_of(many).endswith("2 further arms stand in the table of differences.")


def test_small_numbers_have_no_p_no_bands_and_no_reliability_curve(tmp_path):
    results = [result(arm, seed, indexes=range(20)) for arm in ("one", "two") for seed in range(2)]
    text = written(tmp_path, results)
    assert not re.search(r"[| ,]p (=|<|\|)", text)
    assert "10 patients are too few for a p." in text
    assert "A class has fewer than 10 cases: no bands are drawn." in text
    assert "20 cases are too few for a reliability curve." in text
    assert not (tmp_path / "figures" / "reliability.png").exists()
    bands = [len(axis.collections) for axis in roc_of(results, 20, None).axes]
    assert bands == [0, 0, 0]
    assert [len(axis.collections) for axis in roc_of(two_arms(1), 60, 50).axes] == [1, 1, 1]


def roc_of(results, cases, draws):
    columns = [f"p_{name}" for name in NAMES]
    arms = {
        tested.arm: ([tested.predictions[columns].to_numpy()], tested.predictions["label"].to_numpy())
        for tested in results
    }
    return roc_figure(arms, NAMES, None if draws is None else bootstrap_weights(np.arange(cases), draws))


def test_a_report_begins_with_its_description_and_lists_its_contents(tmp_path):
    facts = [("run", "`a|b`"), ("tested", "2026-11-26")]
    written(tmp_path, two_arms(2), facts=facts, commands=["gazelit fit <x>", "gazelit test"])
    page = (tmp_path / "report.html").read_text()
    start = page[: page.index("<h2")]
    assert "<h1>gazelit comparison</h1>" in start
    assert "<dt>tested</dt><dd>2026-11-26</dd>" in start
    assert start.index("SYNTHETIC") < start.index("two less one") < start.index("<nav")
    links = re.findall(r'href="#([^"]+)">([^<]+)<', start)
    assert links == re.findall(r'<h2 id="([^"]+)">([^<]+)<', page)
    assert ("data-and-commands", "Data and commands") in links
    # Commands are folded, and every cell holds its column's name for narrow screens.
    folded = page[page.index("<details>") : page.index("</details>")]
    assert "gazelit fit &lt;x&gt;\ngazelit test" in folded
    assert 'data-label="macro AUC"' in page
    markdown = (tmp_path / "report.md").read_text()
    assert [f"- [{title}](#{anchor})" in markdown for anchor, title in links] == [True] * len(links)


def test_a_test_on_a_single_patient_has_no_mean_map_of_the_others(tmp_path):
    tests = compare([result("one", 0, indexes=[4, 5])], NAMES, all_read_all=True)
    baselines = {"baseline/centre/cc": 0.0, "baseline/centre/nss": 0.0}
    for patients, expected in ((1, "patients: – (there is a single patient)."), (2, "patients: CC 0.000, NSS 0.000.")):
        external = ExternalRecord("far", {**PROVENANCE, "source": "x"}, tests, baselines, patients=patients)
        text = written(tmp_path, [result("one", 0)], [external]).split("## External test: far")[1]
        assert f"Mean map of the other half of these {expected}" in text
        assert ("| centre bias |" in text.split("## ")[0]) == (patients > 1)


def test_gaze_given_in_a_test_on_another_source_has_its_rows(tmp_path):
    table = result("one", 0).predictions.assign(gaze_given=1)
    table[[f"with_gaze_p_{name}" for name in NAMES]] = table[[f"p_{name}" for name in NAMES]].to_numpy()
    rows = given_gaze([replace(result("one", 0), predictions=table)], NAMES, all_read_all=True)
    arms = compare([result("one", 0)], NAMES)
    external = ExternalRecord("far", {**PROVENANCE, "source": "x"}, arms, {}, given_gaze=rows)
    text = written(tmp_path, [result("one", 0)], [external]).split("## External test: far")[1]
    assert "| one, gaze at test | 60 of 60 |" in text
    kept = pd.read_csv(tmp_path / "report.csv")
    assert set(kept.loc[kept["arm"] == "one, gaze at test", "data"]) == {"far, given the reader's gaze"}


def test_metrics_from_outside_the_package_have_a_row_each(tmp_path):
    about = {
        "age_error": {"label": "error of the age (years)", "higher_is_better": False},
        "kappa": {"label": "kappa", "higher_is_better": None},
        "kappa_of_readers": {"label": "kappa of the readers", "higher_is_better": True},
    }
    results = two_arms(2)
    for number, tested in enumerate(results):
        tested.predictions["age_error"] = np.arange(len(tested.predictions)) % 7 + number
        tested.predictions.attrs["metrics"] = about
        tested.metrics.update({"test/age_error": -1.0, "test/kappa_a": 0.25 * number, "test/kappa_of_readers": 0.5})
    text = written(tmp_path, results)
    rows = text.split("## Further metrics")[1].split("\n## ")[0].splitlines()
    first = results[0].predictions["age_error"].mean() + 0.5
    (ages,) = [row for row in rows if row.startswith("| error of the age (years), lower is better |")]
    cells = re.findall(r"(\d\.\d{3}) \((\d\.\d{3}) to (\d\.\d{3}); 0\.707\)", ages)
    assert [float(cell[0]) for cell in cells] == pytest.approx([first, first + 2], abs=5e-4)
    assert all(float(low) < float(value) < float(high) for value, low, high in cells)
    assert "| kappa a | 0.125 (0.177) | 0.625 (0.177) |" in rows
    assert "| kappa of the readers, higher is better | 0.500 (0.000) | 0.500 (0.000) |" in rows
    assert "Further metrics" not in written(tmp_path / "without", two_arms(1))
