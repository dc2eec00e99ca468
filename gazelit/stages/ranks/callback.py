"""Ends all processes of a training if one of them is killed, frozen or fails, and names it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, cast

import lightning as L
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import distributed

from gazelit.errors import InputError, first_line
from gazelit.stages.ranks.link import Member, meet
from gazelit.stages.ranks.watch import LOST, Loss, RankThread

logger = logging.getLogger("gazelit")

#: Seconds in which a process has to end by itself after an error, and in which a line has to be printed.
GRACE, PRINTING = 10.0, 10.0
_STEP, _PHASE, _PART = 0, 1, 2


class RankWatch(Callback):
    """Ends all processes of a training, test or prediction if one of them is lost, each with a line that names it.

    A process that is killed or crashes is noticed at once. One that is frozen, or whose machine or network is gone, is
    noticed after ``limit_s``. The others then end with exit code 75: the same command may succeed if it is given again.
    An error of one process ends the others with its exit code. A process that is alive, but for which the others wait,
    is named after half of ``limit_s``, and again each time the waiting time has doubled; the strategy's ``timeout``
    limits it. A training of one process starts no thread and opens no port.

    Args:
        limit_s: Seconds without a sign of life after which a process counts as lost. Take more than a debugger, or a
            file system that does not answer, may delay a process.

    Raises:
        InputError: ``limit_s`` is below 1.
    """

    def __init__(self, limit_s: float = 120.0) -> None:
        if not 1 <= limit_s < float("inf"):
            raise InputError(f"ranks.limit_s: must be a number of seconds from 1 on, not {limit_s}")
        self.limit_s = limit_s
        self._thread: RankThread | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Connects the processes."""
        if trainer.world_size == 1:
            return
        strategy = cast(ParallelStrategy, trainer.strategy)
        environment = cast(ClusterEnvironment, strategy.cluster_environment)
        own, links = meet(trainer.global_rank, trainer.world_size, environment.main_address, strategy.broadcast)
        if links:
            advice = "; resume from last.ckpt" if stage == "fit" else ""
            self._thread = RankThread(own, links, self.limit_s, _ending(own, strategy.launcher, advice))
            self._thread.start()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Informs the others that this process ends as planned."""
        if self._thread is not None:
            self._thread.leave()
            self._thread = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Waits for the line that names the rank at fault, or reports this process's own error."""
        if self._thread is not None:
            # Without the source location at the beginning of gloo's messages.
            cause = re.sub(r"^\[\S*gloo\S*\] ", "", first_line(exception))
            if _is_of_exchange(exception):
                self._thread.fail_exchange(cause)
            self._thread.fail(cause, _exit_code(exception))
        if trainer.world_size > 1 and trainer.local_rank > 0:
            # Collectives of the other processes may hang after one process has failed.
            _exit_in(GRACE, _exit_code(exception))

    def _mark(self, doing: str, level: int) -> None:
        if self._thread is not None:
            self._thread.mark(doing, level)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Records the progress of this process, as the hooks below do."""
        self._mark(f"in {_step(trainer)}", _STEP)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Any) -> None:
        """Notes it."""
        self._mark(f"in {_step(trainer)}, backward", _PART)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes it."""
        self._mark(f"before {_step(trainer)}", _STEP)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes it."""
        self._mark(f"evaluating before {_step(trainer)}", _PHASE)

    on_test_start = on_predict_start = on_validation_start

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Notes it."""
        self._mark(f"evaluating batch {batch_idx} before {_step(trainer)}", _PART)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Records it; the processes may have had different numbers of batches."""
        self._mark(f"with the evaluation's results before {_step(trainer)}", _PHASE)

    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end


def _step(trainer: L.Trainer) -> str:
    return f"step {trainer.global_step} (epoch {trainer.current_epoch})"


def _is_of_exchange(exception: BaseException) -> bool:
    """Whether processes could not exchange something; gloo's errors have no class of their own."""
    is_known = isinstance(exception, distributed.DistError)
    return is_known or (isinstance(exception, RuntimeError) and "gloo" in str(exception).lower())


def _exit_code(exception: BaseException) -> int:
    if isinstance(exception, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(exception, SystemExit) and isinstance(exception.code, int):
        return exception.code
    return 2 if isinstance(exception, InputError) else 1


def _exit_in(seconds: float, code: int) -> None:
    timer = threading.Timer(seconds, os._exit, [code])
    timer.daemon = True
    timer.start()


def _ending(own: Member, launcher: Any, advice: str) -> Callable[[Loss, Callable[[], None]], None]:
    """A function that ends this process, even if its main thread waits, and those that cannot end themselves."""
    started = list(launcher.procs) if isinstance(launcher, _SubprocessScriptLauncher) else []

    def end(loss: Loss, say_goodbye: Callable[[], None]) -> None:
        # The streams' locks may be held by a main thread that cannot print.
        _exit_in(PRINTING, loss.code)
        logger.error("error: rank %d ends: %s%s", own.rank, loss.cause, advice if loss.code == LOST else "")
        say_goodbye()
        # A frozen process does not end by itself, and holds memory and the folder's lock. torchrun's agent ends its own
        # processes; Lightning's launcher is rank 0 itself.
        if loss.host == own.host and loss.process == os.getppid():
            os.kill(loss.process, signal.SIGKILL)
        for process in started:
            if loss.host == own.host and process.pid == loss.process:
                process.kill()
        # Loaders' processes would notice only after some seconds, and hold the folder's lock until then.
        for child in multiprocessing.active_children():
            child.kill()
        if sys.stdout.isatty():
            # A progress bar hides the cursor.
            sys.stdout.write("\x1b[?25h")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(loss.code)

    return end
