"""A film that is sent comes back as the model reads it and as overlays draw it."""

import base64
import io

import numpy as np
from PIL import Image

from gazelit.deploy.app.reading_room import KEPT
from gazelit.deploy.overlay import heat_and_opacity, over_uniform, scale_end
from tests.app.conftest import SQUARE, film, png
from tests.data.film_writers import film as dicom_film


def pixels_of(shown):
    values = np.frombuffer(base64.b64decode(shown["pixels"]), "<u2")
    return values.reshape(shown["height"], shown["width"])


def heat_of(shown, name="predicted"):
    values = np.frombuffer(base64.b64decode(shown["maps"][name]["heat"]), np.uint8)
    return values.reshape(shown["film"]["height"], shown["film"]["width"])


def test_the_film_comes_back_pixel_for_pixel(client):
    shown = client.post("/api/readings", content=png(film())).json()
    assert np.array_equal(pixels_of(shown["film"]), film().astype(int) * 257)
    assert (shown["prediction"]["height"], shown["prediction"]["width"]) == film().shape


def test_twelve_bits_are_not_lost_on_the_way(client):
    stored = np.tile(np.arange(0, 4000, 5, dtype=np.uint16), (600, 1))
    file = io.BytesIO()
    dicom_film(stored).save_as(file, enforce_file_format=True)
    shown = client.post("/api/readings", content=file.getvalue()).json()
    assert len(np.unique(pixels_of(shown["film"]))) == 800


def test_numbers_are_the_model_s(client, model):
    shown = client.post("/api/readings", content=png(film())).json()["prediction"]
    reading = model.predict(png(film()))
    assert shown["probabilities"] == reading.probabilities
    assert shown["warnings"] == list(reading.warnings)


def test_the_map_lies_on_the_bright_square_on_the_scale_of_overlays(client, model):
    shown = client.post("/api/readings", content=png(film())).json()
    heat = heat_of(shown)
    rows, columns = np.nonzero(heat > 128)
    assert abs(rows.min() - SQUARE[0].start) < 8
    assert abs(rows.max() - SQUARE[0].stop) < 8
    assert abs(columns.min() - SQUARE[1].start) < 8
    assert abs(columns.max() - SQUARE[1].stop) < 8
    # On the film's own pixels, which the model's public map is on, the scale is the same.
    multiples = over_uniform(model.predict(png(film())).saliency)
    expected, _ = heat_and_opacity(multiples, shown["maps"]["end"])
    assert abs(shown["maps"]["end"] / scale_end(multiples) - 1) < 0.02
    assert np.abs(heat / 255 - expected).max() < 0.02


def test_the_overlay_is_that_of_infer_and_old_films_are_forgotten(client, model):
    first = client.post("/api/readings", content=png(film())).json()["id"]
    answer = client.get(f"/api/readings/{first}/overlay.png")
    assert answer.headers["content-disposition"] == 'attachment; filename="overlay.png"'
    picture = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert np.array_equal(picture, np.asarray(model.predict(png(film())).overlay()))
    for _ in range(KEPT):
        client.post("/api/readings", content=png(film()[:64, :64]))
    assert client.get(f"/api/readings/{first}/overlay.png").status_code == 404


def test_examples_are_simulated_and_one_of_each_class(client):
    about = client.get("/api/about").json()
    assert about["examples"] == ["Normal", "CHF", "pneumonia"]
    shown = client.post("/api/examples/1").json()
    assert max(pixels_of(shown["film"]).shape) == 768
    assert shown["prediction"]["probabilities"].keys() == {"Normal", "CHF", "pneumonia"}


def test_colours_and_opacity_are_those_of_overlays(client):
    from matplotlib import colormaps

    about = client.get("/api/about").json()
    assert np.abs(np.array(about["colours"]) / 255 - colormaps["plasma"](np.arange(256))[:, :3]).max() < 0.002
    assert about["opacity"] == 0.7
