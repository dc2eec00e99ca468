"""The time and memory that a batch takes, measured on the first few."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from gazelit.batch_costs import BATCHES, MEASURED
from gazelit.data.gaze_data import GazeData
from gazelit.files import write_json
from gazelit.stages.callbacks import run_folder


class BatchMeasure(Callback):
    """Stops after ``BATCHES`` batches and writes their time and memory; for `gazelit run --check`.

    It writes the time of a batch, the number of batches of a full run (within the trainer's own limits), and the peak
    of memory. Evaluations begin with cases that have targets, because a stage refuses an evaluation without any; so
    only data without a target are refused.

    A batch's time is from the end of the one before it to its own end, so that loading counts. That of the first batch
    is from the beginning of the epoch; it includes what is done once.
    """

    def __init__(self) -> None:
        self._ends: dict[str, list[float]] = {}
        self._limits: dict[str, int | float] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Limits the batches before the loops count them, and puts cases with targets first."""
        datamodule = getattr(trainer, "datamodule", None)
        if isinstance(datamodule, GazeData):
            datamodule.targets_first = True
        for kind in ("train", "val", "test", "predict"):
            option = f"limit_{kind}_batches"
            limit = self._limits.setdefault(kind, getattr(trainer, option))
            # A whole number is a number of batches, a fraction (1.0 unless given) a share of all.
            setattr(trainer, option, min(limit, BATCHES) if isinstance(limit, int) else BATCHES if limit else limit)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins."""
        self._ends["train"] = [_now()]

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Notes the time."""
        self._ends["train"].append(_now())

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins."""
        self._ends["evaluated"] = [_now()]

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """Notes the time."""
        self._ends["evaluated"].append(_now())

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes what was measured of a training."""
        loaders = {"train": ("train", trainer.train_dataloader), "evaluated": ("val", trainer.val_dataloaders)}
        self._write(run_folder(trainer), trainer, loaders)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes what was measured of a test."""
        self._write(run_folder(trainer), trainer, {"evaluated": ("test", trainer.test_dataloaders)})

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes what was measured of predictions."""
        self._write(run_folder(trainer), trainer, {"evaluated": ("predict", trainer.predict_dataloaders)})

    def _write(self, folder: Path, trainer: L.Trainer, loaders: dict[str, tuple[str, Any]]) -> None:
        if not trainer.is_global_zero:
            return
        cost: dict[str, Any] = {
            name: {"batches": self._whole(kind, len(loader)), "seconds": self._ends[name][-1] - self._ends[name][-2]}
            for name, (kind, loader) in loaders.items()
            if loader is not None and len(self._ends.get(name, [])) > 1
        }
        usage = [resource.getrusage(kind).ru_maxrss for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cost["memory"] = max(usage) * 1024
        if torch.cuda.is_available():
            cost["device_memory"] = torch.cuda.max_memory_reserved()
        write_json(folder / MEASURED.format(cast(TrainerFn, trainer.state.fn).value), cost)

    def _whole(self, kind: str, batches: int) -> int:
        limit = self._limits[kind]
        return min(limit, batches) if isinstance(limit, int) else int(limit * batches)


def _now() -> float:
    """The time, once the device has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()
