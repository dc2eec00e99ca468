"""EGD-CXR: the mapping of coordinates, the quirks of the files, and errors for wrong files."""

import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazelit.data.sources import EGDCXR
from gazelit.data.sources.egd_screen import screen_to_image
from gazelit.errors import InputError
from gazelit.synthetic.case import Pads, to_screen


@pytest.fixture(scope="module")
def recording(cohort):
    return EGDCXR(cohort / "egd-cxr", cohort / "mimic-cxr").read()


@pytest.fixture(scope="module")
def gaze(recording):
    return recording.gaze()


def published(cohort, name):
    return pd.read_csv(cohort / "egd-cxr" / name)


def test_golden_case_of_the_mapping():
    # 2544 × 3056 portrait, pads (0, 0, 534, 534): the middle of the screen is pixel (1272, 1528) of the film.
    pads, width, height = np.array([[0, 0, 534, 534]] * 2), np.array([2544, 2544]), np.array([3056, 3056])
    xy = screen_to_image(
        np.array([[0.5, 0.5], [0.27, 0.5]]), pads.astype(float), width.astype(float), height.astype(float)
    )
    assert xy[0] + 0.5 == pytest.approx([1272, 1528])
    # 0.27 of the screen is 518.4 pixels, left of the film's edge at 534.
    assert xy[1, 0] < -0.5


@settings(max_examples=60, deadline=None)
@given(st.integers(1621, 3056), st.integers(1684, 3056), st.floats(0.02, 0.98), st.floats(0.02, 0.98))
def test_points_on_a_film_are_recovered_from_the_screen(width, height, u, v):
    """A point that the preparation's padding maps to fractions of the screen is mapped back to itself."""
    pads = Pads.of(width, height)
    x, y = u * (width - 1), v * (height - 1)
    screen = np.column_stack(to_screen(np.array([x + 0.5]), np.array([y + 0.5]), pads, (width, height)))
    edges = np.array([[pads.top, pads.bottom, pads.left, pads.right]], float)
    back = screen_to_image(screen, edges, np.array([float(width)]), np.array([float(height)]))
    assert back[0] == pytest.approx([x, y], abs=1e-6)


@pytest.mark.parametrize(("file", "kind"), [("eye_gaze.csv", "sample"), ("fixations.csv", "fixation")])
def test_coordinates_agree_with_the_published_integers_within_a_pixel(recording, cohort, file, kind, gaze):
    raw = published(cohort, file)
    raw = raw[raw["DICOM_ID"].isin(recording.images["image_id"])].sort_values(
        ["DICOM_ID", "Time (in secs)"], kind="stable"
    )
    ours = gaze[gaze["kind"] == kind]
    assert len(ours) == len(raw)
    raw = raw.set_index(ours.index)
    inside = (raw["X_ORIGINAL"] >= 0) & (raw["Y_ORIGINAL"] >= 0)
    assert inside.mean() > 0.9
    assert (ours["x"] - raw["X_ORIGINAL"])[inside].abs().max() <= 1
    assert (ours["y"] - raw["Y_ORIGINAL"])[inside].abs().max() <= 1


def test_off_film_sentinels_are_never_valid(recording, cohort, gaze):
    raw = published(cohort, "eye_gaze.csv")
    raw = raw[raw["DICOM_ID"].isin(recording.images["image_id"])].sort_values(
        ["DICOM_ID", "Time (in secs)"], kind="stable"
    )
    ours = gaze[gaze["kind"] == "sample"]
    off = (raw["X_ORIGINAL"] < 0).to_numpy()
    assert off.any()
    assert not ours["valid"].to_numpy()[off].any()


def test_valid_points_lie_on_their_film(recording, gaze):
    gaze = gaze[gaze["valid"]].merge(recording.images[["image_id", "height", "width"]], on="image_id")
    assert ((gaze["x"] >= -0.5) & (gaze["x"] < gaze["width"] - 0.5)).all()
    assert ((gaze["y"] >= -0.5) & (gaze["y"] < gaze["height"] - 0.5)).all()


def test_blinks_and_saccades_are_not_valid(recording, cohort, gaze):
    raw = published(cohort, "eye_gaze.csv")
    share = (raw["FPOGV"] == 0).mean()
    assert 0.02 < share < 0.6
    samples = gaze[gaze["kind"] == "sample"]
    raw = raw[raw["DICOM_ID"].isin(recording.images["image_id"])]
    assert int(samples["valid"].sum()) <= int((raw["FPOGV"] == 1).sum())


def test_calibration_screens_are_dropped(recording, cohort, gaze):
    ids = published(cohort, "eye_gaze.csv")["DICOM_ID"].unique()
    odd = [name for name in ids if len(name) != 44]
    assert {len(odd_id) for odd_id in odd} == {39, 44 + len("_calibration")}
    assert not gaze["image_id"].isin(odd).any()


def test_fixation_weights_are_their_durations_and_samples_last_to_the_next(recording, cohort, gaze):
    fixations = gaze[gaze["kind"] == "fixation"]
    raw = published(cohort, "fixations.csv")
    raw = raw[raw["DICOM_ID"].isin(recording.images["image_id"])]
    assert fixations["duration"].sum() == pytest.approx(raw["FPOGD"].sum())
    # The row of a fixation is its last sample, so the fixation began FPOGD earlier.
    ends = np.sort((fixations["t"] + fixations["duration"]).to_numpy())
    assert ends == pytest.approx(np.sort(raw["Time (in secs)"]), abs=1e-4)
    samples = gaze[gaze["kind"] == "sample"]
    assert samples["duration"].median() == pytest.approx(1 / 60, rel=0.02)
    assert samples["duration"].max() <= 0.1


def test_pixels_per_degree_of_a_portrait_film_have_the_known_values():
    # 39.87 screen pixels a degree; 2544 × 3056 shown at 852 × 1080: 119 × 113 film pixels.
    assert pytest.approx(119, abs=0.5) == 39.87 * 2544 / (1920 - 2 * 534)
    assert pytest.approx(113, abs=0.5) == 39.87 * 3056 / 1080


def test_records_with_newlines_are_counted_by_parsing(recording, cohort, gaze):
    lines = (cohort / "egd-cxr" / "master_sheet.csv").read_text().count("\n")
    assert lines > len(recording.images) + 1
    assert len(recording.images) == 24


def test_labels_are_exclusive_and_findings_keep_their_unknowns(recording, gaze):
    assert (recording.images[["Normal", "CHF", "pneumonia"]].sum(axis=1) == 1).all()
    assert recording.label_columns[:3] == ["Normal", "CHF", "pneumonia"]
    assert recording.images["edema__chx"].isna().any()
    assert recording.synthetic


@pytest.fixture
def copy(cohort, tmp_path):
    shutil.copytree(cohort / "egd-cxr", tmp_path / "egd", ignore=shutil.ignore_patterns("audio*"))
    return tmp_path / "egd", cohort / "mimic-cxr"


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda egd: (egd / "master_sheet.csv").unlink(), r"master_sheet\.csv: no such file"),
        (lambda egd: (egd / "eye_gaze.csv").unlink(), r"eye_gaze\.csv: no such file"),
        (lambda egd: (egd / "fixations.csv").write_text(""), r"fixations\.csv: is empty"),
        (
            lambda egd: edit(egd / "master_sheet.csv", "patient_id", "patient"),
            r"master_sheet\.csv: column patient_id is missing",
        ),
        (lambda egd: edit(egd / "eye_gaze.csv", "FPOGX", "GAZEX"), r"eye_gaze\.csv: column FPOGX is missing"),
        (
            lambda egd: _set(egd / "fixations.csv", "FPOGX", "left"),
            r"fixations\.csv: record \d+: FPOGX is not a number",
        ),
        (lambda egd: (egd / "master_sheet.csv").write_bytes(b"\xff\xfe\x00bad"), r"master_sheet\.csv"),
        (
            lambda egd: _double(egd / "master_sheet.csv"),
            r"master_sheet\.csv: 1 dicom_id are listed more than once",
        ),
        (
            lambda egd: (egd / "fixations.csv").write_bytes(b"DICOM_ID\n\xff\xfe\n"),
            r"fixations\.csv: (is not UTF-8|column)",
        ),
        (
            lambda egd: edit(egd / "bounding_boxes.csv", "bbox_name,x1", "bbox_name,x0"),
            r"bounding_boxes\.csv: column x1 is missing",
        ),
        (lambda egd: _swap(egd / "bounding_boxes.csv"), r"bounding_boxes\.csv: record 1: x2 or y2 is below x1 or y1"),
        (lambda egd: _append(egd / "master_sheet.csv", "1," * 90), r"master_sheet\.csv: cannot be read as CSV"),
        (lambda egd: _append(egd / "fixations.csv", '"1'), r"fixations\.csv: cannot be read as CSV"),
        (lambda egd: _set(egd / "master_sheet.csv", "edema__chx", "yes"), r"record 1: edema__chx is not a number"),
        (lambda egd: _set(egd / "master_sheet.csv", "dicom_id", ""), r"record 1: dicom_id is empty"),
        (lambda egd: _set(egd / "master_sheet.csv", "CHF", "yes"), r"record 1: CHF is not a number"),
        (lambda egd: _set(egd / "master_sheet.csv", "Normal", "0"), r"record 1: exactly one of"),
        (lambda egd: _set(egd / "fixations.csv", "FPOGD", "-1"), r"fixations\.csv: record \d+: FPOGD is negative"),
        (
            lambda egd: _set(egd / "eye_gaze.csv", "Time (in secs)", "inf"),
            r"eye_gaze\.csv: record \d+: Time .* is not a time",
        ),
    ],
)
def test_wrong_files_are_one_error_that_names_them(copy, spoil, message):
    spoil(copy[0])
    with pytest.raises(InputError, match=message):
        EGDCXR(*copy).read().gaze()


def _swap(path):
    table = pd.read_csv(path)
    table.loc[0, ["x1", "x2"]] = [90.0, 10.0]
    table.to_csv(path, index=False)


def _append(path, line):
    with path.open("a") as file:
        file.write(line + "\n")


def test_unsorted_times_are_sorted(copy, gaze):
    for name in ("eye_gaze.csv", "fixations.csv"):
        path = copy[0] / name
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        screens = [rows.iloc[::-1] for _, rows in table.groupby("DICOM_ID", sort=False)]
        pd.concat(screens).to_csv(path, index=False)
    pd.testing.assert_frame_equal(EGDCXR(*copy).read().gaze(), gaze)


def test_a_file_without_permission(copy, monkeypatch):
    """Root may read everything, so the library is made to raise the error."""

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pandas.read_csv", refused)
    with pytest.raises(InputError, match=r"master_sheet\.csv: may not be read"):
        EGDCXR(*copy).read()


def _double(path):
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    pd.concat([table, table.iloc[:1]]).to_csv(path, index=False)


def _set(path, column, value):
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    # Row 0 of the gaze files belongs to a calibration screen, which is dropped.
    rows = table["DICOM_ID"].str.len() == 44 if "DICOM_ID" in table else table.index == 0
    table.loc[np.flatnonzero(rows)[0], column] = value
    table.to_csv(path, index=False)


@pytest.mark.parametrize(
    ("root", "images", "message"),
    [("none", "mimic-cxr", "EGD-CXR"), ("egd-cxr", "none", "MIMIC-CXR"), ("egd-cxr", "egd-cxr", "files/")],
)
def test_wrong_roots_say_which_one(cohort, root, images, message):
    with pytest.raises(InputError, match=message):
        EGDCXR(cohort / root, cohort / images).read()


@pytest.mark.parametrize(
    "entry",
    [
        '{"phrase": "\\ud800", "begin_time": 0, "end_time": 1}',
        '{"phrase": "x", "begin_time": 1' + "0" * 400 + ', "end_time": 1}',
        '{"phrase": "x", "begin_time": NaN, "end_time": 1}',
        '["phrase"]',
        '{"phrase": "x", "begin_time": [], "end_time": 1}',
    ],
)
def test_finding_g7_a_damaged_transcript_is_left_out_and_listed(cohort, tmp_path, entry):
    shutil.copytree(cohort, tmp_path / "tree")
    folder = sorted((tmp_path / "tree" / "egd-cxr" / "audio_segmentation_transcripts").iterdir())[0]
    (folder / "transcript.json").write_text('{"time_stamped_text": [' + entry + "]}")
    recording = EGDCXR(tmp_path / "tree" / "egd-cxr", tmp_path / "tree" / "mimic-cxr", kinds=("fixation",)).read()
    assert folder.name not in set(recording.phrases["image_id"])
    assert [image for image, reason in recording.skipped if "not a transcript" in reason] == [folder.name]
