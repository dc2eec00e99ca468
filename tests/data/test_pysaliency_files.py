"""pysaliency's HDF5 files: ours are read by pysaliency, its files are read by gazelit, and a round trip."""

import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
from pysaliency import FixationTrains
from pysaliency.datasets import FileStimuli, read_hdf5

from gazelit.cli.main import main
from gazelit.data.sources import Pysaliency
from gazelit.data.store.prepare import prepare
from gazelit.data.store.pysaliency import export_pysaliency
from gazelit.data.store.schema import SYNTHETIC_MARKER
from gazelit.data.store.store import Store
from gazelit.errors import InputError


@pytest.fixture(scope="module")
def exported(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "files"
    export_pysaliency(str(store), out)
    return out


def test_pysaliency_reads_films_and_fixations(store, exported):
    opened = Store.open(store)
    stimuli, fixations = read_hdf5(str(exported / "stimuli.hdf5")), read_hdf5(str(exported / "fixations.hdf5"))
    assert isinstance(stimuli, FileStimuli)
    assert isinstance(fixations, FixationTrains)
    gaze = opened.gaze("fixation")
    assert len(fixations) == len(gaze)
    for row, box in list(enumerate(opened.letterboxes))[:3]:
        film = stimuli.stimuli[row]
        inner = slice(box.top, box.top + box.inner[0]), slice(box.left, box.left + box.inner[1])
        assert np.array_equal(film, opened.images()[row][inner])
        assert stimuli.sizes[row] == box.inner
    # Pixel centres are at integers in the store, pixel corners in pysaliency.
    boxes = [opened.letterboxes[row] for row in gaze["row"]]
    xy = np.array([box.to_working(point) for box, point in zip(boxes, gaze[["x", "y"]].to_numpy(), strict=True)])
    corner = np.array([(box.left, box.top) for box in boxes])
    assert np.column_stack([fixations.x, fixations.y]) == pytest.approx(xy + 0.5 - corner, abs=1e-9)
    assert fixations.n.tolist() == gaze["row"].tolist()
    assert fixations.t == pytest.approx(gaze["t"].to_numpy())
    assert fixations.duration == pytest.approx(gaze["duration"].to_numpy())
    inside = [box.inner for box in boxes]
    assert (fixations.x_int < [width for _, width in inside]).all()
    assert (fixations.y_int < [height for height, _ in inside]).all()


def test_a_round_trip_changes_nothing(store, exported, tmp_path):
    source = Pysaliency(str(exported / "fixations.hdf5"), str(exported / "stimuli.hdf5"))
    again = prepare(source, tmp_path / "again", size=(64, 64), workers=1)
    before, after = Store.open(store), again
    first, second = before.gaze("fixation"), after.gaze("fixation")
    assert np.array_equal(first["row"], second["row"])
    assert np.array_equal(first["duration"], second["duration"])
    for opened, gaze in ((before, first), (after, second)):
        boxes = [opened.letterboxes[row] for row in gaze["row"]]
        gaze["place"] = [box.to_working(point) for box, point in zip(boxes, gaze[["x", "y"]].to_numpy(), strict=True)]
    assert np.stack(first["place"]) == pytest.approx(np.stack(second["place"]), abs=1e-9)
    assert np.array_equal(before.images(), after.images())
    assert len(after.table("readings")) == first["reading_id"].nunique()
    assert before.about["synthetic"] is after.about["synthetic"] is True


@pytest.fixture
def written(exported, tmp_path, monkeypatch):
    # pysaliency 0.2.22 uses a name that NumPy 2 has removed.
    monkeypatch.setattr(np, "string_", np.bytes_, raising=False)
    trains = FixationTrains.from_fixation_trains(
        [[1.5, 9.0, 3.0], [2.0]], [[1.0, 2.0, 3.5], [4.0]], [[0.0, 0.3, 0.5], [0.1]], [1, 0], [7, 7]
    )
    trains.to_hdf5(str(tmp_path / "fixations.hdf5"))
    return tmp_path / "fixations.hdf5"


def test_either_file_of_a_simulated_store_makes_the_data_simulated(written, exported, tmp_path):
    for name in ("fixations.hdf5", "stimuli.hdf5"):
        shutil.copy(exported / name, tmp_path / f"unmarked_{name}")
        with h5py.File(tmp_path / f"unmarked_{name}", "a") as file:
            del file.attrs["gazelit"]
    (tmp_path / "films").symlink_to(exported / "films")
    unmarked = str(tmp_path / "unmarked_stimuli.hdf5")
    assert Pysaliency(str(written), str(exported / "stimuli.hdf5")).read().synthetic
    assert Pysaliency(str(exported / "fixations.hdf5"), unmarked).read().synthetic
    assert not Pysaliency(str(written), unmarked).read().synthetic
    (tmp_path / SYNTHETIC_MARKER).touch()
    assert Pysaliency(str(written), unmarked).read().synthetic


def test_files_that_pysaliency_wrote_are_read(written, exported):
    recording = Pysaliency(str(written), str(exported / "stimuli.hdf5"), name="toronto").read()
    gaze = recording.gaze()
    assert gaze["image_id"].tolist() == ["000000", "000001", "000001", "000001"]
    assert gaze["x"].tolist() == [1.5, 1.0, 8.5, 2.5]
    assert gaze["y"].tolist() == [3.5, 0.5, 1.5, 3.0]
    # A fixation lasts until the next begins; the last fixation has the median duration.
    assert gaze["duration"].to_numpy() == pytest.approx([0.25, 0.3, 0.2, 0.25])
    assert set(recording.readings["reader_id"]) == {"7"}
    assert set(recording.images["source"]) == {"toronto"}


def test_the_later_format_is_read(written, exported, tmp_path):
    later = tmp_path / "later.hdf5"
    with h5py.File(written) as before, h5py.File(later, "w") as file:
        file.attrs["type"], file.attrs["version"] = np.bytes_("ScanpathFixations"), np.bytes_("1.0")
        group = file.create_group("scanpaths")
        for name, old in (("xs", "train_xs"), ("ys", "train_ys"), ("n", "train_ns")):
            group[name] = before[old][...]
        group["lengths"] = [3, 1]
        group["scanpath_attributes/subject"] = before["train_subjects"][...]
        group["fixation_attributes/ts"] = before["train_ts"][...]
        group["fixation_attributes/durations"] = np.full((2, 3), 0.2)
    gaze = Pysaliency(str(later), str(exported / "stimuli.hdf5")).read().gaze()
    assert gaze["x"].tolist() == [1.5, 1.0, 8.5, 2.5]
    assert gaze["duration"].tolist() == [0.2] * 4


def test_times_must_be_seconds(written, exported):
    def read():
        return Pysaliency(str(written), str(exported / "stimuli.hdf5")).read()

    with h5py.File(written, "a") as file:
        file["train_ts"][...] *= 1000
    with pytest.raises(InputError, match="half of the fixations last longer than 10 s: is their time in milliseconds"):
        read()
    with h5py.File(written, "a") as file:
        file["train_ts"][...] = [[0, 1, 2], [0, np.nan, np.nan]]
    with pytest.raises(InputError, match=r"only the numbers of the fixations .*, and durations are missing"):
        read()
    with h5py.File(written, "a") as file:
        file["scanpath_fixation_attributes/durations"] = [[0.25, 0.5, 0.125], [0.75, np.nan, np.nan]]
    # Fixations that are only numbered follow each other.
    assert read().gaze()["t"].tolist() == [0, 0, 0.25, 0.75]
    with h5py.File(written, "a") as file:
        file["scanpath_fixation_attributes/durations"][...] *= 1000
    with pytest.raises(InputError, match="in milliseconds"):
        read()


def test_bad_files_are_one_clear_line(written, exported, store, tmp_path, capsys):
    stimuli = str(exported / "stimuli.hdf5")

    def read(fixations=written, stimuli=stimuli):
        return Pysaliency(str(fixations), str(stimuli)).read()

    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "nothing.hdf5")
    (tmp_path / "text.hdf5").write_text("no")
    with pytest.raises(InputError, match="cannot be read as HDF5"):
        read(tmp_path / "text.hdf5")
    with pytest.raises(InputError, match=r"is FixationTrains 1.2; what can be read is FileStimuli"):
        read(stimuli=written)
    with h5py.File(tmp_path / "pixels.hdf5", "w") as file:
        file.attrs["type"], file.attrs["version"] = "Stimuli", "1.1"
    with pytest.raises(InputError, match="holds the pixels themselves"):
        read(stimuli=tmp_path / "pixels.hdf5")
    with h5py.File(written, "a") as file:
        file["train_ns"][0] = 99
    with pytest.raises(InputError, match="scanpath 1 is of stimulus 99, but there are 24"):
        read()
    with h5py.File(written, "a") as file:
        del file["train_ys"]
    with pytest.raises(InputError, match="was it written by pysaliency"):
        read()
    assert main(["export-pysaliency", str(store), "--out", str(exported)]) == 2
    assert "exists; choose another --out" in capsys.readouterr().err


def test_films_without_fixations_cannot_be_exported(mimic, tmp_path):
    from gazelit.data.sources import MIMICCXR

    store = prepare(MIMICCXR(mimic / "mimic-cxr-jpg"), tmp_path / "store", size=(64, 64), workers=1)
    with pytest.raises(InputError, match="has no fixations"):
        export_pysaliency(str(store.path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert pd.read_csv(store.path / "skipped.csv").shape[1] == 2
