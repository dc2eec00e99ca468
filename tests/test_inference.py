"""`gazelit infer`: bad films do not stop it, and no result overwrites another."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gazelit.deploy import infer as command
from gazelit.deploy.infer import infer
from gazelit.deploy.inference import LoadedModel
from gazelit.errors import InputError


class Stub(nn.Module):
    """A network with the outputs of a stage's trained network."""

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
        monkeypatch.setattr(command, "load_together", lambda ckpts, *_: replace(loaded, name=str(ckpts[0])))

    use("logits", "saliency_logits")
    return use


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50)).astype(np.uint8)).save(path)
    return str(path)


def results_in(folder):
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json") if path.name != "run.json"}


def test_finding_c18_results_never_share_a_name(tmp_path, model):
    files = [
        picture(tmp_path / folder / name, seed)
        for seed, (folder, name) in enumerate(
            [("1", "a.png"), ("2", "a.png"), ("3", "a_2.png"), ("4", "a_1.png"), ("5", "A.png"), ("6", "a.png")]
        )
    ]
    infer(files, Path("x.ckpt"), tmp_path / "out", names="file")
    results = results_in(tmp_path / "out")
    assert len({name.casefold() for name in results}) == len(files)
    # A unique name stays.
    assert [results[name]["file"] for name in ("a", "a_1", "a_2")] == ["a.png", "a_1.png", "a_2.png"]
    maps = {np.load(tmp_path / "out" / result["saliency"]).tobytes() for result in results.values()}
    assert len(maps) == len(files)


def test_finding_c18_results_of_another_run_are_refused_unless_asked_to_overwrite(tmp_path, model):
    files = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png", 1)]
    options = {"names": "file"}
    infer(files[:1], Path("x.ckpt"), tmp_path / "out", **options)
    before = (tmp_path / "out" / "a.json").stat().st_mtime_ns
    for changed in ({"saliency": "full"}, {"batch_size": 2}, {"mc_dropout": 4}):
        with pytest.raises(InputError, match=rf"results of another run \(its {next(iter(changed))} differs\).*--overw"):
            infer(files, Path("x.ckpt"), tmp_path / "out", **options, **changed)
        assert not (tmp_path / "out" / "b.json").exists()
    # The same run goes on, and does nothing twice.
    infer(files, Path("x.ckpt"), tmp_path / "out", **options)
    assert (tmp_path / "out" / "a.json").stat().st_mtime_ns == before
    assert (tmp_path / "out" / "b.json").exists()
    infer(files, Path("x.ckpt"), tmp_path / "out", overwrite=True, saliency="full", **options)
    assert (tmp_path / "out" / "a.json").stat().st_mtime_ns > before
    # Results without the record of their run are treated as another run's.
    (tmp_path / "out" / "run.json").unlink()
    with pytest.raises(InputError, match="holds 2 of the 2 results already, but not how they were made"):
        infer(files, Path("x.ckpt"), tmp_path / "out", **options)


def test_finding_g2_infer_goes_on_past_bad_films_and_lists_them(tmp_path, model):
    (tmp_path / "bad.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 300)
    os.mkfifo(tmp_path / "pipe.png")
    good = [picture(tmp_path / "a.png"), picture(tmp_path / "c.png", 1)]
    bad = [str(tmp_path / name) for name in ("bad.dcm", "pipe.png")]
    with pytest.raises(InputError, match=r"2 of 4 files could not be read: .*bad\.dcm: .*; .*pipe\.png: .*is a pipe"):
        infer([good[0], *bad, good[1]], Path("x.ckpt"), tmp_path / "out", names="file")
    assert sorted(results_in(tmp_path / "out")) == ["a", "c"]
    failed = (tmp_path / "out" / "failed.csv").read_text().splitlines()
    assert failed[0] == "position,file,reason"
    assert [line.split(",")[:2] for line in failed[1:]] == [["2", "bad.dcm"], ["3", "pipe.png"]]
    table = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in table] == [
        ["film", "position", "file"],
        ["a", "1", "a.png"],
        ["c", "4", "c.png"],
    ]


def test_finding_c5_a_checkpoint_that_predicts_nothing_for_a_film_is_an_error(tmp_path, model):
    model("embedding")
    with pytest.raises(
        InputError, match=r"stage1\.ckpt: stage Stub predicts neither classes nor a saliency map.*; give a"
    ):
        infer([picture(tmp_path / "a.png")], Path("stage1.ckpt"), tmp_path / "out")
    assert results_in(tmp_path / "out") == {}
