"""`gazelit package`: a folder that another machine loads, which checks that it gives the same outputs there."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import gazelit
from gazelit import InputError
from gazelit.checkpoints.stamps import read_checkpoint
from gazelit.deploy import packages
from gazelit.files import sha256_file
from gazelit.release.package import package
from tests.release.models import CLASSES, SIZE, checkpoint, classifier, dual


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A checkpoint and its package; the test that runs docs/export.md makes a package with a graph."""
    folder = tmp_path_factory.mktemp("package")
    package(checkpoint(folder / "best.ckpt"), folder / "chest")
    return folder


@pytest.fixture
def copied(packed, tmp_path):
    """A copy of the package, to be damaged."""
    for path in (packed / "chest").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_the_layout_is_that_of_the_hub(packed):
    folder = packed / "chest"
    names = {"README.md", "config.json", "lineage.json", "model.safetensors", "reference.json", "reference.png"}
    names.add("SHA256SUMS")
    assert {path.name for path in folder.iterdir()} == names
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    config = json.loads((folder / "config.json").read_text())
    assert config["image_size"] == list(SIZE)
    assert config["id2label"] == {"0": "clear", "1": "opaque", "2": "odd"}
    assert config["temperature"] == pytest.approx([1.7] * 3)
    assert config["network"] == read_checkpoint(packed / "best.ckpt")["gazelit"]["network"]
    front = ModelCard.load(folder / "README.md").data
    assert front.library_name == "gazelit"
    assert front.license == "other"
    assert {"gazelit", "synthetic"} <= set(front.tags)


def test_a_package_reads_as_its_checkpoint_and_so_does_every_command(packed, run_gazelit):
    film = np.random.default_rng(0).random((90, 71), dtype=np.float32)
    expected, reading = (gazelit.load(packed / name).predict(film) for name in ("best.ckpt", "chest"))
    assert reading.probabilities == expected.probabilities
    np.testing.assert_array_equal(reading.saliency, expected.saliency)
    weights = packed / "chest" / "model.safetensors"
    assert read_checkpoint(weights)["gazelit"]["exported_from"] == sha256_file(packed / "best.ckpt")
    run_gazelit("lineage", str(weights))
    printed = run_gazelit("lineage", str(packed / "chest"), code=2)
    assert f"a folder; give the checkpoint in it: {weights}" in printed


def test_nothing_on_this_machine_is_named(packed):
    for path in (packed / "chest").iterdir():
        assert str(packed).encode() not in path.read_bytes()


def test_the_card_of_real_data_closes_the_gate_and_that_of_synthetic_data_says_so(packed, tmp_path):
    text = (packed / "chest" / "README.md").read_text()
    assert "Trained on SYNTHETIC data" in text
    assert "extra_gated_prompt" not in text
    assert "Nothing: the package was made without the run" in text
    package(checkpoint(tmp_path / "real.ckpt", synthetic=False, source="egd-cxr"), tmp_path / "real", license="mit")
    text = (tmp_path / "real" / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "mit"
    assert "data-use agreement" in front["extra_gated_prompt"]
    assert "synthetic" not in front["tags"]
    assert "SYNTHETIC" not in text
    assert "not a medical device: not for clinical use" in text


def test_the_cards_sentences_are_those_of_the_documentation():
    from pathlib import Path

    from gazelit.release.card import INTENDED, LIMITS

    page = " ".join((Path(__file__).parents[2] / "docs" / "model-card.md").read_text().split())
    for text in INTENDED:
        assert text in page
    for text in LIMITS:
        assert re.split(r"[,.;]", text)[0] in page


@pytest.mark.parametrize("network", [classifier, lambda: dual(classes=None)], ids=["classes alone", "map alone"])
def test_networks_of_one_task_are_packed_and_checked(network, tmp_path):
    package(checkpoint(tmp_path / "best.ckpt", network()), tmp_path / "out")
    assert gazelit.load(tmp_path / "out").class_names == (() if network is not classifier else tuple(CLASSES))


def test_guards_travel_with_the_weights(tmp_path):
    from gazelit.deploy.guards import RANGES, SIDE, FilmDensity, Guards

    cells = np.zeros(SIDE * SIDE, np.float32)
    density = FilmDensity(cells, cells[:, None], np.ones(1, np.float32), 1.0, 2.0, 0.01, (9, 5))
    guards = Guards(density, dict.fromkeys(RANGES, (0.0, 1.0)), None).to_primitives()
    path = checkpoint(tmp_path / "best.ckpt")
    torch.save({**torch.load(path, weights_only=True), "gazelit_guards": guards}, path)
    package(path, tmp_path / "out")
    assert gazelit.load(tmp_path / "out").guards.to_primitives() == guards


def other_weights(folder):
    """Replaces the weights by others that fit, with a description that agrees."""
    state = load_file(folder / "model.safetensors")
    state["network.classifier.layers.3.bias"] += torch.tensor([0.05, 0.0, 0.0])
    save_file(state, folder / "model.safetensors")
    redescribe(folder)


def other_map(folder):
    state = load_file(folder / "model.safetensors")
    state["network.saliency_head.1.weight"] *= -1
    save_file(state, folder / "model.safetensors")
    redescribe(folder)


def redescribe(folder):
    about = json.loads((folder / "lineage.json").read_text())
    (folder / "lineage.json").write_text(json.dumps(about | {"sha256": sha256_file(folder / "model.safetensors")}))


def rewrite(name, **changes):
    def change(folder):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_weights, r"its reference film is not read here .*a probability differs by 0\.0"),
        (other_map, r"its reference film is not read here .*the map has a CC of -?[01]\."),
        (rewrite("config.json", temperature=[1.0, 1.0, 1.0]), r"config\.json: temperature is not that of"),
        (rewrite("config.json", model_type="bert"), r"config\.json: not what `gazelit package` writes"),
        (rewrite("reference.json", probabilities=None), r"reference\.json: not what"),
        (rewrite("reference.json", probabilities={"clear": 1}), "its classes are others"),
        (rewrite("reference.json", map=[[1.0]]), "holds no map of 16 x 12 cells"),
        (rewrite("reference.json", map=None), "only one of the two has a map"),
        (lambda folder: (folder / "reference.png").unlink(), r"reference\.png: no such file"),
        (lambda folder: (folder / "reference.png").write_bytes(b"x"), r"reference\.png: not a readable picture"),
        (lambda folder: (folder / "lineage.json").unlink(), r"model\.json: no such file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 80), "not a readable checkpoint"),
    ],
)
def test_a_changed_package_is_one_error(copied, change, message):
    change(copied)
    with pytest.raises(InputError, match=message) as raised:
        gazelit.load(copied)
    assert "\n" not in str(raised.value)


def test_a_reference_of_another_processor_is_within_tolerance(copied):
    found = json.loads((copied / "reference.json").read_text())
    near = {name: value + 4e-4 for name, value in found["probabilities"].items()}
    rewrite("reference.json", probabilities=near)(copied)
    gazelit.load(copied)


def test_a_model_that_cannot_be_packed_says_why_and_leaves_nothing(tmp_path, packed):
    with pytest.raises(InputError, match=r"chest: is not empty"):
        package(str(packed / "best.ckpt"), packed / "chest")
    with pytest.raises(InputError, match=r"no finished run"):
        package(str(packed / "best.ckpt"), tmp_path / "x", run=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_reference_film_is_synthetic_and_letterboxed(packed):
    with Image.open(packed / "chest" / packages.REFERENCE_FILM) as film:
        assert max(film.size) == round(1.25 * max(SIZE))
