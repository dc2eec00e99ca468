"""The prepared store: complete or absent, and the same bytes for the same request."""

import os
import pickle
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from gazelit.data.images.dicom import read_radiograph
from gazelit.data.images.geometry import Letterbox
from gazelit.data.sources import EGDCXR
from gazelit.data.store.films_in_use import FilmsInUse
from gazelit.data.store.prepare import prepare
from gazelit.data.store.store import Store
from gazelit.errors import InputError
from tests.clock import date_ahead


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
        expected = raw[(raw["image_id"] == opened.cases["image_id"][row]) & (raw["kind"] == "fixation") & raw["valid"]]
        ours = gaze[gaze["row"] == row]
        assert np.array_equal(ours[["x", "y", "duration"]], expected[["x", "y", "duration"]])


@pytest.mark.parametrize("bits", [8, 16])
def test_the_same_request_gives_the_same_bytes_for_any_number_of_workers(cohort, tmp_path, bits):
    single, double = (
        prepare(source(cohort), tmp_path / name, size=(64, 64), bits=bits, workers=workers)
        for name, workers in (("a", 1), ("b", 2))
    )
    for name in ("store.json", "images.npy", "cases.parquet", "gaze.parquet", "skipped.csv"):
        assert (single.path / name).read_bytes() == (double.path / name).read_bytes()
    assert single.images().dtype == {8: np.uint8, 16: np.uint16}[bits]


def test_a_second_run_changes_nothing(cohort, store):
    before = {path.name: path.stat().st_mtime_ns for path in store.iterdir()}
    prepare(source(cohort), store, size=(64, 64), workers=1)
    assert {path.name: path.stat().st_mtime_ns for path in store.iterdir()} == before


def test_an_up_to_date_store_is_recognised_without_reading_the_source(tree, tmp_path, monkeypatch):
    out = prepare(source(tree), tmp_path / "store", size=(64, 64), workers=1).path

    class WasReadError(Exception):
        pass

    def read(self):
        raise WasReadError

    with monkeypatch.context() as patch:
        patch.setattr(EGDCXR, "read", read)
        prepare(source(tree), out, size=(64, 64), workers=1)
        # A new time of a film has no effect, because its content is compared; a table with a new time is read again.
        film = films(tree)[0]
        os.utime(film, ns=(0, 0))
        prepare(source(tree), out, size=(64, 64), workers=1)
        for changed in ({"size": (96, 64)}, {"bits": 16}):
            with pytest.raises(WasReadError):
                prepare(source(tree), out, **{"size": (64, 64), "workers": 1, **changed})
        for spoilt in (film, tree / "egd-cxr" / "eye_gaze.csv"):
            content = spoilt.read_bytes()
            spoilt.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            with pytest.raises(WasReadError):
                prepare(source(tree), out, size=(64, 64), workers=1)
            spoilt.write_bytes(content)
    # The table's times are new, so it is read once more; after that the check is quick again.
    prepare(source(tree), out, size=(64, 64), workers=1)
    monkeypatch.setattr(EGDCXR, "read", read)
    prepare(source(tree), out, size=(64, 64), workers=1)


def test_a_missing_film_is_searched_for_again(tree, tmp_path):
    film, aside = films(tree)[0], tmp_path / "aside.dcm"
    film.rename(aside)
    out = prepare(source(tree), tmp_path / "store", size=(64, 64), workers=1).path
    aside.rename(film)
    with pytest.raises(InputError, match="other data or options"):
        prepare(source(tree), out, size=(64, 64), workers=1)


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


def test_a_store_without_any_case_is_an_error_and_leaves_nothing(tree, tmp_path):
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


def test_opening_a_folder_without_a_store_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match="gazelit prepare"):
        Store.open(tmp_path)


def _command(cohort, out, *more):
    return [
        *(sys.executable, "-m", "gazelit", "prepare", "--source=EGDCXR", f"--source.root={cohort / 'egd-cxr'}"),
        *(f"--source.images={cohort / 'mimic-cxr'}", "--size=[640, 512]", "--bits=16", "--workers=1"),
        *(f"--out={out}", *more),
    ]


def _run_until(command, there, seconds=60):
    """Starts a command and kills it as soon as a condition holds."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + seconds
    while not there():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()


def _bytes(store):
    return {path.name: path.read_bytes() for path in sorted(store.iterdir())}


def _decoded(work):
    """Number of cases that an interrupted run has decoded."""
    journal = work / "images.journal"
    return journal.read_text().count("\n") if journal.is_file() else 0


def test_a_killed_prepare_goes_on_and_ends_in_the_same_bytes(cohort, tmp_path):
    work = tmp_path / ".store-partial" / "work"
    command = _command(cohort, tmp_path / "store")
    _run_until(command, lambda: _decoded(work) >= 5)
    done = _decoded(work)
    assert 5 <= done < 24
    assert not (tmp_path / "store").exists()
    # The clock is set back, so the files to resume from have times in the future.
    date_ahead(work.parent)
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    assert f"going on after {done} of 24 cases" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    whole = prepare(source(cohort), tmp_path / "whole", size=(640, 512), bits=16, workers=1)
    assert _bytes(tmp_path / "store") == _bytes(whole.path)


def test_an_interruption_while_a_line_or_an_image_was_written(cohort, tmp_path):
    work = tmp_path / ".store-partial" / "work"
    command = _command(cohort, tmp_path / "store")
    _run_until(command, lambda: _decoded(work) >= 4)
    with (work / "images.journal").open("a") as journal:
        journal.write('{"photometric": "MONO')
    with (work.parent / "images.npy").open("ab") as images:
        images.write(b"half an image")
    subprocess.run(command, check=True, capture_output=True)
    whole = prepare(source(cohort), tmp_path / "whole", size=(640, 512), bits=16, workers=1)
    assert _bytes(tmp_path / "store") == _bytes(whole.path)


def test_another_request_does_not_resume_an_interrupted_one(cohort, tmp_path):
    work = tmp_path / ".store-partial" / "work"
    _run_until(_command(cohort, tmp_path / "store"), lambda: _decoded(work) >= 3)
    made = prepare(source(cohort), tmp_path / "store", size=(64, 64), workers=1)
    whole = prepare(source(cohort), tmp_path / "whole", size=(64, 64), workers=1)
    assert _bytes(made.path) == _bytes(whole.path)


def test_two_at_once_do_not_mix(cohort, tmp_path):
    work = tmp_path / ".store-partial" / "work"
    process = subprocess.Popen(_command(cohort, tmp_path / "store"), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not work.is_dir():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    with pytest.raises(InputError, match="another process is writing it"):
        prepare(source(cohort), tmp_path / "store", size=(64, 64), workers=1)
    assert process.wait() == 0
    assert Store.open(tmp_path / "store").size == (640, 512)


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(cohort, tmp_path):
    """A limit on the size of files replaces a full disk."""
    limit = 8 * 640 * 512 * 2
    script = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "from gazelit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = _command(cohort, tmp_path / "store")
    result = subprocess.run([sys.executable, "-c", script, *command[3:]], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "the disk is full" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "store").exists()
    assert "going on after 7 of 24" in subprocess.run(command, check=True, capture_output=True, text=True).stderr


def test_a_folder_that_may_not_be_written(cohort, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        prepare(source(cohort), tmp_path / "file" / "store", size=(64, 64), workers=1)


def test_a_damaged_store_is_recognised(store, tmp_path):
    shutil.copytree(store, tmp_path / "s")
    (tmp_path / "s" / "images.npy").write_bytes((store / "images.npy").read_bytes()[:-10])
    with pytest.raises(InputError, match=r"images\.npy: is not as long as it was written"):
        Store.open(tmp_path / "s")
    (tmp_path / "s" / "gaze.parquet").unlink()
    with pytest.raises(InputError, match=r"is missing|is not as long"):
        Store.open(tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="store format 1"):
        Store.open(tmp_path / "s")


def test_changed_pixels_or_tables_are_another_request(tree, tmp_path):
    prepare(source(tree), tmp_path / "s", size=(64, 64), workers=1)
    film = films(tree)[0]
    film.write_bytes(film.read_bytes() + b"\0\0")
    with pytest.raises(InputError, match="other data or options"):
        prepare(source(tree), tmp_path / "s", size=(64, 64), workers=1)


def test_letterboxes_in_arrays_are_those_that_fit_each_film(store):
    opened = Store.open(store)
    each = [Letterbox.fit(int(case.height), int(case.width), (64, 64)) for case in opened.cases.itertuples()]
    assert list(opened.letterboxes) == each
    assert opened.letterboxes.scale.tolist() == [list(box.scale) for box in each]
    assert opened.letterboxes.corner.tolist() == [[box.left, box.top] for box in each]


def test_points_go_to_the_working_image_and_back_within_half_a_pixel(store):
    opened = Store.open(store)
    gaze = opened.gaze("fixation")
    for row in (0, 5, 11):
        box = opened.letterboxes[row]
        xy = gaze.loc[gaze["row"] == row, ["x", "y"]].to_numpy()
        assert np.abs(box.to_original(box.to_working(xy)) - xy).max() < 1e-6


@pytest.mark.parametrize("fault", ["cut", "changed", "replaced", "removed"])
def test_films_that_change_while_they_are_in_use_are_one_error_and_open_ones_outlive_their_name(fault, store, tmp_path):
    shutil.copytree(store, tmp_path / "store")
    path = tmp_path / "store" / "images.npy"
    films = FilmsInUse(Store.open(tmp_path / "store"))
    expected = np.array(films[0])
    # A loader's process of a later epoch gets the films in this way.
    later = pickle.loads(pickle.dumps(films))
    if fault == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif fault == "changed":
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\0")
        os.utime(path, (0, 0))
    elif fault == "replaced":
        shutil.copy(path, tmp_path / "new.npy")
        os.replace(tmp_path / "new.npy", path)
    else:
        path.unlink()
    if fault in ("cut", "changed"):
        # Reading beyond the cut would end the process.
        with pytest.raises(InputError, match=r"images\.npy: was changed while it was in use; `gazelit verify "):
            films[len(Store.open(store).cases) - 1]
    else:
        assert np.array_equal(films[0], expected)
    with pytest.raises(InputError, match=r"images\.npy: (was changed while it was in use|is missing|cannot be read)"):
        later[0]
