"""CXR-P: the real gaze file over other images, which tests only the mechanics."""

import json

import numpy as np
import pytest
from PIL import Image

from gazelit.data.sources import CXRP
from gazelit.data.sources.cxr_p import read_cxr_p
from gazelit.data.store.prepare import prepare
from gazelit.errors import InputError


def record(name="a", x=(0.5, 1.02), y=(0.25, 0.5), time=(2, 6)):
    return {"image_id": name, "gaze_x": list(x), "gaze_y": list(y), "time": list(time)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.full((80, 100), 90, np.uint8)).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def write(folder, content):
    path = folder / "gaze.json"
    path.write_text(json.dumps(content))
    return path


def test_fractions_become_pixels_and_tracker_counts_become_seconds(folder):
    gaze = CXRP(write(folder, [record()]), folder / "images").read().gaze()
    assert gaze["x"].tolist() == pytest.approx([49.5, 101.5])
    assert gaze["y"].tolist() == pytest.approx([19.5, 39.5])
    assert gaze["duration"].tolist() == pytest.approx([2 / 60, 6 / 60])
    assert gaze["t"].tolist() == pytest.approx([0, 2 / 60])
    # x of 1.02 lies beside the image.
    assert gaze["valid"].tolist() == [True, False]


def test_labels_of_the_challenge(folder):
    table = folder / "train-rle.csv"
    table.write_text("ImageId, EncodedPixels\na, 12 3\na, 40 2\nb,-1\n")
    images = CXRP(write(folder, [record(), record("b")]), folder / "images", table).read().images
    assert images.set_index("image_id")["Pneumothorax"].to_dict() == {"a": 1.0, "b": 0.0}
    table.write_text("ImageId\na\n")
    with pytest.raises(InputError, match="EncodedPixels is missing"):
        CXRP(write(folder, [record()]), folder / "images", table).read()


def test_missing_images_are_listed(folder, tmp_path):
    store = prepare(
        CXRP(write(folder, [record(), record("z")]), folder / "images"), tmp_path / "s", size=(64, 64), workers=1
    )
    assert store.about["counts"]["cases"] == 1
    with pytest.raises(InputError, match="holds none of the 1 images"):
        CXRP(write(folder, [record("z")]), folder / "images").read()


def test_the_real_file(real_data, tmp_path):
    records = read_cxr_p(real_data / "cxr_p_125.json")
    assert len(records) == 125
    assert sum(len(entry["gaze_x"]) for entry in records) == 5286
    # The paired images are not available; this image replaces all of them.
    (tmp_path / "images").mkdir()
    for record in records[:5]:
        (tmp_path / "images" / f"{record['image_id']}.png").symlink_to(real_data / "nih_00000001_000.png")
    gaze = CXRP(real_data / "cxr_p_125.json", tmp_path / "images").read().gaze()
    assert gaze["image_id"].nunique() == 5
    x = np.concatenate([entry["gaze_x"] for entry in records[:5]])
    assert sorted(gaze["x"]) == pytest.approx(sorted(x * 512 - 0.5))
    assert gaze["duration"].between(1 / 60 - 1e-9, 8 / 60 + 1e-9).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "must hold a list of records"),
        ([{"image_id": "a"}], "record 1: must have"),
        ([record(x=(0.5,))], "record 1: gaze_x, gaze_y and time must be lists of one length"),
        ([record(), record("b", x=("left", 0.2))], "record 2: holds a value that is not a number"),
        ([record(time=(1, -2))], "record 1: holds an infinite value or a negative time"),
        ([record(), record()], "1 image_id are listed more than once"),
    ],
)
def test_wrong_files_are_one_error(folder, content, message):
    with pytest.raises(InputError, match=rf"gaze\.json: {message}"):
        CXRP(write(folder, content), folder / "images").read()


def test_a_file_that_is_not_json_is_refused(folder):
    path = folder / "gaze.json"
    path.write_text("[{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        CXRP(path, folder / "images").read()
