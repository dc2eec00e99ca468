"""Stage 1: contrastive pretraining of the diagnosis encoder."""

from __future__ import annotations

from typing import ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from gazelit.losses.contrastive import BatchAllTripletLoss
from gazelit.losses.gather import gather_rows
from gazelit.models.network import Network
from gazelit.stages.base import Batch, Outputs, Stage


class ContrastivePretraining(Stage):
    """Pulls images of one class together and pushes classes apart, before anything else is learned.

    Stage 1 of Qiu, Rivaz and Xiao 2025. Where their code compares un-pooled feature maps along one axis, the embedding
    here is what the classifier will see (``docs/method.md``). In training, positives and negatives come from all
    processes, with gradient.

    Args:
        network: Gives ``{"embedding": (B, C)}``, such as :class:`gazelit.models.contrastive_net.ContrastiveNetwork`.
        loss: Takes embeddings (B, C) and class labels (B,), gives a scalar; batch-all triplets with margin 1 unless
            given.
        optimizer: See :class:`Stage`.
        lr_scheduler: See :class:`Stage`.
        learning_rates: See :class:`Stage`.
    """

    name: ClassVar[str] = "contrastive"
    injected: ClassVar[tuple[str, ...]] = (*Stage.injected, "loss")

    def __init__(
        self,
        network: Network,
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        learning_rates: dict[str, float] | None = None,
    ) -> None:
        super().__init__(network, optimizer, lr_scheduler, learning_rates=learning_rates)
        self.loss = loss if loss is not None else BatchAllTripletLoss()

    def _step(self, batch: Batch) -> tuple[Tensor, Outputs, dict[str, Tensor]]:
        outputs = self(batch["image"])
        embedding, label = outputs["embedding"].float(), batch["label"]
        if self.training:
            # Every process's images are positives and negatives for every other's. Validation shares differ in size.
            embedding, label = gather_rows(embedding), gather_rows(label)
        return self.loss(embedding, label), outputs, {}
