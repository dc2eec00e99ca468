"""Schedules of tasks: which task trains when, paused tasks, and resumed runs."""

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.options import LoaderOptions
from gazelit.errors import InputError
from gazelit.losses import FAMO, ExcessMTL, FixedWeighting
from gazelit.models import DualEncoderUNet, EncoderSpec
from gazelit.stages import JointFinetuning
from gazelit.stages.task_schedule import Epochs, TaskSchedule
from gazelit.stages.teacher import TeacherForcing
from tests.tiny import tiny

TASKS = ("diagnosis", "saliency")
SMALL = EncoderSpec("res-se", options={"widths": [4, 4], "reduction": 4})


def network():
    # The classifier uses only the encoder, so saliency encoder, decoder and head belong to the gaze task.
    options = {"classifier_features": "encoder"}
    return DualEncoderUNet(SMALL, EncoderSpec("res-se", options={"widths": [4], "reduction": 4}), [4], **options)


def test_turns_by_step_by_epoch_and_by_given_epochs():
    def trained(schedule, *moments):
        return ["".join(task[0] for task in schedule.active(TASKS, *moment)) for moment in moments]

    moments = [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4)]
    assert trained(TaskSchedule(), *moments) == ["ds"] * 5
    assert trained(TaskSchedule("step"), *moments) == ["d", "s", "d", "s", "d"]
    assert trained(TaskSchedule("epoch"), *moments) == ["d", "d", "s", "s", "d"]
    until = TaskSchedule(epochs={"saliency": Epochs(until=1)})
    assert trained(until, *moments) == ["ds", "ds", "d", "d", "d"]
    later = TaskSchedule("step", {"diagnosis": Epochs(1)})
    assert trained(later, *moments) == ["s", "s", "d", "s", "d"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": TaskSchedule(epochs={"gaze": Epochs()})}, "schedule.epochs: no task gaze; the tasks are"),
        ({"schedule": TaskSchedule("step"), "weighting": FAMO()}, "schedule: FAMO compares tasks"),
        (
            {
                "schedule": TaskSchedule(epochs={"saliency": Epochs(until=3), "diagnosis": Epochs(3)}),
                "weighting": ExcessMTL(),
            },
            "schedule: ExcessMTL compares tasks",
        ),
    ],
)
def test_impossible_schedules_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        JointFinetuning(network(), **options)


@pytest.mark.parametrize("epochs", [(-1, None), (3, 3)])
def test_invalid_epochs_are_refused(epochs):
    with pytest.raises(InputError, match="there is no epoch from"):
        Epochs(*epochs)


def fit(stage, store, folder, epochs, resume=None, **options):
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, deterministic=True, **options,
    )  # fmt: skip
    trainer.fit(stage, GazeDataModule(str(store), loader=LoaderOptions(batch_size=6, num_workers=0)), ckpt_path=resume)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return {key: value.clone() for key, value in stage.state_dict().items()}, trainer.callback_metrics


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)


def test_a_schedule_that_ends_before_the_training_is_refused_at_its_beginning(store, tmp_path):
    epochs = {"saliency": Epochs(until=1), "diagnosis": Epochs(until=2)}
    stage = JointFinetuning(network(), weighting=FixedWeighting(), schedule=TaskSchedule(epochs=epochs))
    with pytest.raises(InputError, match="no task is trained in epoch 2"):
        fit(stage, store, tmp_path, 3)


def test_parameters_that_only_a_paused_task_trains_stay_and_the_pause_is_logged(store, tmp_path):
    def train(epochs, resume=None):
        L.seed_everything(0)
        schedule = TaskSchedule(epochs={"saliency": Epochs(until=1)})
        stage = JointFinetuning(network(), weighting=FixedWeighting(), schedule=schedule, optimizer=adamw)
        return fit(stage, store, tmp_path, epochs, resume)

    before, _ = train(1)
    after, logged = train(2, tmp_path / "1.ckpt")
    names = [name for name, _ in network().named_parameters()]
    for name in names:
        still = name.startswith(("saliency_encoder.", "decoder.", "saliency_head."))
        assert torch.equal(before[f"network.{name}"], after[f"network.{name}"]) == still, name
    assert all(logged[f"{split}/saliency_loss"] > 0 for split in ("train", "val"))
    assert logged["val/selection"].item() == pytest.approx(
        (logged["val/diagnosis_loss"] + logged["val/saliency_loss"]).item()
    )


def test_tasks_that_take_turns_train_as_one_after_the_other(store, tmp_path):
    def train(schedule, epochs):
        L.seed_everything(0)
        stage = JointFinetuning(
            network(), weighting=FixedWeighting(), schedule=schedule,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-2),
        )  # fmt: skip
        return fit(stage, store, tmp_path, epochs, limit_train_batches=1)[0]

    turns = train(TaskSchedule("epoch"), 2)
    by_hand = train(TaskSchedule(epochs={"diagnosis": Epochs(until=1), "saliency": Epochs(1)}), 2)
    assert all(torch.equal(value, by_hand[key]) for key, value in turns.items())
    together = train(None, 2)
    assert not all(torch.equal(value, together[key]) for key, value in turns.items())


@pytest.mark.parametrize(
    ("weighting", "schedule"),
    [
        (FAMO, TaskSchedule(epochs={"saliency": Epochs(until=2)})),
        (lambda: ExcessMTL(step_size=0.5), TaskSchedule(epochs={"diagnosis": Epochs(1)})),
        (FixedWeighting, TaskSchedule("step")),
    ],
    ids=["famo", "excess", "turns"],
)
def test_a_resumed_run_ends_with_the_same_bytes(weighting, schedule, store, tmp_path):
    def train(epochs, resume=None):
        L.seed_everything(7)
        stage = JointFinetuning(network(), weighting=weighting(), schedule=schedule, optimizer=adamw)
        return fit(stage, store, tmp_path, epochs, resume)[0]

    straight = train(3)
    train(2)
    resumed = train(3, tmp_path / "2.ckpt")
    assert straight.keys() == resumed.keys()
    # FAMO notes NaN as the last loss of a paused task.
    assert all(torch.equal(value.nan_to_num(), resumed[key].nan_to_num()) for key, value in straight.items())
    assert torch.load(tmp_path / "2.ckpt", weights_only=True)


def test_a_stage_that_python_built_keeps_no_objects_in_its_checkpoint():
    pooling = DualEncoderUNet(
        SMALL, EncoderSpec("res-se", options={"widths": [4], "reduction": 4}), [4], classifier_pooling="gaze"
    )
    stage = JointFinetuning(pooling, schedule=TaskSchedule("step"), teacher_forcing=TeacherForcing(1, 0, 3))
    assert not {"schedule", "teacher_forcing", "weighting"} & stage.hparams.keys()


OUTSIDE = """
import torch

from gazelit.losses import TaskWeighting


class Sceptic(TaskWeighting):
    def __init__(self, trust: float = 0.5) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(trust))
        self.register_buffer("epochs", torch.zeros(()))

    def forward(self, losses, parameters=()):
        assert bool(parameters) == self.training
        return sum(losses.values()) * self.scale.exp() + self.scale.square()

    def begin_epoch(self, parameters=()):
        self.epochs += 1

    def learned(self):
        return {"scale": self.scale.detach(), "epochs_begun": self.epochs}
"""


def test_a_weighting_from_outside_needs_nothing_but_the_protocol(store, run_gazelit, tmp_path, monkeypatch):
    (tmp_path / "sceptic.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    run_gazelit(
        "fit", "--config=presets/quick/stage3.yaml", *tiny(3, store), "--trainer.max_epochs=2",
        "--model.weighting=sceptic.Sceptic", "--model.weighting.trust=0.25", "--model.schedule={turns: step}",
        "--checkpoint.dirpath=run/checkpoints",
    )  # fmt: skip
    epochs = pd.read_csv(tmp_path / "run" / "epochs.csv")
    assert epochs["train/epochs_begun"].tolist() == [1, 2]
    # Adam at the weighting's own rate, two steps an epoch.
    moved = np.abs(np.diff([0.25, *epochs["train/scale"]]))
    assert (moved > 0.01).all()
    assert (moved < 0.025).all()
