"""`gazelit export`: other engines give the checkpoint's outputs, and a graph that does not is not written."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gazelit
from gazelit import InputError, trust
from gazelit.checkpoints.stamps import read_checkpoint
from gazelit.deploy import engines
from gazelit.deploy.graph import OUTPUTS, InferenceGraph, outputs_of, traced
from gazelit.models import ContrastiveNetwork, EncoderSpec
from gazelit.release import export as exporting
from gazelit.release.parity import compare, shortfall, synthetic_films, working_images
from tests.release.models import CLASSES, GAZE_NETWORKS, SIZE, checkpoint, classifier, dual

WITH_OPENVINO = importlib.util.find_spec("openvino") is not None
#: OpenVINO's file is read in tests/test_pipeline.py, which runs docs/export.md.
FILES = {"onnx": "best.onnx", "torch-export": "best.pt2"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A checkpoint, and beside it the same network as graphs."""
    folder = tmp_path_factory.mktemp("export")
    path = checkpoint(folder / "best.ckpt")
    for format in FILES:
        exporting.export(path, format)
    return folder


@pytest.fixture
def films():
    """Portrait, landscape, small and odd films."""
    rng = np.random.default_rng(0)
    return [rng.random(shape, dtype=np.float32) for shape in ((90, 71), (50, 133), (20, 21))]


@pytest.mark.parametrize("format", FILES)
def test_films_are_read_as_by_the_checkpoint_alone_and_in_batches(exported, films, format, monkeypatch):
    file = exported / FILES[format]
    monkeypatch.setattr(trust, "_trusted", {"torch.export"})
    model, exported_model = gazelit.load(exported / "best.ckpt"), gazelit.load(file)
    assert exported_model.class_names == model.class_names == tuple(CLASSES)
    assert exported_model.notice == model.notice
    for batch_size in (1, 3):
        for expected, reading in zip(
            model.predict(films, batch_size=batch_size),
            exported_model.predict(films, batch_size=batch_size),
            strict=True,
        ):
            assert reading.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
            assert max(expected.probabilities.values()) - min(expected.probabilities.values()) > 0.02
            np.testing.assert_allclose(reading.saliency, expected.saliency, rtol=1e-3, atol=1e-9)


def test_the_onnx_graph_alone_gives_calibrated_probabilities_and_densities(exported):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported / "best.onnx"))
    image = np.random.default_rng(1).random((4, 1, *SIZE), dtype=np.float32)
    given = dict(
        zip([output.name for output in session.get_outputs()], session.run(None, {"image": image}), strict=True)
    )
    assert list(given) == list(OUTPUTS)
    with torch.inference_mode():
        trained = {name: value.numpy() for name, value in dual()(torch.from_numpy(image)).items()}
    np.testing.assert_allclose(given["logits"], trained["logits"], atol=1e-5)
    scaled = np.exp(trained["logits"].astype(np.float64) / 1.7)
    np.testing.assert_allclose(given["probabilities"], scaled / scaled.sum(1, keepdims=True), atol=1e-6)
    mass = np.exp(trained["saliency_logits"].astype(np.float64))
    np.testing.assert_allclose(given["saliency"], mass / mass.sum((1, 2, 3), keepdims=True), rtol=1e-4, atol=1e-9)
    about = session.get_modelmeta().custom_metadata_map
    assert "SYNTHETIC" in about["notice"]
    assert "64, 32" in about["preprocessing"]


def test_the_description_has_the_parity_and_what_a_consumer_needs(exported):
    about = json.loads((exported / "best.onnx.json").read_text())
    assert about["parity"]["largest_difference"]["probabilities"] <= 1e-4
    assert about["parity"]["least_cc"] >= 0.9999
    assert about["parity"]["batches"] == [1, 2, 3]
    assert about["input"] == {"name": "image", "shape": ["batch", 1, *SIZE], "dtype": "float32"}
    assert about["classes"] == CLASSES
    assert about["temperature"] == pytest.approx([1.7] * 3)
    assert about["preprocessing"]["size"] == list(SIZE)
    assert about["gazelit"] == read_checkpoint(exported / "best.ckpt")["gazelit"]
    assert str(exported) not in json.dumps(about)


def test_infer_takes_an_exported_file(exported, run_gazelit, tmp_path):
    from PIL import Image

    Image.fromarray(np.random.default_rng(2).integers(0, 256, (70, 60)).astype(np.uint8)).save(tmp_path / "a.png")
    read = {}
    for name in ("best.ckpt", "best.onnx"):
        out = tmp_path / name.replace(".", "-")
        run_gazelit("infer", "a.png", "--ckpt", str(exported / name), "--out", str(out))
        results = [json.loads(path.read_text()) for path in out.glob("*.json")]
        (read[name],) = (result["probabilities"] for result in results if "probabilities" in result)
    assert read["best.onnx"] == pytest.approx(read["best.ckpt"], abs=1e-5)


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(lambda: dual(classes=None), id="map alone"),
        pytest.param(classifier, id="classes alone"),
        pytest.param(
            lambda: dual(
                classifier_pooling=["gaze", "top", "logsumexp"],
                classifier_strides=[1, 4],
                classifier_concentration=True,
                centre_prior=True,
                side_heads=1,
            ),
            id="every pooling",
        ),
        *(pytest.param(make, id=name) for name, make in GAZE_NETWORKS.items()),
    ],
)
def test_traced_graphs_of_other_networks_take_any_batch(network):
    built = network()
    graph = InferenceGraph(built, torch.full((built.classes or 0,), 0.8), exclusive=False).eval()
    program = traced(graph, SIZE)
    images = torch.rand(6, 1, *SIZE)
    with torch.inference_mode():
        expected = built(images)
        report = compare(graph, program.module(), images)
    assert outputs_of(program) == [name for name in OUTPUTS if name in graph(images[:1])]
    assert report["largest_difference"] == dict.fromkeys(outputs_of(program), 0.0)
    if built.classes:
        # With several labels, each has a probability of its own.
        found = graph(images)["probabilities"]
        torch.testing.assert_close(found, 1 / (1 + (-expected["logits"] / 0.8).exp()), atol=1e-6, rtol=0)


def test_transformers_take_any_batch():
    encoder = EncoderSpec("tu-vit_tiny_patch16_224", options={"depth": 1})
    from gazelit.models import ClassificationNetwork

    graph = InferenceGraph(ClassificationNetwork(encoder), torch.ones(3), exclusive=True).eval()
    assert compare(graph, traced(graph, (32, 32)).module(), torch.rand(6, 1, 32, 32))["largest_difference"]


def test_a_graph_that_gives_something_else_is_not_written(tmp_path, monkeypatch):
    path = checkpoint(tmp_path / "best.ckpt")
    opened = engines.read_exported

    def wrong(*arguments):
        exported = opened(*arguments)
        right = exported.network._run
        exported.network._run = lambda x: {**right(x), "probabilities": right(x)["probabilities"] + 2e-4}
        return exported

    monkeypatch.setattr(exporting, "read_exported", wrong)
    with pytest.raises(InputError, match=r"best\.pt2: not written, because probabilities differ by up to 0\.0002"):
        exporting.export(path, "torch-export")
    assert [file.name for file in tmp_path.iterdir()] == ["best.ckpt"]


def test_the_limits_of_parity():
    images = working_images(synthetic_films(SIZE), SIZE)
    assert images.shape == (6, 1, *SIZE)
    graph = InferenceGraph(dual(), torch.ones(3), True).eval()

    def blurred(x):
        outputs = graph(x)
        return {**outputs, "saliency": torch.nn.functional.avg_pool2d(outputs["saliency"], 5, 1, 2)}

    assert shortfall(compare(graph, graph, images)) is None
    assert shortfall(compare(graph, blurred, images)).startswith("maps have a CC down to 0.")
    assert "nan" in shortfall(
        compare(graph, lambda x: {**graph(x), "probabilities": graph(x)["probabilities"] * torch.nan}, images)
    )


def test_a_pt2_file_is_opened_only_if_it_is_trusted(exported):
    with pytest.raises(InputError, match=r"best\.pt2: torch reads \.pt2 files by pickle.*--trust torch\.export"):
        gazelit.load(exported / "best.pt2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"best\.onnx is not the file that best\.onnx\.json"),
        (lambda path: path.with_name("best.onnx.json").unlink(), r"best\.onnx\.json: no such file; it describes"),
        (lambda path: path.with_name("best.onnx.json").write_text("[]"), "not what `gazelit export` writes"),
        (lambda path: rewrite(path, temperature=[1.0]), "does not name the 3 classes"),
        (lambda path: rewrite(path, files={"../x": "0"}), "not what `gazelit export` writes"),
        (lambda path: rewrite(path, files={"best.onnx": digest(path), "../x": "0"}), r"x is not the file that"),
        (lambda path: garble(path), r"best\.onnx: onnxruntime cannot read it"),
    ],
)
def test_damaged_and_strange_files_are_one_error(exported, tmp_path, change, message):
    for name in ("best.onnx", "best.onnx.json"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    change(tmp_path / "best.onnx")
    with pytest.raises(InputError, match=message) as raised:
        gazelit.load(tmp_path / "best.onnx")
    assert "\n" not in str(raised.value)


def digest(path):
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def rewrite(path, **changes):
    beside = path.with_name("best.onnx.json")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | changes))


def garble(path):
    path.write_bytes(b"\xff" * 200)
    rewrite(path, files={"best.onnx": digest(path)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onnx", "out": "x.pt2"}, r"must end in \.onnx"),
        ({"format": "torch-export", "precision": "int8"}, "int8 goes with --format onnx or openvino"),
        ({"format": "onnx"}, r"best\.onnx: is there already; .*--overwrite"),
        ({"format": "openvino", "films": 0}, "films: the ranges of int8 need at least one, not 0"),
        ({"format": "onnx", "precision": "int8"}, r"config\.yaml: no configuration; .*--stage_config"),
    ],
)
def test_impossible_options_are_refused(exported, options, message):
    out = options.pop("out", None)
    with pytest.raises(InputError, match=message):
        exporting.export(str(exported / "best.ckpt"), **options, out=out and exported / out)


def test_a_network_that_cannot_be_traced_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr(type(dual()), "check_input", lambda self, x, stride: float(x.sum()) > 0 or None)
    with pytest.raises(
        InputError, match=r"best\.ckpt: torch\.export cannot trace its network for any batch \("
    ) as raised:
        exporting.export(checkpoint(tmp_path / "best.ckpt"), "torch-export")
    assert "\n" not in str(raised.value)


def test_a_network_that_predicts_nothing_says_so(tmp_path):
    network = ContrastiveNetwork(EncoderSpec("densenet-small"))
    path = checkpoint(tmp_path / "c.ckpt", network)
    with pytest.raises(InputError, match=r"c\.ckpt: stage joint predicts neither classes nor a saliency map"):
        exporting.export(path, "torch-export")


def test_a_missing_library_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"onnxscript is not installed.*gazelit\[export\]"):
        exporting.export(checkpoint(tmp_path / "best.ckpt"), "onnx")


def test_cuda_is_refused_where_the_engine_has_none(exported):
    with pytest.raises(InputError, match="this onnxruntime cannot use 'cuda'"):
        engines.read_exported(exported / "best.onnx", torch.device("cuda"))


@pytest.mark.skipif(not WITH_OPENVINO, reason="openvino is not installed (gazelit[export] has it)")
def test_openvino_reports_nothing_to_its_makers(tmp_path):
    code = (
        "import sys; from gazelit.deploy.engines import engine; engine('openvino')\n"
        "print(sys.modules.get('openvino_telemetry'), 'openvino.tools.ovc' in sys.modules)"
    )
    root = Path(gazelit.__file__).parents[1]
    # OpenVINO's telemetry takes the home folder from there, and would leave an identifier of the machine in it.
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(root)}
    environment.pop("CI", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "None"
    left = [path.name.lower() for path in tmp_path.rglob("*")]
    assert not [name for name in left if "intel" in name or "openvino" in name]
