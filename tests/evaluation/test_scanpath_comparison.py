"""Yardsticks of scanpaths, on readers whose law is known, and the table of the published rows."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from gazelit.cli.main import main
from gazelit.errors import InputError
from gazelit.evaluation.scanpaths import densities, yardsticks
from gazelit.evaluation.scanpaths.trials import Trials, from_centre
from gazelit.metrics.scanpath import Scores, Settings
from gazelit.reporting.scanpaths import _row, compare
from tests.gazesearch_files import FINDINGS, records, write

SIZE = (40, 30)


def trials(count=60, seed=0, far=False):
    """Readers who look around one of two points, which depends on the finding; with ``far``, from side to side."""
    generator = np.random.default_rng(seed)
    rows, paths = [], []
    for number in range(count):
        finding = FINDINGS[number % 2]
        side = (-1) ** np.arange(5) if far else np.full(5, 1 if number % 2 else -1)
        x = np.clip(20 + 12 * side + generator.normal(0, 3, 5), 0, 39)
        y = np.clip(generator.normal(15, 3, 5), 0, 29)
        rows.append((str(number // 2), finding))
        paths.append(np.column_stack([x, y, np.full(5, 0.2)]))
    return Trials(pd.DataFrame(rows, columns=["film", "finding"]), from_centre(paths, SIZE), SIZE)


@pytest.fixture(scope="module")
def learnt():
    return densities.fit_all(trials())


def test_every_density_is_one_after_any_history(learnt):
    history = np.array([[20, 15, 0.0], [3.5, 28.2, 0.2]])
    for model in learnt.values():
        for past in (history, history[:1], history[:0]):
            log = model.log_density(FINDINGS[0], past)
            assert np.exp(log).sum() == pytest.approx(1, abs=1e-9)
            assert model.log_likelihood(FINDINGS[0], past, np.array([7, 21])) == pytest.approx(log[21, 7], abs=1e-9)


def test_the_gain_of_a_density_is_the_information_it_uses(learnt):
    test = trials(40, seed=1)
    gains = {
        name: densities.score(model, test, learnt["centre bias"].log)[0].ig.values.mean()
        for name, model in learnt.items()
    }
    assert gains["centre bias"] == 0
    assert gains["uniform"] < -0.5
    # The finding or the last fixation tells which of two points, which is worth at most one bit.
    assert 0.8 < gains["density of the finding"] < 1.1
    assert 0.4 < gains["centre bias, near the last fixation"] < 1.0
    assert abs(gains["density of the step"]) < 0.1


def test_readers_who_never_stay_are_inhibited():
    model = densities.fit_all(trials(far=True))["centre bias, near the last fixation"]
    assert model.depth > 0
    assert densities.fit_all(trials())["centre bias, near the last fixation"].depth < 0


def test_drawn_fixations_follow_the_density(learnt):
    train = trials()
    generator = np.random.default_rng(0)
    for name in ("centre bias", "centre bias, near the last fixation"):
        model = learnt[name]
        paths = yardsticks.drawn(train, model)(pd.DataFrame({"finding": [FINDINGS[0]] * 4000}), generator)
        first = np.array([path[0] for path in paths])
        counts = np.histogram2d(first[:, 1], first[:, 0], bins=(6, 8), range=((0, 30), (0, 40)))[0]
        expected = np.exp(model.log_density(FINDINGS[0], train.paths[0][:1])).reshape(6, 5, 8, 5).sum(axis=(1, 3))
        assert np.abs(counts / 4000 - expected).max() < 4 * math.sqrt(expected.max() / 4000)
    apart = yardsticks.drawn(train, learnt["centre bias"], inhibition=5)(pd.DataFrame({"finding": FINDINGS}), generator)
    for path in apart:
        distances = np.linalg.norm(path[:, None, :2] - path[None, :, :2], axis=2)
        assert distances[~np.eye(len(path), dtype=bool)].min() >= 5


def test_paths_that_see_no_film():
    train, generator = trials(), np.random.default_rng(0)
    table = pd.DataFrame({"film": ["0", "unknown", "3"], "finding": [FINDINGS[1], FINDINGS[0], "unknown"]})
    own = [train.predicted()[row] for row in train.rows_of(finding=FINDINGS[1])]
    mean = yardsticks.mean_path(train)(table, generator)
    assert mean[0] == pytest.approx(np.mean(own, axis=0))
    assert len(mean) == 3
    typical = yardsticks.medoid(train)(table, generator)
    assert any(np.array_equal(typical[0], path) for path in own)
    for same in (False, True):
        drawn = yardsticks.random_path(train, same)(table, generator)
        assert all(any(np.array_equal(path, known) for known in train.predicted()) for path in drawn)
        assert not same or any(np.array_equal(drawn[0], path) for path in own)
    leaked = yardsticks.same_film(train, yardsticks.medoid(train))(table, generator)
    assert np.array_equal(leaked[0], train.predicted()[0])
    assert np.array_equal(leaked[1], typical[1])


def test_other_readers_of_the_same_search_are_paired():
    test = trials(4)
    table = test.table.assign(film=["a", "b", "a", "a"], finding=[FINDINGS[0]] * 4)
    rows, paths = yardsticks.other_reader(Trials(table, test.paths, test.size))
    assert sorted(rows) == [0, 0, 2, 2, 3, 3]
    assert np.array_equal(paths[0], test.predicted()[2])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rows") / "gazesearch.json", records([f"film{n}" for n in range(30)]))


def test_both_splits_stand_side_by_side_when_the_leak_is_insisted_on(file, tmp_path, capsys):
    with pytest.raises(InputError, match=r"30 of 30 test films .* take --split film, or give --insist"):
        compare(str(file), split="official", draws=1)
    truth = [row for row in json.loads(file.read_text()) if row["split"] == "test"]
    perfect = write(tmp_path / "oracle.json", [{k: v for k, v in row.items() if k != "split"} for row in truth])
    # A split without the leak needs a film that is only in training.
    rows = json.loads(file.read_text()) + [
        dict(row, name=f"more-{row['name']}", split="train") for row in records([f"film{n}" for n in range(8)], seed=1)
    ]
    whole = write(tmp_path / "whole.json", rows)
    arguments = [str(whole), "--split", "official", "--insist", "--draws", "1", "--out", str(tmp_path / "table.csv")]
    assert main(["compare-scanpaths", *arguments, "--predictions", str(perfect)]) == 0
    printed = capsys.readouterr().out
    assert "Split without shared films (train 24, val 0, test 30; 60 scanpaths left out)" in printed
    assert "Official split (train 54, val 30, test 30): the official split has 30 of 38 films" in printed
    assert "ScanMatch 16×12 50 ms: ScanMatch (16 × 12, 50 ms, gap 0, threshold 3.5, over the longer" in printed
    assert "there is no human ceiling" in printed
    table = pd.read_csv(tmp_path / "table.csv")
    assert set(table["split"]) == {"film", "official"}
    leak = table[table["predictor"].str.contains("the leak")]
    assert set(leak["split"]) == {"official"}
    oracle = table[table["predictor"] == "oracle"].set_index("metric")["value"]
    assert oracle.filter(like="ScanMatch").eq(1).all()
    assert oracle.filter(like="SED").eq(0).all()
    assert oracle.filter(like="MultiMatch").eq(1).all()
    assert (table["low"] <= table["value"] + 1e-9).all()
    assert table["settings"].notna().all()


def test_a_scanpath_counts_by_its_defined_draws():
    drawn = [{"bits": Scores(np.array(values), Settings("bits"))} for values in ([1, np.nan, 4], [np.nan, np.nan, 8])]
    # (1 + 6) / 2: a scanpath has its defined draws, and none if none is defined.
    assert _row("drawn", drawn, np.array(["a", "b", "c"])).estimates["bits"].value == 3.5
    gained = [{"bits": Scores(np.array([-np.inf, 1.0]), Settings("bits"))}]
    assert _row("drawn", gained, np.array(["a", "b"])).estimates["bits"].value == -np.inf


def test_patients_are_kept_apart_where_they_are_known(file, tmp_path, capsys):
    rows = json.loads(file.read_text())
    films = sorted({row["name"] for row in rows})
    more = [dict(row, name=f"more-{row['name']}", split="train") for row in rows[:24]]
    whole = write(tmp_path / "whole.json", rows + more[: len(more) // 2] + more[len(more) // 2 :])
    names = [*films, *sorted({row["name"] for row in more})]
    # The first further film is of a patient whose other film is a test film.
    patients = pd.DataFrame(
        {"dicom_id": [name.removesuffix(".jpg") for name in names], "subject_id": [str(n) for n in range(len(names))]}
    )
    patients.loc[len(films), "subject_id"] = "0"
    patients.to_csv(tmp_path / "metadata.csv", index=False)
    compare(str(whole), patients=str(tmp_path / "metadata.csv"), draws=1)
    assert "Split without shared films and patients (train 21, val 0, test 30" in capsys.readouterr().out
    patients.iloc[:5].to_csv(tmp_path / "metadata.csv", index=False)
    with pytest.raises(InputError, match="lists no patient for 33 films"):
        compare(str(whole), patients=str(tmp_path / "metadata.csv"), draws=1)


def test_predictions_must_be_whole(file, tmp_path):
    missing = write(tmp_path / "model.json", json.loads(file.read_text())[:9])
    with pytest.raises(InputError, match=r"model.json: has no prediction for 27 of 30 test scanpaths"):
        compare(str(file), predictions=[str(missing)], draws=1)
    with pytest.raises(InputError, match="no scanpath of train is left"):
        compare(str(file), draws=1)
    with pytest.raises(InputError, match="draws: must be at least 1"):
        compare(str(file), draws=0)


def test_the_order_of_trivial_baselines_on_the_published_rows(real_data, tmp_path, capsys):
    # The table of the project's notes, measured by another implementation on all 488 test rows; here on 121 of them.
    compare(str(real_data / "gazesearch_part.json"), "official", insist=True, draws=5, out=tmp_path / "table.csv")
    table = (
        pd.read_csv(tmp_path / "table.csv")
        .query("split == 'official'")
        .pivot(index="predictor", columns="metric", values="value")
    )
    known = pd.DataFrame(
        {
            "uniform": [0.427, 0.276, 5.72, 0.738],
            "random training path of the finding": [0.502, 0.342, 5.45, 0.796],
            "mean training path of the finding": [0.549, 0.300, 5.36, 0.794],
            "medoid training path of the finding": [0.564, 0.389, 5.09, 0.802],
            "training path of the same film (the leak)": [0.569, 0.424, 4.85, 0.822],
        },
        index=["ScanMatch 8×6", "ScanMatch 16×12", "SED 5×5", "MultiMatch"],
    ).T
    ours = table.loc[known.index, known.columns]
    assert np.abs(ours / known - 1).to_numpy().max() < 0.11
    sampled = known.index[[0, 1, 3, 4]]
    for metric in known.columns:
        assert ours.loc[sampled, metric].rank().tolist() == known.loc[sampled, metric].rank().tolist()
