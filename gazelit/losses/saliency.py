"""Objectives over predicted saliency maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def log_density(logits: Tensor) -> Tensor:
    """Log-softmax over all pixels, in float32 whatever the autocast.

    Args:
        logits: (B, 1, H, W).

    Returns:
        Log-density of the same shape; its exponential sums to 1 per image.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return logits.float().flatten(1).log_softmax(dim=1).view_as(logits)


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
        return torch.where(has_gaze, per_image, 0.0).sum() / has_gaze.sum().clamp(min=1)
