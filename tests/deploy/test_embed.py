"""`gazelit embed`: features are the encoder's, interrupted runs go on, training on features equals that on films."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gazelit.data.store.features import read_about
from gazelit.data.store.store import Store
from gazelit.deploy.embed import embed
from gazelit.errors import InputError
from gazelit.models import ClassificationNetwork, DualEncoderUNet, EncoderSpec, build_encoder
from gazelit.models.registry import load_pretrained
from gazelit.stages import SaliencyWarmup, SupervisedFinetuning
from tests.tiny import grouped, save_untrained, tiny

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """A small encoder with its file."""
    options = {"growth_rate": 4, "blocks": [1, 1, 1, 1], "stem": 4}
    torch.manual_seed(2)
    file = tmp_path_factory.mktemp("weights") / "encoder.pt"
    torch.save(build_encoder(EncoderSpec("densenet-small", options=options)).state_dict(), file)
    return EncoderSpec("densenet-small", str(file), options)


@pytest.fixture(scope="module")
def folders(spec, store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    for kind in ("pooled", "map"):
        embed(str(store), folder / kind, spec, kind=kind, batch_size=7)
    return folder


def test_features_are_what_the_encoder_makes_of_each_film(spec, store, folders):
    encoder = build_encoder(spec).eval()
    load_pretrained(encoder, spec)
    films = torch.from_numpy(np.array(Store.open(store).images())).float()[:, None] / 255
    with torch.no_grad():
        maps = encoder(films)
        expected = {"map": maps[-1], "pooled": encoder.embed(maps)}
    for kind, values in expected.items():
        assert np.load(folders / kind / "features.npy") == pytest.approx(values.numpy(), abs=1e-5)
    about = (folders / "pooled" / "features.json").read_text()
    assert not any(str(image) in about for image in Store.open(store).cases["image_id"])
    assert "encoder.pt" not in about


def test_an_interrupted_run_ends_in_the_same_bytes(spec, store, folders, tmp_path, monkeypatch, caplog):
    from gazelit.deploy import embed as module

    calls, plain = [], module._features

    def interrupted(*arguments):
        calls.append(len(arguments[1]))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(module, "_features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed(str(store), tmp_path / "out", spec, batch_size=7)
    assert not (tmp_path / "out").exists()
    calls.clear()
    monkeypatch.setattr(module, "_features", lambda *arguments: calls.append(len(arguments[1])) or plain(*arguments))
    with caplog.at_level("INFO", "gazelit"):
        embed(str(store), tmp_path / "out", spec, batch_size=7)
    assert "going on after 14 of" in caplog.text
    count = len(Store.open(store).cases)
    # The first call of the encoder only measures the shape.
    assert calls[1:] == [min(7, count - first) for first in range(14, count, 7)]
    for name in ("features.npy", "features.json"):
        assert (tmp_path / "out" / name).read_bytes() == (folders / "pooled" / name).read_bytes()
    calls.clear()
    embed(str(store), tmp_path / "out", spec)
    assert len(calls) == 1
    with pytest.raises(InputError, match="features of another encoder, store or kind; choose another --out"):
        embed(str(store), tmp_path / "out", spec, kind="map")


def fit(stage, store, epochs=2, **data):
    import lightning as L

    from gazelit.data.datamodule import GazeDataModule

    stage.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.05)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", **quiet)
    trainer.fit(stage, GazeDataModule(str(store), **grouped(batch_size=6, num_workers=0, augment=False) | data))
    return stage.eval()


def probe(spec, **options):
    torch.manual_seed(0)
    return SupervisedFinetuning(ClassificationNetwork(spec), **{"frozen": ["encoder"], **options})


def warm_up(spec, **options):
    torch.manual_seed(0)
    saliency = EncoderSpec("res-se", options={"widths": [4, 4], "reduction": 4})
    return SaliencyWarmup(DualEncoderUNet(spec, saliency, [4] * 5, classes=None), **options)


@pytest.mark.parametrize(("make", "kind"), [(probe, "pooled"), (warm_up, "map")])
def test_a_training_on_features_is_the_training_on_films(make, kind, spec, store, folders, lightning_imported):
    films = fit(make(spec), store)
    stored = make(spec, features=str(folders / kind))
    seen = []
    stored.network.encoder.register_forward_hook(lambda _, inputs, __: seen.append(float(inputs[0].max())))
    fit(stored, store)
    for key, value in films.network.state_dict().items():
        torch.testing.assert_close(stored.network.state_dict()[key], value, atol=1e-5, rtol=1e-4)
    # A probe reads no films; a saliency encoder beside the frozen encoder needs them.
    assert (max(seen[1:]) == 0) == (kind == "pooled")
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        first, second = (stage.network(image) for stage in (films, stored))
    assert all(torch.allclose(first[key], second[key], atol=1e-4) for key in first)


def test_other_features_are_refused(spec, store, folders, tmp_path, lightning_imported):
    pooled, maps = (str(folders / kind) for kind in ("pooled", "map"))
    of_random_weights = EncoderSpec(spec.name, None, spec.options)
    for stage, message in (
        (
            probe(of_random_weights, features=pooled),
            "its features are of another encoder's weights than this training's",
        ),
        (probe(spec, features=maps), "its features are of another kind"),
        (probe(spec, features=str(tmp_path)), "holds no features; write some with `gazelit embed STORE --out"),
        (probe(spec, features=pooled, frozen=[]), r"features: the encoder is trained; set --model\.frozen=\[encoder\]"),
    ):
        with pytest.raises(InputError, match=message):
            fit(stage, store)
    with pytest.raises(InputError, match=r"features: images are augmented; set --data\.augmentation\.enabled=false"):
        fit(probe(spec, features=pooled), store, **grouped(augment=True))
    copy = tmp_path / "copy"
    copy.mkdir()
    about = read_about(folders / "pooled") | {"store": "0" * 64}
    (copy / "features.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="its features are of another store"):
        fit(probe(spec, features=str(copy)), store)
    with pytest.raises(InputError, match="features: needs a frozen encoder beside a saliency encoder"):
        warm_up(spec, features=maps, frozen=[])
    with pytest.raises(InputError, match="leave one of the two out"):
        warm_up(spec, features=maps, cache_features=True)


def test_features_that_changed_are_not_trained_on_and_verify_names_them(
    spec, store, folders, tmp_path, run_gazelit, lightning_imported
):
    assert "features of 24 films as they were written" in run_gazelit("verify", str(folders / "pooled"))
    copy, of_other_weights = tmp_path / "copy", tmp_path / "other"
    torch.manual_seed(3)
    torch.save(build_encoder(spec).state_dict(), tmp_path / "other.pt")
    embed(str(store), of_other_weights, EncoderSpec(spec.name, str(tmp_path / "other.pt"), spec.options))
    flipped = bytearray((folders / "pooled" / "features.npy").read_bytes())
    flipped[-7] ^= 1
    for content in (bytes(flipped), (of_other_weights / "features.npy").read_bytes()):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folders / "pooled", copy)
        (copy / "features.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"features\.npy: its content is not what was written; `gazelit verify"):
            fit(probe(spec, features=str(copy)), store)
        printed = run_gazelit("verify", str(copy), code=2)
        assert "features.npy: differs from what was written" in printed
        assert "write it anew with `gazelit embed`" in printed
    (copy / "features.npy").unlink()
    assert "features.npy: is missing" in run_gazelit("verify", str(copy), code=2)


def test_impossible_inputs_of_embed_are_refused(spec, store, tmp_path):
    with pytest.raises(InputError, match=r"encoder\.weights: names none; features of random weights are of no use"):
        embed(str(store), tmp_path / "out", EncoderSpec("densenet-small"))
    with pytest.raises(InputError, match="embed: give --encoder, with the file of its weights, or --ckpt"):
        embed(str(store), tmp_path / "out")
    with pytest.raises(InputError, match="downscale: the store's 64 × 64 over 3 must stay a multiple of 32"):
        embed(str(store), tmp_path / "out", spec, downscale=3)


def test_the_encoder_of_a_checkpoint_is_embedded_at_half_the_precision(spec, store, folders, tmp_path):
    network = ClassificationNetwork(spec)
    load_pretrained(network.encoder, spec)
    data = {"size": [64, 64], "class_names": ["a", "b", "c"]}
    path = save_untrained(tmp_path / "best.ckpt", network, data, "supervised")
    embed(str(store), tmp_path / "out", ckpt=path, dtype="float16")
    found = np.load(tmp_path / "out" / "features.npy")
    assert found.dtype == np.float16
    assert found.astype(float) == pytest.approx(np.load(folders / "pooled" / "features.npy"), abs=2e-3, rel=2e-3)
    whole, half = (read_about(folder) for folder in (folders / "pooled", tmp_path / "out"))
    assert whole["encoder_sha256"] == half["encoder_sha256"]


def test_the_documented_commands_train_a_probe(spec, store, run_gazelit, tmp_path):
    block = re.search(r"```console\n(gazelit embed .*?)```", PAGE, re.S).group(1)
    given = json.dumps({"name": spec.name, "weights": spec.weights, "options": spec.options})
    for line in block.replace("\\\n", " ").splitlines():
        _, command, *arguments = shlex.split(line)
        arguments = [re.sub(r"\{name.*\}", lambda _: given, argument) for argument in arguments]
        arguments = [argument.replace("stores/egd-cxr", str(store)) for argument in arguments]
        small = [*tiny(1, store, network=False), "--data.downscale=1", "--trainer.max_epochs=1"]
        run_gazelit(command, *arguments, *(small if command == "fit" else []))
    assert list(tmp_path.rglob("best.ckpt"))
