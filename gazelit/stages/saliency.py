"""Stage 2: saliency warm-up of the gaze branch, with the diagnosis encoder frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from gazelit.losses.saliency import KLDivergenceLoss
from gazelit.models.network import Network
from gazelit.stages.base import Batch, Outputs, Stage


class SaliencyWarmup(Stage):
    """Learns the radiologist's gaze on top of the pretrained encoder, which does not move.

    Stage 2 of Qiu, Rivaz and Xiao 2025.

    Args:
        network: Gives ``{"saliency_logits": (B, 1, H, W)}``.
        saliency_loss: Takes logits (B, 1, H, W), target densities (B, 1, H, W) and ``has_gaze`` (B,), gives a scalar;
            KL divergence unless given.
        frozen: Components that stay as they are, BatchNorm statistics included.
        optimizer: See :class:`Stage`.
        lr_scheduler: See :class:`Stage`.
        learning_rates: See :class:`Stage`.
    """

    name: ClassVar[str] = "saliency"
    measures: ClassVar[tuple[str, ...]] = ("saliency",)
    injected: ClassVar[tuple[str, ...]] = (*Stage.injected, "saliency_loss")

    def __init__(
        self,
        network: Network,
        saliency_loss: nn.Module | None = None,
        frozen: Sequence[str] = ("encoder",),
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        learning_rates: dict[str, float] | None = None,
    ) -> None:
        super().__init__(network, optimizer, lr_scheduler, frozen, learning_rates)
        self.saliency_loss = saliency_loss if saliency_loss is not None else KLDivergenceLoss()

    def _step(self, batch: Batch) -> tuple[Tensor, Outputs, dict[str, Tensor]]:
        outputs = self(batch["image"])
        loss = self.saliency_loss(outputs["saliency_logits"], batch["heatmap"], batch["has_gaze"])
        return loss, outputs, {}
