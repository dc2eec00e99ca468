"""Objectives over predicted saliency maps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gazelit.density import log_density
from gazelit.errors import InputError
from gazelit.losses.objective import Objective, Tensors


class SaliencyLoss(Objective):
    """An objective over the predicted saliency map; a subclass compares one with its target."""

    #: How many side heads of a network it trains (``side_heads`` of :class:`gazelit.models.DualEncoderUNet`).
    side_heads: int = 0

    def forward(self, outputs: Tensors, batch: Tensors) -> Tensor:
        """The mean over the images that have gaze, in float32.

        Args:
            outputs: ``saliency_logits`` (B, 1, H, W).
            batch: ``heatmap``, densities (B, 1, H, W) that sum to 1 per image with gaze, and ``has_gaze`` (B,) bool.

        Returns:
            Scalar; zero with a zero gradient without any gaze.
        """
        per_image = self.per_image(outputs["saliency_logits"], batch["heatmap"].float())
        return torch.where(batch["has_gaze"], per_image, 0.0).sum() / self.counted(batch).clamp(min=1)

    def counted(self, batch: Tensors) -> Tensor:
        """The images with gaze."""
        return batch["has_gaze"].sum()

    @abstractmethod
    def per_image(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compares maps with their targets.

        Args:
            logits: (B, 1, H, W).
            target: (B, 1, H, W) float32 densities, all zero for an image without gaze, whose value does not count.

        Returns:
            (B,) float32.
        """


class KLDivergenceLoss(SaliencyLoss):
    """KL divergence from the predicted density to the target, mean over the images that have gaze.

    Σ g (ln g − ln p) with p the softmax of the logits over the pixels (Qiu, Rivaz and Xiao 2025, stage 2).
    """

    def per_image(self, logits: Tensor, target: Tensor) -> Tensor:
        """See :meth:`SaliencyLoss.per_image`."""
        log_prediction = log_density(logits).flatten(1)
        target = target.flatten(1)
        return (torch.xlogy(target, target) - target * log_prediction).sum(dim=1)


class CorrelationLoss(SaliencyLoss):
    """1 − CC of the predicted and the target density, mean over the images that have gaze."""

    def per_image(self, logits: Tensor, target: Tensor) -> Tensor:
        """See :meth:`SaliencyLoss.per_image`."""
        predicted, target = log_density(logits).exp().flatten(1), target.flatten(1)
        predicted, target = (density - density.mean(1, keepdim=True) for density in (predicted, target))
        # Densities of 300,000 pixels have variances near the smallest normal float32: divide before multiplying.
        predicted, target = (F.normalize(density, dim=1, eps=1e-20) for density in (predicted, target))
        return 1 - (predicted * target).sum(1)


class SimilarityLoss(SaliencyLoss):
    """1 − SIM of the predicted and the target density, mean over the images that have gaze."""

    def per_image(self, logits: Tensor, target: Tensor) -> Tensor:
        """See :meth:`SaliencyLoss.per_image`."""
        return 1 - torch.minimum(log_density(logits).exp().flatten(1), target.flatten(1)).sum(1)


class NSSLoss(SaliencyLoss):
    """−NSS of the predicted density, with the target density for the fixations; mean over the images that have gaze.

    −Σ g (p − mean p) / std p: the expected normalised scan-path saliency of a fixation drawn from the target.
    """

    def per_image(self, logits: Tensor, target: Tensor) -> Tensor:
        """See :meth:`SaliencyLoss.per_image`."""
        density = log_density(logits).exp().flatten(1)
        # Relative to a uniform map, because variances of 300,000 small numbers would underflow.
        relative = density * density.shape[1]
        spread = relative.std(dim=1, correction=0, keepdim=True).clamp(min=1e-4)
        normalised = (relative - relative.mean(dim=1, keepdim=True)) / spread
        return -(target.flatten(1) * normalised).sum(1)


class WeightedSaliencyLoss(SaliencyLoss):
    """A weighted sum of saliency objectives.

    Args:
        losses: The objectives.
        weights: One weight each.

    Raises:
        InputError: Their numbers differ.
    """

    def __init__(self, losses: list[SaliencyLoss], weights: list[float]) -> None:
        super().__init__()
        if len(losses) != len(weights):
            raise InputError(f"weights: {len(losses)} losses need as many weights, not {len(weights)}")
        self.losses = nn.ModuleList(losses)
        self.weights = weights

    def per_image(self, logits: Tensor, target: Tensor) -> Tensor:
        """The weighted sum; see :meth:`SaliencyLoss.per_image`."""
        losses = cast(Sequence[SaliencyLoss], self.losses)
        terms = [weight * loss.per_image(logits, target) for loss, weight in zip(losses, self.weights, strict=True)]
        return torch.stack(terms).sum(0)


class DeepSupervisionLoss(SaliencyLoss):
    """A saliency objective of the final map and, weighted, of the side heads' coarser ones (Lee et al. 2015).

    A side head at stride s is compared with the target summed over s × s pixels.

    Args:
        loss: The objective; KL divergence unless given.
        weights: One weight for each side head, the finest first; as many as the network's ``side_heads``.
    """

    def __init__(self, loss: SaliencyLoss | None = None, weights: Sequence[float] = (0.5,)) -> None:
        super().__init__()
        self.loss = loss if loss is not None else KLDivergenceLoss()
        self.weights = tuple(weights)
        self.side_heads = len(self.weights)

    def per_image(self, logits: Tensor, target: Tensor) -> Tensor:
        """The objective of only the final map."""
        return self.loss.per_image(logits, target)

    def forward(self, outputs: Tensors, batch: Tensors) -> Tensor:
        """See :meth:`SaliencyLoss.forward`; ``outputs`` also has ``saliency_logits_<stride>``, the finest first."""
        total = super().forward(outputs, batch)
        sides = [name for name in outputs if name.startswith("saliency_logits_")]
        for weight, name in zip(self.weights, sides, strict=True):
            stride = int(name.rpartition("_")[2])
            coarse = F.avg_pool2d(batch["heatmap"].float(), stride) * stride**2
            total = total + weight * self.loss({"saliency_logits": outputs[name]}, {**batch, "heatmap": coarse})
        return total


def check_side_heads(loss: SaliencyLoss, side_heads: int) -> None:
    """Checks that an objective trains the side heads that a network has.

    Args:
        loss: The objective.
        side_heads: Number of the network's.

    Raises:
        InputError: It trains another number of side heads.
    """
    if loss.side_heads == side_heads:
        return
    if not loss.side_heads:
        raise InputError("saliency_loss: side heads are trained by gazelit.losses.DeepSupervisionLoss; choose it")
    raise InputError(
        f"weights: {loss.side_heads} side heads are weighted, but the network has {side_heads}; set "
        f"--model.network.side_heads={loss.side_heads}"
    )
