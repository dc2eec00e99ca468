"""`gazelit infer`: bad films do not stop it, and no result takes another's place."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gazelit.deploy import inference
from gazelit.deploy.inference import LoadedModel, infer
from gazelit.errors import InputError


class Stub(nn.Module):
    """Gives what a trained network of a stage gives."""

    classes = 2

    def __init__(self, *names):
        super().__init__()
        self.names = names

    def forward(self, x):
        outputs = {"logits": x.mean((1, 2, 3), keepdim=False)[:, None] * torch.tensor([[1.0, -1.0]])}
        outputs |= {"saliency_logits": x, "embedding": x.flatten(1)}
        return {name: outputs[name] for name in self.names}


@pytest.fixture
def model(monkeypatch):
    def use(*names):
        stamp = {"stage": "Stub", "data": {"size": [64, 64], "class_names": ["a", "b"], "synthetic": True}}
        loaded = LoadedModel(Stub(*names), stamp, "0" * 64, torch.ones(2))
        monkeypatch.setattr(inference, "load_model", lambda ckpt, *_: replace(loaded, name=str(ckpt)))

    use("logits", "saliency_logits")
    return use


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50)).astype(np.uint8)).save(path)
    return str(path)


def test_finding_c18_results_never_take_each_others_names(tmp_path, model):
    files = [
        picture(tmp_path / folder / name, seed)
        for seed, (folder, name) in enumerate(
            [("1", "a.png"), ("2", "a.png"), ("3", "a_2.png"), ("4", "a_1.png"), ("5", "A.png"), ("6", "a.png")]
        )
    ]
    infer(files, Path("x.ckpt"), tmp_path / "out")
    results = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert len({name.casefold() for name in results}) == len(files)
    # A name of its own stays.
    assert [results[name]["file"] for name in ("a", "a_1", "a_2")] == ["a.png", "a_1.png", "a_2.png"]
    maps = {np.load(tmp_path / "out" / result["saliency"]).tobytes() for result in results.values()}
    assert len(maps) == len(files)


def test_finding_c18_existing_results_are_refused_unless_asked_to_overwrite(tmp_path, model):
    files = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png")]
    infer(files[:1], Path("x.ckpt"), tmp_path / "out")
    before = (tmp_path / "out" / "a.json").stat().st_mtime_ns
    with pytest.raises(InputError, match=r"holds 1 of the 2 results already; .*--overwrite"):
        infer(files, Path("x.ckpt"), tmp_path / "out")
    assert not (tmp_path / "out" / "b.json").exists()
    infer(files, Path("x.ckpt"), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "a.json").stat().st_mtime_ns > before


def test_finding_g2_infer_goes_on_past_bad_films_and_lists_them(tmp_path, model):
    (tmp_path / "bad.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 300)
    os.mkfifo(tmp_path / "pipe.png")
    good = [picture(tmp_path / "a.png"), picture(tmp_path / "c.png")]
    bad = [str(tmp_path / name) for name in ("bad.dcm", "pipe.png")]
    with pytest.raises(InputError, match=r"2 of 4 files could not be read: .*bad\.dcm: .*; .*pipe\.png: .*is a pipe"):
        infer([good[0], *bad, good[1]], Path("x.ckpt"), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == ["a.json", "c.json"]


def test_finding_c5_a_checkpoint_that_predicts_nothing_of_a_film_says_so(tmp_path, model):
    model("embedding")
    with pytest.raises(
        InputError, match=r"stage1\.ckpt: stage Stub predicts neither classes nor a saliency map.*; give a"
    ):
        infer([picture(tmp_path / "a.png")], Path("stage1.ckpt"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
