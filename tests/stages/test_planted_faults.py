"""Fifty non-finite values that are planted in a training are each found at their step; odd batches are accepted."""

import logging
import random
import re

import lightning as L
import pytest
import torch

from gazelit.data.datamodule import GazeDataModule
from gazelit.models import DualEncoderUNet, EncoderSpec
from gazelit.stages import JointFinetuning
from tests.tiny import grouped

PLANTED, EPOCHS = 50, 22
SMALL = EncoderSpec("res-se", options={"widths": [4, 4], "reduction": 4})
ODD = ("no gaze", "one class", "one image", "all padding", "unknown labels")


def spoilt(batch, name, value):
    """The batch with a single value of a tensor replaced."""
    tensor = batch[name].clone()
    tensor.view(-1)[tensor.numel() // 3] = value
    return {**batch, name: tensor}


def odd(batch, kind):
    """A batch of a rare but possible kind."""
    if kind == "no gaze":
        nowhere = {name: torch.zeros_like(batch[name]) for name in ("points", "heatmap", "has_gaze")}
        return {**batch, **nowhere, "sigma_px": torch.full_like(batch["sigma_px"], torch.nan)}
    if kind == "one class":
        return {**batch, "label": torch.ones_like(batch["label"])}
    if kind == "one image":
        return {name: tensor[:1] for name, tensor in batch.items()}
    if kind == "unknown labels":
        return {**batch, "label": torch.full_like(batch["label"], torch.nan)}
    return {**batch, **{name: torch.zeros_like(batch[name]) for name in ("image", "valid_mask")}}


class Plants(L.Callback):
    """A callback that plants faults in a share of the steps, by a seed; weights are restored after the step."""

    KINDS = ("pixel", "label", "heatmap", "weight", "gradient")

    def __init__(self, seed, steps):
        draw = random.Random(seed)
        chosen = draw.sample(range(steps), PLANTED)
        values = (float("nan"), float("inf"), float("-inf"))
        self.plan = {step: (self.KINDS[n % len(self.KINDS)], draw.choice(values)) for n, step in enumerate(chosen)}
        self.planted, self.undo = {}, None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        step = trainer.global_step
        if step not in self.plan:
            return
        kind, value = self.plan[step]
        self.planted[step] = kind, sorted(batch["index"].tolist())
        # Alternately a weight near the input and a weight near the outputs.
        parameters = [parameter for parameter in pl_module.network.parameters() if parameter.dim() > 1]
        parameter = parameters[-1 if step % 2 else 0]
        if kind == "weight":
            kept = parameter.detach().clone()
            with torch.no_grad():
                parameter.view(-1)[0] = value
            self.undo = lambda: parameter.data.copy_(kept)
        elif kind == "gradient":
            hook = parameter.register_hook(lambda gradient: torch.full_like(gradient, value))
            self.undo = hook.remove

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.undo is not None:
            self.undo()
            self.undo = None


class Data(GazeDataModule):
    """A data module that spoils batches by the plan; validation batches, and batches without a fault, are odd."""

    plants: Plants

    def on_after_batch_transfer(self, batch, dataloader_idx):
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        step = self.trainer.global_step
        if not self.trainer.training:
            return odd(batch, ODD[int(batch["index"][0]) % len(ODD)])
        kind, value = self.plants.plan.get(step, (None, None))
        names = {"pixel": "image", "label": "label", "heatmap": "heatmap"}
        if kind in names:
            return spoilt(batch, names[kind], value if kind != "label" else float("inf"))
        return batch if kind else odd(batch, ODD[step % len(ODD)])


@pytest.mark.parametrize("seed", [0])
def test_fifty_planted_fifty_found_and_odd_batches_defined(seed, store, caplog):
    L.seed_everything(seed)
    options = grouped(batch_size=4, num_workers=0, augment=False)
    data = Data(str(store), labels=["Normal", "CHF"], exclusive=False, **options)
    data.plants = Plants(seed, 4 * EPOCHS)
    network = DualEncoderUNet(SMALL, EncoderSpec("res-se", options={"widths": [4], "reduction": 4}), [4], classes=2)
    stage = JointFinetuning(network, on_nonfinite="skip", max_skipped=10)
    trainer = L.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[data.plants], num_sanity_val_steps=0, check_val_every_n_epoch=6,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "gazelit"):
        trainer.fit(stage, data)
    said = [record.getMessage() for record in caplog.records if "step skipped" in record.getMessage()]
    assert len(data.plants.planted) == PLANTED
    found = {}
    for line in said:
        assert "\n" not in line
        step, rows = re.search(r"step (\d+): .* over rows ([\d, ]+) of the store", line).groups()
        found[int(step)] = sorted(map(int, rows.split(", ")))
    # Every fault is found, and nothing else.
    assert found == {step: rows for step, (_, rows) in data.plants.planted.items()}
    assert all(value.isfinite().all() for value in stage.state_dict().values())
    assert trainer.callback_metrics["val/selection"].isfinite()
