"""Stage 1: contrastive pretraining of the diagnosis encoder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gazelit.errors import InputError
from gazelit.losses.contrastive import BatchAllTripletLoss, pairs
from gazelit.losses.gather import gather_rows
from gazelit.losses.pairing import Pairing, SameClass
from gazelit.models.execution import recomputed
from gazelit.models.network import Network
from gazelit.stages.base import Batch, Outputs, Stage

logger = logging.getLogger("gazelit")


class ContrastivePretraining(Stage):
    """Pulls the embeddings of images that belong together closer, and pushes those of others apart.

    Stage 1 of Qiu, Rivaz and Xiao 2025, where images of one class belong together. Their code compares un-pooled
    feature maps along one axis; here the embedding is the vector that the classifier will see (``docs/method.md``). In
    training, positives and negatives come from all processes, with gradient.

    Args:
        network: Gives ``{"embedding": (B, C)}``, such as :class:`gazelit.models.contrastive_net.ContrastiveNetwork`,
            and ``"features": (B, C')`` if the encoder's own embedding is another. How well the features separate the
            classes is logged as ``val/knn_auroc_macro`` and ``val/probe_auroc_macro``.
        loss: Takes embeddings (B, C) and what the pairing gives, gives a scalar; batch-all triplets with margin 1
            unless given. Its class may name its own ``pairing``.
        pairing: Which images belong together: :class:`gazelit.losses.SameClass` unless given or the loss has its own,
            ``SameImage`` (of two views) or ``GazeSimilarity``.
        micro_batch: Images embedded at a time in training, for batches whose activations do not fit into memory.
            Activations of the other images are computed again in the backward pass. BatchNorm then sees only these
            images. All at once unless given.
        options: See :class:`Stage`.

    Raises:
        InputError: ``micro_batch`` is below 2.
    """

    name: ClassVar[str] = "contrastive"
    measures: ClassVar[tuple[str, ...]] = ("embedding",)
    trains: ClassVar[str] = "embedding"
    injected: ClassVar[tuple[str, ...]] = (*Stage.injected, "loss", "pairing")

    def __init__(
        self,
        network: Network,
        loss: nn.Module | None = None,
        pairing: Pairing | None = None,
        micro_batch: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        if micro_batch is not None and micro_batch < 2:
            raise InputError(f"micro_batch: must be at least 2, not {micro_batch}")
        self.loss = loss if loss is not None else BatchAllTripletLoss()
        self.pairing = pairing if pairing is not None else getattr(self.loss, "pairing", SameClass)()
        self.micro_batch = micro_batch
        self._without_pairs = torch.zeros(())

    def setup(self, stage: str) -> None:
        """See :meth:`Stage.setup`.

        Raises:
            InputError: The pairing compares two views of an image, but the data have one.
        """
        super().setup(stage)
        augmentation = getattr(self._datamodule, "augmentation", None)
        if self.pairing.needs_views and getattr(augmentation, "views", 2) == 1:
            name = type(self.pairing).__name__
            raise InputError(f"{name} compares two views of an image; set --data.augmentation.views=2")

    def _step(self, batch: Batch) -> tuple[Tensor, Outputs, dict[str, Tensor]]:
        outputs = self._embed(batch["image"])
        embedding = outputs["embedding"]
        together = self.pairing(batch, gather=self.training)
        # The images of each process are positives and negatives for those of all others. In validation the processes'
        # numbers of images differ.
        compared = gather_rows(embedding) if self.training else embedding
        if "other_view" in batch:
            other_embedding = self._embed(batch["other_view"])["embedding"]
            compared = torch.cat([compared, gather_rows(other_embedding) if self.training else other_embedding])
            together = _twice(together)
        if self.training:
            self._without_pairs = self._without_pairs.to(embedding.device) + (_anchors(together) == 0)
        return self.loss(compared, together), outputs, {}

    def on_train_epoch_start(self) -> None:
        """Begins the epoch's count of batches without an anchor."""
        super().on_train_epoch_start()
        self._without_pairs = torch.zeros(())

    def interrupted_epoch(self) -> dict[str, Any]:
        """See :meth:`Stage.interrupted_epoch`."""
        return {**super().interrupted_epoch(), "without_pairs": self._without_pairs}

    def resume_epoch(self, gathered: Mapping[str, Any]) -> None:
        """See :meth:`Stage.resume_epoch`."""
        super().resume_epoch(gathered)
        self._without_pairs = gathered["without_pairs"]

    def _epoch_values(self) -> dict[str, Tensor]:
        count, batches = int(self._without_pairs), int(self.trainer.num_training_batches)
        if count and self.global_rank == 0:
            logger.warning(
                "epoch %d: %d of %d batches had no image with both a positive and a negative, and had no effect; "
                "larger batches or --data.loader.sampling=balanced mend that",
                self.current_epoch,
                count,
                batches,
            )
        return {**super()._epoch_values(), "batches_without_pairs": self._without_pairs}

    def _with_selection(self, means: dict[str, Tensor]) -> dict[str, Tensor]:
        if "loss" not in means:
            if self.global_rank == 0 and self.current_epoch == 0 and not self.trainer.sanity_checking:
                logger.warning(
                    "no validation batch has an image with both a positive and a negative: val/selection is 0 in every "
                    "epoch and selects the first; hold out more cases, or go on from last.ckpt"
                )
            means = {**means, "loss": torch.zeros((), device=self.device)}
        return super()._with_selection(means)

    def _targets(self, batch: Batch) -> dict[str, Tensor]:
        if self.training:
            return {}
        # A batch without an anchor costs zero, and would flatter the mean.
        together = self.pairing(batch, gather=False)
        if "other_view" in batch:
            together = _twice(together)
        return {self.name: _anchors(together)}

    def _embed(self, image: Tensor) -> Outputs:
        if self.micro_batch is None or not self.training:
            return {name: values.float() for name, values in self(image).items()}
        parts = [
            recomputed(lambda part: self(part)["embedding"].float(), [self.network], part)
            for part in image.split(self.micro_batch)
        ]
        return {"embedding": torch.cat(parts)}


def _twice(together: Tensor) -> Tensor:
    """Which of two views of each image belong together."""
    return together.repeat(2) if together.ndim == 1 else together.repeat(2, 2)


def _anchors(together: Tensor) -> Tensor:
    """How many images have both a positive and a negative in the batch."""
    positive, same = pairs(together)
    return (positive.any(1) & (~same).any(1)).sum()
