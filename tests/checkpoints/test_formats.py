"""A checkpoint of each older format is read, resumed and handed over by today's code.

``format_1.ckpt.gz`` was written by commit 06a71aa: one epoch of stage 2 and then of stage 3, with encoders of two
channels, on the simulated cohort of ``tests/conftest.py``. The expected values below are the outputs of that commit.
"""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

import gazelit
from gazelit.checkpoints import handoff, stamps
from gazelit.checkpoints.formats import FORMAT, migrate
from gazelit.errors import InputError
from gazelit.models import DualEncoderUNet
from tests.tiny import tiny

ENCODER = {"name": "res-se", "weights": None, "options": {"widths": [2, 2], "reduction": 2}}


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    path = tmp_path_factory.mktemp("old") / "format_1.ckpt"
    path.write_bytes(gzip.decompress((Path(__file__).parent / "format_1.ckpt.gz").read_bytes()))
    return path


def written(path):
    return torch.load(path, "cpu", weights_only=True)


def test_the_file_is_of_format_1(old):
    stamp = written(old)["gazelit"]
    assert "format" not in stamp
    assert "teachers" not in stamp
    assert stamp["network"]["class_path"] == "gazelit.models.dual_unet.DualEncoderUNet"


def test_it_is_read_in_todays_format_with_its_lineage(old):
    checkpoint = stamps.read_checkpoint(old)
    generations = list(stamps.sources(checkpoint["gazelit"]))
    assert [stamp["stage"] for stamp in generations] == ["joint", "saliency"]
    for stamp in generations:
        assert stamp["format"] == FORMAT
        assert stamp["teachers"] == []
        assert stamp["network"]["class_path"] == "gazelit.models.DualEncoderUNet"
    before = written(old)["state_dict"]
    assert checkpoint["state_dict"].keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in checkpoint["state_dict"].items())


def test_its_outputs_for_a_film_are_unchanged(old):
    film = np.add.outer(np.linspace(0, 1, 80), np.linspace(0, 0.5, 64) ** 2).astype(np.float32) / 1.3
    reading = gazelit.load(str(old)).predict(film)
    assert reading.probabilities == pytest.approx(
        {"Normal": 0.262497, "CHF": 0.405482, "pneumonia": 0.332021}, abs=2e-6
    )
    assert reading.saliency[0, 60] == pytest.approx(0.00020755107, rel=1e-5)
    assert reading.saliency[40, 32] == pytest.approx(0.00019519514, rel=1e-5)


def test_it_is_handed_over(old):
    network = DualEncoderUNet(ENCODER, ENCODER, decoder_widths=[2], classes=None)
    report = handoff.hand_over(old, network, "saliency")
    assert report.loaded == ("encoder", "saliency_encoder", "decoder", "saliency_head")
    assert report.parent["format"] == FORMAT
    before = written(old)["state_dict"]
    assert all(torch.equal(value, before[f"network.{key}"]) for key, value in network.state_dict().items())


def test_it_is_resumed_and_saved_in_todays_format(old, store, run_gazelit, tmp_path):
    printed = run_gazelit(
        "fit", "--config=stage3.yaml", *tiny(3, store, network=False), f"--model.network.encoder={ENCODER}",
        f"--model.network.saliency_encoder={ENCODER}", "--model.network.decoder_widths=[2]",
        "--model.network.classifier_hidden=2", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.01",
        "--trainer.max_epochs=2", f"--ckpt_path={old}", "--allow_other_split=true",
        "--checkpoint.dirpath=run/checkpoints",
    )  # fmt: skip
    assert "resuming 'joint'" in printed
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint = written(path)
    stamp = checkpoint["gazelit"]
    assert checkpoint["epoch"] == 1
    assert (stamp["format"], stamp["parent"]["format"]) == (FORMAT, FORMAT)
    assert stamp["parent"]["sha256"] == written(old)["gazelit"]["parent"]["sha256"]
    assert stamp["teachers"] == stamp["parent"]["teachers"] == []
    # A checkpoint of today's format is read unchanged.
    assert stamps.read_checkpoint(path)["gazelit"] == stamp


def test_its_lineage_is_printed(old, capsys):
    from gazelit.cli.main import main

    assert main(["lineage", str(old)]) == 0
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line in ("joint", "saliency")] == ["joint", "saliency"]


@pytest.mark.parametrize("of", ["itself", "its parent"])
def test_a_later_format_is_refused_in_one_line(old, tmp_path, of, run_gazelit):
    checkpoint = written(old)
    stamp = checkpoint["gazelit"] if of == "itself" else checkpoint["gazelit"]["parent"]
    stamp |= {"format": FORMAT + 1, "version": "9.1.0"}
    path = tmp_path / "later.ckpt"
    torch.save(checkpoint, path)
    printed = run_gazelit("lineage", str(path), code=2)
    (line,) = printed.strip().splitlines()
    assert f"{path}: written by gazelit 9.1.0 in format {FORMAT + 1}" in line
    assert "install the later version" in line
    with pytest.raises(InputError, match=r"later\.ckpt: written by gazelit 9\.1\.0"):
        gazelit.load(str(path))


@pytest.mark.parametrize("number", [0, "2", True, None])
def test_an_invalid_format_number_is_refused(number):
    with pytest.raises(InputError, match="field 'format'"):
        migrate({"format": number}, "a.ckpt")
