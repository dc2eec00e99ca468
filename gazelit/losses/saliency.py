"""Objectives over predicted saliency maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gazelit.density import log_density
from gazelit.errors import InputError


class KLDivergenceLoss(nn.Module):
    """KL divergence from the predicted density to the target, mean over the images that have gaze.

    Σ g (ln g − ln p) with p the softmax of the logits over the pixels (Qiu, Rivaz and Xiao 2025, stage 2).
    """

    def forward(self, logits: Tensor, target: Tensor, has_gaze: Tensor) -> Tensor:
        """Computes the loss in float32.

        Args:
            logits: (B, 1, H, W).
            target: Densities (B, 1, H, W), summing to 1 per image with gaze.
            has_gaze: (B,) bool; other images do not count. Without any the loss is zero, with a zero gradient.

        Returns:
            Scalar.
        """
        log_prediction = log_density(logits).flatten(1)
        target = target.float().flatten(1)
        per_image = (torch.xlogy(target, target) - target * log_prediction).sum(dim=1)
        return _mean_over_gaze(per_image, has_gaze)


class CorrelationLoss(nn.Module):
    """1 − CC of the predicted and the target density, mean over the images that have gaze."""

    def forward(self, logits: Tensor, target: Tensor, has_gaze: Tensor) -> Tensor:
        """Computes the loss in float32; see :meth:`KLDivergenceLoss.forward`."""
        one = log_density(logits).exp().flatten(1)
        other = target.float().flatten(1)
        one, other = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
        # Densities of 300,000 pixels have variances near the smallest normal float32: divide before multiplying.
        value = (nn.functional.normalize(one, dim=1, eps=1e-20) * nn.functional.normalize(other, dim=1, eps=1e-20)).sum(
            1
        )
        return _mean_over_gaze(1 - value, has_gaze)


class SimilarityLoss(nn.Module):
    """1 − SIM of the predicted and the target density, mean over the images that have gaze."""

    def forward(self, logits: Tensor, target: Tensor, has_gaze: Tensor) -> Tensor:
        """Computes the loss in float32; see :meth:`KLDivergenceLoss.forward`."""
        shared = torch.minimum(log_density(logits).exp().flatten(1), target.float().flatten(1)).sum(1)
        return _mean_over_gaze(1 - shared, has_gaze)


class NSSLoss(nn.Module):
    """−NSS of the predicted density, with the target density for the fixations; mean over the images that have gaze.

    −Σ g (p − mean p) / std p: the expected normalised scan-path saliency of a fixation drawn from the target.
    """

    def forward(self, logits: Tensor, target: Tensor, has_gaze: Tensor) -> Tensor:
        """Computes the loss in float32; see :meth:`KLDivergenceLoss.forward`."""
        density = log_density(logits).exp().flatten(1)
        # Relative to a uniform map, because variances of 300,000 small numbers would underflow.
        relative = density * density.shape[1]
        spread = relative.std(dim=1, correction=0, keepdim=True).clamp(min=1e-4)
        normalised = (relative - relative.mean(dim=1, keepdim=True)) / spread
        return _mean_over_gaze(-(target.float().flatten(1) * normalised).sum(1), has_gaze)


class WeightedSaliencyLoss(nn.Module):
    """A weighted sum of saliency objectives.

    Args:
        losses: The objectives.
        weights: One weight each.

    Raises:
        InputError: Their numbers differ.
    """

    def __init__(self, losses: list[nn.Module], weights: list[float]) -> None:
        super().__init__()
        if len(losses) != len(weights):
            raise InputError(f"weights: {len(losses)} losses need as many weights, not {len(weights)}")
        self.losses = nn.ModuleList(losses)
        self.weights = weights

    def forward(self, logits: Tensor, target: Tensor, has_gaze: Tensor) -> Tensor:
        """The weighted sum; see :meth:`KLDivergenceLoss.forward`."""
        terms = [
            weight * loss(logits, target, has_gaze) for loss, weight in zip(self.losses, self.weights, strict=True)
        ]
        return torch.stack(terms).sum()


class DeepSupervisionLoss(nn.Module):
    """A saliency objective of the final map and, weighted, of the side heads' coarser ones (Lee et al. 2015).

    A side head at stride s is compared with the target summed over s × s pixels.

    Args:
        loss: The objective; KL divergence unless given.
        weights: One weight for each side head, the finest first; as many as the network's ``side_heads``.
    """

    def __init__(self, loss: nn.Module | None = None, weights: Sequence[float] = (0.5,)) -> None:
        super().__init__()
        self.loss = loss if loss is not None else KLDivergenceLoss()
        self.weights = tuple(weights)

    def forward(self, logits: Tensor, target: Tensor, has_gaze: Tensor, sides: Mapping[int, Tensor]) -> Tensor:
        """Computes the loss in float32.

        Args:
            logits: (B, 1, H, W).
            target: Densities (B, 1, H, W).
            has_gaze: (B,) bool.
            sides: By stride s, logits (B, 1, H / s, W / s), the finest first.

        Raises:
            InputError: There are other than as many side heads as weights.
        """
        if len(sides) != len(self.weights):
            raise InputError(
                f"weights: {len(self.weights)} side heads are weighted, but the network has {len(sides)}; set "
                f"--model.network.side_heads={len(self.weights)}"
            )
        total = self.loss(logits, target, has_gaze)
        for weight, (stride, side) in zip(self.weights, sides.items(), strict=True):
            coarse = F.avg_pool2d(target.float(), stride) * stride**2
            total = total + weight * self.loss(side, coarse, has_gaze)
        return total


def saliency_loss(loss: nn.Module, outputs: Mapping[str, Tensor], target: Tensor, has_gaze: Tensor) -> Tensor:
    """A network's saliency loss, side heads included.

    Args:
        loss: A saliency objective.
        outputs: Of the network: ``saliency_logits`` and those of side heads, ``saliency_logits_2``, ….
        target: Densities (B, 1, H, W).
        has_gaze: (B,) bool.

    Raises:
        InputError: The network has side heads and the objective does not train them, or the other way round.
    """
    name = "saliency_logits"
    sides = {int(key.removeprefix(f"{name}_")): side for key, side in outputs.items() if key.startswith(f"{name}_")}
    if isinstance(loss, DeepSupervisionLoss):
        return loss(outputs[name], target, has_gaze, sides)
    if sides:
        raise InputError("saliency_loss: side heads are trained by gazelit.losses.DeepSupervisionLoss; choose it")
    return loss(outputs[name], target, has_gaze)


def _mean_over_gaze(per_image: Tensor, has_gaze: Tensor) -> Tensor:
    return torch.where(has_gaze, per_image, 0.0).sum() / has_gaze.sum().clamp(min=1)
