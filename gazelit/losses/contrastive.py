"""Contrastive objectives over embeddings."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from gazelit.errors import InputError


class _TripletLoss(nn.Module):
    """What the triplet margin losses share; a subclass says which triplets count."""

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, embedding: Tensor, label: Tensor) -> Tensor:
        """Computes the loss in float32, whatever the autocast.

        Args:
            embedding: (B, C).
            label: (B,) class indices.

        Returns:
            Scalar.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            embedding = embedding.float()
            positive, same = pairs(label)
            total, count = self._sum(euclidean(embedding), positive, ~same)
            # Without a triplet the total has no graph; the embedding's zero gives it one.
            return self._reduce(total + 0.0 * embedding.sum(), count)

    def _sum(self, distance: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Sum and number of the terms, from (B, B) distances and which pairs are positive and negative."""
        raise NotImplementedError

    def _reduce(self, total: Tensor, count: Tensor) -> Tensor:
        return total / count.clamp(min=1)


class BatchAllTripletLoss(_TripletLoss):
    """Triplet margin loss over all valid (anchor, positive, negative) of a batch.

    max(0, d(a, p) − d(a, n) + margin) with the Euclidean distance, anchor and positive of one class, the negative of
    another: the objective of stage 1 of Qiu, Rivaz and Xiao 2025, vectorised. A batch without a valid triplet costs
    zero and has a zero gradient.

    Args:
        margin: The margin.
        reduction: ``mean`` over the valid triplets, or ``sum`` as in the reference implementation, whose gradient grows
            with the batch and its mix of classes.
    """

    def __init__(self, margin: float = 1.0, reduction: Literal["mean", "sum"] = "mean") -> None:
        super().__init__(margin)
        if reduction not in ("mean", "sum"):
            raise InputError(f"reduction: must be 'mean' or 'sum', not '{reduction}'")
        self.reduction = reduction

    def _sum(self, distance: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        total = distance.new_zeros(())
        # One anchor's positives against all negatives at a time: memory stays at B² instead of B³.
        for anchor in range(len(distance)):
            closer = distance[anchor, positive[anchor]]
            farther = distance[anchor, negative[anchor]]
            total = total + torch.relu(closer[:, None] - farther[None, :] + self.margin).sum()
        return total, (positive.sum(1) * negative.sum(1)).sum()

    def _reduce(self, total: Tensor, count: Tensor) -> Tensor:
        return total if self.reduction == "sum" else super()._reduce(total, count)


class BatchHardTripletLoss(_TripletLoss):
    """Triplet margin loss of each anchor's farthest positive and nearest negative (Hermans, Beyer and Leibe 2017).

    The mean over the anchors that have both; a batch without any costs zero and has a zero gradient.

    Args:
        margin: The margin.
    """

    def _sum(self, distance: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        anchors = positive.any(1) & negative.any(1)
        farthest = distance.masked_fill(~positive, -torch.inf).amax(1)[anchors]
        nearest = distance.masked_fill(~negative, torch.inf).amin(1)[anchors]
        return torch.relu(farthest - nearest + self.margin).sum(), anchors.sum()


class BatchSemiHardTripletLoss(_TripletLoss):
    """Triplet margin loss over the semi-hard triplets of a batch (Schroff, Kalenichenko and Philbin 2015).

    Semi-hard is a triplet whose negative lies farther than its positive, but not by the margin. The mean over them; a
    batch without any costs zero and has a zero gradient.

    Args:
        margin: The margin.
    """

    def _sum(self, distance: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        total, count = distance.new_zeros(()), distance.new_zeros(())
        # As in BatchAllTripletLoss: memory stays at B².
        for anchor in range(len(distance)):
            gap = distance[anchor, negative[anchor]][None, :] - distance[anchor, positive[anchor]][:, None]
            semi_hard = (gap > 0) & (gap <= self.margin)
            total = total + (self.margin - gap)[semi_hard].sum()
            count += semi_hard.sum()
        return total, count


class SupervisedContrastiveLoss(nn.Module):
    """Supervised contrastive loss, with the sum over positives outside the logarithm (Khosla et al. 2020, equation 2).

    Embeddings are normalised to length 1. The mean over the anchors that have a positive; a batch without any costs
    zero and has a zero gradient.

    Args:
        temperature: Divides the cosine similarities.

    Raises:
        InputError: The temperature is not above 0.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        if temperature <= 0:
            raise InputError(f"temperature: must be above 0, not {temperature}")
        self.temperature = temperature

    def forward(self, embedding: Tensor, label: Tensor) -> Tensor:
        """Computes the loss in float32; see :meth:`BatchAllTripletLoss.forward`."""
        with torch.autocast(embedding.device.type, enabled=False):
            normal = nn.functional.normalize(embedding.float(), dim=1)
            positive, _ = pairs(label)
            itself = torch.eye(len(label), dtype=torch.bool, device=label.device)
            similarity = (normal @ normal.T / self.temperature).masked_fill(itself, -torch.inf)
            log_share = similarity - similarity.logsumexp(1, keepdim=True)
            anchors = positive.any(1)
            per_anchor = torch.where(positive, log_share, 0.0).sum(1) / positive.sum(1).clamp(min=1)
            total = -per_anchor[anchors].sum() + 0.0 * embedding.float().sum()
            return total / anchors.sum().clamp(min=1)


def euclidean(embedding: Tensor) -> Tensor:
    """Distances (B, B) of embeddings (B, C), with a zero gradient where two coincide."""
    # Not by matrix products, which lose small distances.
    return torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist")


def pairs(label: Tensor) -> tuple[Tensor, Tensor]:
    """Which pairs of a batch are positives (one class, two images), and which are of one class: (B, B) bool each."""
    same = label[:, None] == label[None, :]
    return same & ~torch.eye(len(label), dtype=torch.bool, device=label.device), same
