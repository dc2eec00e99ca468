"""A film that is sent to the page comes back with the model's reading and its overlay."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import dcmread

from gazelit.deploy.app.reading_room import KEPT, ReadingRoom
from gazelit.deploy.overlay import heat_and_opacity, over_uniform, scale_end
from tests.app.conftest import SQUARE, BrightPlaces, film, png
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


def test_twelve_bits_are_kept(client):
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
    # The model's public map is on the film's own pixels, where the scale is the same.
    multiples = over_uniform(model.predict(png(film())).saliency)
    expected, _ = heat_and_opacity(multiples, shown["maps"]["end"])
    assert abs(shown["maps"]["end"] / scale_end(multiples) - 1) < 0.02
    assert np.abs(heat / 255 - expected).max() < 0.02


def test_the_overlay_equals_that_of_infer_and_old_films_are_forgotten(client, model):
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


@pytest.fixture(scope="module")
def film_file(cohort):
    """A simulated DICOM film."""
    return sorted((cohort / "mimic-cxr").rglob("*.dcm"))[0]


def test_dicom_results_are_those_of_infer_and_de_identified_when_asked(client, film_file):
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    source = dcmread(film_file)
    shown = client.post("/api/readings", content=film_file.read_bytes()).json()
    assert list(shown["objects"]) == ["sr", "sc", "seg", "gsps"]
    for kind, modality in (("sr", "SR"), ("sc", "OT"), ("seg", "SEG"), ("gsps", "PR")):
        answer = client.get(f"/api/readings/{shown['id']}/{kind}.dcm")
        assert answer.headers["content-disposition"] == f'attachment; filename="{kind}.dcm"'
        result = dcmread(io.BytesIO(answer.content))
        assert (result.Modality, result.PatientID) == (modality, source.PatientID)
        assert result.StudyInstanceUID == source.StudyInstanceUID
    private = dcmread(io.BytesIO(client.get(f"/api/readings/{shown['id']}/sr.dcm?deidentified=1").content))
    assert private.PatientID != source.PatientID
    assert private.StudyInstanceUID != source.StudyInstanceUID


def test_there_is_no_dicom_result_of_a_picture_or_of_an_unknown_kind(client, film_file):
    picture = client.post("/api/readings", content=png(film())).json()
    assert picture["objects"] == {}
    assert client.get(f"/api/readings/{picture['id']}/sr.dcm").status_code == 404
    dicom = client.post("/api/readings", content=film_file.read_bytes()).json()
    assert client.get(f"/api/readings/{dicom['id']}/fractional.dcm").status_code == 404


def test_the_spread_of_several_networks_and_guards_are_shown(model):
    """Two known networks have a known mean and SD, and a known threshold gives a known prediction set."""

    class Opposite(BrightPlaces):
        def forward(self, x):
            return super().forward(1 - x)

    both = replace(model, members=((Opposite().eval(), torch.ones(3)),))
    shown = ReadingRoom(both).read(png(film()))["prediction"]
    each = [
        replace(model, network=network).predict(png(film())).probabilities
        for network in (model.network, both.members[0][0])
    ]
    for name, value in shown["probabilities"].items():
        pair = [probabilities[name] for probabilities in each]
        assert value == pytest.approx(np.mean(pair), abs=1e-5)
        assert shown["spread"]["deviations"][name] == pytest.approx(np.std(pair, ddof=1), abs=1e-5)
    assert shown["spread"]["members"] == 2
    assert shown["prediction_set"] is None
