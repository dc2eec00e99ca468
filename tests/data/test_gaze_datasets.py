"""GazeVaLM, EyeAssist and GazeIntent, in the layouts that published code reads: where gaze lands, and refusals."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from gazelit.checkpoints.split_guard import ORIGINS
from gazelit.data.sources import EyeAssist, GazeIntent, GazeVaLM
from gazelit.data.store.prepare import prepare
from gazelit.errors import InputError
from tests.gazesearch_files import record


def film(path, height, width, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.random.default_rng(seed).integers(1, 255, (height, width), np.uint8))


def gaze_of(recording):
    return pd.concat(list(recording.read_gaze()), ignore_index=True)


# GazeVaLM


@pytest.fixture
def valm(tmp_path):
    """Two films of a study under both tasks, with three readers, one of whom is not used; laid out as unpacked."""
    root = tmp_path / "GazeVaLM"
    for task in ("Task1", "Task2"):
        for kind in ("real", "fake"):
            folder = root / "Output" / task / f"{kind}_013"
            folder.mkdir(parents=True)
            rows = [(reader, 540 + 27 * number, 270, 200 + number) for reader in ("R1", 2, "x") for number in range(3)]
            pd.DataFrame(rows, columns=["participant_id", "x", "y", "duration_ms"]).to_csv(
                folder / "scanpaths.csv", index=False
            )
        pd.DataFrame([["a.png", 1, 0]], columns=["File Name", " R1 ", "2"]).to_csv(
            root / "Output" / task / "expert_results.csv", index=False
        )
        (root / "__MACOSX" / "Output" / task / "real_013").mkdir(parents=True)
    for kind in ("real", "fake"):
        film(root / "images" / f"{kind}_013.png", 80, 80)
    return root


def edit(path, change):
    table = pd.read_csv(path)
    change(table)
    table.to_csv(path, index=False)


def test_readers_of_gazevalm_are_separate_in_each_task(valm, tmp_path):
    recording = GazeVaLM(str(valm)).read()
    assert recording.images.set_index("image_id")["generated"].to_dict() == {"fake_013": 1, "real_013": 0}
    assert set(recording.images["patient_id"]) == {"013"}
    assert len(recording.readings) == 2 * 2 * 2
    assert set(recording.readings["reader_id"]) == {"R1", "2"}
    assert recording.notes["rows_of_readers_who_do_not_count"] == 12
    reading = gaze_of(recording).query("reading_id == 'real_013:Task2:R1'")
    # The middle of the canvas is the border between two pixels in the middle of the film.
    assert reading["x"].tolist() == pytest.approx([39.5, 41.5, 43.5])
    assert reading["y"].tolist() == pytest.approx([19.5] * 3)
    assert reading["t"].tolist() == pytest.approx([0, 0.2, 0.401])
    chosen = GazeVaLM(str(valm), tasks=["Task2"], films="real")
    store = prepare(chosen, tmp_path / "store", size=(64, 64), workers=1)
    assert (len(store.cases), len(store.table("readings"))) == (1, 2)
    assert store.cases["image_id"].tolist() == ["real_013"]


def test_rows_of_gazevalm_without_a_time_are_counted_and_those_beside_the_film_are_not_valid(valm):
    path = valm / "Output" / "Task1" / "real_013" / "scanpaths.csv"

    def damage(table):
        table["duration_ms"] = table["duration_ms"].astype(object)
        table.loc[0, "duration_ms"] = ""
        table.loc[1, "x"] = 1100

    edit(path, damage)
    recording = GazeVaLM(str(valm), tasks=["Task1"], films="real").read()
    assert recording.notes["rows_without_time"] == 1
    assert gaze_of(recording)["valid"].tolist().count(False) == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: film(root / "images" / "real_013.png", 80, 60),
            r"real_013\.png: is 60 × 80 pixels; how",
        ),
        (
            lambda root: edit(
                root / "Output" / "Task1" / "real_013" / "scanpaths.csv",
                lambda table: table.pop("duration_ms"),
            ),
            r"scanpaths\.csv: column duration_ms is missing; is this GazeVaLM",
        ),
        (
            lambda root: film(root / "maps" / "fake_013.png", 80, 80),
            "2 files are called fake_013, .* give the folder of the films as images",
        ),
        (lambda root: (root / "Output" / "Task2").rename(root / "Task3"), "0 folders Task2 hold"),
        (
            lambda root: (root / "Output" / "Task2" / "expert_results.csv").unlink(),
            "expert_results.csv: no such",
        ),
        (
            lambda root: [path.unlink() for path in (root / "images").iterdir()],
            r"holds none of the 2 films; the first: .*no file fake_013",
        ),
    ],
)
def test_malformed_gazevalm_is_refused(damage, message, valm):
    damage(valm)
    with pytest.raises(InputError, match=message):
        GazeVaLM(str(valm)).read()


def test_tasks_of_gazevalm_are_two(tmp_path):
    with pytest.raises(InputError, match="tasks: must be one or both of Task1, Task2"):
        GazeVaLM(str(tmp_path), tasks=["Task3"])


# EyeAssist


def reader_file(root, state, reader, shift=0.0, cases=("1.jpg", "2.jpg"), milliseconds=250):
    rows = [
        (case, 1000 + shift + 100 * number, 1400, milliseconds + number, number + 1, reader)
        for case in cases
        for number in range(3)
    ]
    names = ["Source_File", "CURRENT_FIX_X", "CURRENT_FIX_Y", "CURRENT_FIX_DURATION", "CURRENT_FIX_INDEX"]
    path = root / "neo" / state / f"{reader}_fixations.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Rows of a file need not be in order.
    table = pd.DataFrame(rows[::-1], columns=[*names, "RECORDING_SESSION_LABEL"])
    table.to_csv(path, index=False)


@pytest.fixture
def eyeassist(tmp_path):
    root = tmp_path / "eyeassist"
    for number in (1, 2):
        film(root / "neo" / "images" / f"{number}.jpg", 140, 100, number)
    reader_file(root, "Expert", "expert1")
    reader_file(root, "General", "generalist1", shift=7)
    pd.DataFrame(
        {
            "case_id": ["1.jpg", "2.jpg", "3.jpg"],
            "patient_id": ["p1", "p2", "p2"],
            "image_path": [f"images/{number}.jpg" for number in (1, 2, 3)],
            "width": 2000,
            "height": 2800,
            "label": [1, 0, 1],
            "include": [1, 1, 0],
        }
    ).to_csv(root / "neo" / "cases.csv", index=False)
    return root


def assisted(root, **options):
    return EyeAssist(str(root), str(root / "neo" / "cases.csv"), **options)


def test_readers_of_eyeassist_are_separate_in_the_films_pixels(eyeassist, tmp_path):
    recording = assisted(eyeassist).read()
    assert recording.images["abnormal"].tolist() == [1, 0]
    assert sorted(recording.readings["reading_id"])[:2] == ["1.jpg:Expert:expert1", "1.jpg:General:generalist1"]
    reading = gaze_of(recording).query("reading_id == '2.jpg:Expert:expert1'")
    assert reading["x"].tolist() == pytest.approx([49.5, 54.5, 59.5])
    assert reading["y"].tolist() == pytest.approx([69.5] * 3)
    assert reading["t"].tolist() == pytest.approx([0, 0.25, 0.501])
    store = prepare(assisted(eyeassist, states=["Expert"]), tmp_path / "store", size=(64, 64), workers=1)
    assert (len(store.cases), len(store.table("readings"))) == (2, 2)


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (
            lambda root: edit(
                root / "neo" / "Expert" / "expert1_fixations.csv",
                lambda table: table.pop("CURRENT_FIX_X"),
            ),
            {},
            "column CURRENT_FIX_X is missing; is this EyeAssist-Neo",
        ),
        (lambda root: None, {"states": ["Novice"]}, "no folder Novice with files of readers"),
        (
            lambda root: reader_file(root, "first", "reader9"),
            {"states": ["Expert", "first"]},
            "the same recording is in Expert:expert1 and first:reader9; take one with states",
        ),
        (
            lambda root: edit(root / "neo" / "cases.csv", lambda table: table.__setitem__("height", 2000)),
            {},
            "record 1: the film has 100 × 140 pixels, the canvas 2000 × 2000",
        ),
        (lambda root: reader_file(root, "Expert", "expert2", milliseconds=0), {}, "cannot be milliseconds"),
        (
            lambda root: edit(root / "neo" / "cases.csv", lambda table: table.__setitem__("label", [1, 2, 0])),
            {},
            "record 2: label is neither 1 nor 0",
        ),
        (
            lambda root: edit(root / "neo" / "cases.csv", lambda table: table.__setitem__("include", [1, "no", 0])),
            {},
            "cases.csv: record 2: include is neither 1 nor 0",
        ),
        (
            lambda root: edit(root / "neo" / "cases.csv", lambda table: table.__setitem__("case_id", list("abc"))),
            {},
            "has none of the 2 cases .* case_id must be as Source_File has it",
        ),
    ],
)
def test_malformed_eyeassist_is_refused(damage, options, message, eyeassist):
    damage(eyeassist)
    with pytest.raises(InputError, match=message):
        assisted(eyeassist, **options).read()


@pytest.mark.parametrize(
    "include",
    [[1.0, None, 0.0], [True, True, False], ["true", "TRUE", "false"], [1, 0, 0], [" 1", 1, " 0"]],
)
def test_cases_of_eyeassist_are_left_out_as_in_its_own_reader(include, eyeassist):
    cases = eyeassist / "neo" / "cases.csv"
    film(eyeassist / "neo" / "images" / "3.jpg", 140, 100, 3)
    edit(cases, lambda table: table.__setitem__("include", include))
    manifest = pd.read_csv(cases)
    manifest = manifest[manifest["include"].astype(bool)]
    assert assisted(eyeassist).read().images["image_id"].tolist() == manifest["case_id"].tolist()


# GazeIntent


@pytest.fixture(scope="module")
def films(mimic):
    metadata = pd.read_csv(mimic / "mimic-cxr-jpg" / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=str)
    return mimic / "mimic-cxr-jpg", metadata["dicom_id"].tolist()


def intended(name, split="train", **changes):
    path = [[10, 20, 0.3], [20, 20, 0.2], [30, 40, 0.1], [31, 41, 0.4]]
    findings = [["edema", "edema", "null", "edema"], ["null", "atelectasis", "atelectasis", "null"]]
    return record(name, "edema", split, path) | {"findings": findings} | changes


def test_the_findings_of_fixations_are_phrases_with_their_times(films, tmp_path):
    images, names = films
    rows = [intended(names[0]), intended(names[0], "test"), intended(names[1], findings=[["null"] * 4])]
    rows.append(intended("elsewhere"))
    (tmp_path / "egd.json").write_text(json.dumps(rows))
    store = prepare(GazeIntent(str(tmp_path / "egd.json"), str(images)), tmp_path / "store", size=(64, 64), workers=1)
    phrases = store.table("phrases").query(f"reading_id == '{names[0]}:0'")
    assert [(row.text, row.begin, row.end) for row in phrases.itertuples()] == [
        ("edema", 0.0, pytest.approx(0.5)),
        ("edema", pytest.approx(0.6), pytest.approx(1.0)),
        ("atelectasis", pytest.approx(0.3), pytest.approx(0.6)),
    ]
    cases = store.cases.set_index("image_id")
    assert cases.loc[names[0], ["atelectasis", "edema"]].tolist() == [1, 1]
    assert cases.loc[names[1], ["atelectasis", "edema"]].isna().all()
    # A film that the official split has twice is a test film.
    assert cases.loc[names[0], "official_split"] == "test"
    assert len(store.gaze("fixation")) == 12
    assert ORIGINS["gazeintent"] == ORIGINS["gazesearch"] == "mimic-cxr"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"findings": [["edema"]]}, "record 1: findings must be lists of 4 names"),
        ({"T": [300, 200, 100, 400]}, "is T in milliseconds"),
        ({"X": [10, 20, 30, 300]}, "record 1: X or Y is off the 224 × 224 pixels"),
        ({"split": "dev"}, "record 1: split is none of train, valid, test"),
    ],
)
def test_malformed_gazeintent_is_refused(changes, message, films, tmp_path):
    (tmp_path / "egd.json").write_text(json.dumps([intended(films[1][0], **changes)]))
    with pytest.raises(InputError, match=message):
        GazeIntent(str(tmp_path / "egd.json"), str(films[0])).read()


def test_a_gazesearch_file_is_distinguished_from_a_gazeintent_file(films, tmp_path):
    (tmp_path / "file.json").write_text(json.dumps([record(films[1][0], "edema", "train", [[1, 2, 0.3]])]))
    with pytest.raises(InputError, match="record 1: findings is missing; a GazeSearch file has none"):
        GazeIntent(str(tmp_path / "file.json"), str(films[0])).read()
