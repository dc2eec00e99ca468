"""A record of the films that a training has seen, for trainings in processes that a test starts and kills."""

import os
import signal
from pathlib import Path

import lightning as L


class BatchNotes(L.Callback):
    """Writes down each process's films, a line a batch, after epoch and rank; one process may kill itself.

    Args:
        notes: File to write to.
        killed_at: Training step before which the last process is killed; never unless given.
    """

    def __init__(self, notes: str, killed_at: int | None = None) -> None:
        self.notes = Path(notes)
        self.killed_at = killed_at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.killed_at and trainer.global_rank == trainer.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        numbers = [trainer.current_epoch, trainer.global_rank, *batch["index"].tolist()]
        with self.notes.open("a") as file:
            file.write(" ".join(map(str, numbers)) + "\n")
