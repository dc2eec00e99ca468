"""REFLACX: separate readings, certainties, units, and errors for wrong files."""

import shutil

import numpy as np
import pandas as pd
import pytest

from gazelit.data.sources import REFLACX
from gazelit.data.store.prepare import prepare
from gazelit.data.store.store import Store
from gazelit.errors import InputError


def source(root, **options):
    return REFLACX(root / "reflacx", root / "mimic-cxr", **options)


def metadata(root, phase):
    return pd.read_csv(root / "reflacx" / "main_data" / f"metadata_phase_{phase}.csv", keep_default_na=False)


@pytest.fixture(scope="module")
def recording(reflacx):
    return source(reflacx).read()


def test_five_readings_of_an_image_are_kept_apart(recording):
    counts = recording.readings.groupby("image_id")["reading_id"].nunique()
    assert sorted(counts.unique()) == [1, 5]
    assert (counts == 5).sum() == 4
    assert recording.images["image_id"].is_unique
    assert len(recording.images) == 16
    gaze = recording.gaze()
    assert gaze.groupby("reading_id")["image_id"].nunique().max() == 1


def test_fixations_keep_times_positions_and_angles(reflacx, recording):
    gaze = recording.gaze()
    name = metadata(reflacx, 3)["id"][0]
    raw = pd.read_csv(reflacx / "reflacx" / "main_data" / name / "fixations.csv")
    ours = gaze[gaze["reading_id"] == name]
    assert np.allclose(ours["t"], raw["timestamp_start_fixation"])
    assert np.allclose(ours["duration"], raw["timestamp_end_fixation"] - raw["timestamp_start_fixation"])
    assert np.array_equal(ours[["x", "y"]], raw[["x_position", "y_position"]])
    assert np.array_equal(ours["ppd_x"], raw["angular_resolution_x_pixels_per_degree"])
    assert np.array_equal(ours["shown_x2"], raw["xmax_shown_from_image"])


def test_the_label_of_several_readers_is_the_majority_at_the_threshold(reflacx):
    for threshold in (2, 4):
        images = source(reflacx, certainty=threshold).read().images.set_index("image_id")
        table = metadata(reflacx, 2)
        for image, group in table.groupby("dicom_id"):
            present = (group["Pulmonary edema"].astype(int) >= threshold).mean()
            assert images.loc[image, "Pulmonary edema"] == float(present > 0.5)
    low, high = (source(reflacx, certainty=threshold).read() for threshold in (1, 5))
    assert low.images["Consolidation"].sum() > high.images["Consolidation"].sum()


def test_labels_that_a_phase_did_not_ask_for_are_unknown(reflacx, recording):
    first = set(metadata(reflacx, 1)["dicom_id"])
    in_first = recording.images["image_id"].isin(first)
    assert recording.images.loc[in_first, "Enlarged hilum"].isna().all()
    assert recording.images.loc[~in_first, "Enlarged hilum"].notna().all()
    assert recording.images.loc[~in_first, "Fibrosis"].isna().all()


def test_finer_labels_of_phase_1_are_merged_into_coarser_labels(reflacx):
    merged = source(reflacx).read().label_columns
    assert "Pleural abnormality" in merged
    assert "Pleural effusion" not in merged
    apart = source(reflacx, merge_labels=False).read()
    assert {"Pleural effusion", "Pleural abnormality"} <= set(apart.label_columns)
    first = apart.images["image_id"].isin(metadata(reflacx, 1)["dicom_id"])
    assert apart.images.loc[first, "Pleural abnormality"].isna().all()


def test_normal_is_derived_from_the_certainties(reflacx, recording):
    third = metadata(reflacx, 3).set_index("dicom_id")
    certainties = third.drop(columns=third.columns[:7]).drop(columns=["Support devices", "Other"]).astype(int)
    normal = ((certainties == 0).all(axis=1) & (third["Other"] == "")).astype(float)
    ours = recording.images.set_index("image_id").loc[third.index, "Normal"]
    assert np.array_equal(ours, normal)
    assert 0 < normal.mean() < 1


def test_ellipses_and_the_chests_box(reflacx, recording):
    ellipses = recording.regions[recording.regions["shape"] == "ellipse"]
    assert ellipses["certainty"].between(1, 5).all()
    assert (ellipses["x2"] > ellipses["x1"]).all()
    chest = recording.regions[recording.regions["name"] == "chest"]
    assert len(chest) == len(recording.readings)
    name = ellipses["reading_id"].iloc[0]
    raw = pd.read_csv(reflacx / "reflacx" / "main_data" / name / "anomaly_location_ellipses.csv")
    of_reading = ellipses[ellipses["reading_id"] == name]
    assert sorted(of_reading["x1"]) == sorted(raw["xmin"])


def test_sentences_begin_and_end_with_their_words(recording):
    phrases = recording.phrases
    assert (phrases["end"] > phrases["begin"]).all()
    assert phrases["text"].str.endswith(".").all()
    assert (phrases.groupby("reading_id").size() >= 2).all()


def test_zoom_changes_the_angle_and_sigma_follows(reflacx, tmp_path):
    from gazelit.data.options import GazeOptions
    from gazelit.data.working_gaze import WorkingGaze

    store = prepare(source(reflacx), tmp_path / "s", size=(64, 64), workers=1)
    gaze = store.gaze("fixation")
    assert gaze.groupby("reading_id", observed=True)["ppd_x"].nunique().max() == 2
    working = WorkingGaze.of(store, GazeOptions("fixation", "duration", 1.0, "deg"), 1)
    scale = np.array([store.letterboxes[row].scale for row in gaze["row"]])
    assert np.allclose(working.sigma, gaze[["ppd_x", "ppd_y"]] * scale, rtol=1e-5)


def test_the_official_split_is_kept(reflacx, recording):
    table = pd.concat([metadata(reflacx, phase) for phase in (1, 2, 3)]).drop_duplicates("dicom_id")
    expected = table.set_index("dicom_id")["split"].replace({"validate": "val"})
    ours = recording.images.set_index("image_id")["official_split"]
    assert (ours == expected.loc[ours.index]).all()


def test_raw_samples_at_a_thousand_hertz(reflacx):
    gaze = source(reflacx, kinds=("sample",), phases=(3,)).read().gaze()
    assert gaze["duration"].median() == pytest.approx(0.001)
    # A blink leaves empty cells, which stay as rows that are not valid.
    blink = gaze["x"].isna()
    assert blink.any()
    assert not gaze.loc[blink, "valid"].any()
    assert gaze["t"].diff().abs().min() >= 0


def test_the_store_holds_all_of_it(reflacx, tmp_path):
    store = prepare(source(reflacx), tmp_path / "s", size=(64, 64), workers=1)
    counts = store.about["counts"]
    assert counts["readings"] == 32
    assert store.about["notes"]["readings_discarded_by_the_authors"] == 1
    assert len(store.table("regions")) == counts["regions"] > 32
    assert store.table("phrases")["row"].max() < 16


@pytest.fixture
def copy(reflacx, tmp_path):
    shutil.copytree(reflacx / "reflacx", tmp_path / "tree" / "reflacx")
    (tmp_path / "tree" / "mimic-cxr").symlink_to(reflacx / "mimic-cxr")
    return tmp_path / "tree"


def _edit(path, column, value, row=0):
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[row, column] = value
    table.to_csv(path, index=False, lineterminator="\r\n")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("Consolidation", "7", "record 1: Consolidation is no certainty from 0 to 5"),
        ("Consolidation", "often", "record 1: Consolidation is not a number"),
        ("Support devices", "perhaps", "record 1: Support devices is neither True nor False"),
        ("split", "dev", "record 1: split is none of"),
        ("eye_tracking_data_discarded", "?", "record 1: eye_tracking_data_discarded is neither"),
        ("image_size_x", "", "record 1: image_size_x is empty"),
        ("id", "", "record 1: id is empty"),
    ],
)
def test_wrong_metadata_is_one_error(copy, column, value, message):
    _edit(copy / "reflacx" / "main_data" / "metadata_phase_3.csv", column, value)
    with pytest.raises(InputError, match=rf"metadata_phase_3\.csv: {message}"):
        source(copy).read()


def test_missing_tables_and_wrong_options(copy, reflacx):
    (copy / "reflacx" / "main_data" / "metadata_phase_2.csv").unlink()
    with pytest.raises(InputError, match=r"metadata_phase_2\.csv: no such file"):
        source(copy).read()
    assert len(source(copy, phases=(1, 3)).read().images) == 14
    with pytest.raises(InputError, match="certainty"):
        source(reflacx, certainty=0)
    with pytest.raises(InputError, match="phases"):
        source(reflacx, phases=())
    with pytest.raises(InputError, match="holds none of the 16 images"):
        REFLACX(reflacx / "reflacx", reflacx / "reflacx").read()


def test_a_damaged_reading_is_left_out_and_listed(copy, tmp_path):
    names = metadata(copy, 3)["id"].tolist()
    folder = copy / "reflacx" / "main_data"
    (folder / names[0] / "fixations.csv").unlink()
    _edit(folder / names[1] / "fixations.csv", "x_position", "left", row=2)
    _edit(folder / names[2] / "fixations.csv", "timestamp_end_fixation", "-5", row=1)
    (folder / names[3] / "fixations.csv").write_text("")
    store = prepare(source(copy), tmp_path / "s", size=(64, 64), workers=1)
    reasons = pd.read_csv(store.path / "skipped.csv")["reason"]
    assert store.about["counts"]["cases"] == 12
    for text in (
        "no such file",
        "record 3: x_position is not a number",
        "record 2: a fixation ends before",
        "is empty",
    ):
        assert reasons.str.contains(text).sum() == 1, text
    assert not set(Store.open(store.path).gaze("fixation")["reading_id"]) & set(names[:4])


@pytest.mark.parametrize(("value", "what"), [("", "is empty"), ("0", "is not above 0"), ("-3", "is not above 0")])
def test_finding_d11_angular_resolution_is_checked(copy, value, what):
    path = next(iter(sorted((copy / "reflacx" / "main_data").glob("*/fixations.csv"))))
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    seen = table.index[table["x_position"] != ""][3]
    table.loc[seen, "angular_resolution_x_pixels_per_degree"] = value
    table.to_csv(path, index=False)
    recording = REFLACX(copy / "reflacx", copy / "mimic-cxr").read()
    rest = recording.gaze()
    reasons = [reason for _, reason in recording.skipped if str(path) in reason]
    assert reasons == [f"{path}: record {seen + 1}: angular_resolution_x_pixels_per_degree {what}"]
    assert path.parent.name not in set(rest["reading_id"])
    assert (rest.loc[rest["valid"], "ppd_x"] > 0).all()


def test_a_path_that_no_file_can_have_is_a_missing_image(copy):
    _edit(copy / "reflacx" / "main_data" / "metadata_phase_3.csv", "image", "x" * 5000)
    recording = REFLACX(copy / "reflacx", copy / "mimic-cxr").read()
    assert sum("no such file" in reason for _, reason in recording.skipped) == 1
