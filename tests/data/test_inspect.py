"""What `gazelit inspect` reports about a store, and the faults that it finds."""

import shutil

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from gazelit.cli.main import main
from gazelit.data.sources import EGDCXR, Manifest
from gazelit.data.store.inspect import examine
from gazelit.data.store.prepare import prepare
from gazelit.data.store.store import Store


@pytest.fixture(scope="module")
def found(store):
    return examine(Store.open(store))


def test_counts_and_balance_are_those_of_the_files(found, cohort):
    sheet = pd.read_csv(cohort / "egd-cxr" / "master_sheet.csv")
    assert found.counts["cases"] == len(sheet)
    assert found.counts["patients"] == sheet["patient_id"].nunique()
    assert found.labels.loc["CHF", "present"] == sheet["CHF"].sum()
    edema = sheet["edema__chx"]
    expected = [(edema == 1).sum(), (edema == 0).sum(), (edema == -1).sum(), edema.isna().sum()]
    assert found.labels.loc["edema__chx"].tolist() == expected
    assert found.sizes["n"].sum() == len(sheet)
    assert set(found.sizes["photometric"]) == {"MONOCHROME1", "MONOCHROME2"}


def test_quality_is_that_of_the_samples(found, cohort, store):
    raw = pd.read_csv(cohort / "egd-cxr" / "eye_gaze.csv")
    raw = raw[raw["DICOM_ID"].str.len() == 44]
    samples = found.readings[found.readings["kind"] == "sample"]
    assert samples["rows"].sum() == len(raw)
    assert samples["rate"].median() == pytest.approx(60, rel=0.02)
    width = Store.open(store).cases.set_index("image_id")["width"].loc[raw["DICOM_ID"]].to_numpy()
    off = (((raw["X_ORIGINAL"] < 0) | (raw["X_ORIGINAL"] >= width)) & raw["FPOGX"].notna()).mean()
    assert samples["off_image"].sum() / samples["rows"].sum() == pytest.approx(off, abs=0.003)
    length = raw.groupby("DICOM_ID")["Time (in secs)"].agg(lambda t: t.max() - t.min())
    assert samples["length"].median() == pytest.approx(length.median(), abs=0.1)


def test_the_trackers_error_is_measured_on_the_calibration_dots(found, cohort):
    raw = pd.read_csv(cohort / "egd-cxr" / "eye_gaze.csv")
    dots = raw[(raw["DICOM_ID"].str.len() != 44) & (raw["FPOGV"] == 1)]
    error = np.hypot((dots["FPOGX"] - 0.5) * 1920, (dots["FPOGY"] - 0.5) * 1080) / 39.87
    ours = found.recordings.set_index("recording_id")["calibration_error"].dropna()
    for session, group in error.groupby(dots["SESSION_ID"]):
        assert ours[str(session)] == pytest.approx(group.median(), rel=1e-6)


def test_suspicious_cases_are_named_by_row(tmp_path):
    rng = np.random.default_rng(0)
    images = {"flat": np.full((64, 64), 90), "good": rng.integers(0, 255, (64, 64))}
    images["twin"] = images["good"]
    for name, pixels in images.items():
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.png")
    rows = "\n".join(f"{name},{number},{name}.png" for number, name in enumerate(images))
    (tmp_path / "images.csv").write_text(f"image_id,patient_id,path\n{rows}\n")
    off = "\n".join(["twin,-9,5,0.5"] * 8)
    good = "\n".join(["good,9,5,0.5"] * 8)
    (tmp_path / "gaze.csv").write_text(f"image_id,x,y,duration\nflat,9,9,0.5\n{off}\ntwin,5,5,0.5\n{good}\n")
    source = Manifest(tmp_path / "images.csv", tmp_path / "gaze.csv")
    found = examine(prepare(source, tmp_path / "s", size=(64, 64), workers=1)).suspicious
    assert [what for row, _, what in found if row == 0] == [
        "1 fixations",
        "fixations: reading of 0.5 s",
        "image has hardly any contrast (SD 0.000)",
    ]
    assert not [what for row, kind, what in found if row == 1 and "one spot" not in kind]
    assert {"same pixels as row 1", "fixations: 89% off the image", "fixations: 11% valid"} == {
        what for row, kind, what in found if row == 2 and "one spot" not in kind
    }
    assert [row for row, kind, _ in found if kind == "same pixels, other patient"] == [2]
    # Eight fixations on a single pixel are not a reading of a film.
    assert {row for row, kind, _ in found if kind == "fixations: all in one spot"} == {1, 2}


def test_finding_d7_every_kind_is_shown_and_all_are_listed(tmp_path, capfd):
    """Forty readings with a single fixation do not hide thirty duplicates, and the CSV lists all of them."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64)).astype(np.uint8)).save(tmp_path / "twin.png")
    for number in range(40):
        Image.fromarray(rng.integers(0, 255, (64, 64)).astype(np.uint8)).save(tmp_path / f"{number}.png")
    names = [*(f"{number}.png" for number in range(40)), *["twin.png"] * 31]
    rows = "\n".join(f"i{number},p{number},{name}" for number, name in enumerate(names))
    (tmp_path / "images.csv").write_text(f"image_id,patient_id,path\n{rows}\n")
    gaze = "\n".join(f"i{number},9,5,3.0" for number in range(71))
    (tmp_path / "gaze.csv").write_text(f"image_id,x,y,duration\n{gaze}\n")
    prepare(Manifest(tmp_path / "images.csv", tmp_path / "gaze.csv"), tmp_path / "s", size=(64, 64), workers=1)
    capfd.readouterr()
    assert main(["inspect", str(tmp_path / "s"), "--sheet", str(tmp_path / "out" / "sheet.png"), "--cases", "4"]) == 0
    printed = capfd.readouterr().out
    assert "same pixels as row 40" in printed
    assert "and 25 more" in printed
    listed = pd.read_csv(tmp_path / "out" / "suspicious.csv")
    assert (listed["kind"] == "same pixels, other patient").sum() == 30
    assert (listed["kind"] == "few fixations").sum() == 71


def test_finding_d7_a_lateral_view_is_kept_and_suspicious(tmp_path):
    for name, view in (("a", "PA"), ("b", "LL"), ("c", "")):
        film = np.random.default_rng(0).integers(0, 4000, (64, 64)).astype(np.uint16)
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = (
            pydicom.uid.DigitalXRayImageStorageForPresentation
        )
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = pydicom.uid.generate_uid()
        dataset.Rows = dataset.Columns = 64
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.ViewPosition = view
        dataset.PixelData = film.tobytes()
        dataset.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    (tmp_path / "images.csv").write_text("image_id,patient_id,path\na,1,a.dcm\nb,2,b.dcm\nc,3,c.dcm\n")
    made = prepare(Manifest(tmp_path / "images.csv"), tmp_path / "s", size=(64, 64), workers=1)
    assert made.cases["view"].tolist() == ["PA", "LL", ""]
    found = examine(made).suspicious
    assert [(row, what) for row, kind, what in found if kind == "lateral view"] == [(1, "view is LL")]


def test_the_command_prints_no_ids_and_draws_the_sheet(store, tmp_path, run_gazelit, capfd):
    sheet = tmp_path / "sheet.png"
    assert main(["inspect", str(store), "--sheet", str(sheet), "--cases", "8"]) == 0
    printed = capfd.readouterr().out
    assert "SYNTHETIC" in printed
    assert not any(image in printed for image in Store.open(store).cases["image_id"])
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    # Films are grey; the density over them is not.
    colour = np.ptp(pixels, axis=2)
    assert pixels.shape[0] > 300
    assert 0.005 < (colour > 40).mean() < 0.5


def test_a_store_of_images_alone_is_inspected_too(mimic, tmp_path, run_gazelit):
    from gazelit.data.sources import MIMICCXR

    prepare(MIMICCXR(mimic / "mimic-cxr-jpg"), tmp_path / "s", size=(64, 64), workers=1)
    run_gazelit("inspect", str(tmp_path / "s"), "--cases=3")
    assert (tmp_path / "s-contact.png").is_file()


def test_masks_regions_and_phrases_reach_the_store(store, cohort):
    opened = Store.open(store)
    masks = opened.masks(3)
    assert set(masks) == {"left lung", "right lung", "mediastinum", "aortic knob"}
    image = opened.images()[3] / 255
    assert image[masks["left lung"]].mean() < image[masks["mediastinum"]].mean()
    assert opened.table("phrases")["text"].str.contains("frontal").any()
    boxes = opened.table("regions")
    raw = pd.read_csv(cohort / "egd-cxr" / "bounding_boxes.csv")
    assert len(boxes) == len(raw)
    assert (boxes["x2"] >= boxes["x1"]).all()


def test_a_mask_that_does_not_fit_is_listed(cohort, tmp_path):
    shutil.copytree(cohort, tmp_path / "tree")
    folders = sorted((tmp_path / "tree" / "egd-cxr" / "audio_segmentation_transcripts").iterdir())
    (folders[0] / "left_lung.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folders[1] / "right_lung.png")
    (folders[2] / "transcript.json").write_text('{"time_stamped_text": [{"phrase": "x"}]}')
    root = tmp_path / "tree"
    made = prepare(EGDCXR(root / "egd-cxr", root / "mimic-cxr"), tmp_path / "s", size=(64, 64), workers=1)
    reasons = pd.read_csv(made.path / "skipped.csv")["reason"]
    assert reasons.str.contains("a mask that cannot be read").sum() == 1
    assert reasons.str.contains("a mask of another size").sum() == 1
    assert reasons.str.contains("not a transcript").sum() == 1
    assert made.about["counts"]["cases"] == 24
    assert made.about["counts"]["masks"] == 94
