"""Contrastive objectives over embeddings."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gazelit.errors import InputError
from gazelit.losses.pairing import Pairing, SameImage


class _TripletLoss(nn.Module):
    """The base of the triplet margin losses; a subclass selects the triplets that count."""

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, embedding: Tensor, label: Tensor) -> Tensor:
        """Computes the loss in float32, whatever the autocast.

        Args:
            embedding: (B, C).
            label: (B,) class indices, or (B, B) bool of the pairs that belong together.

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
    another: the objective of stage 1 of Qiu, Rivaz and Xiao 2025. It is computed without listing triplets: each
    distance counts as often as there are active triplets with it, and sorting an anchor's distances gives these
    numbers. So B² log B operations and B² memory are enough for B³ triplets. A batch without a valid triplet costs zero
    and has a zero gradient.

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
        # Active is a triplet whose negative is nearer than its positive and the margin.
        reach = distance + self.margin
        negatives = _number_below(distance, negative, reach)
        # The same float32 sums as for the negatives, so that both see the same triplets.
        positives = positive.sum(1, keepdim=True) - _number_below(reach, positive, distance, equal=True)
        total = _weighted(reach, positive, negatives) - _weighted(distance, negative, positives)
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
        # As in BatchAllTripletLoss: distances count as often as a semi-hard triplet has them.
        reach = distance + self.margin
        negatives = _number_below(distance, negative, reach, equal=True)
        negatives = negatives - _number_below(distance, negative, distance, equal=True)
        positives = _number_below(distance, positive, distance)
        positives = positives - _number_below(reach, positive, distance)
        total = _weighted(reach, positive, negatives) - _weighted(distance, negative, positives)
        return total, torch.where(positive, negatives, 0).sum()


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


class NTXentLoss(SupervisedContrastiveLoss):
    """Normalised temperature-scaled cross-entropy between two views of each image (Chen et al. 2020, SimCLR).

    The supervised contrastive loss with a single positive, the other view: labels are not used, so images may be
    unlabelled. It takes batches with two views (``--data.augmentation.views=2``).

    Args:
        temperature: Divides the cosine similarities.
    """

    #: What it compares unless a stage is given another pairing.
    pairing: ClassVar[type[Pairing]] = SameImage

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__(temperature)


def _number_below(values: Tensor, counted: Tensor, bound: Tensor, equal: bool = False) -> Tensor:
    """Number of a row's ``counted`` values below (or at) each ``bound``: (B, B) int64, without gradient."""
    ordered = values.detach().masked_fill(~counted, torch.inf).sort(dim=1).values
    # Values that are not counted stand at infinity, which no bound reaches.
    return torch.searchsorted(ordered, bound.detach().contiguous(), right=equal)


def _weighted(values: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    # Pairs that do not count may have any weight.
    return (values * torch.where(mask, weight, 0)).sum()


#: Columns of embeddings that are taken to float64 at a time.
_BLOCK = 8192


class _Distances(torch.autograd.Function):
    """Pairwise Euclidean distances by matrix products, many times faster than by differences.

    In float32 such products would lose small distances; float64, a block of columns at a time, does not.
    """

    @staticmethod
    def forward(ctx: Any, embedding: Tensor) -> Tensor:
        product = embedding.new_zeros(len(embedding), len(embedding), dtype=torch.float64)
        for block in embedding.split(_BLOCK, dim=1):
            exact = block.double()
            product += exact @ exact.T
        norm = product.diagonal()
        both = norm[:, None] + norm[None, :]
        square = both - 2 * product
        # What is left of equal embeddings is rounding, of the size of their norms.
        distance = torch.where(square > 1e-13 * both, square.clamp(min=0), 0.0).sqrt()
        ctx.save_for_backward(embedding, distance)
        return distance.to(embedding.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        embedding, distance = ctx.saved_tensors
        # Where two coincide the gradient is taken to be zero.
        pull = torch.where(distance > 0, gradient.double() / torch.where(distance > 0, distance, 1.0), 0.0)
        pull = pull + pull.T
        pull = torch.diag(pull.sum(1)) - pull
        result = torch.empty_like(embedding)
        for block, out in zip(embedding.split(_BLOCK, dim=1), result.split(_BLOCK, dim=1), strict=True):
            out.copy_(pull @ block.double())
        return result


def euclidean(embedding: Tensor) -> Tensor:
    """Distances (B, B) of embeddings (B, C), with a zero gradient where two coincide."""
    return _Distances.apply(embedding)


def pairs(label: Tensor) -> tuple[Tensor, Tensor]:
    """Which pairs of a batch are positives, and which are no negatives: (B, B) bool each.

    Args:
        label: (B,) classes, of which equal ones belong together, or (B, B) bool of the pairs that do.
    """
    same = label if label.dtype == torch.bool else label[:, None] == label[None, :]
    return same & ~torch.eye(len(label), dtype=torch.bool, device=label.device), same
