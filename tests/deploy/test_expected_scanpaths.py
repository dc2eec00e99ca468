"""The expected scanpath of a film, by reader: in `gazelit infer` and for the page."""

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from gazelit.data.images.geometry import Letterbox
from gazelit.deploy.app.reading_room import ReadingRoom
from gazelit.deploy.film_regions import FilmRegions, draw_regions
from gazelit.deploy.inference import load_model
from gazelit.deploy.scanpaths import ExpectedScanpath, draw_scanpath, expected_scanpaths
from gazelit.metrics.scanpath import scanmatch
from gazelit.models import EncoderSpec, ScanpathNetwork
from gazelit.models.scanpath_decoding import Readings, sample
from tests.tiny import save_untrained


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    options = {"map_stride": 8, "width": 16, "layers": 1, "heads": 2, "longest": 6, "readers": ["a", "b"]}
    network = ScanpathNetwork(EncoderSpec("densenet-small"), regions=5, **options)
    with torch.no_grad():
        network.history.reader.weight.mul_(200)
        network.regions.query.weight.mul_(30)
    data = {"size": [64, 96], "synthetic": True, "class_names": ["Normal"]}
    return save_untrained(tmp_path_factory.mktemp("scanpath") / "x.ckpt", network, data, "scanpath")


@pytest.fixture
def film(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (400, 300)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "film.png"), pixels)
    return pixels


def typical(network, image, number):
    """Of sixteen drawn paths, the one with the greatest mean ScanMatch with the others, pair by pair."""
    features = network.film_features(image)
    size = image.shape[-1], image.shape[-2]
    paths = [path.numpy() for path in sample(network, features, Readings.of(features, number), 16, 0)]
    corner = [np.clip(np.add(path, [0.5, 0.5, 0]), 0, [*size, np.inf]) for path in paths]
    return max(
        zip(paths, corner, strict=True), key=lambda pair: sum(scanmatch(pair[1], each, size=size) for each in corner)
    )[0]


def test_infer_writes_the_paths_of_the_readers_that_are_asked_for(checkpoint, film, run_gazelit, tmp_path):
    run_gazelit("infer", "film.png", f"--ckpt={checkpoint}", "--out=out", "--names=file", "--reader=b")
    result = json.loads((tmp_path / "out" / "film.json").read_text())
    assert [path["reader"] for path in result["scanpaths"]] == [None, "b"]
    model = load_model(checkpoint)
    # The network's own path for the letterboxed film at working resolution.
    box = Letterbox.fit(400, 300, (64, 96))
    image = torch.from_numpy(box.apply(film.astype(np.float32) / 255))[None, None]
    for path, number in zip(result["scanpaths"], (0, 2), strict=True):
        expected = typical(model.network, image, number)
        xy = np.clip(box.to_original(expected[:, :2].astype(np.float64)), 0, (299, 399))
        assert np.column_stack([path["x"], path["y"]]) == pytest.approx(xy, abs=0.01)
        assert path["duration"] == pytest.approx(expected[:, 2], abs=0.001)
        assert path["t"] == pytest.approx(np.cumsum([0, *path["duration"][:-1]]), abs=0.01)
    assert result["scanpaths"][0]["x"] != result["scanpaths"][1]["x"]
    picture = Image.open(tmp_path / "out" / result["scanpath"])
    assert picture.size == (300, 400)
    printed = run_gazelit("infer", "film.png", f"--ckpt={checkpoint}", "--out=again", "--reader=z", code=2)
    assert "reader: the model has not learned z; it knows a, b" in printed


@pytest.mark.parametrize("name", ["film", "another"])
def test_infer_writes_the_regions_in_pixels_of_each_film(checkpoint, film, run_gazelit, tmp_path, name):
    films = {"film": film, "another": 255 - film}
    cv2.imwrite(str(tmp_path / "another.png"), films["another"])
    run_gazelit("infer", "film.png", "another.png", f"--ckpt={checkpoint}", "--out=out", "--names=file")
    result, film = json.loads((tmp_path / "out" / f"{name}.json").read_text()), films[name]
    network, box = load_model(checkpoint).network, Letterbox.fit(400, 300, (64, 96))
    image = torch.from_numpy(box.apply(film.astype(np.float32) / 255))[None, None]
    with torch.no_grad():
        maps = network.regions(network.film_features(image))
    # The cells of each core, whose middles are moved to the film one by one.
    rows, columns = np.indices((8, 12))
    cells = box.to_original(np.column_stack([columns.ravel(), rows.ravel()]) * 8.0 + 3.5)
    for number, chance in enumerate(maps.chance[0].double().numpy()):
        parts, _ = ndimage.label(chance >= chance.max() / 2)
        core = (parts == parts[np.unravel_index(chance.argmax(), chance.shape)]).ravel()
        mean = np.average(cells[core], axis=0, weights=chance.ravel()[core])
        found = result["regions"]
        assert (found["x"][number], found["y"][number]) == pytest.approx(tuple(mean), abs=0.05)
        # The film's 400 rows are 64 of the working image, so that a cell of 8 has 50 pixels.
        assert np.pi * found["radius"][number] ** 2 == pytest.approx(core.sum() * 50**2, rel=0.01)
    assert sum(result["regions"]["share"]) == pytest.approx(1, abs=1e-4)
    assert Image.open(tmp_path / "out" / result["regions_picture"]).size == (300, 400)


def test_a_region_is_drawn_at_its_centre_unless_its_share_is_tiny():
    centre, radius = np.array([[100.0, 300.0], [40.0, 40.0]]), np.array([20.0, 20.0])
    drawn = draw_regions(
        np.zeros((200, 100), np.uint8), FilmRegions(centre, radius, np.array([0.999, 0.001])), (400, 200)
    )
    pixels = np.asarray(drawn.convert("L"))
    # To the left and right, above and below, at half of the radius, because the film is drawn at half of its size.
    for x, y in ((49.75 - 10, 149.75), (49.75 + 10, 149.75), (49.75, 149.75 - 10), (49.75, 149.75 + 10)):
        assert pixels[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2].max() > 100
    assert pixels[:100].max() == 0


def test_a_path_is_drawn_at_its_positions():
    film = np.zeros((200, 100), np.uint8)
    path = ExpectedScanpath(None, np.array([[20.0, 300.0, 0.25], [170.0, 40.0, 1.0]]))
    drawn = np.asarray(draw_scanpath(film, path, (400, 200)).convert("L"))
    # The number of the second fixation is in its middle; twice the radius for four times the duration.
    assert drawn[12:28, 78:92].max() > 100
    for (x, y), radius in (((9.75, 149.75), 2.8), ((84.75, 19.75), 5.6)):
        left, line = round(x - radius), round(y)
        assert drawn[line - 1 : line + 2, left - 1 : left + 2].max() > 100
        assert drawn[line, : left - 2].max() == 0
    assert drawn[100:140, 60:].max() == 0


def test_the_page_is_given_the_paths_of_all_readers_and_a_survey_of_a_store_none(checkpoint, film):
    room = ReadingRoom(load_model(checkpoint))
    answer = room.read(film.astype(np.float32) / 255)
    assert [path["reader"] for path in answer["prediction"]["scanpaths"]] == [None, "a", "b"]
    assert room.model.readers is None


def test_a_path_stays_on_the_film():
    torch.manual_seed(2)
    network = ScanpathNetwork(EncoderSpec("densenet-small"), map_stride=8, width=16, heads=2, longest=4).eval()
    box = Letterbox.fit(400, 100, (64, 96))
    (path,) = expected_scanpaths(network, network.film_features(torch.rand(1, 1, 64, 96)), box, ())
    assert (path.path[:, :2] >= 0).all()
    assert (path.path[:, :2] <= (99, 399)).all()
