"""`gazelit calibrate`: the temperature is fitted on the validation split, kept in the checkpoint, and then used."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from gazelit.checkpoints.stamps import STAMP_KEY
from gazelit.metrics.calibration import fit_temperature
from tests.tiny import tiny


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """A joint checkpoint and its configuration."""
    import os

    from gazelit.cli.main import main

    folder, before = tmp_path_factory.mktemp("calibration"), os.getcwd()
    os.chdir(folder)
    try:
        assert main(["fit", "--config=presets/quick/stage3.yaml", *tiny(3, store), "--trainer.max_epochs=2",
                     "--checkpoint.dirpath=run/checkpoints", "--trainer.logger=false"]) == 0  # fmt: skip
    finally:
        os.chdir(before)
    return folder / "run"


@pytest.fixture
def calibrated(trained, run_gazelit, tmp_path):
    best = trained / "checkpoints" / "best.ckpt"
    printed = run_gazelit("calibrate", f"--config={trained / 'config.yaml'}", f"--ckpt_path={best}", "--out=c.ckpt")
    assert "nats on" in printed
    return tmp_path / "c.ckpt"


def predictions(run_gazelit, trained, checkpoint, folder):
    run_gazelit("test", f"--config={trained / 'config.yaml'}", f"--ckpt_path={checkpoint}", "--trainer.logger=false",
                f"--trainer.default_root_dir={folder}")  # fmt: skip
    return pd.read_parquet(folder / "predictions.parquet"), json.loads((folder / "metrics.json").read_text())


def test_test_and_infer_use_the_temperature_of_the_checkpoint(calibrated, trained, run_gazelit, tmp_path, cohort):
    best = trained / "checkpoints" / "best.ckpt"
    plain, _ = predictions(run_gazelit, trained, best, tmp_path / "plain")
    scaled, _ = predictions(run_gazelit, trained, calibrated, tmp_path / "scaled")
    names = ["Normal", "CHF", "pneumonia"]
    content = torch.load(calibrated, weights_only=True)
    temperature = content["state_dict"]["temperature"].numpy()
    assert abs(temperature - 1).max() > 1e-3
    logits = plain[[f"logit_{name}" for name in names]].to_numpy()
    assert np.allclose(logits, scaled[[f"logit_{name}" for name in names]])
    expected = np.exp(logits / temperature)
    expected /= expected.sum(1, keepdims=True)
    assert np.allclose(scaled[[f"p_{name}" for name in names]], expected, atol=1e-5)
    record = content[STAMP_KEY]["calibration"]
    assert record["split"] == "val"
    assert record["nll_after"] <= record["nll_before"]

    film = next((cohort / "mimic-cxr").rglob("*.dcm"))
    for name, checkpoint in (("a", best), ("b", calibrated)):
        run_gazelit("infer", str(film), "--ckpt", str(checkpoint), "--out", name, "--names=file")
    uncalibrated, tempered = (
        json.loads((tmp_path / name / f"{film.stem}.json").read_text())["probabilities"] for name in "ab"
    )
    ratio = np.log([uncalibrated[name] for name in names]), np.log([tempered[name] for name in names])
    assert np.ptp(ratio[0]) == pytest.approx(np.ptp(ratio[1]) * temperature[0], rel=1e-2)


def test_the_temperature_is_that_of_the_validation_split(calibrated, trained, store):
    from gazelit.data.datamodule import GazeDataModule
    from gazelit.data.options import LoaderOptions
    from gazelit.deploy.inference import load_model

    model = load_model(trained / "checkpoints" / "best.ckpt")
    data = GazeDataModule(str(store), loader=LoaderOptions(batch_size=6, num_workers=0))
    rendered = [data.render(batch) for batch in data.loader("val")]
    with torch.no_grad():
        logits = torch.cat([model.network(batch["image"])["logits"] for batch in rendered])
    expected = fit_temperature(logits, torch.cat([batch["label"] for batch in rendered]))
    kept = torch.load(calibrated, weights_only=True)["state_dict"]["temperature"]
    assert torch.allclose(kept, expected, rtol=1e-2)


def test_further_training_drops_the_temperature(calibrated, trained, run_gazelit, tmp_path):
    run_gazelit("fit", f"--config={trained / 'config.yaml'}", f"--ckpt_path={calibrated}", "--trainer.max_epochs=3",
                "--checkpoint.dirpath=again/checkpoints")  # fmt: skip
    again = torch.load(tmp_path / "again" / "checkpoints" / "last.ckpt", weights_only=True)
    assert again["state_dict"]["temperature"].tolist() == [1.0, 1.0, 1.0]


def test_a_stage_without_a_classifier_has_nothing_to_calibrate(store, run_gazelit, tmp_path):
    run_gazelit("fit", "--config=presets/quick/stage2.yaml", *tiny(2, store), "--trainer.max_epochs=1",
                "--checkpoint.dirpath=run/checkpoints")  # fmt: skip
    printed = run_gazelit("calibrate", "--config=run/config.yaml", "--ckpt_path=run/checkpoints/best.ckpt",
                          "--out=c.ckpt", code=2)  # fmt: skip
    assert "has no classifier" in printed
    assert not (tmp_path / "c.ckpt").exists()


def test_conventions_have_their_names_in_the_log_and_the_table(trained, run_gazelit, tmp_path):
    best = trained / "checkpoints" / "best.ckpt"
    run_gazelit("test", f"--config={trained / 'config.yaml'}", f"--ckpt_path={best}", "--trainer.logger=false",
                f"--trainer.default_root_dir={tmp_path / 'mit'}", "--model.conventions=[mit, reference]")  # fmt: skip
    metrics = json.loads((tmp_path / "mit" / "metrics.json").read_text())
    table = pd.read_parquet(tmp_path / "mit" / "predictions.parquet")
    for name in ("kld_mit", "sim_mit", "nss_mit", "auc_judd_mit", "ig_mit", "nss_reference"):
        assert metrics[f"test/{name}"] == pytest.approx(table[name].mean(), rel=1e-5)
    assert metrics["test/sim_mit"] != metrics["test/sim"]


def test_predictions_written_as_they_come_are_those_written_at_once(trained, run_gazelit, tmp_path, monkeypatch):
    from gazelit.stages.callbacks import PredictionWriter

    best = trained / "checkpoints" / "best.ckpt"
    whole, _ = predictions(run_gazelit, trained, best, tmp_path / "whole")
    monkeypatch.setattr(PredictionWriter, "rows", 2)
    kept = []
    flush = PredictionWriter._flush
    monkeypatch.setattr(
        PredictionWriter, "_flush", lambda self, *options: (kept.append(len(self._batches)), flush(self, *options))
    )
    parts, _ = predictions(run_gazelit, trained, best, tmp_path / "parts")
    # No more than a batch is ever held.
    assert len(kept) > 0
    assert set(kept) == {1}
    pd.testing.assert_frame_equal(whole, parts)


def test_a_test_that_fails_leaves_no_half_of_a_table(trained, run_gazelit, tmp_path, monkeypatch):
    from gazelit.stages.base import Stage

    def fail(self, batch, batch_idx):
        raise RuntimeError("lost the GPU")

    monkeypatch.setattr(Stage, "test_step", fail)
    with pytest.raises(RuntimeError, match="lost the GPU"):
        predictions(run_gazelit, trained, trained / "checkpoints" / "best.ckpt", tmp_path / "broken")
    assert not list((tmp_path / "broken").rglob("*predictions*"))
