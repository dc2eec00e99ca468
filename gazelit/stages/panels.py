"""Pictures for loggers, only if the user adds the callback."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor

from gazelit.density import log_density
from gazelit.errors import InputError


class LogSaliencyMaps(Callback):
    """Sends some validation films, each with the reader's and the predicted map, to loggers every epoch.

    **Images leave the machine** with a logger that uploads, such as W&B online. PhysioNet's agreements forbid that for
    their films. Nothing is sent unless this callback is added.

    Args:
        cases: Number of films, the first of the validation split.

    Raises:
        InputError: ``cases`` is below 1.
    """

    def __init__(self, cases: int = 4) -> None:
        if cases < 1:
            raise InputError(f"cases: must be at least 1, not {cases}")
        self.cases = cases
        self._shown: list[NDArray[np.uint8]] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks that a logger takes images."""
        if not any(hasattr(logger, "log_image") for logger in trainer.loggers):
            raise InputError("LogSaliencyMaps: no logger takes images; add WandbLogger, or leave the callback out")

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws films until there are enough."""
        count = min(self.cases - len(self._shown), len(batch["image"]))
        if count <= 0 or not trainer.is_global_zero or trainer.sanity_checking:
            return
        with torch.no_grad():
            predicted = log_density(pl_module(batch["image"][:count])["saliency_logits"]).exp()
        for image, reader, model in zip(batch["image"], batch["heatmap"], predicted, strict=False):
            # Both maps on one scale, so that a flat prediction looks flat.
            top = max(float(reader.max()), float(model.max()), 1e-20)
            strip = torch.cat([image[0].float(), reader[0] / top, model[0] / top], dim=1)
            self._shown.append((strip.clamp(0, 1) * 255).byte().cpu().numpy())

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sends them: film, reader's map, predicted map, side by side."""
        for logger in trainer.loggers:
            if self._shown and hasattr(logger, "log_image"):
                logger.log_image("val/maps", self._shown, step=trainer.global_step)
        self._shown = []
