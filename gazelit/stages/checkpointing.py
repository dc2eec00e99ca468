"""Which checkpoints a training leaves, and what it does when it has to end early."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

logger = logging.getLogger("gazelit")

#: What a shell tells of a process that SIGTERM ended.
TERMINATED = 128 + signal.SIGTERM
#: Seconds that a process has to end after another one of its training did.
GRACE = 10.0


class StageCheckpoint(ModelCheckpoint):
    """``best.ckpt`` by a criterion, and ``last.ckpt`` of the last finished epoch, always.

    Lightning 2.6.6 writes its ``save_last`` only when a step also brought a new best one, so that ``last`` would be the
    last improvement, and in the middle of an epoch where validation runs there.

    Args:
        save_last: Whether to write ``last.ckpt``.
        options: As of Lightning's callback.
    """

    def __init__(self, save_last: bool = True, **options: Any) -> None:
        super().__init__(save_last=False, **options)
        self.keeps_last = save_last

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves what the epoch brought; the best one first, because ``last`` holds which that is."""
        super().on_train_epoch_end(trainer, pl_module)
        tries_only = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        if self.keeps_last and not tries_only and trainer.state.fn == TrainerFn.FITTING:
            path = Path(str(self.dirpath)) / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"
            self.last_model_path = str(path)
            trainer.save_checkpoint(path, self.save_weights_only)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes all of it over, so that a resumed run ends in the same bytes; Lightning forgets the current score."""
        super().load_state_dict(state_dict)
        self.current_score = state_dict["current_score"]


class EarlyEnd(Callback):
    """Ends a process with the exit code of what ended it, and in bounded time where another process is gone.

    SIGTERM, which batch systems send before they take a machine away, ends training at the next step with exit code 143
    (Lightning's own is 0, which reads as finished). Nothing is saved then: ``last.ckpt`` is of the last finished epoch,
    from which a resumed run repeats the undisturbed one exactly, as it could not from the middle of an epoch.

    Where a process of several dies, the others get an error from their next exchange or hang in it; they have
    ``GRACE`` seconds to end by themselves.
    """

    def __init__(self) -> None:
        # Not an event: averaging callbacks copy the trainer.
        self._ended = False
        self._terminated = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Watches over the process that started this one."""
        if trainer.world_size > 1 and trainer.local_rank > 0:
            self._ended = False
            parent = os.getppid()
            threading.Thread(target=self._watch, args=(parent,), daemon=True, name="parent-watch").start()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes SIGTERM over where there are several processes.

        Lightning's handler exchanges a message, and hangs where it interrupts two processes at different points of the
        step, as it does when a batch system signals all of them.
        """
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)

    on_sanity_check_start = on_train_start

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends all processes at the same step if one of them got SIGTERM."""
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self._terminated, all=False):
            raise SIGTERMException

    def _note(self, *_: Any) -> None:
        self._terminated = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Ends the watch."""
        self._ended = True

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Sets the exit code, and a time limit on what several processes still do together."""
        if isinstance(exception, SIGTERMException):
            exception.code = TERMINATED
            if trainer.is_global_zero:
                logger.warning("terminated by SIGTERM; last.ckpt is of the last finished epoch, resume from it")
        if trainer.local_rank > 0:
            code = exception.code if isinstance(exception, SystemExit) else 1
            timer = threading.Timer(GRACE, os._exit, [code if isinstance(code, int) else 1])
            timer.daemon = True
            timer.start()

    def _watch(self, parent: int) -> None:
        while os.getppid() == parent and not self._ended:
            time.sleep(1.0)
        deadline = time.monotonic() + GRACE
        while not self._ended and time.monotonic() < deadline:
            time.sleep(0.2)
        if not self._ended:
            # A collective of C++ does not look at signals.
            os._exit(1)
