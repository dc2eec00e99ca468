"""On a GPU every stage trains in bfloat16, and tests, readings of a model and metrics equal those on the CPU.

Skipped without a GPU; tests of a machine with one: ``python -m pytest tests/test_gpu.py``.
"""

import json
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import gazelit
from gazelit.data.datamodule import GazeDataModule
from gazelit.data.gaze.heatmap import fixation_counts
from gazelit.metrics.map_values import values_at_test
from gazelit.models import DualEncoderUNet
from tests.stages.test_stages import PARTS
from tests.test_configs import small
from tests.test_pipeline import arms_file, command
from tests.tiny import save_untrained, sharded, tiny

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    # Runs on the CPU are the reference of the GPU's results.
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    # torch 2.11's warning about DDP, which makes its own streams: it costs a synchronisation and changes no result.
    pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream does not match"),
]

QUICK = "presets/quick/"
STAGES = ["stage1", "stage2", "stage3", "supervised", "scanpath", "time_resolved", "reader_conditional"]


def fit(run_gazelit, config, store, *options, folder="run"):
    """Trains two steps on the GPU; not every operator there has the determinism that the quick preset asks for."""
    run_gazelit(
        "fit", f"--config={config}", *small(config, store), "--data.downscale=1", "--trainer.accelerator=gpu",
        "--trainer.devices=1", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2",
        "--trainer.deterministic=false", f"--checkpoint.dirpath={folder}/checkpoints", *options,
    )  # fmt: skip


def metrics(run_gazelit, tmp_path, accelerator):
    """Metrics and predictions of the trained stage's test, in float32."""
    run_gazelit(
        "test", "--config=run/config.yaml", f"--trainer.accelerator={accelerator}", "--trainer.precision=32-true",
        f"--trainer.default_root_dir={accelerator}",
    )  # fmt: skip
    found = next((tmp_path / accelerator).rglob("metrics.json"))
    return json.loads(found.read_text()), pd.read_parquet(found.parent / "predictions.parquet")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_trains_in_bfloat16_and_its_test_equals_that_on_the_cpu(name, read_twice, run_gazelit, tmp_path):
    fit(run_gazelit, f"{QUICK}{name}.yaml", read_twice, "--trainer.precision=auto")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"]["precision"] == "bf16-mixed"
    losses = pd.read_csv(tmp_path / "run" / "epochs.csv").filter(like="_loss")
    assert np.isfinite(losses.to_numpy()).all()
    if name == "stage1":
        return
    on_gpu, table = metrics(run_gazelit, tmp_path, "gpu")
    on_cpu, cpu_table = metrics(run_gazelit, tmp_path, "cpu")
    drawn = [key for key in on_cpu if key.startswith("test/scanpath_") and "bits" not in key]
    same = {key: value for key, value in on_cpu.items() if key not in drawn and isinstance(value, float)}
    assert {key: on_gpu[key] for key in same} == pytest.approx(same, rel=1e-3, abs=1e-3, nan_ok=True)
    assert table["image_id"].tolist() == cpu_table["image_id"].tolist()


def test_a_run_forks_a_training_and_a_test_that_use_the_gpu(store, tmp_path):
    overrides = [*tiny(1, store), "--trainer.accelerator=gpu", "--trainer.devices=1", "--trainer.deterministic=false"]
    alone = {"name": "alone", "config": f"{QUICK}supervised.yaml", "overrides": overrides}
    path, out = arms_file(tmp_path, [alone], {"diagnosis": "alone"}), tmp_path / "run"
    result = subprocess.run(command(path, store, out), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for step in ("alone", "test"):
        assert "used: True" in (out / step / "log.txt").read_text()


def test_a_stage_trains_under_ddp_with_nccl(store, run_gazelit, tmp_path):
    fit(run_gazelit, f"{QUICK}stage3.yaml", store, "--trainer.strategy=ddp", "--trainer.precision=bf16-mixed")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    # Lightning keeps the group until the process ends; the other tests are of one process.
    torch.distributed.destroy_process_group()


def test_a_deterministic_training_gives_the_same_weights_twice(store, run_gazelit, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    states = []
    for folder in ("first", "second"):
        fit(run_gazelit, f"{QUICK}stage3.yaml", store, "--trainer.deterministic=true", folder=folder)
        states.append(torch.load(tmp_path / folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_stage_of_the_paper_preset_trains_as_it_is_shipped(store, run_gazelit, tmp_path):
    options = ["--trainer.devices=1", "--trainer.fast_dev_run=true", "--trainer.accelerator=auto"]
    run_gazelit("fit", "--config=stage3.yaml", *small("stage3.yaml", store), *options, "--trainer.precision=auto")


def test_a_model_reads_as_on_the_cpu(store, tmp_path):
    torch.manual_seed(0)
    ckpt = save_untrained(tmp_path / "joint.ckpt", DualEncoderUNet(**PARTS), GazeDataModule(str(store)).provenance)
    film = np.random.default_rng(0).integers(0, 256, (80, 70), dtype=np.uint8)
    on_cpu, on_gpu = (gazelit.load(ckpt, device=device).predict(film) for device in ("cpu", "cuda"))
    assert on_gpu.probabilities == pytest.approx(on_cpu.probabilities, abs=1e-4)
    assert np.allclose(on_gpu.saliency, on_cpu.saliency, rtol=1e-2, atol=1e-3 * on_cpu.saliency.max())


def test_the_metrics_are_those_of_the_cpu(store):
    datamodule = GazeDataModule(str(store))
    batch = datamodule.render(next(iter(datamodule.loader("train"))))
    generator = torch.Generator().manual_seed(0)
    prediction = torch.rand(batch["heatmap"][:, 0].shape, generator=generator)
    counts = fixation_counts(batch["points"], prediction.shape[1:])
    density = prediction / prediction.sum((1, 2), keepdim=True)
    maps = [density, batch["heatmap"][:, 0], counts, batch["valid_mask"][:, 0]]
    bias = datamodule.centre_bias(batch["index"])
    on_cpu = values_at_test(*maps, bias, ["mit", "reference"])
    on_gpu = values_at_test(*(each.cuda() for each in maps), bias, ["mit", "reference"])
    for name, value in on_cpu.items():
        assert np.allclose(on_gpu[name].cpu(), value, rtol=1e-5, atol=1e-5, equal_nan=True), name


def test_an_encoder_with_adapters_is_sharded_and_its_checkpoint_is_whole(store, run_gazelit, tmp_path):
    options = [
        "--model.network.encoder.name=tu-vit_small_patch14_dinov2", "--model.network.encoder.weights=null",
        "--model.network.encoder.options={embed_dim: 32, depth: 2, num_heads: 2, img_size: 56}",
        "--model.network.encoder.lora.rank=2",
    ]  # fmt: skip
    one_step = ["--trainer.limit_train_batches=1", "--data.augmentation.enabled=false", "--trainer.precision=32-true"]
    states = []
    for folder, strategy in (("alone", []), ("sharded", sharded())):
        fit(run_gazelit, f"{QUICK}stage3.yaml", store, *options, *one_step, *strategy, folder=folder)
        saved = torch.load(tmp_path / folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
        states.append(saved["state_dict"])
    torch.distributed.destroy_process_group()
    adapters = [key for key in states[0] if key.endswith((".up", ".down"))]
    assert adapters
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.allclose(value.float(), states[1][key].float(), rtol=1e-3, atol=1e-4), key


def test_embedded_features_are_those_of_the_cpu(store, run_gazelit, tmp_path):
    torch.manual_seed(0)
    ckpt = save_untrained(tmp_path / "joint.ckpt", DualEncoderUNet(**PARTS), GazeDataModule(str(store)).provenance)
    for kind in ("pooled", "map"):
        for device in ("cpu", "cuda"):
            out = tmp_path / f"{kind}-{device}"
            run_gazelit("embed", str(store), f"--ckpt={ckpt}", f"--out={out}", f"--kind={kind}", f"--device={device}")
        on_cpu, on_gpu = (np.load(tmp_path / f"{kind}-{device}" / "features.npy") for device in ("cpu", "cuda"))
        assert np.allclose(on_gpu, on_cpu, rtol=1e-2, atol=1e-3 * np.abs(on_cpu).max())
