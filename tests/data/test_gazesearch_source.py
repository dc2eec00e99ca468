"""GazeSearch: rows, its split's leak, the films of MIMIC-CXR, errors."""

import math

import numpy as np
import pandas as pd
import pytest

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.sources import GazeSearch
from gazelit.data.sources.canvas import on_films
from gazelit.data.sources.gazesearch import end_to_end, leak_free, read_gazesearch
from gazelit.data.store.prepare import prepare
from gazelit.errors import InputError
from tests.gazesearch_files import FINDINGS, record, records, write
from tests.tiny import grouped


@pytest.fixture(scope="module")
def images(mimic):
    return mimic / "mimic-cxr-jpg"


@pytest.fixture(scope="module")
def metadata(images):
    return pd.read_csv(images / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=str)


@pytest.fixture(scope="module")
def file(metadata, tmp_path_factory):
    rows = records(metadata["dicom_id"][:9])
    # Two films that are in only one part of the split, and a film that MIMIC-CXR does not list.
    rows += [record(metadata["dicom_id"][number], FINDINGS[0], "train", [[10, 20, 0.3]] * 3) for number in (20, 21)]
    rows += [record("elsewhere", FINDINGS[0], "test", [[10, 20, 0.3]])]
    return write(tmp_path_factory.mktemp("gazesearch") / "gazesearch.json", rows)


def test_the_leak_is_counted(file):
    rows = read_gazesearch(file)
    assert rows.shared == 9
    assert rows.leak == (
        "the official split has 9 of 12 films in several of its parts: 9 of 10 test films (9 of 10 test scanpaths) are "
        "in train under another finding"
    )


def test_the_published_file_is_read_and_its_leak_is_known(real_data):
    rows = read_gazesearch(real_data / "gazesearch_part.json")
    assert (len(rows.paths), rows.table["image_id"].nunique(), rows.table["finding"].nunique()) == (600, 394, 13)
    test, train = (rows.table[rows.table["official_split"] == name] for name in ("test", "train"))
    shared = set(test["image_id"]) & set(train["image_id"])
    assert f"{len(shared)} of {test['image_id'].nunique()} test films" in rows.leak
    assert max(path[:, 2].max() for path in rows.paths) < 3
    split = leak_free(rows.table)
    kept = rows.table.assign(split=split).dropna()
    assert (kept.groupby("image_id")["split"].nunique() == 1).all()
    assert (split == "test").sum() == len(test)


def test_the_split_without_the_leak_keeps_films_and_patients_apart():
    table = pd.DataFrame(
        {"image_id": list("aabbcd"), "official_split": ["train", "test", "train", "val", "train", "train"]}
    )
    assert leak_free(table).fillna("-").tolist() == ["-", "test", "-", "val", "train", "train"]
    patients = pd.Series(["1", "1", "2", "2", "1", "3"])
    assert leak_free(table, patients).fillna("-").tolist() == ["-", "test", "-", "val", "-", "train"]


def test_a_film_is_a_case_with_a_reading_for_each_finding(file, images, metadata, tmp_path):
    store = prepare(GazeSearch(file, images), tmp_path / "store", size=(64, 64), workers=1)
    cases = store.cases.set_index("image_id")
    assert len(cases) == 11
    assert store.about["label_columns"] == sorted(FINDINGS)
    first = metadata["dicom_id"][0]
    assert cases.loc[first, list(FINDINGS)].tolist() == [1, 1, 1]
    assert cases.loc[metadata["dicom_id"][20], ["edema", "pleural other"]].isna().all()
    readings = store.table("readings")
    assert len(readings) == 29
    assert set(readings["finding"]) == set(FINDINGS)
    skipped = pd.read_csv(tmp_path / "store" / "skipped.csv")
    assert skipped["image_id"].tolist() == ["elsewhere"]
    # The middle of a pixel of the small film, in the frame of the original film.
    path = next(path for path in read_gazesearch(file).paths if path is not None)
    gaze = store.gaze("fixation").query(f"reading_id == '{first}:{FINDINGS[0]}'")
    height, width = cases.loc[first, ["height", "width"]]
    assert gaze["x"].to_numpy() == pytest.approx((path[:, 0] + 0.5) * width / 224 - 0.5)
    assert gaze["y"].to_numpy() == pytest.approx((path[:, 1] + 0.5) * height / 224 - 0.5)
    assert gaze["duration"].tolist() == path[:, 2].tolist()
    assert gaze["t"].to_numpy() == pytest.approx(np.concatenate([[0], path[:-1, 2].cumsum()]))


def test_the_official_split_is_refused_unless_insisted_on(file, images, metadata, tmp_path, caplog):
    patients = metadata.set_index("dicom_id")["subject_id"]
    recording = GazeSearch(file, images).read()
    split = recording.images.set_index("image_id")["official_split"]
    assert (split.groupby(patients).nunique() <= 1).all()
    with pytest.raises(InputError, match=r"9 of 10 test films .* take split: film, or insist: true"):
        GazeSearch(file, images, split="official").read()
    source = GazeSearch(file, images, split="official", insist=True)
    store = prepare(source, tmp_path / "official", size=(64, 64), workers=1)
    assert "figures on it are too good" in caplog.text
    assert len(store.cases) == 29
    data = {
        "labels": ["edema"],
        "exclusive": False,
        "num_workers": 0,
        "allow_empty": True,
        "sigma_unit": "px",
        "sigma": 3.0,
    }
    with pytest.raises(InputError, match="patient_id are in more than one split"):
        GazeDataModule(str(store.path), **grouped(split_method="official", **data)).setup()
    module = GazeDataModule(str(store.path), **grouped(split_method="official_shared", **data))
    module.setup()
    official = read_gazesearch(file).table["official_split"]
    assert (store.cases["official_split"] == "train").sum() == (official == "train").sum()
    assert module.provenance["split_method"] == "official_shared"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": [1]}, "record 2: X, Y and T must be lists of one length"),
        ({"X": ["a"] * 3}, "record 2: X, Y or T holds a value that is not a number"),
        ({"X": [300] * 3}, "record 2: X or Y is off the 224 × 224 pixels"),
        ({"T": [-1] * 3}, "record 2: X, Y or T holds what is no finite number, or a negative time"),
        ({"split": "holdout"}, "record 2: split is none of train, valid, test"),
        ({"name": 5}, "record 2: name or task is not text"),
        ({"name": "a.jpg"}, "record 2: the same film and task"),
        ({"T": [300, 200, 400]}, "half of the fixations last longer than 10 s: is T in milliseconds"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(tmp_path, change, message):
    rows = [record(film, FINDINGS[0], "train", [[10, 20, 0.3]] * count) for film, count in (("a", 2), ("b", 3))]
    rows[1] |= change
    with pytest.raises(InputError, match=message):
        read_gazesearch(write(tmp_path / "file.json", rows))


def test_other_files_and_folders_are_refused_by_name(tmp_path, images, file):
    for content in ({}, [], [1], [{"name": "a.jpg"}]):
        with pytest.raises(InputError, match="name, task, X, Y, T, split"):
            read_gazesearch(write(tmp_path / "file.json", content))
    elsewhere = write(tmp_path / "other.json", [record("elsewhere", FINDINGS[0], "test", [[10, 20, 0.3]])])
    with pytest.raises(InputError, match="lists none of the 1 films"):
        GazeSearch(elsewhere, images).read()
    with pytest.raises(InputError, match="split: must be film or official"):
        GazeSearch(file, images, split="patient")


def test_fixations_end_to_end_never_begin_before_the_last():
    # The difference of a cumulative sum and its last term goes back where a duration is 0.
    generator = np.random.default_rng(0)
    durations = np.round(generator.uniform(0.08, 1, (20, 7)), 5)
    durations[:, 3] = 0
    assert any((np.diff(row.cumsum() - row) < 0).any() for row in durations)
    table = pd.DataFrame({"image_id": "a", "reading_id": map(str, range(20)), "width": 224, "height": 224})
    paths = [np.column_stack([np.full((7, 2), 100.0), row]) for row in durations]
    searched = np.stack([part["t"] for part in end_to_end(table, paths)])
    gaze = pd.DataFrame({"image_id": "a", "reading_id": np.repeat(range(20), 7), "reader_id": "", "x": 1.0, "y": 1.0})
    gaze["duration"] = durations.ravel()
    size = pd.DataFrame({"image_id": ["a"], "width": 9, "height": 9})
    (canvas,) = on_films(gaze, size, size.set_index("image_id"))
    exact = [[math.fsum(row[:step]) for step in range(7)] for row in durations]
    for begins in (searched, canvas["t"].to_numpy().reshape(20, 7)):
        assert begins == pytest.approx(np.array(exact), abs=1e-12)
        assert (np.diff(begins) >= 0).all()
    assert canvas.index.tolist() == list(range(140))
