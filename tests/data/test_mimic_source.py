"""MIMIC-CXR and MIMIC-CXR-JPG: paths, labels, views, splits, errors."""

import gzip
import shutil

import numpy as np
import pandas as pd
import pytest

from gazelit.data.sources import MIMICCXR
from gazelit.data.sources.mimic import FINDINGS, image_file
from gazelit.data.store.prepare import prepare
from gazelit.errors import InputError


@pytest.fixture(scope="module")
def root(mimic):
    return mimic / "mimic-cxr-jpg"


def test_uncertain_absent_and_not_mentioned_are_kept_apart(root):
    images = MIMICCXR(root).read().images
    values = images[FINDINGS].to_numpy()
    assert {-1.0, 0.0, 1.0} == set(np.unique(values[~np.isnan(values)]))
    raw = pd.read_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz", dtype={"study_id": str}).set_index("study_id")
    for name in ("Edema", "No Finding"):
        published = raw[name].reindex(images["study_id"]).to_numpy()
        assert np.array_equal(images[name].to_numpy(), published, equal_nan=True)


def test_views_are_filtered_and_counted(root):
    frontal = MIMICCXR(root).read()
    everything = MIMICCXR(root, views=[]).read()
    lateral = MIMICCXR(root, views=["LATERAL"]).read()
    assert len(everything.images) == 30
    assert set(frontal.images["view"]) == {"PA", "AP"}
    assert frontal.notes["images_of_other_views"] == 30 - len(frontal.images) == len(lateral.images) + 2


def test_labels_can_be_negbios_or_none(root):
    assert MIMICCXR(root, labels="negbio").read().label_columns == FINDINGS
    without = MIMICCXR(root, labels="none").read()
    assert without.label_columns == []
    assert "Edema" not in without.images


def test_images_without_gaze_make_a_store(root, tmp_path):
    store = prepare(MIMICCXR(root), tmp_path / "s", size=(64, 64), workers=1)
    assert store.about["counts"]["cases"] == len(store.images()) == len(MIMICCXR(root).read().images)
    assert store.gaze("fixation").empty
    assert set(store.cases["official_split"]) == {"train", "val", "test"}
    assert store.about["pixels_per_degree"] is None
    with pytest.raises(InputError, match="no valid gaze"):
        prepare(MIMICCXR(root), tmp_path / "gaze", size=(64, 64), require_gaze=True, workers=1)


def test_dicom_files_are_found_through_the_record_list(cohort, tmp_path):
    tree = tmp_path / "mimic-cxr"
    shutil.copytree(cohort / "mimic-cxr", tree)
    sheet = pd.read_csv(cohort / "egd-cxr" / "master_sheet.csv", dtype=str)
    listed = sheet[["patient_id", "study_id", "dicom_id", "path"]].rename(columns={"patient_id": "subject_id"})
    with gzip.open(tree / "cxr-record-list.csv.gz", "wt") as file:
        listed.to_csv(file, index=False)
    recording = MIMICCXR(tree, labels="none").read()
    assert len(recording.images) == 24
    assert (recording.images["height"] > 0).all()
    assert "official_split" not in recording.images


def test_the_image_path_is_what_follows_the_last_files_folder(tmp_path):
    published = "physionet.org/files/mimic-cxr/2.0.0/files/p10/p10000001/s50000001/a.dcm"
    assert image_file(tmp_path, published) == tmp_path / "files/p10/p10000001/s50000001/a.dcm"
    jpeg = tmp_path / "files/p10/p10000001/s50000001/a.jpg"
    jpeg.parent.mkdir(parents=True)
    jpeg.touch()
    assert image_file(tmp_path, published) == jpeg


@pytest.fixture
def copy(root, tmp_path):
    shutil.copytree(root, tmp_path / "jpg")
    return tmp_path / "jpg"


def _rewrite(folder, name, change):
    path = next(folder.glob(f"mimic-cxr-2.0.0-{name}.csv*"))
    table = change(pd.read_csv(path, dtype=str, keep_default_na=False))
    path.unlink()
    table.to_csv(folder / f"mimic-cxr-2.0.0-{name}.csv", index=False)


def _with(column, value):
    def change(table):
        table.loc[0, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("metadata", _with("Rows", "tall"), r"metadata\.csv: record 1: Rows is not a number"),
        ("metadata", _with("subject_id", "17"), r"metadata\.csv: record 1: subject_id or study_id"),
        ("metadata", lambda t: pd.concat([t, t[:1]]), r"metadata\.csv: 1 dicom_id are listed more than once"),
        ("metadata", lambda t: t.drop(columns="Columns"), r"metadata\.csv: column Columns is missing"),
        ("split", _with("split", "holdout"), r"split\.csv: record 1: split is none of train, validate, test"),
        ("chexpert", _with("Edema", "2.0"), r"chexpert\.csv: record 1: Edema is none of 1, 0, -1 and blank"),
        ("chexpert", _with("Edema", "yes"), r"chexpert\.csv: record 1: Edema is not a number"),
        ("chexpert", lambda t: t.drop(columns="Edema"), r"chexpert\.csv: column Edema is missing"),
    ],
)
def test_wrong_tables_are_one_error(copy, name, change, message):
    _rewrite(copy, name, change)
    with pytest.raises(InputError, match=message):
        MIMICCXR(copy).read()


def test_a_damaged_gzip_file_is_one_error(copy):
    path = copy / "mimic-cxr-2.0.0-metadata.csv.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"metadata\.csv\.gz: cannot be read"):
        MIMICCXR(copy).read()


def test_missing_images_are_left_out_and_listed(copy, tmp_path):
    sorted(copy.rglob("*.jpg"))[0].unlink()
    recording = MIMICCXR(copy, views=[]).read()
    assert len(recording.images) == 29
    assert "no such file" in recording.skipped[0][1]


def test_a_folder_without_tables(tmp_path):
    with pytest.raises(InputError, match="holds neither"):
        MIMICCXR(tmp_path).read()
    with pytest.raises(InputError, match="no such folder"):
        MIMICCXR(tmp_path / "none").read()
