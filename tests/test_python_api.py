"""gazelit from Python: docs/python.md runs, films of every form are read alike, bad films give one line."""

import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import uid

import gazelit
from gazelit import InputError
from tests.data.film_writers import write, write_compressed
from tests.test_inference import Stub

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"


def smooth(height=96, width=80):
    """A film without noise, of 12 bits."""
    rows, columns = np.mgrid[:height, :width]
    return (2048 + 1900 * np.sin(rows / 17) * np.cos(columns / 13)).astype(np.uint16)


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    "code",
    [
        "import gazelit; gazelit.InputError, dir(gazelit)",
        "from gazelit.cli.main import main; main(['--help'])",
        "from gazelit.cli.main import main; main(['--version'])",
    ],
)
def test_quick_commands_import_no_heavy_library(code):
    heavy = ["torch", "lightning", "pandas", "numpy", "matplotlib", "jsonargparse", "PIL"]
    printed = run_python(f"{code}\nimport sys; print('LOADED', *(name for name in {heavy} if name in sys.modules))")
    assert printed[printed.index("LOADED") :] == ["LOADED"]


def test_a_report_imports_no_library_that_it_may_not_need():
    """Each of these libraries takes 20 to 300 MB of a report's memory."""
    heavy = ["numba", "scipy.stats", "scipy.optimize", "ot", "captum", "torchmetrics", "lightning", "matplotlib"]
    code = "import gazelit.reporting.collect, sys"
    printed = run_python(f"{code}; print('LOADED', *(name for name in {heavy} if name in sys.modules))")
    assert printed[printed.index("LOADED") :] == ["LOADED"]


def test_every_public_name_is_there_and_unknown_ones_are_not():
    assert {name for name in gazelit.__all__ if not hasattr(gazelit, name)} == set()
    assert set(gazelit.__all__) <= set(dir(gazelit))
    with pytest.raises(AttributeError, match="'gazelit' has no attribute 'laod'"):
        gazelit.laod  # noqa: B018


def test_the_package_is_marked_as_typed():
    assert (Path(gazelit.__file__).parent / "py.typed").is_file()


@pytest.fixture(scope="module")
def page(store, cohort, tmp_path_factory):
    """Runs the page's blocks in one folder, training first, then reading; returns their variables and the folder."""
    folder = tmp_path_factory.mktemp("python")
    (folder / "store").symlink_to(store)
    (folder / "cohort").symlink_to(cohort)
    write(folder / "film.dcm", smooth())
    reading, training = PAGE.read_text().split("## Preparing and training")
    names = {"gazelit": gazelit}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.chdir(folder)
        warnings.simplefilter("ignore")
        for text in (training, reading):
            for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
                exec(compile(block, str(PAGE), "exec"), names)
            (folder / "best.ckpt").write_bytes((folder / "joint" / "best.ckpt").read_bytes())
    return names, folder


def test_the_page_trains_hands_over_and_reads(page):
    names, folder = page
    assert names["joint"].hand_off.source_stage == "saliency"
    assert set(names["joint"].hand_off.loaded) == {"encoder", "saliency_encoder", "decoder", "saliency_head"}
    assert list(names["model"].class_names) == ["Normal", "CHF", "pneumonia"]
    assert (folder / "store-2" / "store.json").is_file() or any((folder / "store-2").iterdir())
    assert max(Image.open(folder / "overlay.png").size) >= 384


def test_python_and_infer_give_the_same_bytes(page, run_gazelit, tmp_path):
    _, folder = page
    paths = [folder / "film.dcm", write(tmp_path / "other.dcm", smooth(70, 110), ViewPosition="LL")]
    run_gazelit("infer", *map(str, paths), f"--ckpt={folder / 'best.ckpt'}", "--out=read",
                "--names=file", "--saliency=full", "--batch-size=1")  # fmt: skip
    model = gazelit.load(folder / "best.ckpt")
    for path in paths:
        reading = model.predict(path)
        written = json.loads((tmp_path / "read" / f"{path.stem}.json").read_text())
        assert written["probabilities"] == reading.probabilities
        assert written["warnings"] == list(reading.warnings)
        assert np.array_equal(np.load(tmp_path / "read" / written["saliency"]), reading.saliency)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "read" / written["overlay"])), reading.overlay())
        assert reading.saliency.shape == reading.shape
        assert reading.saliency.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)


def test_exported_weights_read_as_the_checkpoint_does(page, run_gazelit, tmp_path):
    _, folder = page
    run_gazelit("export-weights", str(folder / "best.ckpt"), "--out=model.safetensors")
    models = [gazelit.load(path) for path in (folder / "best.ckpt", tmp_path / "model.safetensors")]
    first, second = (model.predict(str(folder / "film.dcm")) for model in models)
    assert first.probabilities == second.probabilities
    assert np.array_equal(first.saliency, second.saliency)


def test_one_film_in_every_form_is_one_reading(page, tmp_path):
    _, folder = page
    model = gazelit.load(folder / "best.ckpt")
    grey = (smooth() >> 4).astype(np.uint8)
    png = tmp_path / "film.png"
    Image.fromarray(grey).save(png)
    forms = [
        png, str(png), png.read_bytes(), bytearray(png.read_bytes()), Image.open(png), Image.fromarray(grey), grey,
        grey[..., None], np.repeat(grey[..., None], 3, axis=2), grey.astype(np.float32) / np.float32(255),
        Image.fromarray(grey).convert("RGB"),
    ]  # fmt: skip
    readings = [model.predict(form) for form in forms]
    for reading in readings[1:]:
        assert reading.probabilities == readings[0].probabilities
        assert np.array_equal(reading.saliency, readings[0].saliency)
    # 12 bits, as an array and as a DICOM file without a window that spans them.
    full = smooth()
    full[0, :2] = 0, 4095
    deep = model.predict(full, bits=12)
    assert np.array_equal(model.predict(write(tmp_path / "deep.dcm", full)).saliency, deep.saliency)
    inverted = write(tmp_path / "inverted.dcm", 4095 - full, PhotometricInterpretation="MONOCHROME1")
    assert np.allclose(model.predict(inverted).saliency, deep.saliency, rtol=1e-4)
    # Batches give the same values to the precision of float32, in the order of the list.
    films = [png, full.astype(np.float64) / 4095, grey[::-1].copy(), png.read_bytes(), grey]
    for reading, form in zip(model.predict(films, batch_size=3), films, strict=True):
        alone = model.predict(form)
        assert list(reading.probabilities.values()) == pytest.approx(list(alone.probabilities.values()), abs=2e-6)
        assert np.allclose(reading.saliency, alone.saliency, rtol=1e-4)
    assert model.predict([]) == []


class Counting(Stub):
    def __init__(self, *names):
        super().__init__(*names)
        self.batches = []

    def forward(self, x):
        self.batches.append(len(x))
        return super().forward(x)


@pytest.fixture
def model():
    stamp = {"stage": "Stub", "data": {"size": [64, 64], "class_names": ["a", "b"]}}
    return gazelit.LoadedModel(Counting("logits", "saliency_logits"), stamp, "0" * 64, torch.ones(2))


def test_films_go_through_the_network_in_batches_past_bad_ones(model, tmp_path):
    (tmp_path / "bad.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 300)
    good = write(tmp_path / "good.dcm", smooth())
    grey = (smooth() >> 4).astype(np.uint8)
    films = [good, tmp_path / "bad.dcm", grey, b"nothing", good, None, grey]
    readings = list(model.predict_each(iter(films), batch_size=3))
    assert [isinstance(reading, InputError) for reading in readings] == [False, True, False, True, False, True, False]
    assert model.network.batches == [2, 1, 1]
    assert [str(readings[place]).split(":")[0] for place in (3, 5)] == ["films[3]", "films[5]"]
    assert readings[0].probabilities == readings[4].probabilities
    with pytest.raises(InputError, match=r"bad\.dcm: "):
        model.predict(films)
    # Films are read one after another in the same process, also after a film that cannot be read.
    for film_, fails in ((good, False), (tmp_path / "bad.dcm", True), (good, False)):
        if fails:
            with pytest.raises(InputError):
                model.predict(film_)
        else:
            assert model.predict(film_).probabilities == readings[0].probabilities
    with pytest.raises(InputError, match="batch_size: must be at least 1"):
        model.predict([grey], batch_size=0)


GREY = np.linspace(0, 1, 96 * 80).reshape(96, 80)
REFUSED = {
    "float above 1": (GREY * 255, {}, r"floats of 0 to 255 are outside \[0, 1\]"),
    "negative float": (GREY - 0.5, {}, "outside"),
    "NaN": (np.where(GREY > 0.5, np.nan, GREY), {}, "holds NaN"),
    "NaN in colour": (np.full((9, 9, 3), np.nan), {}, "holds NaN"),
    "infinity": (np.where(GREY > 0.5, np.inf, GREY), {}, "infinite"),
    "colour": (np.arange(96 * 80 * 3, dtype=np.uint8).reshape(96, 80, 3), {}, "its three channels differ"),
    "channels first": (np.zeros((3, 64, 64), np.uint8), {}, r"shape \(3, 64, 64\) is no film"),
    "four channels": (np.zeros((64, 64, 4), np.uint8), {}, "is no film"),
    "batch": (np.zeros((2, 3, 64, 64), np.uint8), {}, "several films as a list"),
    "empty": (np.zeros((0, 64), np.uint8), {}, "is no film"),
    "uint16 without a range": (smooth(), {}, "add bits=12"),
    "more than its bits": (smooth(), {"bits": 10}, "more than 10 bits"),
    "impossible bits": (smooth(), {"bits": 40}, "bits must be 9 to 16"),
    "bits of floats": (GREY, {"bits": 12}, "bits goes with uint16, not with float64"),
    "bits of bytes": (b"x", {"bits": 12}, "bits goes with uint16 arrays"),
    "bits of a picture": (Image.new("L", (9, 9)), {"bits": 12}, "bits goes with uint16 arrays"),
    "int64": (np.zeros((64, 64), np.int64), {}, "values of int64 have no known range"),
    "bool": (np.zeros((64, 64), bool), {}, "values of bool have no known range"),
    "objects": (np.array([["a"]], object), {}, "no known range"),
    "mode F": (Image.fromarray(GREY.astype(np.float32)), {}, "mode F does not say which value is white"),
    "32 bits": (Image.fromarray(np.full((9, 9), 70000, np.int32)), {}, "mode I does not say"),
    "no pixels": (Image.new("L", (0, 9)), {}, "has no pixels"),
    "tensor": (torch.zeros(64, 64), {}, "a Tensor is no film"),
    "nothing": (None, {}, "a NoneType is no film"),
    "no bytes": (b"", {}, "cannot be read"),
    "a folder": ("/", {}, "is a folder"),
    "missing": ("missing.dcm", {}, "cannot be read"),
    "a name with NUL": ("a\0b", {}, "cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_input_that_is_not_a_film_gives_one_line(case, model):
    bad, options, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        model.predict(bad, **options)
    assert "\n" not in str(caught.value)


def test_too_many_pixels_are_refused_in_every_form(model, tmp_path):
    small = replace(model, max_pixels=1000)
    grey = (smooth() >> 4).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "film.png")
    for form in (tmp_path / "film.png", (tmp_path / "film.png").read_bytes(), Image.fromarray(grey), grey):
        with pytest.raises(InputError, match="claims 96 × 80 pixels, over the limit of 1000"):
            small.predict(form)


def test_mutated_bytes_end_in_a_reading_or_in_one_line(model, tmp_path):
    contents = [
        write(tmp_path / "film.dcm", smooth()).read_bytes(),
        write_compressed(tmp_path / "film.dcm", smooth(), uid.JPEG2000Lossless).read_bytes(),
    ]
    Image.fromarray((smooth() >> 4).astype(np.uint8)).save(tmp_path / "film.png")
    contents.append((tmp_path / "film.png").read_bytes())
    chance = np.random.default_rng(0)
    films = []
    for number in range(120):
        content = bytearray(contents[number % 3])
        for place in chance.integers(0, len(content), 1 + number % 40):
            content[place] = chance.integers(0, 256)
        films.append(bytes(content[: chance.integers(1, len(content))] if number % 5 == 0 else content))
    results = list(model.predict_each(films))
    assert len(results) == 120
    errors = [str(result) for result in results if isinstance(result, InputError)]
    assert 0 < len(errors) < 120
    assert all("\n" not in error and error.startswith("films[") for error in errors)


def kinds(reading):
    # The stub's map is the film itself, which is nearly flat.
    found = [warning.split(":")[0] for warning in reading.warnings]
    return [kind for kind in found if kind != "flat map"]


def test_a_plain_film_has_no_warning_and_each_anomaly_has_a_warning(model, tmp_path):
    def of(**attributes):
        return model.predict(write(tmp_path / "film.dcm", smooth(), **attributes))

    frontal = {"ViewPosition": "PA", "Modality": "DX", "BodyPartExamined": "CHEST", "BurnedInAnnotation": "NO"}
    assert kinds(of(**frontal)) == kinds(of()) == []
    assert kinds(of(ViewPosition="LL")) == ["lateral"]
    assert kinds(of(Modality="MG")) == ["no radiograph"]
    hip = of(BodyPartExamined="HIP OF J DOE", BurnedInAnnotation="YES")
    assert kinds(hip) == ["not a chest", "burnt-in text"]
    assert "DOE" not in str(hip.warnings)
    assert kinds(of(WindowCenter="2048", WindowWidth="1")) == ["out of range"]
    grey = (smooth() >> 4).astype(np.uint8)
    marked = Image.fromarray(grey).convert("RGB")
    marked.putpixel((3, 4), (255, 0, 0))
    assert kinds(model.predict(marked)) == ["colour"]
    assert kinds(model.predict(smooth(), bits=16)) == ["out of range"]
    assert kinds(model.predict(np.full((96, 80), 0.5))) == ["flat"]
    assert kinds(model.predict(np.random.default_rng(0).random((96, 80)))) == ["noise"]
    assert kinds(model.predict((smooth(64, 192) >> 4).astype(np.uint8))) == ["oblong"]
    assert kinds(model.predict((smooth(30, 25) >> 4).astype(np.uint8))) == ["small"]


def test_real_and_synthetic_films_of_the_chest_have_no_warning_and_a_hip_has(model, real_data, cohort):
    films = [*real_data.glob("*.png"), *real_data.glob("*.dcm"), *sorted((cohort / "mimic-cxr").rglob("*.dcm"))[:6]]
    for path, reading in zip(films, model.predict(films), strict=True):
        # One of them is a hip, and has a warning.
        assert kinds(reading) == (["not a chest"] if path.name == "RG2_JPLL.dcm" else []), path


def test_a_model_without_a_map_has_no_overlay(model):
    classifier = replace(model, network=Stub("logits"))
    reading = classifier.predict(GREY)
    assert reading.saliency is None
    with pytest.raises(InputError, match="predicts no saliency map"):
        reading.overlay()
    with pytest.raises(InputError, match="the model: stage Stub predicts neither classes"):
        replace(model, network=Stub("embedding")).predict(GREY)


def test_the_network_of_a_diverged_training_is_refused(model):
    class Broken(Stub):
        def forward(self, x):
            return {"logits": torch.full((len(x), 2), torch.nan)}

    with pytest.raises(InputError, match="its outputs are not finite"):
        replace(model, network=Broken()).predict(GREY)


def test_an_unknown_device_is_one_line(page):
    _, folder = page
    for device in ("cudda", "cuda:99", ""):
        with pytest.raises(InputError, match="device: "):
            gazelit.load(folder / "best.ckpt", device=device)


MALFORMED = {
    "size of words": (lambda stamp: stamp["data"].update(size=["a", "b"]), "size of its training images"),
    "endless size": (lambda stamp: stamp["data"].update(size=[10**9, 10**9]), "size of its training images"),
    "one side": (lambda stamp: stamp["data"].update(size=[64]), "size of its training images"),
    "no size": (lambda stamp: stamp["data"].pop("size"), "does not record the size"),
    "no classes": (lambda stamp: stamp["data"].pop("class_names"), "does not name the 3 classes"),
    "other classes": (lambda stamp: stamp["data"].update(class_names=["a"]), "does not name the 3 classes"),
    "other widths": (
        lambda stamp: stamp["network"]["init_args"].update(classifier_hidden=7), "its network does not fit"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_a_stamp_that_does_not_fit_is_one_line(case, page, tmp_path):
    from gazelit.checkpoints.stamps import STAMP_KEY

    change, message = MALFORMED[case]
    checkpoint = torch.load(page[1] / "best.ckpt", weights_only=True)
    change(checkpoint[STAMP_KEY])
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    with pytest.raises(InputError, match=rf"changed\.ckpt: .*{message}") as caught:
        gazelit.load(tmp_path / "changed.ckpt")
    assert "\n" not in str(caught.value)


def test_threads_share_a_model(model, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    paths = [write(tmp_path / f"{number}.dcm", smooth() // (number + 1)) for number in range(4)]
    expected = [model.predict(path).probabilities for path in paths]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda path: model.predict(path).probabilities, paths * 4))
    assert found == expected * 4


def interrupt(worker):
    raise KeyboardInterrupt


def test_an_interrupted_film_does_not_change_the_result_of_the_next(model, tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{number}.dcm", smooth()[:, : 80 - number]) for number in (0, 8)]
    model.predict(paths[0])
    with monkeypatch.context() as patch:
        patch.setattr("gazelit.data.images.guard._Worker.take", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.predict(paths[0])
    assert model.predict(paths[1]).shape == (96, 72)
