"""Which checkpoints a training leaves, and what it does when it has to end early."""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loops.evaluation_loop import RestartStage
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from gazelit.data.sampling import EpochLoader
from gazelit.errors import InputError
from gazelit.files import sole_writer
from gazelit.stages.base import Stage
from gazelit.stages.unfinished_epoch import UNFINISHED_KEY, is_amid, is_validated

logger = logging.getLogger("gazelit")

#: The exit code of a process that SIGTERM ended, as shells report it.
TERMINATED = 128 + signal.SIGTERM
#: Key of an unfinished epoch's state: whether only a validation is missing.
_IN_VALIDATION = "in_validation"
#: Where a checkpoint holds the progress of validation.
_VALIDATED = "epoch_loop.val_loop.batch_progress"


class StageCheckpoint(ModelCheckpoint):
    """``best.ckpt`` by a criterion, and ``last.ckpt`` of the last finished epoch, or of the step that SIGTERM ended.

    Lightning 2.6.6 writes ``last`` only when it also writes a new best checkpoint. ``last`` would then be the last
    improvement, and could be from the middle of an epoch if validation runs within epochs.

    Args:
        save_last: Whether to write ``last.ckpt``.
        every_n_train_steps: Steps of the optimiser after which ``last.ckpt`` is also written within an epoch. A kill
            then costs at most so many steps. Unless given, it is written only at the end of epochs. (Lightning's option
            of this name would select ``best.ckpt`` there, by a criterion that only a validation gives.)
        options: Those of Lightning's ``ModelCheckpoint``.

    Raises:
        InputError: ``every_n_train_steps`` is below 1, or nothing is to be written after these steps.
    """

    def __init__(self, save_last: bool = True, every_n_train_steps: int | None = None, **options: Any) -> None:
        super().__init__(save_last=False, **options)
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise InputError(f"checkpoint.every_n_train_steps: must be at least 1, not {every_n_train_steps}")
        if every_n_train_steps is not None and (not save_last or self.save_weights_only):
            raise InputError(
                "checkpoint.every_n_train_steps: needs checkpoint.save_last, and excludes "
                "checkpoint.save_weights_only, because it writes whole checkpoints"
            )
        self.keeps_last = save_last
        self.last_every = every_n_train_steps
        self._is_due = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves a step within an epoch; if a validation belongs to the step, it comes first."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        is_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        self._is_due = bool(
            self.last_every and is_step and trainer.global_step % self.last_every == 0 and is_amid(trainer)
        )
        if self._is_due and not is_validated(trainer, batch_idx):
            self.write_last(trainer, is_over=False)
            self._is_due = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves the best checkpoint after a validation, and the step before it if that is due."""
        super().on_validation_end(trainer, pl_module)
        if self._is_due:
            self.write_last(trainer, is_over=False)
            self._is_due = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves the checkpoints of the epoch; ``best`` first, because ``last`` records which one it is."""
        super().on_train_epoch_end(trainer, pl_module)
        tries_only = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        if self.keeps_last and not tries_only and trainer.state.fn == TrainerFn.FITTING:
            self.write_last(trainer)

    def write_last(self, trainer: L.Trainer, is_over: bool = True) -> Path:
        """Writes ``last.ckpt``; every process must call it.

        Args:
            trainer: The trainer.
            is_over: Whether the epoch has ended. In the first epoch there is no last checkpoint yet. A checkpoint that
                recorded one would make the resumed training differ from an undisturbed one.
        """
        path = Path(str(self.dirpath)) / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"
        if is_over:
            self.last_model_path = str(path)
        trainer.save_checkpoint(path, self.save_weights_only)
        return path

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the whole state, for the same bytes after a resume; Lightning leaves out the current score."""
        super().load_state_dict(state_dict)
        self.current_score = state_dict["current_score"]


def sole_training(trainer: L.Trainer) -> AbstractContextManager[None]:
    """Locks the folder of a trainer's checkpoints: a second training there would replace them.

    Raises:
        InputError: Another training is running there.
    """
    kept = trainer.checkpoint_callback
    folder = str(kept.dirpath) if isinstance(kept, ModelCheckpoint) and kept.dirpath else ""
    if not folder or "://" in folder or not trainer.is_global_zero:
        return nullcontext()
    return sole_writer(Path(folder))


class EarlyEnd(Callback):
    """Ends a training at its next step after SIGTERM or Ctrl-C, with the exit code of the interruption.

    SIGTERM, which batch systems send before they take a machine away, ends training at the next step with exit code 143
    (Lightning's own is 0, which reads as finished). Ctrl-C ends it there, too, with Python's ``KeyboardInterrupt``. A
    second Ctrl-C ends it at once. ``last.ckpt`` is then of that step and holds the state of the epoch so far. A resumed
    run therefore ends in the same bytes as an undisturbed one. A running validation ends at its next batch; the resumed
    run repeats it. A validation between batches whose gradients accumulate is finished first. Nothing is saved if the
    training data are not loaded by :class:`gazelit.data.sampling.EpochLoader`, or if no ``last.ckpt`` is kept. A
    resumed run then goes on from the last finished epoch.
    """

    def __init__(self) -> None:
        self._end_signal: signal.Signals | None = None
        self._in_validation = self._validates_again = False
        self._common_batches = 0
        #: What a resumed training starts from, for the message.
        self.left = "last.ckpt is of the last finished epoch"

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Discards the end of an earlier training."""
        self._end_signal = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Handles SIGTERM and Ctrl-C from now on, and repeats a validation that was interrupted.

        Lightning's handler aborts a validation. The validation and the epoch before it would have to be repeated. With
        several processes the handler exchanges a message. It hangs if it interrupts two processes at different points
        of the step, as happens when a batch system signals all of them.
        """
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)
            # A shell has it ignored in what it starts in the background.
            if self._end_signal is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._note)
        if self._validates_again and not trainer.sanity_checking:
            # In Lightning only an error in a validation step leaves such a state.
            trainer.fit_loop.epoch_loop.val_loop._restart_stage = RestartStage.RESTARTED_MID_EVALUATION
            self._validates_again = False

    on_sanity_check_start = on_train_start

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends all processes between two epochs if one of them was signalled."""
        if self._must_end(trainer):
            raise self._end()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves the step and ends all processes if one of them was signalled."""
        if not self._must_end(trainer):
            return
        # What follows an epoch's last batch, or one before a validation, belongs to it.
        is_followed = trainer.is_last_batch or is_validated(trainer, batch_idx)
        is_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if is_followed or not is_step or 0 < trainer.max_steps <= trainer.global_step:
            return
        if self._can_save(trainer, pl_module):
            self._save(trainer)
        raise self._end()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finds how many batches every process has: they can agree only as long as each has a batch."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            own = torch.tensor(sum(int(count) for count in trainer.num_val_batches), device=pl_module.device)
            self._common_batches = int(trainer.strategy.reduce(own, reduce_op="min"))

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Saves the step before a training's validation and ends all processes if one of them was signalled."""
        is_of_training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not is_of_training or batch_idx >= self._common_batches or not self._must_end(trainer):
            return
        batches = trainer.fit_loop.epoch_loop.batch_idx + 1
        is_step = trainer.is_last_batch or batches % trainer.accumulate_grad_batches == 0
        is_over = 0 < trainer.max_steps <= trainer.global_step
        if is_over or not is_step or not self._can_save(trainer, pl_module):
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                # Put the model's own weights back: the averaged ones are validated.
                callback.on_validation_epoch_end(trainer, pl_module)
        self._in_validation = True
        self._save(trainer)
        self.left += ", its validation is run again"
        # Lightning would end only the validation, and leave the processes of the training's loader running.
        trainer.training = True
        raise self._end()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restores Python's handling of Ctrl-C: there is no further step to wait for."""
        if signal.getsignal(signal.SIGINT) == self._note:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _can_save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        is_resumable = isinstance(trainer.train_dataloader, EpochLoader) and isinstance(pl_module, Stage)
        return is_resumable and bool(_whole_last(trainer))

    def _save(self, trainer: L.Trainer) -> None:
        """Writes ``last.ckpt`` of this step."""
        for checkpoint in _whole_last(trainer):
            path = checkpoint.write_last(trainer, is_over=False)
            self.left = f"{path.name} is of step {trainer.global_step}"

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Records in a checkpoint that its validation is missing, also after an epoch's last batch."""
        if not self._in_validation:
            return
        checkpoint[UNFINISHED_KEY] = {**cast(Stage, pl_module).interrupted_epoch(), _IN_VALIDATION: True}
        # As if it had not begun.
        progress = checkpoint["loops"]["fit_loop"][_VALIDATED]
        for name, count in progress["current"].items():
            progress["total"][name] -= count
            progress["current"][name] = 0

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notes that a validation is missing."""
        self._validates_again = _IN_VALIDATION in checkpoint.get(UNFINISHED_KEY, {})

    def _must_end(self, trainer: L.Trainer) -> bool:
        ends = self._end_signal is not None
        return ends if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(ends, all=False)

    def _note(self, number: int, *_: Any) -> None:
        self._end_signal = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # Not through a stream, which may be writing just now.
            os.write(2, b"gazelit: interrupted: ends when this step is saved; Ctrl-C again ends it at once\n")

    def _end(self) -> BaseException:
        """The signal that ends this process; SIGTERM if another process was signalled."""
        return KeyboardInterrupt() if self._end_signal == signal.SIGINT else SIGTERMException()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Sets the exit code."""
        if isinstance(exception, SIGTERMException):
            exception.code = TERMINATED
            if trainer.is_global_zero:
                logger.warning("terminated by SIGTERM; %s, resume from it", self.left)


def left_behind(trainer: L.Trainer, last: Path) -> str:
    """The checkpoint of an interrupted training, and how to resume from it.

    Args:
        trainer: The trainer.
        last: Where its ``last.ckpt`` would be.
    """
    if not last.is_file():
        return "no epoch was finished, so nothing is left"
    (left, *_) = [each.left for each in trainer.callbacks if isinstance(each, EarlyEnd)]  # type: ignore[attr-defined]
    return f"{left}; go on with --ckpt_path={last}"


def _whole_last(trainer: L.Trainer) -> list[StageCheckpoint]:
    """The callbacks that keep a ``last.ckpt`` from which a training can be resumed."""
    callbacks = [each for each in trainer.checkpoint_callbacks if isinstance(each, StageCheckpoint)]
    return [each for each in callbacks if each.keeps_last and not each.save_weights_only]
