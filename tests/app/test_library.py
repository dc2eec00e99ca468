"""The store's cases on the page: the list, the drawings and the comparison with predictions."""

import base64
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from starlette.testclient import TestClient

from gazelit.data.gaze.events import Detection, detect_fixations
from gazelit.data.sources import REFLACX
from gazelit.data.store.prepare import prepare
from gazelit.data.store.store import Store
from gazelit.deploy.app import reader_gaze
from gazelit.deploy.app.known_split import known_split
from gazelit.deploy.app.library import PAGE, Library, Query
from gazelit.deploy.app.reader_gaze import ReaderGaze
from gazelit.deploy.app.reading_room import ReadingRoom
from gazelit.models.scanpath_decoding import Readings, sample
from tests.app.conftest import KEY, TOKEN


@pytest.fixture(scope="module")
def opened(store):
    return Store.open(store)


@pytest.fixture(scope="module")
def surveyed(make_page):
    """The page after the model has read all cases."""
    client = TestClient(make_page(), cookies={"gazelit-8750": KEY}, headers={"x-gazelit-token": TOKEN})
    assert client.get("/api/survey").json() == {"read": 0, "cases": 24, "under_way": False, "error": ""}
    client.post("/api/survey")
    deadline = time.monotonic() + 60
    while client.get("/api/survey").json()["read"] < 24:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return client


def rows_of(client, query):
    found = client.get(f"/api/cases?{query}").json()
    assert found["total"] == len(found["cases"])
    return [case["row"] for case in found["cases"]]


def test_filters_are_those_of_the_tables(client, opened, datamodule):
    cases = opened.cases
    assert rows_of(client, "") == list(range(24))
    assert rows_of(client, "label=CHF") == np.flatnonzero(cases["CHF"] == 1).tolist()
    for split in ("train", "val", "test"):
        assert rows_of(client, f"split={split}") == datamodule.rows(split).tolist()
    both = set(datamodule.rows("train").tolist()) & set(np.flatnonzero(cases["Normal"] == 1).tolist())
    assert set(rows_of(client, "label=Normal&split=train")) == both
    seconds = opened.gaze("fixation").groupby("row")["duration"].sum()
    assert rows_of(client, "sort=seconds") == seconds.sort_values(ascending=False, kind="stable").index.tolist()


def test_unread_cases_are_not_found_by_filters_on_predictions(make_page):
    client = TestClient(make_page(), cookies={"gazelit-8750": KEY})
    assert rows_of(client, "low=0.01&class=CHF") == []
    assert rows_of(client, "sort=cc") == []
    assert client.get("/api/cases/3").json()["scores"]
    assert rows_of(client, "sort=cc") == [3]


def test_scores_are_those_of_the_predictions(surveyed, model, opened, datamodule):
    """Probabilities of the stored films; distance by hand; CC and NSS by NumPy on the training's own target."""
    listed = {case["row"]: case for case in surveyed.get("/api/cases?class=CHF").json()["cases"]}
    dataset = datamodule.dataset("test")
    for position, row in enumerate(dataset.rows.tolist()):
        batch = datamodule.render({key: value[None] for key, value in dataset[0, position].items()})
        logits = model.network(batch["image"])
        probabilities = logits["logits"].softmax(1)[0].detach().numpy()
        label = opened.cases.loc[row, ["Normal", "CHF", "pneumonia"]].to_numpy(float)
        assert listed[row]["probability"] == pytest.approx(probabilities[1], abs=1e-4)
        assert listed[row]["distance"] == pytest.approx(np.abs(probabilities - label).max(), abs=1e-4)
        inside = batch["valid_mask"][0, 0].numpy()
        predicted = logits["saliency_logits"].flatten().softmax(0).reshape(64, 64).detach().numpy()[inside]
        target = batch["heatmap"][0, 0].numpy()[inside]
        assert listed[row]["cc"] == pytest.approx(np.corrcoef(predicted, target)[0, 1], abs=2e-3)
        scores = surveyed.get(f"/api/cases/{row}").json()["scores"]
        points = dataset[0, position]["points"].numpy()
        column, line = np.rint(points[:, 0]).astype(int), np.rint(points[:, 1]).astype(int)
        whole = np.zeros((64, 64))
        whole[inside.reshape(64, 64)] = predicted
        kept = (column >= 0) & (column < 64) & (line >= 0) & (line < 64)
        kept[kept] = inside.reshape(64, 64)[line[kept], column[kept]]
        nss = (whole[line[kept], column[kept]].mean() - predicted.mean()) / predicted.std()
        assert scores["nss"] == pytest.approx(nss, abs=2e-2)


def test_filters_and_order_by_predictions(surveyed):
    every = surveyed.get("/api/cases?class=Normal").json()["cases"]
    table = pd.DataFrame(every).set_index("row")
    for column, ascending in (("cc", True), ("distance", False), ("probability", False)):
        ordered = table[column].sort_values(ascending=ascending, kind="stable").index.tolist()
        assert rows_of(surveyed, f"sort={column}&class=Normal") == ordered
    low, high = table["probability"].quantile([0.25, 0.75])
    assert set(rows_of(surveyed, f"class=Normal&low={low}&high={high}")) == set(
        table.index[table["probability"].between(low, high)]
    )
    assert set(rows_of(surveyed, "distance=0.7")) == set(table.index[table["distance"] >= 0.7])
    middle = table["cc"].median()
    assert set(rows_of(surveyed, f"cc={middle}")) == set(table.index[table["cc"] <= middle])


def test_a_stopped_survey_goes_on(opened, model):
    library = Library(opened, ReadingRoom(model))
    library.start_survey()
    library.stop_survey()
    read = library.survey()["read"]
    assert not library.survey()["under_way"]
    library.start_survey()
    library._survey.join()
    assert read <= library.survey()["read"] == 24


def test_the_scanpath_is_the_reader_s(client, opened):
    fixations = opened.gaze("fixation")
    for row in (0, 7):
        case = client.get(f"/api/cases/{row}").json()
        own = fixations[fixations["row"] == row]
        shown = case["readings"][0]
        assert (case["height"], case["width"]) == tuple(opened.cases.loc[row, ["height", "width"]])
        for name in ("t", "duration", "x", "y"):
            assert shown["events"][name] == pytest.approx(own[name].tolist(), abs=6e-4)
        assert shown["seconds"] >= (own["t"] + own["duration"]).max() - 1e-3
        said = opened.table("phrases").query("row == @row").sort_values("begin")
        assert [phrase["text"] for phrase in shown["phrases"]] == said["text"].tolist()
        assert not shown["is_peer"]
        assert shown["reader"] == "Reader 1"


def test_the_reader_s_map_is_a_blurred_scanpath(client, opened):
    """The oracle of the map is SciPy's Gaussian over the fixations on the film's pixels."""
    case = client.get("/api/cases/5").json()
    height, width = case["height"], case["width"]
    events = case["readings"][0]["events"]
    counts = np.zeros((height, width))
    for x, y, duration in zip(events["x"], events["y"], events["duration"], strict=True):
        counts[round(y), round(x)] += duration
    gaze = opened.gaze("fixation").query("row == 5")
    expected = gaussian_filter(counts, gaze[["ppd_y", "ppd_x"]].iloc[0].to_numpy(), mode="constant")
    shown = case["film"]
    heat = np.frombuffer(base64.b64decode(case["maps"]["readers"]["heat"]), np.uint8)
    heat = heat.reshape(shown["height"], shown["width"])
    row, column = np.unravel_index(expected.argmax(), expected.shape)
    peak = np.unravel_index(heat.argmax(), heat.shape)
    assert abs(peak[0] / shown["height"] - row / height) < 0.04
    assert abs(peak[1] / shown["width"] - column / width) < 0.04


def test_maps_of_one_case_share_their_scale(client):
    case = client.get("/api/cases/5").json()
    alone = {name: case["maps"][name] for name in ("readers", "predicted")}
    assert all(alone.values())
    highest = [np.frombuffer(base64.b64decode(shown["heat"]), np.uint8).max() for shown in alone.values()]
    assert max(highest) == 255


def test_several_readers_each_have_their_map_and_path(reflacx, model, tmp_path):
    prepare(REFLACX(reflacx / "reflacx", reflacx / "mimic-cxr"), tmp_path / "store", size=(64, 64), workers=1)
    opened = Store.open(tmp_path / "store")
    gaze = ReaderGaze(opened, {})
    per_row = opened.gaze("fixation").groupby("row")["reading_id"].nunique()
    row = int(per_row.idxmax())
    scanpaths = gaze.scanpaths(row)
    assert len(scanpaths) == per_row.max() > 1
    library = Library(opened, ReadingRoom(model))
    maps = [library.case(row, number)["maps"]["readers"]["heat"] for number in range(len(scanpaths))]
    assert len(set(maps)) == len(maps)
    # Pooling adds the weights of all points, so it is the mean of the readers' maps weighted by their seconds.
    seconds = [scanpath.events["duration"].sum() for scanpath in scanpaths]
    each = [gaze.density(row, number) for number in range(len(scanpaths))]
    assert np.abs(np.average(each, axis=0, weights=seconds) - gaze.density(row)).max() < 0.02 * gaze.density(row).max()
    assert library.split_note.startswith("The model was trained on another store")
    assert library.find(Query())["total"] == len(opened.cases)


def test_a_scanpath_model_gives_the_expected_scanpaths_of_a_case_by_reader(opened, scanpath_model, datamodule):
    """The paths are the network's own for the stored film, in the film's pixels; ids of readers stay private."""
    library = Library(opened, ReadingRoom(scanpath_model))
    prediction = library.case(3, None)["prediction"]
    paths = prediction["scanpaths"]
    assert [path["reader"] for path in paths] == [None, "Reader of the training 1", "Reader 1"]
    assert library.case(3, 0)["prediction"] == prediction
    box = opened.letterboxes[3]
    image = torch.from_numpy(opened.images()[3].astype(np.float32) / opened.largest)[None, None]
    for number, path in enumerate(paths):
        features = scanpath_model.network.film_features(image)
        drawn = sample(scanpath_model.network, features, Readings.of(features, number), 16, 0)
        places = [np.clip(box.to_original(each[:, :2].double().numpy()), 0, (box.width - 1, box.height - 1))
                  for each in drawn]  # fmt: skip
        found = np.column_stack([path["x"], path["y"]])
        assert any(len(found) == len(each) and np.abs(found - each).max() < 0.01 for each in places)
    assert (prediction["height"], prediction["width"]) == (box.height, box.width)
    assert paths[1]["x"] != paths[2]["x"]
    # The film that was opened last is not read again; the next film is.
    assert library.case(4, None)["prediction"]["scanpaths"] != paths


def test_raw_samples_become_fixations_where_the_angle_is_known(opened):
    without = replace(opened, about=opened.about | {"counts": opened.about["counts"] | {"fixations": 0}})
    found = ReaderGaze(without, {}).scanpaths(4)[0]
    assert found.kind == "fixation"
    expected = detect_fixations(opened.gaze("sample").query("row == 4"), Detection())
    assert found.events[["t", "x", "y"]].to_numpy() == pytest.approx(expected[["t", "x", "y"]].to_numpy())


def test_raw_samples_are_drawn_as_a_line_where_the_angle_is_unknown(opened, monkeypatch):
    class WithoutAngles(Store):
        def gaze(self, kind, valid_only=True, columns=None):
            return super().gaze(kind, valid_only, columns).assign(ppd_x=np.nan, ppd_y=np.nan)

    about = {"counts": opened.about["counts"] | {"fixations": 0, "peers": 0}, "pixels_per_degree": None}
    monkeypatch.setattr(reader_gaze, "MOST_SAMPLES", 100)
    gaze = ReaderGaze(WithoutAngles(opened.path, opened.about | about), {})
    found = gaze.scanpaths(4)[0]
    assert found.kind == "sample"
    assert 50 < len(found.events) <= 100
    assert gaze.density(4).sum() == pytest.approx(1, abs=0.05)


def test_the_split_is_proved_or_unknown(opened, datamodule):
    split, note = known_split(opened, datamodule.provenance)
    assert note == ""
    for name in ("train", "val", "test"):
        assert np.flatnonzero(split == name).tolist() == datamodule.rows(name).tolist()
    split, note = known_split(opened, datamodule.provenance | {"split_sha256": "0" * 64})
    assert not (split != "").any()
    assert "its checkpoint alone does not show which" in note
    assert known_split(opened, datamodule.provenance | {"split_method": "file"})[1] == note
    _, note = known_split(opened, datamodule.provenance | {"fingerprint": "other"})
    assert note.startswith("The model was trained on another store (egd-cxr)")


def test_pages_of_the_list(opened, monkeypatch):
    from gazelit.deploy.app import library as module

    assert PAGE == 25
    monkeypatch.setattr(module, "PAGE", 10)
    library = Library(opened, None)
    pages = [library.find(Query(page=number)) for number in range(4)]
    assert [len(page["cases"]) for page in pages] == [10, 10, 4, 0]
    assert [case["row"] for page in pages for case in page["cases"]] == list(range(24))
