"""Contrastive objectives over embeddings."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from gazelit.errors import InputError


class BatchAllTripletLoss(nn.Module):
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
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise InputError(f"reduction: must be 'mean' or 'sum', not '{reduction}'")
        self.margin = margin
        self.reduction = reduction

    def forward(self, embedding: Tensor, label: Tensor) -> Tensor:
        """Computes the loss in float32, whatever the autocast.

        Args:
            embedding: (B, C).
            label: (B,) class indices.

        Returns:
            Scalar.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            # Not by matrix products, which lose small distances; cdist's gradient is zero where two embeddings
            # coincide.
            distance = torch.cdist(embedding.float(), embedding.float(), compute_mode="donot_use_mm_for_euclid_dist")
            same = label[:, None] == label[None, :]
            positive = same & ~torch.eye(len(label), dtype=torch.bool, device=label.device)
            total = distance.new_zeros(())
            # One anchor's positives against all negatives at a time: memory stays at B² instead of B³.
            for anchor in range(len(label)):
                closer = distance[anchor, positive[anchor]]
                farther = distance[anchor, ~same[anchor]]
                total = total + torch.relu(closer[:, None] - farther[None, :] + self.margin).sum()
            # Without a valid triplet the total has no graph; the embedding's zero gives it one.
            total = total + 0.0 * embedding.float().sum()
            if self.reduction == "sum":
                return total
            triplets = (positive.sum(1) * (~same).sum(1)).sum()
            return total / triplets.clamp(min=1)
