"""Stage 2: saliency warm-up of the gaze branch, with the diagnosis encoder frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from gazelit.losses.saliency import KLDivergenceLoss, saliency_loss
from gazelit.models.network import Network
from gazelit.stages.base import Batch, Outputs, Stage


class SaliencyWarmup(Stage):
    """Learns the radiologist's gaze on top of the pretrained encoder, which does not move.

    Stage 2 of Qiu, Rivaz and Xiao 2025. With nothing frozen it trains a saliency model of its own.

    Args:
        network: Gives ``{"saliency_logits": (B, 1, H, W)}``.
        saliency_loss: Takes logits (B, 1, H, W), target densities (B, 1, H, W) and ``has_gaze`` (B,), gives a scalar;
            KL divergence unless given.
        frozen: Components that stay as they are, BatchNorm statistics included.
        options: See :class:`Stage`.
    """

    name: ClassVar[str] = "saliency"
    measures: ClassVar[tuple[str, ...]] = ("saliency",)
    trains: ClassVar[str] = "saliency_logits"
    injected: ClassVar[tuple[str, ...]] = (*Stage.injected, "saliency_loss")

    def __init__(
        self,
        network: Network,
        saliency_loss: nn.Module | None = None,
        frozen: Sequence[str] = ("encoder",),
        **options: Any,
    ) -> None:
        super().__init__(network, frozen=frozen, **options)
        self.saliency_loss = saliency_loss if saliency_loss is not None else KLDivergenceLoss()

    def _step(self, batch: Batch) -> tuple[Tensor, Outputs, dict[str, Tensor]]:
        outputs = self(batch["image"])
        return saliency_loss(self.saliency_loss, outputs, batch["heatmap"], batch["has_gaze"]), outputs, {}
