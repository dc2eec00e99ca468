"""The criterion that selects a checkpoint is a fixed quantity, exact over images, batches and processes."""

import lightning as L
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from gazelit.data.datamodule import GazeDataModule
from gazelit.density import log_density
from gazelit.losses import DiagnosisLoss, FixedWeighting, ReferenceWeighting, UncertaintyWeighting
from gazelit.metrics import ImageMeans
from gazelit.models import DualEncoderUNet, EncoderSpec
from gazelit.stages import JointFinetuning, SaliencyWarmup
from tests.tiny import grouped, tiny

SMALL = EncoderSpec("res-se", options={"widths": [4, 4], "reduction": 4})


def network(**options):
    return DualEncoderUNet(SMALL, EncoderSpec("res-se", options={"widths": [4], "reduction": 4}), [4], **options)


class HalfBlind(GazeDataModule):
    """A data module in which every second film of the store has no gaze."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        batch["has_gaze"] = batch["has_gaze"] & (batch["index"] % 2 == 0)
        return batch


def validate(stage, store, **options):
    # The batches have unequal numbers of films with gaze.
    module = HalfBlind(str(store), **grouped(batch_size=4, num_workers=0, val_fraction=0.4, test_fraction=0.1))
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=1, **options
    )
    values = trainer.validate(stage, module, verbose=False)[0]
    return values, module


def per_image(stage, module):
    """The losses of each validation film, by their definitions."""
    stage.eval()
    diagnosis, saliency = [], []
    for batch in module.val_dataloader():
        batch = HalfBlind.on_after_batch_transfer(module, batch, 0)
        with torch.no_grad():
            outputs = stage.network(batch["image"])
        if "logits" in outputs:
            diagnosis += F.cross_entropy(outputs["logits"], batch["label"], reduction="none").tolist()
        log_p = log_density(outputs["saliency_logits"]).flatten(1)
        target = batch["heatmap"].flatten(1)
        values = F.kl_div(log_p, target, reduction="none").sum(1)
        saliency += values[batch["has_gaze"]].tolist()
    return torch.tensor(diagnosis), torch.tensor(saliency)


@pytest.mark.parametrize("weighting", [ReferenceWeighting, UncertaintyWeighting, FixedWeighting])
def test_finding_c12_the_criterion_is_the_plain_sum_of_means_whatever_the_weighting(weighting, store):
    torch.manual_seed(0)
    stage = JointFinetuning(network(), weighting=weighting())
    with torch.no_grad():
        for parameter in stage.weighting.parameters():
            parameter.fill_(0.7)
    values, module = validate(stage, store)
    diagnosis, saliency = per_image(stage, module)
    assert 0 < len(saliency) < len(diagnosis)
    assert values["val/saliency_loss"] == pytest.approx(saliency.mean().item(), rel=1e-5)
    assert values["val/selection"] == pytest.approx((diagnosis.mean() + saliency.mean()).item(), rel=1e-5)
    weighted = stage.weighting({"diagnosis": diagnosis.mean(), "saliency": saliency.mean()}).item()
    assert values["val/loss"] == pytest.approx(weighted, rel=1e-5)


def test_finding_c12_films_without_gaze_do_not_count_in_the_loss_of_gaze(store):
    torch.manual_seed(0)
    stage = SaliencyWarmup(network(classes=None), frozen=[])
    values, module = validate(stage, store)
    _, saliency = per_image(stage, module)
    assert values["val/loss"] == values["val/selection"] == pytest.approx(saliency.mean().item(), rel=1e-5)


def test_finding_c12_weighted_classes_are_averaged_as_over_one_batch():
    stage = JointFinetuning(network(), diagnosis_loss=DiagnosisLoss([1.0, 2.0, 5.0]))
    logits, label = torch.randn(7, 3), torch.tensor([0, 1, 2, 2, 0, 1, 2])
    means = ImageMeans()
    for part in (slice(0, 3), slice(3, 7)):
        batch = {"image": logits[part], "label": label[part], "has_gaze": torch.ones(len(label[part]), dtype=bool)}
        loss = stage.diagnosis_loss({"logits": logits[part]}, batch)
        parts = {"diagnosis_loss": loss}
        means.update(parts, stage._weights(batch, loss, parts))
    expected = torch.nn.functional.cross_entropy(logits, label, torch.tensor([1.0, 2.0, 5.0]))
    assert means.compute()["diagnosis_loss"].item() == pytest.approx(expected.item())


def test_finding_c12_sigma_has_a_learning_rate_of_its_own_and_is_logged(store, run_gazelit, tmp_path):
    groups = JointFinetuning(network()).configure_optimizers().param_groups
    assert [group["lr"] for group in groups] == [1e-4, 1e-2]
    groups = JointFinetuning(network(), learning_rates={"weighting": 3e-4}).configure_optimizers().param_groups
    assert [group["lr"] for group in groups] == [1e-4, 3e-4]
    run_gazelit(
        "fit", "--config=presets/quick/stage3.yaml", *tiny(3, store), "--trainer.max_epochs=2",
        "--model.learning_rates={weighting: 0.05}", "--checkpoint.dirpath=run/checkpoints",
    )  # fmt: skip
    sigma = pd.read_csv(tmp_path / "run" / "epochs.csv")["train/sigma_diagnosis"]
    # An epoch has two steps of Adam, each about as large as the rate.
    assert abs(sigma.iloc[0] - 1) > 0.05
    assert sigma.iloc[1] != sigma.iloc[0]


def test_means_leave_out_values_without_an_image():
    means = ImageMeans()
    means.update({"a": torch.tensor(torch.nan), "b": torch.tensor(2.0)}, {"a": 0, "b": 3})
    means.update({"b": torch.tensor(4.0)}, 1)
    assert means.compute() == {"b": torch.tensor(2.5, dtype=torch.float64)}
