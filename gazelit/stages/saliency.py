"""Stage 2: saliency warm-up of the gaze branch, with the diagnosis encoder frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from gazelit.losses.objective import Objective
from gazelit.losses.saliency import KLDivergenceLoss, SaliencyLoss, check_side_heads
from gazelit.models.network import Network
from gazelit.stages.base import Batch, Outputs, Stage


class SaliencyWarmup(Stage):
    """Learns the radiologist's gaze on top of the pretrained encoder, which does not move.

    Stage 2 of Qiu, Rivaz and Xiao 2025. With nothing frozen it trains a saliency model of its own.

    Args:
        network: Gives ``{"saliency_logits": (B, 1, H, W)}``.
        saliency_loss: A :class:`gazelit.losses.SaliencyLoss`; KL divergence unless given.
        frozen: Components that stay as they are, BatchNorm statistics included.
        options: See :class:`Stage`.

    Raises:
        InputError: The network has side heads that the objective does not train, or the other way round.
    """

    name: ClassVar[str] = "saliency"
    measures: ClassVar[tuple[str, ...]] = ("saliency",)
    trains: ClassVar[str] = "saliency_logits"
    injected: ClassVar[tuple[str, ...]] = (*Stage.injected, "saliency_loss")

    def __init__(
        self,
        network: Network,
        saliency_loss: SaliencyLoss | None = None,
        frozen: Sequence[str] = ("encoder",),
        **options: Any,
    ) -> None:
        super().__init__(network, frozen=frozen, **options)
        self.saliency_loss = saliency_loss if saliency_loss is not None else KLDivergenceLoss()
        check_side_heads(self.saliency_loss, network.side_head_count)

    def _step(self, batch: Batch) -> tuple[Tensor, Outputs, dict[str, Tensor]]:
        outputs = self(batch["image"])
        return self.saliency_loss(outputs, batch), outputs, {}

    def _objectives(self) -> dict[str, Objective]:
        return {"saliency": self.saliency_loss}
