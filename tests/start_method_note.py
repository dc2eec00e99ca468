"""Says how a training starts the processes of its loaders."""

import multiprocessing
import sys

import lightning as L
from lightning.pytorch.callbacks import Callback


class StartMethodNote(Callback):
    """Prints the start method of further processes."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        sys.stdout.write(f"further processes: {multiprocessing.get_start_method()}\n")
