"""The prepared store: complete or absent, and the same bytes for the same request."""

import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from gazelit.data.dicom import read_radiograph
from gazelit.data.geometry import Letterbox
from gazelit.data.prepare import prepare
from gazelit.data.sources import EGDCXR
from gazelit.data.store import Store
from gazelit.errors import InputError


@pytest.fixture
def tree(cohort, tmp_path):
    """A copy of the cohort that a test may spoil."""
    shutil.copytree(cohort, tmp_path / "tree")
    return tmp_path / "tree"


def source(root):
    return EGDCXR(root / "egd-cxr", root / "mimic-cxr")


def films(root):
    return sorted((root / "mimic-cxr").rglob("*.dcm"))


def test_images_are_the_decoded_films(store, cohort):
    opened = Store.open(store)
    sheet = pd.read_csv(cohort / "egd-cxr" / "master_sheet.csv").set_index("dicom_id")
    for row in (0, 7, 23):
        case = opened.cases.iloc[row]
        pixels = read_radiograph(cohort / "mimic-cxr" / sheet.loc[case["image_id"], "path"]).pixels
        expected = Letterbox.fit(*pixels.shape, (64, 64)).apply(pixels)
        assert np.abs(opened.images()[row] / 255 - expected).max() <= 0.5 / 255 + 1e-6


def test_gaze_is_kept_in_original_pixels_and_by_case(store, cohort):
    opened = Store.open(store)
    gaze = opened.gaze("fixation")
    assert gaze["row"].is_monotonic_increasing
    raw = source(cohort).read().gaze()
    for row in (0, 11):
        theirs = raw[(raw["image_id"] == opened.cases["image_id"][row]) & (raw["kind"] == "fixation") & raw["valid"]]
        ours = gaze[gaze["row"] == row]
        assert np.array_equal(ours[["x", "y", "duration"]], theirs[["x", "y", "duration"]])


@pytest.mark.parametrize("bits", [8, 16])
def test_the_same_request_gives_the_same_bytes_for_any_number_of_workers(cohort, tmp_path, bits):
    one, two = (
        prepare(source(cohort), tmp_path / name, size=(64, 64), bits=bits, workers=workers)
        for name, workers in (("a", 1), ("b", 2))
    )
    for name in ("store.json", "images.npy", "cases.parquet", "gaze.parquet", "skipped.csv"):
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()
    assert one.images().dtype == {8: np.uint8, 16: np.uint16}[bits]


def test_a_second_run_changes_nothing(cohort, store):
    before = {path.name: path.stat().st_mtime_ns for path in store.iterdir()}
    prepare(source(cohort), store, size=(64, 64), workers=1)
    assert {path.name: path.stat().st_mtime_ns for path in store.iterdir()} == before


def test_another_request_for_the_same_folder_is_refused(cohort, store):
    with pytest.raises(InputError, match="other data or options"):
        prepare(source(cohort), store, size=(96, 64), workers=1)


def test_a_folder_that_is_no_store_is_not_touched(cohort, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="is no store"):
        prepare(source(cohort), tmp_path, size=(64, 64), workers=1)
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_bad_cases_are_left_out_counted_and_listed(tree, tmp_path):
    broken, missing, lying, *_ = films(tree)
    broken.write_bytes(broken.read_bytes()[:-5000])
    missing.unlink()
    lying.write_bytes(b"")
    made = prepare(source(tree), tmp_path / "store", size=(64, 64), workers=1)
    assert made.about["counts"] | {"cases": 21, "skipped": 3} == made.about["counts"]
    skipped = pd.read_csv(made.path / "skipped.csv")
    assert set(skipped["image_id"]) == {broken.stem, missing.stem, lying.stem}
    reasons = skipped.set_index("image_id")["reason"]
    assert "cannot be decoded" in reasons[broken.stem]
    assert "cannot be read" in reasons[missing.stem]
    assert "is empty" in reasons[lying.stem]
    assert not set(skipped["image_id"]) & set(made.cases["image_id"])
    assert len(made.images()) == 21


def test_strict_makes_a_bad_case_an_error(tree, tmp_path):
    films(tree)[3].unlink()
    with pytest.raises(InputError, match="1 cases cannot be used"):
        prepare(source(tree), tmp_path / "store", size=(64, 64), strict=True, workers=1)
    assert not (tmp_path / "store").exists()


def test_an_image_without_gaze_is_left_out_or_kept(tree, tmp_path):
    path = tree / "egd-cxr" / "eye_gaze.csv"
    lonely = films(tree)[5].stem
    for name in ("eye_gaze.csv", "fixations.csv"):
        path = tree / "egd-cxr" / name
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        table[table["DICOM_ID"] != lonely].to_csv(path, index=False)
    made = prepare(source(tree), tmp_path / "without", size=(64, 64), workers=1)
    assert lonely not in set(made.cases["image_id"])
    assert "no valid gaze" in (made.path / "skipped.csv").read_text()
    kept = prepare(source(tree), tmp_path / "with", size=(64, 64), require_gaze=False, workers=1)
    assert len(kept.cases) == len(made.cases) + 1


def test_nothing_left_is_an_error_and_leaves_nothing(tree, tmp_path):
    for film in films(tree):
        film.write_bytes(film.read_bytes()[:-3000])
    with pytest.raises(InputError, match=r"no case is left of 24; first reason: .*cannot be decoded"):
        prepare(source(tree), tmp_path / "out" / "store", size=(64, 64), workers=1)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": (60, 64)}, "multiple of 32"), ({"size": (64,)}, "multiple of 32"), ({"bits": 12}, "8 or 16")],
)
def test_wrong_options(cohort, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        prepare(source(cohort), tmp_path / "store", **{"size": (64, 64), **options})


def test_opening_what_is_no_store_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match="gazelit prepare"):
        Store.open(tmp_path)


def test_a_killed_prepare_leaves_no_store(cohort, tmp_path):
    command = [
        *(sys.executable, "-m", "gazelit", "prepare", "--source=EGDCXR", f"--source.root={cohort / 'egd-cxr'}"),
        *(f"--source.images={cohort / 'mimic-cxr'}", "--size=[640, 512]", "--bits=16", "--workers=1"),
        f"--out={tmp_path / 'store'}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".store-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "store").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert Store.open(tmp_path / "store").about["counts"]["cases"] == 24
