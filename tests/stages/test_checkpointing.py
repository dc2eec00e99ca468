"""Which checkpoints a training leaves: whatever ends it, and however its criterion goes."""

import resource
import shutil

import lightning as L
import pytest
import torch

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.options import LoaderOptions
from gazelit.errors import InputError
from gazelit.models import ContrastiveNetwork, DualEncoderUNet, EncoderSpec
from gazelit.stages import ContrastivePretraining, JointFinetuning
from gazelit.stages.checkpoint_io import AtomicCheckpointIO
from gazelit.stages.checkpointing import StageCheckpoint

ENCODER = EncoderSpec("densenet-small")
STAGES = {
    "contrastive": lambda: ContrastivePretraining(ContrastiveNetwork(ENCODER)),
    "joint": lambda: JointFinetuning(
        DualEncoderUNet(
            ENCODER, EncoderSpec("res-se", options={"widths": [4, 4, 8, 8, 8], "reduction": 4}), [8, 8, 8, 4, 4]
        )
    ),
}


class Ends(L.Callback):
    """Ends the training in the middle of an epoch, as a kill would."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (self.epoch, 1):
            raise RuntimeError("killed")


def fit(store, folder, make=STAGES["joint"], epochs=3, callbacks=(), resume=None, **options):
    L.seed_everything(5)
    stage = make()
    checkpoint = StageCheckpoint(
        dirpath=folder / "checkpoints", filename="best", monitor="val/selection", auto_insert_metric_name=False,
        enable_version_counter=False,
    )  # fmt: skip
    run = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        deterministic=True, plugins=[AtomicCheckpointIO()], callbacks=[*callbacks, checkpoint], **options,
    )  # fmt: skip
    run.fit(stage, GazeDataModule(str(store), loader=LoaderOptions(batch_size=6, num_workers=0)), ckpt_path=resume)
    return stage


@pytest.mark.parametrize("name", STAGES)
def test_finding_g3_last_is_the_last_epoch_and_a_killed_run_ends_in_the_same_bytes(name, store, tmp_path):
    def make():
        stage = STAGES[name]()
        plain = stage._with_selection
        # A criterion that only gets worse: Lightning's own save_last would stay at epoch 0.
        stage._with_selection = lambda means: {**plain(means), "selection": torch.tensor(float(stage.current_epoch))}
        return stage

    fit(store, tmp_path / "run", make)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"best.ckpt", "last.ckpt"}
    loaded = {path.stem: torch.load(path, weights_only=True) for path in checkpoints.iterdir()}
    assert loaded["best"]["epoch"] == 0
    assert loaded["last"]["epoch"] == 2
    shutil.move(tmp_path / "run", tmp_path / "undisturbed")
    with pytest.raises(RuntimeError, match="killed"):
        fit(store, tmp_path / "run", make, callbacks=[Ends(epoch=2)])
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["epoch"] == 1
    fit(store, tmp_path / "run", make, resume=checkpoints / "last.ckpt")
    for file in ("best.ckpt", "last.ckpt"):
        assert (checkpoints / file).read_bytes() == (tmp_path / "undisturbed" / "checkpoints" / file).read_bytes(), file


def test_finding_c6_batches_of_one_step_draw_different_random_numbers(store, tmp_path):
    drawn = []

    def make():
        stage = STAGES["joint"]()
        stage.network.register_forward_hook(
            lambda module, *_: drawn.append(torch.rand(()).item()) if module.training else None
        )
        return stage

    fit(store, tmp_path, make, epochs=2, accumulate_grad_batches=2)
    assert len(drawn) >= 4
    assert len(set(drawn)) == len(drawn)


def test_finding_g9_a_save_that_fails_names_the_checkpoint_and_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "best.ckpt"
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(4)}, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InputError, match=rf"^{path}: cannot be written \(File too large\)"):
            AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_finding_g9_a_checkpoint_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr("os.fsync", lambda handle: order.append("fsync"))
    replace = type(tmp_path).replace
    monkeypatch.setattr(type(tmp_path), "replace", lambda self, to: order.append("replace") or replace(self, to))
    AtomicCheckpointIO().save_checkpoint({}, tmp_path / "best.ckpt")
    assert order[:2] == ["fsync", "replace"]
