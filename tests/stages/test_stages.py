"""Stages as LightningModules: built in Python, resumed, distributed, in bfloat16."""

import random
import subprocess
import sys

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from gazelit.checkpoints.stamps import STAMP_KEY
from gazelit.data.datamodule import GazeDataModule
from gazelit.data.options import AugmentationOptions, LoaderOptions
from gazelit.deploy.inference import load_model
from gazelit.errors import InputError
from gazelit.losses import DynamicWeightAverage, ReferenceWeighting
from gazelit.models import ContrastiveNetwork, DualEncoderUNet, EncoderSpec
from gazelit.stages import ContrastivePretraining, JointFinetuning, SaliencyWarmup
from tests.environment import importing_tests
from tests.tiny import save_untrained, sharded, tiny

PARTS = {
    "encoder": EncoderSpec("densenet-small"),
    "saliency_encoder": EncoderSpec("res-se", options={"widths": [4, 4, 8, 8, 8], "reduction": 4}),
    "decoder_widths": [8, 8, 8, 4, 4],
}


SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--data.loader.batch_size=4"]
# Forks have the imports already. The tests in test_processes.py use Lightning's own start of processes.
FORKED = ["--trainer.devices=2", "--trainer.strategy=ddp_fork"]


def trainer(folder, **options):
    defaults = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
    }
    return L.Trainer(**{**defaults, **options})


def stages():
    return {
        "contrastive": lambda: ContrastivePretraining(ContrastiveNetwork(PARTS["encoder"])),
        "saliency": lambda: SaliencyWarmup(DualEncoderUNet(**PARTS, classes=None)),
        "joint": lambda: JointFinetuning(DualEncoderUNet(**PARTS)),
    }


def data(store):
    return GazeDataModule(str(store), loader=LoaderOptions(batch_size=6, num_workers=0))


@pytest.mark.parametrize("name", ["contrastive", "saliency", "joint"])
def test_a_stage_built_from_python_saves_primitives_and_its_network_is_rebuilt(name, store, tmp_path):
    torch.manual_seed(0)
    stage = stages()[name]()
    run = trainer(tmp_path)
    run.fit(stage, data(store))
    run.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert checkpoint[STAMP_KEY]["stage"] == name
    model = load_model(tmp_path / "a.ckpt")
    image = torch.rand(1, 1, 64, 64)
    for key, value in stage.network.eval()(image).items():
        assert torch.equal(value, model.network(image)[key])


@pytest.mark.parametrize("name", ["contrastive", "saliency", "joint"])
def test_training_lowers_the_loss(name, store, tmp_path):
    L.seed_everything(0)
    stage = stages()[name]()
    stage.make_optimizer = lambda parameters: torch.optim.Adam(parameters, lr=3e-3)
    losses = []

    class Losses(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            losses.append(trainer.callback_metrics["train/loss"].item())

    # All training films are in one batch without augmentation, so that only the optimisation matters.
    films = GazeDataModule(
        str(store), loader=LoaderOptions(batch_size=24, num_workers=0), augmentation=AugmentationOptions(enabled=False)
    )
    trainer(tmp_path, max_epochs=10, limit_val_batches=0, callbacks=[Losses()]).fit(stage, films)
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("weighting", [ReferenceWeighting, DynamicWeightAverage])
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(weighting, store, tmp_path):
    def fit(epochs, resume=None):
        L.seed_everything(7)
        stage = JointFinetuning(DualEncoderUNet(**PARTS), weighting=weighting())
        run = trainer(tmp_path, max_epochs=epochs, deterministic=True)
        run.fit(stage, data(store), ckpt_path=resume)
        run.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return {key: value.clone() for key, value in stage.state_dict().items()}

    straight = fit(4)
    fit(2)
    resumed = fit(4, tmp_path / "2.ckpt")
    # The training has dropout and augmentation.
    assert all(torch.equal(value, resumed[key]) for key, value in straight.items())


def test_frozen_components_do_not_move_and_are_not_optimised(store, tmp_path):
    stage = stages()["saliency"]()
    before = {key: value.clone() for key, value in stage.network.encoder.state_dict().items()}
    trainer(tmp_path).fit(stage, data(store))
    assert all(torch.equal(value, before[key]) for key, value in stage.network.encoder.state_dict().items())
    optimised = {id(p) for group in stage.configure_optimizers().param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in stage.network.encoder.parameters()}
    stage.train()
    assert not stage.network.encoder.training
    assert stage.network.decoder.training


def test_pretrained_weights_are_fetched_for_a_fresh_fit_only(store, tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr("gazelit.models.network.Network.load_pretrained", lambda self, name: fetched.append(name))
    stage = stages()["saliency"]()
    run = trainer(tmp_path)
    run.fit(stage, data(store))
    assert set(fetched) == {"encoder", "saliency_encoder", "decoder", "saliency_head"}
    run.save_checkpoint(tmp_path / "a.ckpt")
    fetched.clear()
    joint = stages()["joint"]()
    joint.take_over(tmp_path / "a.ckpt")
    trainer(tmp_path).fit(joint, data(store))
    # Components that were handed over are not overwritten.
    assert set(fetched) == {"classifier"}
    fetched.clear()
    trainer(tmp_path).validate(joint, data(store), verbose=False)
    assert fetched == []


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (["backbone"], "no component backbone"),
        (["encoder", "saliency_encoder", "decoder", "saliency_head"], "nothing to train"),
    ],
)
def test_wrong_frozen(frozen, message):
    with pytest.raises(InputError, match=message):
        SaliencyWarmup(DualEncoderUNet(**PARTS, classes=None), frozen=frozen)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stage_trains_in_bfloat16(stage, store, run_gazelit, tmp_path):
    run_gazelit(
        "fit", "--config", f"presets/quick/stage{stage}.yaml", *tiny(stage, store), "--trainer.max_epochs=1",
        "--trainer.precision=bf16-mixed", "--checkpoint.dirpath=run/checkpoints",
    )  # fmt: skip
    header, row = ((tmp_path / "run" / "epochs.csv").read_text().splitlines())[:2]
    values = dict(zip(header.split(","), row.split(","), strict=True))
    assert all(value not in ("", "nan", "inf") for key, value in values.items() if "auroc" not in key)


@pytest.fixture(scope="module")
def multi_label(reflacx, tmp_path_factory):
    """REFLACX: several labels, some of them unknown, and several readings of an image."""
    from gazelit.data.sources import REFLACX
    from gazelit.data.store.prepare import prepare

    out = tmp_path_factory.mktemp("multi-label") / "s"
    return prepare(REFLACX(reflacx / "reflacx", reflacx / "mimic-cxr"), out, size=(64, 64), workers=1).path


def test_the_joint_stage_learns_several_labels_with_unknowns(multi_label, run_gazelit, tmp_path):
    options = [
        "--data.labels=[Consolidation, Pulmonary edema, Enlarged hilum]", "--data.exclusive=false",
        "--data.split.allow_empty=true",
        "--data.split.method=official", "--data.gaze.readings=drawn", "--data.loader.batch_size=2",
    ]  # fmt: skip
    run_gazelit(
        "fit", "--config=presets/quick/stage3.yaml", *tiny(3, multi_label), *options, "--trainer.max_epochs=1",
        "--checkpoint.dirpath=run/checkpoints",
    )  # fmt: skip
    row = pd.read_csv(tmp_path / "run" / "epochs.csv").iloc[0]
    assert np.isfinite(row[["train/loss", "train/diagnosis_loss", "val/loss"]].astype(float)).all()
    run_gazelit(
        "test", "--config=run/config.yaml", "--ckpt_path=run/checkpoints/best.ckpt", "--trainer.logger=false",
    )  # fmt: skip
    predictions = pd.read_parquet(next(tmp_path.rglob("predictions.parquet")))
    probabilities = predictions[["p_Consolidation", "p_Pulmonary edema", "p_Enlarged hilum"]]
    assert probabilities.gt(0).all().all()
    assert probabilities.lt(1).all().all()
    assert (probabilities.sum(axis=1) - 1).abs().max() > 1e-3
    assert predictions["image_id"].is_unique
    names = ["Consolidation", "Pulmonary edema", "Enlarged hilum"]
    expected = pd.read_parquet(multi_label / "cases.parquet").set_index("image_id").loc[predictions["image_id"], names]
    known = expected.to_numpy(float, copy=True)
    known[known == -1] = np.nan
    assert np.array_equal(predictions[[f"y_{name}" for name in names]].to_numpy(), known, equal_nan=True)


# Stage 3 is trained on two processes by two agents of torchrun, below.
@pytest.mark.parametrize("stage", [1, 2])
def test_every_stage_trains_on_two_processes_without_a_search_for_unused_parameters(
    stage, store, run_gazelit, tmp_path
):
    printed = run_gazelit(
        "fit", f"--config=presets/quick/stage{stage}.yaml", *tiny(stage, store), *SHORT, *FORKED,
        "--checkpoint.dirpath=run/checkpoints",
    )  # fmt: skip
    assert printed.count("gazelit: stage") == 1
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()


OWN_METRICS = """
import torch
from gazelit.metrics import CaseMetric

class OwnCC(CaseMetric):
    def per_case(self, outputs, batch):
        maps = torch.stack([outputs["density"], batch["heatmap"]], 1).flatten(2).double()
        seen = batch["valid_mask"].flatten(1)
        return torch.stack([torch.corrcoef(pair[:, pixels])[0, 1] for pair, pixels in zip(maps, seen)])
"""
COMPARED = """
- class_path: mine.OwnCC
- class_path: gazelit.metrics.ComparedMetric
  init_args:
    metric: {class_path: torchmetrics.classification.MulticlassAccuracy, init_args: {num_classes: 3, average: micro}}
    prediction: probabilities
    truth: label
"""


def test_two_processes_test_every_case_once_and_agree_with_one(store, tmp_path, run_gazelit, monkeypatch):
    import json

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text(OWN_METRICS)
    torch.manual_seed(0)
    stage = stages()["joint"]()
    run = trainer(tmp_path)
    run.fit(stage, data(store))
    run.save_checkpoint(tmp_path / "a.ckpt")
    results = []
    command = [
        "test", "--config", "presets/quick/stage3.yaml", *tiny(3, store), "--trainer.logger=false",
        f"--ckpt_path={tmp_path / 'a.ckpt'}", f"--model.metrics={yaml.safe_load(COMPARED)}",
    ]  # fmt: skip
    run_gazelit(*command, "--trainer.devices=1", "--trainer.default_root_dir=devices1")
    monkeypatch.delitem(sys.modules, "mine")
    run_gazelit(*command, *FORKED, "--trainer.default_root_dir=devices2")
    for folder in (tmp_path / "devices1", tmp_path / "devices2"):
        results.append(
            (json.loads((folder / "metrics.json").read_text()), pd.read_parquet(folder / "predictions.parquet"))
        )
    (single, single_table), (double, double_table) = results
    assert single.keys() == double.keys()
    # Metrics from outside the package equal gazelit's own.
    assert single["test/multiclass_accuracy"] == pytest.approx(single["test/accuracy"])
    assert single["test/own_cc"] == pytest.approx(single["test/cc"], abs=1e-5)
    assert single_table["own_cc"].tolist() == pytest.approx(single_table["cc"].tolist(), abs=1e-5, nan_ok=True)
    assert set(single_table.attrs["metrics"]) == set(double_table.attrs["metrics"]) == {"own_cc", "multiclass_accuracy"}
    double_table = double_table.reset_index(drop=True)
    for key in single:
        # Batches of another size round differently, and ranks within an almost flat map show it.
        rel = 2e-3 if "auc_" in key else 1e-4
        assert double[key] == pytest.approx(single[key], rel=rel, abs=1e-5, nan_ok=True), key
    ranks = [name for name in single_table if name.startswith("auc_")]
    pd.testing.assert_frame_equal(single_table[ranks], double_table[ranks], rtol=2e-3)
    pd.testing.assert_frame_equal(
        single_table.drop(columns=ranks), double_table.drop(columns=ranks), rtol=1e-4, atol=1e-5
    )


def launch(folder, *command):
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=importing_tests(),
    )  # fmt: skip


def finish(*processes):
    """Waits for processes to end well; returns what they printed."""
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return "".join(outputs)


@pytest.mark.parametrize(
    "options",
    [
        # A coarsest map that no decoder step takes, a prior, side heads and projected gradients: all must be used.
        [
            "--model.network.saliency_encoder={name: resnet18}", "--model.weighting=gazelit.losses.GradientSurgery",
            "--model.network.centre_prior=true", "--model.network.side_heads=1",
            "--model.saliency_loss=gazelit.losses.DeepSupervisionLoss",
        ],
        [
            "--model.network.classifier_pooling=gaze",
            "--model.teacher_forcing=true",
            "--model.execution.recompute=[encoder]",
            "--model.gaze_at_test=true",
            "--model.auxiliary+=gazelit.losses.Distillation",
            "--model.auxiliary.checkpoint=teacher.ckpt",
            "--model.auxiliary.sees_gaze=true",
        ],
        # A step of each task: parameters that only the other task trains must not keep the processes waiting.
        ["--model.network.classifier_features=encoder", "--model.schedule={turns: step}"],
    ],
    ids=["resnet-surgery-sides", "gaze-pooling-recompute-teacher", "turns"],
)  # fmt: skip
def test_open_choices_train_on_two_processes(options, store, run_gazelit, tmp_path):
    teacher = DualEncoderUNet(**PARTS, classifier_pooling="gaze")
    save_untrained(tmp_path / "teacher.ckpt", teacher, data(store).provenance)
    run_gazelit(
        "fit", "--config=presets/quick/stage3.yaml", *tiny(3, store), *options, *SHORT, *FORKED,
        "--checkpoint.dirpath=run/checkpoints",
    )  # fmt: skip
    assert np.isfinite(pd.read_csv(tmp_path / "run" / "epochs.csv")["train/loss"]).all()


def test_a_sharded_training_ends_with_the_weights_of_one_process(store, run_gazelit, tmp_path):
    # Gradients are averaged over processes, so sharding changes only where parameters are stored. There is only one
    # step, because in the next, rounding errors would grow through the statistics of few films.
    options = [
        "--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--data.augmentation.enabled=false",
        "--trainer.deterministic=false",
        "--model.frozen=[encoder]", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.01",
    ]  # fmt: skip
    command = [
        "fit", "--config=presets/quick/stage2.yaml", *tiny(2, store), *options, "--data.loader.batch_size=4"
    ]  # fmt: skip
    run_gazelit(*command, *FORKED, "--checkpoint.dirpath=ddp/checkpoints")
    finish(launch(
        tmp_path, "gazelit", *command, *sharded(processes=2), "--checkpoint.dirpath=fsdp/checkpoints",
    ))  # fmt: skip
    weights = [
        load_model(tmp_path / name / "checkpoints" / "last.ckpt").network.state_dict() for name in ("ddp", "fsdp")
    ]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        # Under DDP, each process has its own BatchNorm statistics until the next step shares those of rank 0.
        if "running" not in key:
            assert torch.allclose(value.float(), weights[1][key].float(), rtol=1e-5, atol=1e-6), key


def noted(path):
    return [list(map(int, line.split())) for line in path.read_text().splitlines()]


def test_two_torchrun_agents_train_together_and_one_goes_on_after_a_kill(store, run_gazelit, tmp_path):
    """An agent is killed at a random step of the second epoch; the resumed training sees every film once."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    killed_at = random.randint(5, 7)
    options = [
        "fit", "--config=presets/quick/stage3.yaml", *tiny(3, store), "--trainer.max_epochs=2",
        "--data.loader.batch_size=2", "--checkpoint.dirpath=run/checkpoints", "--checkpoint.every_n_train_steps=1",
        "--trainer.callbacks+=tests.batch_notes.BatchNotes", "--trainer.callbacks.notes=films.txt",
    ]  # fmt: skip
    command = [
        "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=test",
        f"--rdzv-endpoint=127.0.0.1:{port}", "-m", "gazelit", *options, f"--trainer.callbacks.killed_at={killed_at}",
        "--trainer.num_nodes=2", "--trainer.devices=1", "--trainer.strategy=ddp", "--data.loader.sampling=by_node",
    ]  # fmt: skip
    agents = [launch(tmp_path, *command) for _ in range(2)]
    said = [agent.communicate(timeout=300)[0] for agent in agents]
    assert "".join(said).count("gazelit: stage") == 1, said
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file(), said
    assert all(agent.returncode != 0 for agent in agents), said
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (last["epoch"], last["global_step"]) == (1, killed_at), said
    train = len(GazeDataModule(str(store)).rows("train"))
    seen = noted(tmp_path / "films.txt")
    assert len(seen) == 2 * killed_at
    # Each node read its own part of the store, the same in both epochs.
    first, second = ({film for _, rank, *batch in seen for film in batch if rank == node} for node in range(2))
    assert not first & second
    run_gazelit(*options, "--ckpt_path=last")
    seen = noted(tmp_path / "films.txt")
    for epoch in (0, 1):
        films = [film for number, _, *batch in seen for film in batch if number == epoch]
        assert len(set(films)) == len(films), seen
        # A step has four films in the first epoch, and two films where one process went on.
        assert len(films) == train - train % (4, 2)[epoch], seen
    epochs = pd.read_csv(tmp_path / "run" / "epochs.csv")
    assert epochs["epoch"].tolist() == [0, 1]
    assert epochs["train/loss"].notna().all()
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()
