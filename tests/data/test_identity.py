"""A patient is in a single split, however the id is spelt and however often a film is in the store."""

import shutil

import numpy as np
import pandas as pd
import pytest

from gazelit.data.options import SplitOptions
from gazelit.data.splits.by_patient import load_split, make_split
from gazelit.data.splits.case_split import split_cases
from gazelit.data.splits.identity import find_people, identity, pixel_hashes
from gazelit.data.store.digests import record_digests
from gazelit.data.store.store import Store
from gazelit.errors import InputError
from gazelit.files import read_json, write_json


def changed(store, folder, *, cases=None, copies=(), blank=()):
    """A copy of a store with other columns of its cases, films copied from row to row, and films of one grey value."""
    shutil.copytree(store, folder, ignore=shutil.ignore_patterns("pixel-hashes-*"))
    table = pd.read_parquet(folder / "cases.parquet")
    for column, values in (cases or {}).items():
        table[column] = values
    table.to_parquet(folder / "cases.parquet", index=False)
    images = np.load(folder / "images.npy")
    for source, target in copies:
        images[target] = images[source]
    for row in blank:
        images[row] = np.where(images[row] > 0, 90, 0)
    np.save(folder / "images.npy", images)
    about = read_json(folder / "store.json")
    about["bytes"] = {name: (folder / name).stat().st_size for name in about["bytes"]}
    about |= record_digests(folder, list(about["bytes"]))
    write_json(folder / "store.json", about)
    return folder


def test_finding_d8_spellings_of_an_id_are_one_patient():
    spelt = ["100", " 100 ", "100.0", "0100", "100.00\t", "Ａ", "é", "e\u0301", "É", "1.5", "A-1", "a-1", "0", "00.0"]
    assert identity(pd.Series(spelt)).tolist() == [
        *["100"] * 5, "ａ", "é", "é", "é", "1.5", "a-1", "a-1", "0", "0",
    ]  # fmt: skip
    images = pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(60)],
            "patient_id": [f(n) for n in range(100, 120) for f in ("{}".format, " {} ".format, "{}.0".format)],
            "study_id": "",
        }
    )
    split = make_split(images, images[[]], SplitOptions())
    assert (split.groupby(identity(images["patient_id"])).nunique() == 1).all()
    assert find_people(images).spellings.startswith("20 patients have ids in several spellings (60)")


def test_finding_d8_a_split_that_separates_spellings_of_an_id_is_refused(tmp_path):
    images = pd.DataFrame({"image_id": list("abcd"), "patient_id": ["7", "7.0", "8", "9"], "study_id": ""})
    parted = ["train", "test", "val", "test"]
    with pytest.raises(InputError, match="1 patient_id are in more than one split"):
        make_split(images.assign(official_split=parted), images[[]], SplitOptions("official"))
    images.assign(split=parted).to_csv(tmp_path / "split.csv", index=False)
    with pytest.raises(InputError, match=r"split\.csv: split: 1 patient_id are in more than one split"):
        load_split(tmp_path / "split.csv", images)


def test_finding_d8_films_with_the_same_pixels_stay_on_one_side(store, tmp_path):
    copies = [(2 * n, 2 * n + 1) for n in range(8)]
    opened = Store.open(changed(store, tmp_path / "s", copies=copies))
    usable = np.ones(len(opened.cases), bool)
    for seed in range(4):
        split = split_cases(opened, SplitOptions(seed=seed, stratify=["Normal"], test_fraction=0.3), usable)
        assert all(split.of_case[source] == split.of_case[target] for source, target in copies)
        said = next(note for note in split.notes if "same pixels" in note)
        assert said.startswith("16 films have the same pixels as a film of another patient (1")
        assert said.endswith("they stay in one split")
        assert not any(image_id in note for note in split.notes for image_id in opened.cases["image_id"])
    # An official split is kept as the dataset has it, and the overlap is reported.
    parts = ["train", "test", *["val"] * 4, *["train"] * 18]
    official = Store.open(changed(store, tmp_path / "o", copies=[(0, 1)], cases={"official_split": parts}))
    notes = split_cases(official, SplitOptions("official"), usable).notes
    assert notes == ["2 films have the same pixels as a film in another split: its figures are too good"]


def test_finding_d8_an_external_test_leaves_out_films_that_were_trained_on(store, tmp_path):
    external = changed(store, tmp_path / "s", cases={"patient_id": [f"other {n}" for n in range(24)]})
    images = np.load(external / "images.npy")
    images[5:] = images[5:][:, ::-1]
    np.save(external / "images.npy", images)
    about = read_json(external / "store.json")
    write_json(external / "store.json", about | record_digests(external, list(about["bytes"])))
    options = SplitOptions("external", trained_on=str(store))
    split = split_cases(Store.open(external), options, np.ones(24, bool))
    assert split.of_case.isna().tolist() == [True] * 5 + [False] * 19
    assert "of 24 cases 5 are left out because their patients or films" in split.notes[0]


def test_pixels_are_read_once_and_films_of_one_grey_value_have_no_hash(store, tmp_path):
    folder = changed(store, tmp_path / "s", copies=[(0, 3)], blank=[7, 8])
    first = pixel_hashes(Store.open(folder))
    assert first[0] == first[3] != first[1]
    assert (first[[7, 8]] == b"").all()
    images = np.load(folder / "images.npy")
    images[1] = images[2]
    np.save(folder / "images.npy", images)
    # The file was changed after it was written, so that reading it again would raise an error.
    altered = Store.open(folder, check=False)
    assert np.array_equal(pixel_hashes(altered), first)
    kept = next(folder.glob("pixel-hashes-*.npy"))
    kept.write_bytes(kept.read_bytes()[:100])
    again = pixel_hashes(altered)
    assert again[1] == again[2] == first[2]


def test_hashes_of_a_store_that_cannot_be_written_are_computed_each_time(store, tmp_path, monkeypatch):
    folder = changed(store, tmp_path / "s")

    def refuse(path, *arguments):
        raise InputError(f"cannot write {path}")

    monkeypatch.setattr("gazelit.data.splits.identity.atomic_path", refuse)
    assert len(pixel_hashes(Store.open(folder))) == 24
    assert not list(folder.glob("pixel-hashes-*"))
