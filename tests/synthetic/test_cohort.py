"""The synthetic cohort: formats, quirks, and its signal."""

import csv
import hashlib
import json
import re

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch

from gazelit.data.gaze.heatmap import fixation_density
from gazelit.data.images.dicom import read_radiograph
from gazelit.errors import InputError
from gazelit.metrics.functional import cc
from gazelit.synthetic.anatomy import CLASSES, draw_chest, draw_position
from gazelit.synthetic.case import Pads, plan_cohort, simulate_case
from gazelit.synthetic.cohort import write_cohort
from gazelit.synthetic.reader import read_chest
from gazelit.synthetic.tables import original_pixels

#: The headers in the dataset's documentation.
GAZE_HEADER = (
    "SESSION_ID,MEDIA_ID,DICOM_ID,CNT,Time (in secs),TIMETICK(f=10000000),FPOGX,FPOGY,FPOGS,FPOGD,FPOGID,FPOGV,BPOGX,"
    "BPOGY,BPOGV,LPCX,LPCY,LPD,LPS,LPV,RPCX,RPCY,RPD,RPS,RPV,BKID,BKDUR,BKPMIN,LPMM,LPMMV,RPMM,RPMMV,SACCADE_MAG,"
    "SACCADE_DIR,VID_FRAME,X_ORIGINAL,Y_ORIGINAL"
)


@pytest.fixture(scope="module")
def egd(cohort):
    return cohort / "egd-cxr"


@pytest.fixture(scope="module")
def films(cohort):
    return sorted((cohort / "mimic-cxr").rglob("*.dcm"))


def digest(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(tmp_path):
    write_cohort(tmp_path / "a", cases=6, seed=1, max_side=96, workers=1)
    write_cohort(tmp_path / "b", cases=6, seed=1, max_side=96, workers=2)
    write_cohort(tmp_path / "c", cases=6, seed=2, max_side=96, workers=1)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_headers_are_exact(egd):
    for name in ("eye_gaze.csv", "fixations.csv"):
        assert (egd / name).open().readline().strip() == GAZE_HEADER
    columns = (egd / "master_sheet.csv").open().readline().strip().split(",")
    assert len(columns) == 59
    assert columns[28:33] == ["dx9_icd", "normal_reports", "Normal", "CHF", "pneumonia"]
    assert columns[-1] == "cxr_exam_indication"
    assert (egd / "bounding_boxes.csv").open().readline().strip() == "dicom_id,bbox_name,x1,x2,y1,y2"


def test_master_sheet_has_the_quirks(egd):
    with (egd / "master_sheet.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert any("\n" in row["cxr_exam_indication"] for row in rows)
    assert any('"' in row["cxr_exam_indication"] for row in rows)
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}", row["dicom_id"]) for row in rows)
    assert all(sum(int(row[name]) for name in CLASSES) == 1 for row in rows)
    assert {row["pneumonia__chx"] for row in rows} >= {"", "1.0"}
    patients = [row["patient_id"] for row in rows]
    assert len(set(patients)) < len(patients)
    for patient in set(patients):
        assert len({row["CHF"] + row["Normal"] for row in rows if row["patient_id"] == patient}) == 1


def test_pads_and_paths_belong_to_the_files(egd, cohort):
    sheet = pd.read_csv(egd / "master_sheet.csv")
    for row in sheet.itertuples():
        header = pydicom.dcmread(cohort / "mimic-cxr" / row.path, stop_before_pixels=True)
        pads = Pads.of(header.Columns, header.Rows)
        assert (row.image_top_pad, row.image_bottom_pad, row.image_left_pad, row.image_right_pad) == (
            pads.top,
            pads.bottom,
            pads.left,
            pads.right,
        )
        assert header.PatientID == str(row.patient_id)


def test_pads_of_the_commonest_sizes_are_the_published_ones():
    assert Pads.of(2544, 3056) == Pads(0, 0, 534, 534)
    assert Pads.of(3056, 2544) == Pads(86, 86, 448, 448)


def test_the_published_integers_of_the_golden_case():
    x, y = original_pixels(np.array([0.5, 0.27]), np.array([0.5, 0.5]), Pads(0, 0, 534, 534), (2544, 3056))
    assert (x.tolist(), y.tolist()) == ([1272, -2], [1528, -2])


def test_dicom_files_are_valid_and_of_the_promised_kind(films):
    kinds = set()
    for film in films:
        dataset = pydicom.dcmread(film)
        stored_as = {"DX": "1.2.840.10008.5.1.4.1.1.1.1", "CR": "1.2.840.10008.5.1.4.1.1.1"}
        assert dataset.SOPClassUID == stored_as[dataset.Modality]
        assert (dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit) == (16, 12, 11)
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert dataset.pixel_array.max() <= 4095
        kinds.add(dataset.PhotometricInterpretation)
    assert kinds == {"MONOCHROME1", "MONOCHROME2"}
    assert len({pydicom.dcmread(film, stop_before_pixels=True).SOPInstanceUID for film in films}) == len(films)
    shapes = [pydicom.dcmread(film, stop_before_pixels=True) for film in films]
    assert any(shape.Columns > shape.Rows for shape in shapes)


def test_every_film_shows_dark_lungs_whatever_its_photometric_interpretation(egd, films):
    for film in films:
        folder = egd / "audio_segmentation_transcripts" / film.stem
        pixels = read_radiograph(film).pixels
        lungs = (
            sum(cv2.imread(str(folder / f"{side}_lung.png"), cv2.IMREAD_UNCHANGED) > 0 for side in ("left", "right"))
            > 0
        )
        middle = cv2.imread(str(next(folder.glob("mediast*num.png"))), cv2.IMREAD_UNCHANGED) > 0
        assert pixels[lungs].mean() < pixels[middle].mean() - 0.15
        assert lungs.shape == pixels.shape


def test_gaze_tables_have_the_quirks(egd):
    samples, fixations = (pd.read_csv(egd / name) for name in ("eye_gaze.csv", "fixations.csv"))
    lengths = set(samples["DICOM_ID"].str.len())
    assert lengths == {39, 44, 56}
    assert ((samples["X_ORIGINAL"] < 0) == (samples["Y_ORIGINAL"] < 0)).all()
    assert (samples["X_ORIGINAL"] < 0).any()
    assert ((samples["BKID"] > 0) & (samples["FPOGV"] == 0)).any()
    assert (fixations["Time (in secs)"] - fixations["FPOGS"] - fixations["FPOGD"]).abs().max() <= 1.5e-5
    assert (fixations["FPOGV"] == 1).all()
    # Ticks are written as floats, and advance with the time.
    assert ".0" in (egd / "eye_gaze.csv").read_text().splitlines()[1].split(",")[5]
    recording = samples[samples["DICOM_ID"] == samples["DICOM_ID"].iloc[-1]]
    assert np.allclose(
        np.diff(recording["TIMETICK(f=10000000)"]) / 1e7, np.diff(recording["Time (in secs)"]), atol=1e-4
    )
    assert np.median(np.diff(recording["Time (in secs)"])) == pytest.approx(1 / 60, rel=0.05)
    calibration = samples[samples["DICOM_ID"].str.len() != 44]
    assert calibration["X_ORIGINAL"].between(900, 1020).all()


def test_a_reading_is_of_the_usual_length(egd):
    fixations = pd.read_csv(egd / "fixations.csv")
    fixations = fixations[fixations["DICOM_ID"].str.len() == 44]
    per_film = fixations.groupby("DICOM_ID")
    assert 30 < per_film.size().mean() < 60
    assert 10 < per_film["Time (in secs)"].max().mean() < 30


def test_boxes_and_transcripts(egd):
    boxes = pd.read_csv(egd / "bounding_boxes.csv")
    assert (boxes["x1"] <= boxes["x2"]).all()
    assert (boxes["y1"] <= boxes["y2"]).all()
    assert {"cardiac silhouette", "left clavicle", "left costophrenic angle"} <= set(boxes["bbox_name"])
    transcript = json.loads(next(egd.glob("audio*/*/transcript.json")).read_text())
    assert all(phrase["begin_time"] < phrase["end_time"] for phrase in transcript["time_stamped_text"])


def test_heart_failure_has_the_larger_heart():
    rng = np.random.default_rng(0)
    ratio = {}
    for label in CLASSES:
        chests = [draw_chest(rng, label) for _ in range(40)]
        ratio[label] = np.mean([chest.heart.rx / (2 * chest.lungs[0].rx + 1.1) for chest in chests])
    assert ratio["Normal"] < 0.5 < ratio["CHF"]
    assert ratio["pneumonia"] == pytest.approx(ratio["Normal"], abs=0.02)


def test_classes_are_equally_frequent_and_have_the_same_film_sizes():
    plans = plan_cohort(300, 0, None)
    counts = pd.Series([plan.label for plan in plans]).value_counts()
    assert (counts == 100).all()
    landscape = pd.Series([plan.size[0] > plan.size[1] for plan in plans])
    assert 0.15 < landscape.mean() < 0.35
    assert max(pd.Series([plan.patient for plan in plans]).value_counts()) == 3


def test_readers_agree_with_each_other_more_than_with_the_mean_map():
    """Two readings of a film agree more than a reading and the mean of all films' readings: a model can learn this."""
    readings = ([], [])
    for number in range(90):
        rng = np.random.default_rng(number)
        chest, position = draw_chest(rng, CLASSES[number % 3]), draw_position(rng, number % 4 == 0)
        for maps in readings:
            fixations = read_chest(chest, rng)
            x, y = position.to_film(fixations.x, fixations.y)
            points = np.stack([(x + 17.9) / 35.8 * 128 - 0.5, (y + 21.5) / 43 * 160 - 0.5, fixations.duration], axis=1)
            maps.append(fixation_density(torch.from_numpy(points), (160, 128), 5.9))
    first, second = (torch.stack(maps) for maps in readings)
    between = cc(first, second).mean()
    centre = cc(first.mean(0).expand_as(second), second).mean()
    assert between - centre > 0.2


def test_the_finding_draws_the_gaze():
    rng = np.random.default_rng(0)
    for _ in range(5):
        chest = draw_chest(rng, "pneumonia")
        fixations = read_chest(chest, rng)
        x, y, _ = chest.findings[0]
        near = np.hypot(fixations.x - x, fixations.y - y) < 4
        assert fixations.duration[near].sum() > 0.35 * fixations.duration.sum()


def test_a_case_is_a_function_of_seed_and_number():
    plan = plan_cohort(9, 4, 128)[5]
    first, again = simulate_case(plan, 4), simulate_case(plan, 4)
    assert np.array_equal(first.film, again.film)
    assert not np.array_equal(first.film, simulate_case(plan, 5).film)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cases": 2}, "at least 3"),
        ({"cases": 6, "max_side": 32}, "at least 64"),
        ({"cases": 6, "seed": -1}, "negative"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        write_cohort(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_finished_cohort_is_left_alone_and_another_is_not_overwritten(tmp_path):
    write_cohort(tmp_path / "out", cases=3, seed=1, max_side=64, workers=1)
    before = digest(tmp_path / "out")
    write_cohort(tmp_path / "out", cases=3, seed=1, max_side=64, workers=1)
    assert digest(tmp_path / "out") == before
    with pytest.raises(InputError, match="is not this cohort"):
        write_cohort(tmp_path / "out", cases=3, seed=2, max_side=64, workers=1)
    assert digest(tmp_path / "out") == before


def test_finding_f4_further_readers_of_every_film_are_drawn(cohort):
    peers = pd.read_csv(cohort / "egd-cxr" / "peer_fixations.csv")
    sheet = pd.read_csv(cohort / "egd-cxr" / "master_sheet.csv")
    assert set(peers["dicom_id"]) == set(sheet["dicom_id"])
    assert (peers.groupby("dicom_id")["reader"].nunique() == 5).all()
    looks = peers.groupby(["dicom_id", "reader"])
    assert looks["t"].apply(lambda times: times.is_monotonic_increasing).all()
    # Readers are independent, so no two readings of a film are the same.
    assert not looks["x"].sum().duplicated().any()
