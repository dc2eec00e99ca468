"""A loss, gradient, weight or criterion that is not finite ends the training at once and is not saved."""

import lightning as L
import pytest
import torch

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.options import LoaderOptions
from gazelit.losses import GradientSurgery, KLDivergenceLoss, ReferenceWeighting
from gazelit.models import DualEncoderUNet, EncoderSpec
from gazelit.stages import JointFinetuning
from gazelit.stages.checkpoint_io import AtomicCheckpointIO
from gazelit.stages.checkpointing import StageCheckpoint
from gazelit.stages.nonfinite import NonFiniteError
from tests.tiny import tiny

SMALL = EncoderSpec("res-se", options={"widths": [4, 4], "reduction": 4})


def network():
    return DualEncoderUNet(SMALL, EncoderSpec("res-se", options={"widths": [4], "reduction": 4}), [4])


class Spoils(GazeDataModule):
    """A data module that puts a NaN pixel into a batch of an epoch and notes the batch's rows."""

    at = (1, 1)
    phase = "training"
    spoilt: tuple[int, ...] = ()

    def on_after_batch_transfer(self, batch, dataloader_idx):
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        stage = self.trainer.lightning_module
        number = self.trainer.fit_loop.epoch_loop.batch_idx + 1
        if getattr(self.trainer, self.phase) and self.at in (
            (stage.current_epoch, number),
            (stage.current_epoch, None),
        ):
            batch["image"] = batch["image"].clone()
            batch["image"][0, 0, 0, 0] = torch.nan
            self.spoilt = sorted(batch["index"].tolist())
        return batch


def train(store, folder, stage, data=Spoils, epochs=3, **options):
    L.seed_everything(0)
    module = data(str(store), loader=LoaderOptions(batch_size=4, num_workers=0))
    checkpoint = StageCheckpoint(dirpath=folder, filename="best", monitor="val/selection", enable_version_counter=False)
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        plugins=[AtomicCheckpointIO()], callbacks=[checkpoint], **options,
    )  # fmt: skip
    try:
        trainer.fit(stage, module)
    finally:
        train.module = module
    return trainer


def finite(folder):
    for path in folder.iterdir():
        checkpoint = torch.load(path, weights_only=True)
        assert all(value.isfinite().all() for value in checkpoint["state_dict"].values()), path
        for state in checkpoint["optimizer_states"][0]["state"].values():
            assert all(value.isfinite().all() for value in state.values()), path


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed", "gradient_clip_val": 1.0}],
    ids=["plain", "accumulated", "bfloat16-clipped"],
)
@pytest.mark.parametrize("weighting", [ReferenceWeighting, GradientSurgery])
def test_finding_g4_a_nan_pixel_stops_at_its_step_and_names_rows_and_loss(weighting, options, store, tmp_path):
    stage = JointFinetuning(network(), weighting=weighting())
    with pytest.raises(NonFiniteError) as caught:
        train(store, tmp_path, stage, **options)
    rows = ", ".join(map(str, train.module.spoilt))
    assert "stage 'joint', epoch 1, step " in str(caught.value)
    assert f"diagnosis_loss is nan over rows {rows} of the store" in str(caught.value)
    finite(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", "last.ckpt"}


def test_finding_g4_a_skipped_step_leaves_everything_as_it_was_and_skips_are_bounded(store, tmp_path, caplog):
    class Twice(Spoils):
        at = (0, 0)

    noted = {}

    class Notes(JointFinetuning):
        def on_train_batch_start(self, batch, batch_idx):
            super().on_train_batch_start(batch, batch_idx)
            noted[self.current_epoch, batch_idx] = {key: value.clone() for key, value in self.state_dict().items()}

    trainer = train(store, tmp_path, Notes(network(), on_nonfinite="skip", max_skipped=1), Twice, epochs=1)
    assert all(torch.equal(value, noted[0, 1][key]) for key, value in noted[0, 0].items())
    assert not all(torch.equal(value, noted[0, 2][key]) for key, value in noted[0, 1].items())
    assert trainer.callback_metrics["train/skipped_steps"] == 1
    assert trainer.callback_metrics["train/loss"].isfinite()
    finite(tmp_path)

    class Always(Spoils):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            self.at = (0, self.trainer.fit_loop.epoch_loop.batch_idx + 1)
            return super().on_after_batch_transfer(batch, dataloader_idx)

    with pytest.raises(NonFiniteError, match="1 steps of this epoch were skipped before"):
        train(store, tmp_path / "b", JointFinetuning(network(), on_nonfinite="skip", max_skipped=1), Always, epochs=1)


def test_finding_g4_a_gradient_alone_is_found_and_its_parameter_named(store, tmp_path):
    class Roots(KLDivergenceLoss):
        # The gradient of the square root at 0 is infinite, but the loss is not.
        def forward(self, outputs, batch):
            return super().forward(outputs, batch) + (0 * outputs["saliency_logits"].mean()).sqrt()

    with pytest.raises(NonFiniteError, match=r"the gradient of network\.\w+\.\S+ is not finite over rows"):
        train(store, tmp_path, JointFinetuning(network(), saliency_loss=Roots()), GazeDataModule)
    assert not list(tmp_path.iterdir())


def test_finding_g4_weights_that_left_the_numbers_are_not_saved(store, tmp_path):
    class Breaks(JointFinetuning):
        def on_train_epoch_end(self):
            if self.current_epoch == 1:
                with torch.no_grad():
                    next(self.network.parameters()).fill_(torch.inf)

    with pytest.raises(
        NonFiniteError, match=r"epoch 1, step \d+: state_dict: network\.\S+ is not finite, and is not saved"
    ):
        train(store, tmp_path, Breaks(network()), GazeDataModule)
    finite(tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 0


def test_finding_g4_a_criterion_that_is_no_number_selects_nothing(store, tmp_path):
    class SpoilsValidation(Spoils):
        phase = "validating"
        at = (1, None)

    with pytest.raises(NonFiniteError, match="epoch 1: val/selection is nan"):
        train(store, tmp_path, JointFinetuning(network()), SpoilsValidation)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 0


def test_finding_g4_a_learning_rate_of_a_million_is_one_line_and_exit_code_2(store, run_gazelit, tmp_path):
    printed = run_gazelit(
        "fit", "--config=presets/quick/stage3.yaml", *tiny(3, store), "--model.optimizer.lr=1e30",
        "--trainer.max_epochs=3", "--checkpoint.dirpath=run/checkpoints", code=2,
    )  # fmt: skip
    assert "gazelit: error: stage 'joint', epoch 0, step 1: " in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_finding_g4_batches_of_one_class_are_counted_and_reported_once_an_epoch(store, run_gazelit, tmp_path):
    import pandas as pd

    printed = run_gazelit(
        "fit", "--config=presets/quick/stage1.yaml", *tiny(1, store), "--data.loader.batch_size=2",
        "--trainer.max_epochs=2", "--checkpoint.dirpath=run/checkpoints",
    )  # fmt: skip
    count = pd.read_csv(tmp_path / "run" / "epochs.csv")["train/batches_without_pairs"]
    # With two images, no image has both a positive and a negative.
    assert (count > 5).all()
    assert printed.count("batches had no image with both a positive and a negative, and had no effect") == 2


@pytest.mark.parametrize("options", [{"on_nonfinite": "go on"}, {"max_skipped": 0}])
def test_impossible_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        JointFinetuning(network(), **options)
