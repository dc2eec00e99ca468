"""Your own data: coordinates, defaults, and a validator that names file and row."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gazelit.data.prepare import prepare
from gazelit.data.sources import Manifest
from gazelit.errors import InputError

IMAGES = "image_id,patient_id,path,sick\na,1,a.png,1\nb,2,b.png,\n"
GAZE = "image_id,x,y,duration\na,10,20,0.2\na,30,5,0.3\nb,0,0,0.1\n"


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        Image.fromarray(np.arange(80 * 100, dtype=np.uint8).reshape(80, 100)).save(tmp_path / f"{name}.png")
    return tmp_path


def source(folder, images=IMAGES, gaze=GAZE, **options):
    (folder / "images.csv").write_text(images)
    if gaze is not None:
        (folder / "gaze.csv").write_text(gaze)
    options = {"labels": ["sick"], **options}
    return Manifest(folder / "images.csv", folder / "gaze.csv" if gaze is not None else None, **options)


def test_the_least_that_is_needed(folder):
    recording = source(folder).read()
    gaze = recording.gaze()
    assert gaze[["x", "y"]].to_numpy().tolist() == [[10, 20], [30, 5], [0, 0]]
    # Without times rows follow each other, end to end.
    assert gaze["t"].tolist() == pytest.approx([0, 0.2, 0])
    assert (gaze["kind"] == "fixation").all()
    assert gaze["valid"].all()
    assert recording.images["sick"].isna().tolist() == [False, True]
    assert recording.images["height"].tolist() == [80, 80]


def test_normalised_coordinates_run_from_edge_to_edge(folder):
    gaze = (
        source(folder, gaze="image_id,x,y,duration\na,0.5,0.25,1\na,1.0,1.2,1\n", coordinates="normalised")
        .read()
        .gaze()
    )
    assert gaze[["x", "y"]].to_numpy().tolist() == [[49.5, 19.5], [99.5, 95.5]]
    assert gaze["valid"].tolist() == [True, False]


def test_screen_coordinates_go_through_the_images_place_on_the_screen(folder):
    images = (
        "image_id,patient_id,path,sick,screen_left,screen_top,screen_right,screen_bottom\n"
        "a,1,a.png,1,500,0,1500,800\nb,2,b.png,0,0,0,100,80\n"
    )
    gaze = source(folder, images, "image_id,x,y,duration\na,1000,400,1\na,400,400,1\nb,10,20,1\n", coordinates="screen")
    table = gaze.read().gaze()
    # Image a is shown ten times as large.
    assert table[["x", "y"]].to_numpy().tolist() == [[49.5, 39.5], [-10.5, 39.5], [9.5, 19.5]]
    assert table["valid"].tolist() == [True, False, True]


def test_a_lost_eye_is_a_row_that_is_not_valid(folder):
    gaze = source(folder, gaze="image_id,x,y,duration,valid\na,,,0.1,1\na,1,2,0.1,0\na,3,4,0.1,\n").read().gaze()
    assert gaze["valid"].tolist() == [False, False, True]


def test_parquet_tables_are_taken_too(folder):
    pd.DataFrame(
        {"image_id": ["a", "b"], "patient_id": [1, 2], "path": ["a.png", "b.png"], "sick": [1.0, np.nan]}
    ).to_parquet(folder / "images.parquet")
    pd.DataFrame({"image_id": ["a"], "x": [1.5], "y": [2.5], "duration": [0.1], "t": [0.0]}).to_parquet(
        folder / "gaze.parquet"
    )
    recording = Manifest(folder / "images.parquet", folder / "gaze.parquet", ["sick"]).read()
    assert recording.gaze()[["x", "y"]].to_numpy().tolist() == [[1.5, 2.5]]
    assert recording.images["sick"].tolist()[0] == 1


def test_the_synthetic_tree_makes_a_store(manifest, tmp_path):
    made = prepare(
        Manifest(manifest / "images.csv", manifest / "gaze.csv", ["Normal", "CHF", "pneumonia"], "normalised"),
        tmp_path / "s",
        size=(64, 64),
        workers=1,
    )
    assert made.about["synthetic"]
    assert made.about["counts"]["cases"] == 12
    assert (made.cases[["Normal", "CHF", "pneumonia"]].sum(axis=1) == 1).all()


def test_images_alone_need_no_gaze(folder, tmp_path):
    made = prepare(source(folder, gaze=None), tmp_path / "s", size=(64, 64), workers=1)
    assert made.about["counts"]["cases"] == 2


@pytest.mark.parametrize(
    ("images", "gaze", "options", "message"),
    [
        ("", GAZE, {}, r"images\.csv: is empty"),
        ("image_id,patient_id,path,sick\n", GAZE, {}, r"images\.csv: lists no image"),
        ("image_id,path,sick\na,a.png,1\n", GAZE, {}, r"images\.csv: column patient_id is missing"),
        (IMAGES + "a,3,a.png,1\n", GAZE, {}, r"images\.csv: record 3: image_id was listed before"),
        (IMAGES + ",3,c.png,1\n", GAZE, {}, r"images\.csv: record 3: image_id is empty"),
        (IMAGES.replace("a.png,1", "a.png,2"), GAZE, {}, r"images\.csv: record 1: sick is none of 1, 0, -1 and blank"),
        (IMAGES.replace("a.png,1", "a.png,x"), GAZE, {}, r"images\.csv: record 1: sick is not a number"),
        (IMAGES, "image_id,x,y\na,1,2\n", {}, r"gaze\.csv: column duration is missing"),
        (IMAGES, GAZE + "c,1,1,1\n", {}, r"gaze\.csv: record 4: image_id is not in images\.csv"),
        (IMAGES, GAZE + "b,1,1,-1\n", {}, r"gaze\.csv: record 4: duration is negative"),
        (IMAGES, GAZE + "b,1,1,inf\n", {}, r"gaze\.csv: record 4: duration is not a number"),
        (IMAGES, GAZE + "b,left,1,1\n", {}, r"gaze\.csv: record 4: x is not a number"),
        (IMAGES, "image_id,x,y,duration,kind\na,1,2,1,gaze\n", {}, r"record 1: kind is none of sample, fixation"),
        (IMAGES, "image_id,x,y,duration,valid\na,1,2,1,ja\n", {}, r"record 1: valid is neither 1 nor 0"),
        (IMAGES, "image_id,x,y,duration,ppd_x\na,1,2,1,0\n", {}, r"record 1: ppd_x is not above 0"),
        (
            IMAGES,
            "image_id,x,y,duration,reading_id\na,1,2,1,r\nb,1,2,1,r\n",
            {},
            r"record 1: reading_id belongs to several images",
        ),
        (IMAGES, GAZE, {"coordinates": "screen"}, r"images\.csv: column screen_left, .* is missing"),
        (IMAGES, "image_id,x,y,duration\n\xff,1\n", {}, r"gaze\.csv"),
    ],
)
def test_faults_are_named_by_file_and_row(folder, images, gaze, options, message):
    with pytest.raises(InputError, match=message):
        source(folder, images, gaze, **options).read()


def test_the_validator_lists_all_faults_and_no_content(folder, run_gazelit):
    source(folder, IMAGES, GAZE + "b,SECRET,1,1\n" * 9)
    command = ["--images", str(folder / "images.csv"), "--gaze", str(folder / "gaze.csv"), "--labels", "[sick]"]
    printed = run_gazelit("validate-manifest", *command, code=2)
    assert printed.count("x is not a number") == 9
    assert "9 faults, listed above" in printed
    assert "SECRET" not in printed
    source(folder)
    assert "no fault found" in run_gazelit("validate-manifest", *command)


def test_a_missing_image_is_left_out_and_its_gaze_counted(folder):
    recording = source(folder, IMAGES.replace("b.png", "gone.png")).read()
    assert recording.images["image_id"].tolist() == ["a"]
    assert recording.notes["gaze_rows_of_images_left_out"] == 1
    assert "gone.png" in recording.skipped[0][1]
    with pytest.raises(InputError, match="none of the 2 images can be used"):
        source(folder, IMAGES.replace(".png", ".gone")).read()
