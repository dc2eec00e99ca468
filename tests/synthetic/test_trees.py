"""Further formats of the cohort: exact headers, quirks, and the same bytes for the same seed."""

import gzip
import hashlib
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gazelit.errors import InputError
from gazelit.synthetic.cohort import TREES, write_cohort

FIXATIONS = (
    "timestamp_start_fixation,timestamp_end_fixation,x_position,y_position,pupil_area_normalized,"
    "angular_resolution_x_pixels_per_degree,angular_resolution_y_pixels_per_degree,window_width,window_level,"
    "xmin_shown_from_image,ymin_shown_from_image,xmax_shown_from_image,ymax_shown_from_image,"
    "xmin_in_screen_coordinates,ymin_in_screen_coordinates,xmax_in_screen_coordinates,ymax_in_screen_coordinates"
)
METADATA = "id,split,eye_tracking_data_discarded,image,dicom_id,subject_id,image_size_x,image_size_y"
CHEXPERT = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,"
    "Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)


@pytest.fixture(scope="module")
def main_data(reflacx):
    return reflacx / "reflacx" / "main_data"


def digest(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", [name for name in TREES if name != "egd-cxr"])
def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(tmp_path, name):
    for folder, workers in (("a", 1), ("b", 2)):
        write_cohort(tmp_path / folder, cases=5, format=name, seed=1, max_side=96, workers=workers)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_another_format_in_the_same_folder_is_refused(manifest):
    with pytest.raises(InputError, match="is not this cohort"):
        write_cohort(manifest.parent, cases=12, format="egd-cxr", seed=5, max_side=128)
    write_cohort(manifest.parent, cases=12, format="manifest", seed=5, max_side=128)


def test_reflacx_headers_are_exact_and_lines_end_in_crlf(main_data):
    columns = {}
    for phase in (1, 2, 3):
        raw = (main_data / f"metadata_phase_{phase}.csv").read_bytes()
        assert raw.count(b"\r\n") == raw.count(b"\n")
        header = raw.split(b"\r\n")[0].decode()
        assert header.startswith(METADATA + ",")
        columns[phase] = header.split(",")[8:]
        assert columns[phase] == sorted(columns[phase])
    assert [len(columns[phase]) for phase in (1, 2, 3)] == [18, 16, 16]
    assert columns[2] == columns[3]
    fixations = next(main_data.rglob("fixations.csv")).read_bytes().split(b"\r\n")[0].decode()
    assert fixations == FIXATIONS
    samples = next((main_data.parent / "gaze_data").rglob("gaze.csv")).read_bytes().split(b"\r\n")[0].decode()
    assert samples == "timestamp_sample," + FIXATIONS.split(",", 2)[2]


def test_reflacx_ids_name_phase_and_trial(main_data):
    for phase in (1, 2, 3):
        table = pd.read_csv(main_data / f"metadata_phase_{phase}.csv")
        assert table["id"].str.fullmatch(rf"P{phase}\d\dR\d{{6}}").all()
        assert table["id"].str.startswith("P300").all() == (phase == 3)
        per_image = table.groupby("dicom_id").size()
        assert (per_image == (1 if phase == 3 else 5)).all()
        assert table["id"].is_unique


def test_a_zoomed_reading_and_a_look_beside_the_film_occur(main_data):
    tables = [pd.read_csv(path) for path in main_data.rglob("fixations.csv")]
    assert any((table["xmin_shown_from_image"] > 0).any() for table in tables)
    assert any((table["x_position"] < 0).any() for table in tables)
    samples = [pd.read_csv(path) for path in (main_data.parent / "gaze_data").rglob("gaze.csv")]
    assert any((table["x_position"] < 0).any() for table in samples)
    assert all(table["x_position"].isna().any() for table in samples)
    blank = samples[0][samples[0]["x_position"].isna()]
    assert blank.iloc[:, 1:6].isna().all().all()
    assert blank["window_width"].notna().all()


def test_readers_agree_with_each_other_more_than_with_other_films(reflacx):
    """Five readings of a film are alike but not the same, so they can serve as a ceiling."""
    import torch

    from gazelit.data.gaze.heatmap import fixation_density
    from gazelit.data.sources import REFLACX
    from gazelit.metrics.functional import cc

    recording = REFLACX(reflacx / "reflacx", reflacx / "mimic-cxr").read()
    gaze = recording.gaze()
    size = recording.images.set_index("image_id")[["height", "width"]]
    maps = {}
    for (image, _), group in gaze[gaze["valid"]].groupby(["image_id", "reading_id"]):
        height, width = size.loc[image]
        points = group[["x", "y", "duration"]].to_numpy(np.float32, copy=True)
        points[:, :2] *= 64 / np.array([width, height], np.float32)
        maps.setdefault(image, []).append(fixation_density(torch.from_numpy(points), (64, 64), 4.0))
    several = [torch.stack(map_) for map_ in maps.values() if len(map_) >= 4]
    within = torch.cat([cc(of_film[:-1], of_film[1:]) for of_film in several])
    firsts = torch.stack([of_film[0] for of_film in maps.values()])
    between = cc(firsts, firsts.roll(3, 0))
    assert within.mean() > between.mean() + 0.1
    assert within.max() < 0.99


def test_mimic_tables_are_those_of_the_project(mimic):
    root = mimic / "mimic-cxr-jpg"
    with gzip.open(root / "mimic-cxr-2.0.0-chexpert.csv.gz", "rt") as file:
        assert file.readline().strip() == CHEXPERT
    assert (root / "mimic-cxr-2.0.0-negbio.csv").is_file()
    metadata = pd.read_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz")
    assert metadata["ViewPosition"].isna().any()
    assert (metadata["ViewPosition"] == "LATERAL").any()
    for path in root.rglob("*.jpg"):
        assert re.fullmatch(r"files/p10/p1\d{7}/s5\d{7}/[0-9a-f-]{44}\.jpg", str(path.relative_to(root)))
    labels = pd.read_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz")
    assert set(metadata["study_id"]) - set(labels["study_id"])


def test_jpeg_pixels_are_equalised(mimic):
    with Image.open(next((mimic / "mimic-cxr-jpg").rglob("*.jpg"))) as picture:
        values = np.asarray(picture)
    shares = np.histogram(values, bins=4, range=(0, 256))[0] / values.size
    assert shares.max() < 0.6


def test_wrong_format_is_one_line(run_gazelit):
    printed = run_gazelit("synth", "--out=x", "--cases=3", "--format=mimic", code=2)
    assert "egd-cxr" in printed
