"""The share of the explainable information: the oracle on test films, against direct definitions on stored maps."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.gaze.events import TimeWindow
from gazelit.data.sources import Manifest
from gazelit.data.store.prepare import prepare
from gazelit.evaluation import explainable
from gazelit.evaluation.compare import compare
from gazelit.evaluation.crossed import crossed_difference, crossed_value
from gazelit.evaluation.explainable import Oracles, fixation_map, law_of, oracle_record, oracle_yardsticks, target_map
from gazelit.evaluation.scores import SHARE
from gazelit.evaluation.statistics import bootstrap_weights
from gazelit.evaluation.yardsticks import yardsticks
from gazelit.files import read_json, write_json
from gazelit.metrics.functional import cc, kld
from gazelit.reporting import collect as collecting
from gazelit.synthetic.case import plan_cohort
from gazelit.synthetic.cohort import write_cohort
from gazelit.synthetic.oracle import explainable_share, for_case
from gazelit.synthetic.tables import identifiers
from tests.evaluation.test_compare import NAMES, result
from tests.evaluation.test_reports import record, two_arms, written
from tests.tiny import grouped

KEYS = ("index", "heatmap", "valid_mask")
LABELS = ("Normal", "CHF", "pneumonia")


@pytest.fixture(scope="module")
def hard_store(tmp_path_factory):
    """24 films of the hard cohort, read twice each, at 64 × 64."""
    folder = tmp_path_factory.mktemp("hard")
    write_cohort(folder / "cohort", 24, "manifest", seed=4, max_side=96, workers=1, difficulty="hard", readers=2)
    tables = folder / "cohort" / "manifest"
    source = Manifest(str(tables / "images.csv"), str(tables / "gaze.csv"), LABELS, "normalised")
    prepare(source, folder / "store", size=(64, 64), workers=1)
    return folder / "store"


def data_of(store, **options):
    return GazeDataModule(str(store), **grouped(num_workers=0, test_fraction=0.4, allow_empty=True, **options))


@pytest.fixture(scope="module")
def datamodule(hard_store):
    module = data_of(hard_store)
    module.setup()
    return module


@pytest.fixture(scope="module")
def scored(datamodule, tmp_path_factory):
    """The folder of the run, and the oracle's scores of the test films."""
    run = tmp_path_factory.mktemp("run")
    return run, Oracles(run, workers=1).scores(datamodule)


def direct_gain(datamodule, row, density):
    """Bits a fixation over the centre bias, from the store's own table of gaze: a loop over fixations."""
    store = datamodule.store
    letterbox = store.letterboxes[row]
    gaze = store.table("gaze")
    gaze = gaze[(gaze["row"] == row) & gaze["valid"]]
    baseline = datamodule.mean_map(datamodule.rows("train")).density.double().numpy()
    inside = letterbox.valid_mask()
    bits = []
    for x, y in letterbox.to_working(gaze[["x", "y"]].to_numpy(float)):
        column, line = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        if 0 <= line < 64 and 0 <= column < 64 and inside[line, column]:
            p = density[line, column] / density[inside].sum()
            b = baseline[line, column] / baseline[inside].sum()
            bits.append(np.log2(p) - np.log2(b))
    return np.mean(bits)


def test_the_oracles_gain_is_that_of_its_map_at_the_stores_fixations(datamodule, scored):
    _, table = scored
    assert table["index"].tolist() == datamodule.rows("test").tolist()
    for row, found in zip(table["index"][:4], table["oracle_ig"], strict=False):
        case = datamodule.store.cases.loc[row]
        oracle = for_case(case["image_id"], (int(case["height"]), int(case["width"])))
        # The recipe of docs/synthetic.md, with 1,000 simulated readings; the report uses 200.
        recipe = direct_gain(datamodule, row, oracle.store_map(datamodule.store.letterboxes[row], weighted=False))
        assert found == pytest.approx(recipe, abs=0.05)
        kept = oracle.mixture(explainable.READINGS).on_canvas(datamodule.store.letterboxes[row], weighted=False)
        assert found == pytest.approx(direct_gain(datamodule, row, kept), abs=1e-4)


def test_the_oracle_is_above_every_yardstick(datamodule, scored):
    known = yardsticks(datamodule)
    oracle = oracle_yardsticks(scored[1])
    for metric, better in (("cc", 1), ("kld", -1), ("nss", 1), ("ig", 1), ("sauc", 1)):
        beaten = [value for key, value in known.items() if key.endswith(f"/{metric}")]
        assert len(beaten) >= 5
        assert all(better * oracle[f"baseline/oracle/{metric}"] > better * value for value in beaten), metric


def test_the_expected_target_is_blurred_as_the_targets_are(datamodule, scored):
    """A greater or smaller σ than that of the targets is worse."""
    run, table = scored
    rows = table["index"].tolist()
    mixtures = Oracles(run, workers=1).mixtures(datamodule.store, rows, None)
    batches = [datamodule.render(loaded) for loaded in datamodule.loader("test")]
    targets = {int(row): pair for batch in batches for row, *pair in zip(*(batch[key] for key in KEYS), strict=True)}

    def mean_of(metric, data):
        values = [metric(target_map(data, mixtures[row], row)[None], *targets[row]) for row in rows]
        return np.mean([float(value) for value in values])

    assert mean_of(kld, datamodule) == pytest.approx(table["oracle_kld"].mean(), rel=1e-4)
    assert mean_of(cc, datamodule) == pytest.approx(table["oracle_cc"].mean(), rel=1e-4)
    for factor in (0.6, 1.6):
        blurred = data_of(datamodule.store_path, sigma=factor)
        blurred.setup()
        assert mean_of(kld, blurred) > table["oracle_kld"].mean()
        assert mean_of(cc, blurred) < table["oracle_cc"].mean()
    # The expectation of fixations weighted by duration differs from that of counted fixations.
    counted = data_of(datamodule.store_path, weight="count")
    counted.setup()
    pair = [target_map(each, mixtures[rows[0]], rows[0]) for each in (counted, datamodule)]
    assert not np.allclose(*pair)


def test_at_half_the_resolution_maps_are_sums_of_the_stores_pixels(datamodule, scored, tmp_path):
    run, table = scored
    coarse = data_of(datamodule.store_path, downscale=2)
    coarse.setup()
    row = int(table["index"][0])
    mixture = Oracles(run, workers=1).mixtures(datamodule.store, [row], None)[row]
    fine = fixation_map(datamodule, mixture, row).numpy()
    expected = [[fine[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].sum() for j in range(32)] for i in range(32)]
    assert fixation_map(coarse, mixture, row).numpy() == pytest.approx(np.array(expected), rel=1e-5)
    assert Oracles(run, workers=1).scores(coarse)["oracle_ig"].mean() > 0.5


def test_maps_are_made_once_and_anew_where_the_law_has_changed(datamodule, scored, tmp_path, monkeypatch, caplog):
    run, table = scored
    made = []
    make = explainable.case_mixture
    monkeypatch.setattr(explainable, "case_mixture", lambda *job: made.append(job) or make(*job))
    again = Oracles(run, workers=1).scores(datamodule)
    # Only one film is computed, to see whether the kept maps follow the present law.
    assert len(made) == 1
    pd.testing.assert_frame_equal(again, table)
    (kept,) = (run / "oracle").iterdir()
    stale = tmp_path / "oracle" / kept.name
    stale.parent.mkdir()
    changed = pd.read_parquet(kept)
    changed["x"] += 1.0
    changed.to_parquet(stale)
    for content in (None, b"PAR1 this is no table"):
        if content:
            stale.write_bytes(content)
        made.clear()
        with caplog.at_level("INFO", "gazelit"):
            pd.testing.assert_frame_equal(Oracles(tmp_path, workers=1).scores(datamodule), table)
        assert len(made) >= len(table)
    assert "made anew" in caplog.text
    assert f"rebuilding {len(table)} films" in caplog.text
    # The store is as it was.
    assert not [path for path in Path(datamodule.store_path).iterdir() if "oracle" in path.name]


def test_several_processes_make_the_same_maps(datamodule, scored, tmp_path, monkeypatch):
    run, table = scored
    monkeypatch.setattr(explainable, "_WORTH_PROCESSES", 2)
    rows = table["index"][:4].tolist()
    single, double = (
        Oracles(folder, workers=workers).mixtures(datamodule.store, rows, None)
        for folder, workers in ((run, 1), (tmp_path, 2))
    )
    for row in rows:
        assert np.array_equal(single[row].by_fixation, double[row].by_fixation)
        assert np.array_equal(single[row].spots, double[row].spots)


def test_a_folder_that_cannot_be_written_is_no_error(datamodule, scored, tmp_path, caplog):
    (tmp_path / "oracle").write_text("a file where the folder should be")
    found = Oracles(tmp_path, workers=1).mixtures(datamodule.store, scored[1]["index"][:2].tolist(), None)
    assert len(found) == 2
    assert "not kept" in caplog.text


def ids_of(difficulty, cases=3):
    return [identifiers(plan)["dicom_id"] for plan in plan_cohort(cases, 1, 96, difficulty)]


@pytest.mark.parametrize(
    ("about", "ids", "reader", "words"),
    [
        ({"synthetic": True, "source": "manifest"}, ids_of("hard"), None, "exact"),
        ({"synthetic": True, "source": "mine"}, ids_of("hard"), None, "exact"),
        ({"synthetic": True, "source": "egd-cxr"}, ids_of("hard"), "a", "approximate"),
        ({"synthetic": True, "source": "reflacx"}, ids_of("hard"), None, "approximate"),
        ({"synthetic": False, "source": "manifest"}, ids_of("hard"), None, None),
        ({"synthetic": True, "source": "manifest"}, ids_of("easy"), None, None),
        ({"synthetic": True, "source": "manifest"}, [*ids_of("hard"), *ids_of("easy")], None, None),
        ({"synthetic": True, "source": "manifest"}, ["a film"], None, None),
    ],
)
def test_the_law_is_known_of_hard_cohorts_alone(about, ids, reader, words):
    law = law_of(SimpleNamespace(about=about, cases=pd.DataFrame({"image_id": ids})))
    assert (law is None) == (words is None)
    if law is not None:
        assert law.reader == reader
        assert words in law.words


def test_easy_cohorts_windows_and_other_gaze_have_no_share(store, hard_store, tmp_path, caplog):
    easy = data_of(store)
    easy.setup()
    oracles = Oracles(tmp_path, workers=1)
    assert oracles.scores(easy) is None
    part = data_of(hard_store, window=TimeWindow(first=3.0))
    part.setup()
    with caplog.at_level("INFO", "gazelit"):
        assert oracles.scores(part) is None
    assert "whole readings" in caplog.text
    table = pd.DataFrame({"index": [0], "patient": [0], "ig": [1.0]})
    assert oracles.joined(table, easy) is table
    assert oracle_record(easy.store, table) is None
    assert oracle_yardsticks(table) == {}
    assert not (tmp_path / "oracle").exists()


def with_gains(seeds=3, cases=60):
    """Two arms: one with known gains by seed, one without a map; the oracle's gains differ by case."""
    rng = np.random.default_rng(0)
    greatest = rng.uniform(1.0, 2.0, cases)
    arms = two_arms(seeds)
    for each in arms:
        each.predictions["oracle_ig"], each.predictions["expected_target_ig"] = greatest, 0.6 * greatest
        each.predictions["oracle_cc"] = 0.9
        if each.arm == "one":
            each.predictions["ig"] = greatest * (0.5 + 0.1 * each.seed) + rng.normal(0, 0.2, cases)
        else:
            del each.predictions["cc"]
    return arms


def test_the_share_is_the_ratio_of_means_with_intervals_over_patients_and_seeds():
    results = with_gains()
    first, second = compare(results, NAMES)
    assert SHARE not in second.estimates
    assert second.share is None
    tables = [each.predictions for each in results if each.arm == "one"]
    expected = [explainable_share(table["ig"], table["oracle_ig"]) for table in tables]
    assert first.estimates[SHARE].value == pytest.approx(np.mean(expected))
    assert first.spread[SHARE] == pytest.approx(np.std(expected, ddof=1))
    weights = np.asarray(bootstrap_weights(tables[0]["patient"].to_numpy()))
    draws = np.array([(weights @ table["ig"]) / (weights @ table["oracle_ig"]) for table in tables])
    bounds = np.quantile(draws.mean(0), [0.025, 0.975])
    assert (first.estimates[SHARE].low, first.estimates[SHARE].high) == pytest.approx(tuple(bounds))
    none = np.zeros(3), np.zeros_like(draws)
    crossed = crossed_difference((np.array(expected), none[0]), (draws, none[1]), 30, True)
    assert (first.share.low, first.share.high) == pytest.approx((crossed.low, crossed.high))
    # Seeds vary by 0.1, so the interval is wider than that over patients.
    assert first.share.high - first.share.low > 2 * (bounds[1] - bounds[0])


def test_centre_bias_and_oracle_are_zero_and_one():
    results = with_gains(2)[:2]
    for value, column in ((0.0, None), (1.0, "oracle_ig")):
        for each in results:
            each.predictions["ig"] = each.predictions[column] if column else 0.0
        (arm,) = compare(results, NAMES)
        assert (arm.estimates[SHARE].value, arm.estimates[SHARE].low, arm.estimates[SHARE].high) == (value,) * 3
        assert (arm.share.value, arm.share.low) == (value, value)


def test_a_share_over_cases_that_have_gaze_and_none_where_nothing_can_be_explained():
    results = with_gains(2)[:2]
    for each in results:
        each.predictions.loc[:9, "ig"] = np.nan
    (arm,) = compare(results, NAMES)
    tables = [each.predictions for each in results]
    expected = np.mean([explainable_share(table["ig"], table["oracle_ig"]) for table in tables])
    assert arm.estimates[SHARE].value == pytest.approx(expected)
    for each in results:
        each.predictions["oracle_ig"] = -1.0
    assert np.isnan(compare(results, NAMES)[0].estimates[SHARE].value)


def test_a_value_over_patients_and_seeds_is_students_where_patients_do_not_matter():
    from scipy import stats

    values = np.array([0.2, 0.5, 0.8, 0.4])
    found = crossed_value(values, np.repeat(values[:, None], 50, axis=1), 40)
    low, high = stats.t.interval(0.95, 3, values.mean(), values.std(ddof=1) / 2)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_the_report_has_every_arm_with_a_map_between_centre_bias_and_oracle(datamodule, tmp_path):
    results = with_gains()
    oracle = oracle_record(datamodule.store, results[0].predictions)
    text = written(tmp_path, results, oracle=oracle)
    section = text[text.index("## Share of the explainable") : text.index("## Training")]
    table = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")]
    assert [cells[0] for cells in table] == [
        "| map", "| centre bias", "| one", "| expected target (blurred and weighted as the targets)", "| oracle"
    ]  # fmt: skip
    assert [cells[2][:5] for cells in table[1:]] == ["0", f"{oracle_share(results):.3f}", "0.600", "1"]
    assert "60 test films. The oracle knows the exact law" in section
    arms = read_json(tmp_path / "metrics.json")["arms"]
    assert arms["one"]["estimates"][SHARE]["value"] == pytest.approx(oracle_share(results))
    assert arms["one"][f"{SHARE}_over_patients_and_seeds"]["seeds"] == 3
    assert SHARE not in arms["two"]["estimates"]
    kept = pd.read_csv(tmp_path / "report.csv")
    assert kept.loc[kept["metric"] == SHARE, "arm"].tolist() == ["one"]
    assert "explainable" not in written(tmp_path / "easy", two_arms(2))


def oracle_share(results):
    tables = [each.predictions for each in results if each.arm == "one"]
    return np.mean([table["ig"].mean() / table["oracle_ig"].mean() for table in tables])


def test_the_first_arm_may_have_no_map(tmp_path):
    arms = with_gains()
    turned = [each for each in arms if each.arm == "two"] + [each for each in arms if each.arm == "one"]
    record_ = record()
    text = written(tmp_path, turned, metrics=record_.metrics | {"baseline/oracle/cc": 0.9})
    assert "| metric | `one` | 95 % interval |" in text
    assert "| oracle |" in text


def test_a_report_joins_the_oracle_to_the_models_of_a_run(hard_store, datamodule, scored, tmp_path):
    """The report needs only the run folder, which has the store's path and the stage's configuration."""
    run, table = scored
    split = {"test_fraction": 0.4, "allow_empty": True}
    options = {"store": str(hard_store), "loader": {"num_workers": 0}, "split": split}
    data = {"class_path": "gazelit.data.datamodule.GazeDataModule", "init_args": options}
    (run / "s").mkdir(exist_ok=True)
    (run / "s" / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    member = dict.fromkeys(("arm", "seed", "fold", "stages", "checkpoint", "test", "seconds"))
    write_json(run / "run.json", {"store": str(hard_store), "commands": [], "trained": [member]})
    rows = table["index"].to_numpy()
    single = result("one", 0, indexes=rows[::-1], split_sha256="s")
    (found,) = collecting.with_oracle([replace(single, run=run)], Oracles(run, workers=1))
    assert found.predictions["index"].tolist() == rows[::-1].tolist()
    assert found.predictions["oracle_ig"].tolist() == table["oracle_ig"].tolist()[::-1]
    record_ = oracle_record(datamodule.store, found.predictions)
    assert record_.gain.value == pytest.approx(table["oracle_ig"].mean())
    # With the blur of the targets, the gain is below the oracle's and above that of the centre bias.
    assert 0.2 < record_.target_share.value < 0.9
