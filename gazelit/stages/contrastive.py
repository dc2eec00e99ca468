"""Stage 1: contrastive pretraining of the diagnosis encoder."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gazelit.errors import InputError
from gazelit.losses.contrastive import BatchAllTripletLoss
from gazelit.losses.gather import gather_rows
from gazelit.losses.pairing import SameClass
from gazelit.models.execution import recomputed
from gazelit.models.network import Network
from gazelit.stages.base import Batch, Outputs, Stage


class ContrastivePretraining(Stage):
    """Pulls images together that belong together and pushes others apart, before anything else is learned.

    Stage 1 of Qiu, Rivaz and Xiao 2025, where images of one class belong together. Where their code compares un-pooled
    feature maps along one axis, the embedding here is what the classifier will see (``docs/method.md``). In training,
    positives and negatives come from all processes, with gradient.

    Args:
        network: Gives ``{"embedding": (B, C)}``, such as :class:`gazelit.models.contrastive_net.ContrastiveNetwork`.
        loss: Takes embeddings (B, C) and what the pairing gives, gives a scalar; batch-all triplets with margin 1
            unless given.
        pairing: Which images belong together: :class:`gazelit.losses.SameClass` unless given or the loss has its own,
            ``SameImage`` (of two views) or ``GazeSimilarity``.
        micro_batch: Images embedded at a time in training, for batches whose activations memory does not hold: those of
            the others are computed again in the backward pass. BatchNorm then sees these images alone. All at once
            unless given.
        options: See :class:`Stage`.

    Raises:
        InputError: ``micro_batch`` is below 2.
    """

    name: ClassVar[str] = "contrastive"
    trains: ClassVar[str] = "embedding"
    injected: ClassVar[tuple[str, ...]] = (*Stage.injected, "loss", "pairing")

    def __init__(
        self,
        network: Network,
        loss: nn.Module | None = None,
        pairing: nn.Module | None = None,
        micro_batch: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        if micro_batch is not None and micro_batch < 2:
            raise InputError(f"micro_batch: must be at least 2, not {micro_batch}")
        self.loss = loss if loss is not None else BatchAllTripletLoss()
        self.pairing = pairing if pairing is not None else getattr(self.loss, "pairing", SameClass)()
        self.micro_batch = micro_batch

    def _step(self, batch: Batch) -> tuple[Tensor, Outputs, dict[str, Tensor]]:
        embedding = self._embed(batch["image"])
        together = self.pairing(batch, gather=self.training)
        # Every process's images are positives and negatives for every other's. Validation shares differ in size.
        compared = gather_rows(embedding) if self.training else embedding
        if "other_view" in batch:
            other = self._embed(batch["other_view"])
            compared = torch.cat([compared, gather_rows(other) if self.training else other])
            together = together.repeat(2) if together.ndim == 1 else together.repeat(2, 2)
        elif getattr(self.loss, "pairing", None) is type(self.pairing):
            raise InputError(f"{type(self.loss).__name__} compares two views of an image; set --data.views=2")
        return self.loss(compared, together), {"embedding": embedding}, {}

    def _embed(self, image: Tensor) -> Tensor:
        if self.micro_batch is None or not self.training:
            return self(image)["embedding"].float()
        parts = [
            recomputed(lambda part: self(part)["embedding"].float(), [self.network], part)
            for part in image.split(self.micro_batch)
        ]
        return torch.cat(parts)
