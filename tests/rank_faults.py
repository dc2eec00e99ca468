"""Faults in one of several processes, for trainings that a test starts."""

import os
import signal
import time
from pathlib import Path

import lightning as L


class RankFault(L.Callback):
    """Kills, freezes, delays or fails one process of a training, and notes the time and every process's id.

    The time is that of the machine's clock, so that other processes can compare it. If ``fault.txt`` exists already,
    nothing happens, so that the same command goes on.

    Args:
        rank: Rank of the process.
        fault: ``killed``, ``frozen``, ``slow`` (for ever), ``failed``, ``terminated``, ``all terminated``, or
            ``all frozen`` until another process lets them go on.
        step: Training step of the fault.
    """

    def __init__(self, rank: int, fault: str, step: int) -> None:
        self.rank, self.fault, self.step = rank, fault, step
        self.is_over = False

    def setup(self, trainer, pl_module, stage):
        self.is_over = Path("fault.txt").exists()
        note(f"rank{trainer.global_rank}.txt", os.getpid())

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.is_over or trainer.global_step != self.step:
            return
        if trainer.global_rank == self.rank:
            note("fault.txt", time.monotonic())
            if self.fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.fault == "frozen":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif self.fault == "slow":
                time.sleep(1e6)
            elif self.fault == "failed":
                raise RuntimeError("planted")
        if self.fault == "all frozen":
            note(f"stopped{trainer.global_rank}.txt", time.monotonic())
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.fault == "all terminated" or (self.fault == "terminated" and trainer.global_rank == self.rank):
            os.kill(os.getpid(), signal.SIGTERM)


def note(name: str, number: float) -> None:
    """Writes a number for another process, which never reads a part of it."""
    half = Path(f"{name}.{os.getpid()}.half")
    half.write_text(str(number))
    half.rename(name)
