"""A user's own data: coordinates, defaults, and a validator that names file and row."""

import json
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gazelit.data.sources import Manifest
from gazelit.data.sources.plausible import DoubtsAboutUnits
from gazelit.data.store.prepare import prepare
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


def test_minimal_tables_are_read(folder):
    recording = source(folder).read()
    gaze = recording.gaze()
    assert gaze[["x", "y"]].to_numpy().tolist() == [[10, 20], [30, 5], [0, 0]]
    # Without times, each row begins where the row before ends.
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


def units(x=1.0, y=1.0, duration=1.0):
    """The gaze of ``UNITS`` in other units."""
    rows = [f"a,{(10 + 3 * k) * x:.6f},{(20 + 2 * k) * y:.6f},{0.2 * duration}" for k in range(20)]
    return "image_id,x,y,duration\n" + "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("gaze", "coordinates", "message"),
    [
        (units(0.01, 1 / 80), "pixel", "are these fractions"),
        (units(40, 40), "pixel", "beside their image"),
        (units(duration=1000), "pixel", "are these milliseconds"),
        (units(1, 1.25), "normalised", "are these percent"),
        (units(10, 10), "normalised", "are these pixels"),
    ],
)
def test_finding_d12_gaze_in_other_units_is_noticed(folder, gaze, coordinates, message):
    with pytest.raises(InputError, match=message):
        source(folder, gaze=gaze, coordinates=coordinates).read()
    assert any(message in fault for fault in source(folder, gaze=gaze, coordinates=coordinates).faults())


def test_finding_d12_gaze_in_the_right_units_is_not_doubted(folder):
    assert source(folder, gaze=units()).faults() == []
    assert source(folder, gaze=units(0.01, 1 / 80), coordinates="normalised").faults() == []


def doubts(gaze, size, coordinates):
    """The warnings about a table that is read in two pieces."""
    found = DoubtsAboutUnits(coordinates)
    for part in (slice(0, 25), slice(25, None)):
        found.add(gaze[part], size[part])
    return found.lines()


def test_finding_d12_milliseconds_of_t_and_percent_of_a_film_are_noticed():
    rng = np.random.default_rng(0)
    gaze = pd.DataFrame({"x": rng.uniform(0, 90, 60), "y": rng.uniform(0, 90, 60), "duration": 0.2, "kind": "fixation"})
    film = np.full((60, 2), (2544.0, 3056.0))
    assert "are these percent" in doubts(gaze, film, "pixel")[0]
    gaze = gaze.assign(x=gaze["x"] * 25, y=gaze["y"] * 30, t=np.arange(60) * 220.0, reading_id="r")
    assert "is t in milliseconds" in doubts(gaze, film, "pixel")[0]
    assert doubts(gaze.assign(t=np.arange(60) * 0.22), film, "pixel") == []


def test_finding_d_true_and_false_are_labels(folder):
    images = "image_id,patient_id,path,sick\na,1,a.png,True\nb,2,b.png,false\n"
    assert source(folder, images).read().images["sick"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("images", "gaze", "message"),
    [
        (IMAGES.replace(",", ";"), GAZE, r"images\.csv: .*separated by semicolons"),
        (IMAGES, GAZE.replace(",", "\t"), r"gaze\.csv: .*separated by tabs"),
        (IMAGES, 'image_id,x,y,duration\na,"10,5",2,1\n', "record 1: x is not a number .a decimal comma"),
        (IMAGES.replace("a.png,1", "a.png,yes"), GAZE, r"sick is not a number .write 1 and 0"),
    ],
)
def test_finding_d_separators_and_decimal_commas_give_the_cause(folder, images, gaze, message):
    with pytest.raises(InputError, match=message):
        source(folder, images, gaze).read()


@pytest.mark.parametrize(
    ("labels", "message"),
    [(["height"], "rename the label"), (["photometric"], "rename the label"), (["sick", "sick"], "more than once")],
)
def test_finding_d10_impossible_label_names_are_refused(folder, labels, message):
    with pytest.raises(InputError, match=message):
        source(folder, labels=labels)


def test_finding_d10_repeated_labels_on_the_command_line_are_one_error(folder, run_gazelit):
    source(folder)
    command = ["--images", str(folder / "images.csv"), "--labels", "[sick,sick]"]
    assert "labels: sick is named more than once" in run_gazelit("validate-manifest", *command, code=2)


def test_finding_g8_paths_that_leave_the_root_are_refused(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    Image.fromarray(np.zeros((80, 100), np.uint8)).save(elsewhere / "c.png")
    (folder / "link.png").symlink_to(elsewhere / "c.png")
    for path in (f"../{elsewhere.name}/c.png", str(elsewhere / "c.png"), "link.png"):
        images = IMAGES.replace("b.png", path)
        with pytest.raises(InputError, match=r"record 2: path leads out of .* as root"):
            source(folder, images).read()
        assert len(source(folder, images, root=str(folder.parent)).read().images) == 2
    # pandas before 3.1 ends a cell at a zero byte; the path then names another file, which is within the root.
    if int(pd.__version__.split(".")[0]) * 100 + int(pd.__version__.split(".")[1]) >= 301:
        with pytest.raises(InputError, match="record 2: path is no file name"):
            source(folder, IMAGES.replace("b.png", "b\0.png")).read()
    # An absolute path within the root is accepted like a relative path.
    assert len(source(folder, IMAGES.replace("b.png", str(folder / "b.png"))).read().images) == 2


def test_finding_g10_free_text_does_not_reach_the_store(folder, tmp_path):
    images = "image_id,patient_id,path,sick,comment,sex\na,1,a.png,1,Mrs Smith,F\nb,2,b.png,0,,M\n"
    made = prepare(source(folder, images), tmp_path / "s", size=(64, 64), workers=1)
    assert "comment" not in made.cases
    assert made.cases["sex"].tolist() == ["F", "M"]


def test_two_columns_of_one_name_in_parquet_are_one_error(folder):
    table = pa.table([["a"], ["1"], ["a.png"], ["a.png"]], names=["image_id", "patient_id", "path", "path"])
    pq.write_table(table, folder / "images.parquet")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        Manifest(folder / "images.parquet").read()


def test_text_in_parquet_that_is_not_utf8_is_one_error(folder):
    text = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"a\xff"))
    pq.write_table(pa.table({"image_id": text, "patient_id": ["1"], "path": ["a.png"]}), folder / "images.parquet")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        Manifest(folder / "images.parquet").read()


def test_an_up_to_date_store_is_recognised_without_reading_gaze_or_films(folder, monkeypatch):
    # The first of three images has no gaze and is no case, so a case's row number is not its record number.
    images = IMAGES.replace("a,1", "c,1,a.png,0\na,1")
    out = prepare(source(folder, images), folder / "store", size=(64, 64), workers=1).path
    assert not any(name in (out / "inputs.json").read_text() for name in ("a.png", "b.png", "images", "gaze"))

    class WasReadError(Exception):
        pass

    def read(self):
        raise WasReadError

    def again():
        prepare(Manifest(folder / "images.csv", folder / "gaze.csv", labels=["sick"]), out, size=(64, 64), workers=1)

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "read", read)
        again()
        # The times of a film are not evidence of a change; its content is compared.
        os.utime(folder / "b.png", ns=(0, 0))
        again()
        for spoilt in ("a.png", "b.png", "images.csv", "gaze.csv"):
            content = (folder / spoilt).read_bytes()
            (folder / spoilt).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            with pytest.raises(WasReadError):
                again()
            (folder / spoilt).write_bytes(content)
    again()
    monkeypatch.setattr(Manifest, "read", read)
    again()
    known = json.loads((out / "inputs.json").read_text())
    (out / "inputs.json").write_text(json.dumps({**known, "films": [7, 8]}))
    with pytest.raises(WasReadError):
        again()


def test_a_table_that_changes_while_it_is_read_is_read_again(folder, monkeypatch):
    read = Manifest.read

    def read_and_change(self):
        recording = read(self)
        (folder / "images.csv").write_text("image_id,patient_id,path,sick\n")
        return recording

    own = source(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "read", read_and_change)
        out = prepare(own, folder / "store", size=(64, 64), workers=1).path
    assert not (out / "inputs.json").exists()
    prepare(source(folder), out, size=(64, 64), workers=1)
    assert (out / "inputs.json").exists()
