"""Checkpoints in the middle of an epoch: what they hold of the epoch, and how a training resumes from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L

from gazelit.data.sampling import EpochLoader

#: Key of a checkpoint in the middle of an epoch: the state of the epoch so far.
UNFINISHED_KEY = "unfinished_epoch"
#: Key of a checkpoint after an epoch's last batch: by name, the metrics with which schedules are still to be stepped.
METRICS_KEY = "metrics_for_schedules"


def is_amid(trainer: L.Trainer) -> bool:
    """Whether a checkpoint written now is in the middle of an epoch, and a training can resume from it."""
    loader = trainer.train_dataloader
    return isinstance(loader, EpochLoader) and loader.is_amid


def note_batch(trainer: L.Trainer, is_last: bool) -> None:
    """Records before a batch whether its epoch continues after it."""
    loader = trainer.train_dataloader
    if isinstance(loader, EpochLoader):
        loader.is_amid = not is_last


def is_validated(trainer: L.Trainer, batch: int) -> bool:
    """Whether a validation within the epoch follows a batch."""
    every = trainer.val_check_batch
    is_due = bool(every) and (batch + 1) % every == 0  # type: ignore[operator]
    return is_due and trainer.fit_loop.epoch_loop._should_check_val_epoch()


def number_batches(trainer: L.Trainer) -> None:
    """Numbers the batches of a resumed epoch so that the last one has the same number as in every epoch.

    Lightning counts the batches of a process. Batches before the resume had another number of cases if the number of
    processes or the batch size has changed.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, EpochLoader):
        return
    batches = int(trainer.num_training_batches)
    counts = trainer.fit_loop.epoch_loop.batch_progress.current
    # If no batch is left, the validation after the last batch was interrupted.
    done = min(len(loader) - loader.batches_left, batches - 1) if loader.sampler.seen else batches
    moved = done - counts.ready
    for name in ("ready", "started", "processed", "completed"):
        setattr(counts, name, getattr(counts, name) + moved)


def note_metrics(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Adds to a checkpoint the metrics with which schedules (``ReduceLROnPlateau``) are still to be stepped.

    Lightning steps these schedules after the epoch's checkpoints are written.
    """
    known = trainer.callback_metrics
    followed = [str(config.monitor) for config in trainer.lr_scheduler_configs if config.reduce_on_plateau]
    if metrics := {name: float(known[name]) for name in followed if name in known}:
        checkpoint[METRICS_KEY] = metrics


def step_pending(trainer: L.Trainer, metrics: Mapping[str | None, float]) -> None:
    """Steps schedules that Lightning had not stepped when the checkpoint was written."""
    progress = trainer.fit_loop.epoch_loop.scheduler_progress
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.monitor in metrics:
            progress.increment_ready()
            trainer.lightning_module.lr_scheduler_step(config.scheduler, metrics[config.monitor])
            progress.increment_completed()
