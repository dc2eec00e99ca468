"""Traps of the datasets, a test for each (docs/data.md lists them).

The evidence for each trap is in the datasets' documentation and in published loaders that have the error.
"""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from gazelit.data.gaze.heatmap import fixation_counts, fixation_density
from gazelit.data.images.geometry import Letterbox
from gazelit.data.sources import EGDCXR, REFLACX
from gazelit.data.sources.egd_screen import screen_to_image
from gazelit.data.store.prepare import prepare
from gazelit.errors import InputError
from gazelit.synthetic.case import Pads

GAZE = ["eye_gaze.csv", "fixations.csv"]


@pytest.fixture
def tree(cohort, tmp_path):
    """A copy of the EGD-CXR tree that a test may change; the films are shared."""
    shutil.copytree(cohort / "egd-cxr", tmp_path / "egd-cxr")
    (tmp_path / "mimic-cxr").symlink_to(cohort / "mimic-cxr")
    return tmp_path


@pytest.fixture
def reflacx_tree(reflacx, tmp_path):
    shutil.copytree(reflacx / "reflacx", tmp_path / "reflacx")
    (tmp_path / "mimic-cxr").symlink_to(reflacx / "mimic-cxr")
    return tmp_path


def egd(root, **options):
    return EGDCXR(root / "egd-cxr", root / "mimic-cxr", **options).read()


def read_reflacx(root, **options):
    return REFLACX(root / "reflacx", root / "mimic-cxr", **options).read()


def log(root, name="eye_gaze.csv"):
    return pd.read_csv(root / "egd-cxr" / name)


def change(path, function):
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table = function(table)
    table.to_csv(path, index=False)


def edited(column, rows, value):
    def edit(table):
        table.loc[rows(table) if callable(rows) else rows, column] = value
        return table

    return edit


# EGD-CXR -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["mediastanum", "mediastinum"])
def test_both_spellings_of_the_mediastinums_mask(tree, spelling):
    folder = sorted((tree / "egd-cxr" / "audio_segmentation_transcripts").iterdir())[0]
    next(folder.glob("mediast*num.png")).rename(folder / f"{spelling}.png")
    masks = egd(tree).masks
    assert (masks["image_id"] == folder.name).sum() == 4
    assert (masks[masks["image_id"] == folder.name]["name"] == "mediastinum").any()


def test_labels_are_columns_of_the_master_sheet_in_mixed_case(tree):
    recording = egd(tree)
    assert recording.label_columns[:3] == ["Normal", "CHF", "pneumonia"]
    assert set(recording.images["pneumonia"]) == {0.0, 1.0}
    # CheXpert's finding of the same name is another column.
    assert "pneumonia__chx" in recording.label_columns


def test_films_were_padded_to_1024_rows_and_gaze_is_a_share_of_1080():
    assert Pads.of(2544, 3056) == Pads(0, 0, 534, 534)
    assert Pads.of(3056, 2544) == Pads(86, 86, 448, 448)
    pads = np.array([[0.0, 0.0, 534.0, 534.0]])
    bottom = screen_to_image(np.array([[0.5, 1.0]]), pads, np.array([2544.0]), np.array([3056.0]))
    assert bottom[0, 1] + 0.5 == pytest.approx(3056)


@pytest.mark.parametrize("name", GAZE)
def test_shortened_ids_are_calibration_screens_and_not_films(tree, name):
    """Matching on the first characters of an id would add gaze on the dot to a film."""
    screens = log(tree, name)["DICOM_ID"].unique()
    short = [screen for screen in screens if len(screen) == 39]
    assert short
    films = set(egd(tree).images["image_id"])
    assert any(film.startswith(short[0]) for film in films)
    raw = log(tree, name)
    ours = egd(tree).gaze()
    kind = {"eye_gaze.csv": "sample", "fixations.csv": "fixation"}[name]
    film = next(film for film in films if film.startswith(short[0]))
    of_film = ours[(ours["image_id"] == film) & (ours["kind"] == kind)]
    assert len(of_film) == (raw["DICOM_ID"] == film).sum()


def test_an_id_with_a_calibration_suffix(tree):
    assert log(tree)["DICOM_ID"].str.endswith("_calibration").any()
    assert not egd(tree).gaze()["image_id"].str.endswith("_calibration").any()


def test_calibration_screens_give_the_trackers_error(tree):
    recordings = egd(tree).recordings
    assert recordings["calibration_samples"].max() >= 100
    assert recordings["calibration_error"].dropna().between(0, 2).all()


def test_folders_of_a_mirror_hold_index_html(tree):
    assert list((tree / "egd-cxr").rglob("index.html"))
    assert egd(tree).masks["path"].str.endswith(".png").all()


def test_records_are_counted_by_parsing_because_cells_hold_newlines(tree):
    sheet = tree / "egd-cxr" / "master_sheet.csv"
    assert len(sheet.read_text().splitlines()) > 25
    assert len(egd(tree).images) == 24


def test_an_unnamed_index_column_of_a_re_export_does_no_harm(tree):
    for name in ("master_sheet.csv", *GAZE):
        path = tree / "egd-cxr" / name
        pd.read_csv(path, dtype=str, keep_default_na=False).to_csv(path, index=True)
    assert len(egd(tree).images) == 24
    assert len(egd(tree).gaze()) > 1000


def test_crlf_line_ends(tree):
    for name in ("master_sheet.csv", *GAZE):
        path = tree / "egd-cxr" / name
        pd.read_csv(path, dtype=str, keep_default_na=False).to_csv(path, index=False, lineterminator="\r\n")
    assert egd(tree).label_columns[-1] == "support_devices__chx"


def test_time_in_fixations_is_the_end(tree):
    raw = log(tree, "fixations.csv").set_index("DICOM_ID")
    ours = egd(tree).gaze()
    ours = ours[ours["kind"] == "fixation"]
    for film in ours["image_id"].unique()[:3]:
        of_film = ours[ours["image_id"] == film]
        assert of_film["t"].to_numpy() == pytest.approx(raw.loc[film, "FPOGS"].to_numpy())
        assert (of_film["t"] + of_film["duration"]).to_numpy() == pytest.approx(
            raw.loc[film, "Time (in secs)"].to_numpy(), abs=1e-4
        )


def test_weights_are_durations_and_not_differences_of_time(tree):
    """A difference of times includes the saccade, and between images it has no meaning."""
    ours = egd(tree).gaze()
    ours = ours[ours["kind"] == "fixation"]
    gaps = ours.groupby("image_id")["t"].diff().dropna()
    assert ours["duration"].sum() < gaps.sum()
    raw = log(tree, "fixations.csv")
    assert ours["duration"].sum() == pytest.approx(raw[raw["DICOM_ID"].str.len() == 44]["FPOGD"].sum())


def test_timestamps_are_used_and_not_a_nominal_sixty_hertz(tree):
    change(
        tree / "egd-cxr" / "eye_gaze.csv",
        lambda table: table.assign(**{"Time (in secs)": pd.to_numeric(table["Time (in secs)"]) * 0.5}),
    )
    samples = egd(tree, kinds=("sample",)).gaze()
    assert samples["duration"].median() == pytest.approx(1 / 120, rel=0.03)


def test_samples_of_blinks_and_saccades_carry_coordinates_but_are_not_valid(tree):
    raw = log(tree)
    raw = raw[raw["DICOM_ID"].str.len() == 44]
    assert ((raw["FPOGV"] == 0) & (raw["X_ORIGINAL"] >= 0)).any()
    gaze = egd(tree, kinds=("sample",)).gaze()
    samples = gaze[gaze["kind"] == "sample"]
    assert samples["valid"].sum() <= (raw["FPOGV"] == 1).sum()


@pytest.mark.parametrize("coordinates", ["recomputed", "published"])
def test_off_image_sentinels_are_scaled_and_not_minus_one(tree, coordinates):
    """int(−1 · scale) is −2 on the usual film: a test for −1, or an index, would take it for a point on the film."""
    first = lambda table: table.index[table["DICOM_ID"].str.len() == 44][0]  # noqa: E731
    path = tree / "egd-cxr" / "fixations.csv"
    for column, value in (("X_ORIGINAL", "-2"), ("Y_ORIGINAL", "-2"), ("FPOGX", "0.27"), ("FPOGV", "1")):
        change(path, edited(column, first, value))
    raw = log(tree, "fixations.csv")
    off = raw.loc[first(raw)]
    gaze = egd(tree, coordinates=coordinates).gaze()
    of_film = gaze[(gaze["image_id"] == off["DICOM_ID"]) & (gaze["kind"] == "fixation")]
    assert not of_film[np.isclose(of_film["t"], off["FPOGS"])]["valid"].any()


def test_x_can_equal_the_width_of_an_odd_film(tree):
    sheet = pd.read_csv(tree / "egd-cxr" / "master_sheet.csv", dtype=str)
    sizes = egd(tree).images.set_index("image_id")["width"]
    raw = log(tree)
    raw = raw[raw["DICOM_ID"].isin(sheet["dicom_id"])]
    beyond = raw["X_ORIGINAL"].to_numpy() >= sizes.loc[raw["DICOM_ID"]].to_numpy()
    assert beyond.any()
    gaze = egd(tree, kinds=("sample",), coordinates="published").gaze()
    assert not gaze.loc[gaze["x"] >= sizes.loc[gaze["image_id"]].to_numpy(), "valid"].any()


def test_published_coordinates_agree_with_recomputed_ones_within_a_pixel(tree):
    recomputed, published = (egd(tree, coordinates=coordinates).gaze() for coordinates in ("recomputed", "published"))
    both = recomputed["valid"] & published["valid"]
    assert both.mean() > 0.8
    assert (recomputed.loc[both, ["x", "y"]] - published.loc[both, ["x", "y"]]).abs().max().max() <= 1


def test_missing_coordinates_are_not_valid(tree):
    raw = log(tree)
    assert raw["FPOGX"].isna().any()
    gaze = egd(tree, kinds=("sample",)).gaze()
    assert gaze["x"].isna().sum() == raw.loc[raw["DICOM_ID"].str.len() == 44, "FPOGX"].isna().sum()
    assert not gaze.loc[gaze["x"].isna(), "valid"].any()


def test_boxes_come_as_x1_x2_y1_y2(tree):
    raw = pd.read_csv(tree / "egd-cxr" / "bounding_boxes.csv")
    assert list(raw.columns[2:]) == ["x1", "x2", "y1", "y2"]
    regions = egd(tree).regions
    film = egd(tree).images.set_index("image_id").loc[regions["image_id"]]
    assert (regions["x2"].to_numpy() <= film["width"].to_numpy()).all()
    assert (regions["y2"].to_numpy() <= film["height"].to_numpy()).all()
    assert np.array_equal(np.sort(regions["x2"]), np.sort(raw["x2"]))


def test_a_transcript_can_be_empty(tree):
    folder = sorted((tree / "egd-cxr" / "audio_segmentation_transcripts").iterdir())[0]
    (folder / "transcript.json").write_text(json.dumps({"full_text": "", "time_stamped_text": []}))
    recording = egd(tree)
    assert not (recording.phrases["image_id"] == folder.name).any()
    assert not recording.skipped


def test_a_large_log_passes_through_in_parts_without_cutting_a_reading(tree, monkeypatch):
    whole = egd(tree).gaze()
    monkeypatch.setattr("gazelit.data.tables.CHUNK_ROWS", 700)
    parts = list(egd(tree).gaze_parts())
    assert len(parts) > 5
    assert pd.concat([part.groupby(["image_id", "kind"]).size() for part in parts]).index.is_unique
    pd.testing.assert_frame_equal(egd(tree).gaze(), whole)


# REFLACX -------------------------------------------------------------------------------------------------------------


def test_reflacx_has_a_table_for_each_phase_and_no_metadata_csv(reflacx_tree):
    assert not (reflacx_tree / "reflacx" / "main_data" / "metadata.csv").exists()
    assert set(read_reflacx(reflacx_tree).readings["phase"]) == {1, 2, 3}


def test_discarded_readings_have_no_files_and_no_gaze(reflacx_tree):
    """pandas reads True as a bool, and a comparison with 'TRUE' never matches: discarded readings leak in."""
    table = pd.read_csv(reflacx_tree / "reflacx" / "main_data" / "metadata_phase_1.csv")
    name = table.loc[table["eye_tracking_data_discarded"], "id"].item()
    assert not (reflacx_tree / "reflacx" / "main_data" / name / "fixations.csv").exists()
    recording = read_reflacx(reflacx_tree)
    assert name not in set(recording.gaze()["reading_id"])
    assert name in set(recording.readings["reading_id"])
    assert not recording.skipped


def test_images_come_with_and_without_the_physionet_prefix(reflacx_tree):
    tables = [pd.read_csv(path) for path in sorted((reflacx_tree / "reflacx" / "main_data").glob("*.csv"))]
    prefixed = pd.concat(tables)["image"].str.startswith("physionet.org/")
    assert prefixed.any()
    assert not prefixed.all()
    assert len(read_reflacx(reflacx_tree).images) == 16


def test_header_only_ellipses(reflacx_tree):
    lengths = [len(pd.read_csv(path)) for path in (reflacx_tree / "reflacx").rglob("anomaly_location_ellipses.csv")]
    assert 0 in lengths
    read_reflacx(reflacx_tree)


def test_an_ellipse_with_several_labels_is_under_each(reflacx_tree):
    path = next(p for p in (reflacx_tree / "reflacx").rglob("anomaly_location_ellipses.csv") if len(pd.read_csv(p)))
    before = read_reflacx(reflacx_tree).regions
    change(path, edited("Atelectasis", 0, "True"))
    after = read_reflacx(reflacx_tree).regions
    assert len(after) == len(before) + 1
    assert (after["name"] == "Atelectasis").sum() == (before["name"] == "Atelectasis").sum() + 1


def test_positions_beside_the_image_are_not_clipped_and_not_valid(reflacx_tree):
    gaze = read_reflacx(reflacx_tree).gaze()
    beside = gaze["x"] < -0.5
    assert beside.any()
    assert not gaze.loc[beside, "valid"].any()


def test_x_goes_with_the_width_and_y_with_the_height(reflacx_tree):
    """A published loader clips x by the number of rows."""
    recording = read_reflacx(reflacx_tree)
    landscape = recording.images[recording.images["width"] > recording.images["height"]].iloc[0]
    name = recording.readings.set_index("image_id").loc[[landscape["image_id"]], "reading_id"].iloc[0]
    path = reflacx_tree / "reflacx" / "main_data" / name / "fixations.csv"
    change(path, edited("x_position", 0, str(landscape["width"] - 1)))
    change(path, edited("y_position", 0, "3"))
    change(path, edited("x_position", 1, "3"))
    change(path, edited("y_position", 1, str(landscape["width"] - 1)))
    gaze = read_reflacx(reflacx_tree).gaze()
    assert gaze[gaze["reading_id"] == name]["valid"].tolist()[:2] == [True, False]


def test_positions_are_already_those_of_the_whole_image_when_zoomed(reflacx_tree):
    gaze = read_reflacx(reflacx_tree).gaze()
    zoomed = gaze[gaze["shown_x1"] > 0]
    assert len(zoomed)
    # Subtracting the shown rectangle would move them out of it.
    inside = zoomed["x"].between(zoomed["shown_x1"], zoomed["shown_x2"])
    assert inside.mean() > 0.9


def test_blank_rows_of_a_blink_are_kept_and_not_valid(reflacx_tree):
    name = read_reflacx(reflacx_tree, phases=(3,)).readings["reading_id"].iloc[0]
    raw = pd.read_csv(reflacx_tree / "reflacx" / "gaze_data" / name / "gaze.csv")
    gaze = read_reflacx(reflacx_tree, phases=(3,), kinds=("sample",)).gaze()
    of_reading = gaze[gaze["reading_id"] == name]
    assert len(of_reading) == len(raw)
    assert of_reading["x"].isna().sum() == raw["x_position"].isna().sum() > 0


def test_times_may_be_negative(reflacx_tree):
    name = read_reflacx(reflacx_tree, phases=(3,)).readings["reading_id"].iloc[0]
    path = reflacx_tree / "reflacx" / "main_data" / name / "fixations.csv"
    change(path, edited("timestamp_start_fixation", 0, "-0.35"))
    recording = read_reflacx(reflacx_tree, phases=(3,))
    assert recording.gaze()["t"].min() == -0.35
    assert not recording.skipped


def test_there_is_no_three_class_target_in_reflacx(reflacx_tree):
    labels = read_reflacx(reflacx_tree).label_columns
    assert "Normal" in labels
    assert "CHF" not in labels
    assert "pneumonia" not in [name.lower() for name in labels]


def test_sources_state_their_access_and_citation():
    assert "credentialed" in EGDCXR.__doc__
    assert "restricted" in REFLACX.__doc__
    assert all("Citation" in source.__doc__ for source in (EGDCXR, REFLACX))


# Maps ----------------------------------------------------------------------------------------------------------------


def test_more_than_127_samples_on_a_pixel_do_not_overflow():
    """A published counter is an int8."""
    points = torch.tensor([[5.0, 6.0, 1.0]]).repeat(300, 1)
    assert fixation_counts(points, (12, 12))[6, 5] == 300
    more = torch.cat([points, torch.tensor([[9.0, 6.0, 100.0]])])
    density = fixation_density(more, (12, 12), 0.3)
    assert density[6, 5] / density[6, 9] == pytest.approx(3, rel=1e-3)


def test_a_map_without_gaze_is_zero_and_not_nan():
    density = fixation_density(torch.zeros(0, 3), (8, 8), 2.0)
    assert torch.equal(density, torch.zeros(8, 8))


def test_landscape_films_are_not_cropped():
    box = Letterbox.fit(2544, 3056, (640, 512))
    corners = np.array([[0, 0], [3055, 0], [0, 2543], [3055, 2543]], float)
    working = box.to_working(corners)
    assert (working >= -0.5).all()
    assert (working <= np.array([511.5, 639.5])).all()


def test_revisited_places_add_up():
    """A published loader overwrites the earlier visit."""
    once = torch.tensor([[3.0, 3.0, 1.0], [9.0, 9.0, 2.0]])
    twice = torch.tensor([[3.0, 3.0, 1.0], [9.0, 9.0, 2.0], [3.0, 3.0, 1.0]])
    a, b = (fixation_density(points, (12, 12), 0.5) for points in (once, twice))
    assert a[9, 9] / a[3, 3] == pytest.approx(2, rel=1e-3)
    assert b[9, 9] / b[3, 3] == pytest.approx(1, rel=1e-3)


def test_points_off_the_image_do_not_wrap_around_to_the_other_border(tmp_path):
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "images.csv").write_text("image_id,patient_id,path\na,1,a.png\n")
    (tmp_path / "gaze.csv").write_text("image_id,x,y,duration\na,-2,-2,5\na,10,10,1\n")
    from gazelit.data.sources import Manifest

    store = prepare(Manifest(tmp_path / "images.csv", tmp_path / "gaze.csv"), tmp_path / "s", size=(64, 64), workers=1)
    assert len(store.gaze("fixation")) == 1
    assert len(store.gaze("fixation", valid_only=False)) == 2


# Privacy -------------------------------------------------------------------------------------------------------------


def test_errors_name_file_record_and_column_and_never_a_cell(tree):
    secret = "JOHN-DOE-1950"
    change(tree / "egd-cxr" / "fixations.csv", edited("FPOGX", lambda t: t["DICOM_ID"].str.len() == 44, secret))
    with pytest.raises(InputError) as error:
        egd(tree).gaze()
    assert "FPOGX" in str(error.value)
    assert secret not in str(error.value)
    change(tree / "egd-cxr" / "master_sheet.csv", edited("CHF", 0, secret))
    with pytest.raises(InputError) as error:
        egd(tree)
    assert secret not in str(error.value)
