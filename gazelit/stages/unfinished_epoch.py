"""Checkpoints in the middle of an epoch: what they hold of it, and how a training goes on from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L

from gazelit.data.sampling import EpochLoader

#: Of a checkpoint in the middle of an epoch, what the epoch had gathered.
UNFINISHED_KEY = "unfinished_epoch"
#: Of a checkpoint behind an epoch's last batch, the metrics that its schedules are still to be told, by name.
METRICS_KEY = "metrics_for_schedules"


def is_amid(trainer: L.Trainer) -> bool:
    """Whether a checkpoint of now is one in the middle of an epoch that a training can go on from."""
    loader = trainer.train_dataloader
    return isinstance(loader, EpochLoader) and loader.is_amid


def note_batch(trainer: L.Trainer, is_last: bool) -> None:
    """Notes before a batch whether its epoch goes on behind it."""
    loader = trainer.train_dataloader
    if isinstance(loader, EpochLoader):
        loader.is_amid = not is_last


def is_validated(trainer: L.Trainer, batch: int) -> bool:
    """Whether a validation follows a batch that is not its epoch's last."""
    every = trainer.val_check_batch
    is_due = bool(every) and (batch + 1) % every == 0  # type: ignore[operator]
    return is_due and trainer.fit_loop.epoch_loop._should_check_val_epoch()


def number_batches(trainer: L.Trainer) -> None:
    """Numbers the batches of a resumed epoch so that the last one is that of every epoch.

    Lightning counts batches of a process; those before were of another number of cases, where there were other
    processes or batches.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, EpochLoader):
        return
    batches = int(trainer.num_training_batches)
    counts = trainer.fit_loop.epoch_loop.batch_progress.current
    # Where nothing is left, the validation behind the last batch is what was interrupted.
    done = min(len(loader) - loader.batches_left, batches - 1) if loader.sampler.seen else batches
    moved = done - counts.ready
    for name in ("ready", "started", "processed", "completed"):
        setattr(counts, name, getattr(counts, name) + moved)


def note_metrics(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Adds to a checkpoint what schedules that follow a metric (``ReduceLROnPlateau``) learn from the epoch.

    Lightning tells them when the epoch's checkpoints are written.
    """
    known = trainer.callback_metrics
    followed = [str(config.monitor) for config in trainer.lr_scheduler_configs if config.reduce_on_plateau]
    if metrics := {name: float(known[name]) for name in followed if name in known}:
        checkpoint[METRICS_KEY] = metrics


def tell_schedules(trainer: L.Trainer, metrics: Mapping[str | None, float]) -> None:
    """Lets schedules learn what they had not been told when a checkpoint was written, as Lightning would have."""
    progress = trainer.fit_loop.epoch_loop.scheduler_progress
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.monitor in metrics:
            progress.increment_ready()
            trainer.lightning_module.lr_scheduler_step(config.scheduler, metrics[config.monitor])
            progress.increment_completed()
