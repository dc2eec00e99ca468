"""Densities over an image, as models, losses, metrics and data mean them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CentreBias:
    """Where people look whatever the image.

    Attributes:
        density: (H, W) or (B, H, W), the mean map of other cases.
        counts: The same shape, those cases' fixations.
    """

    density: Tensor
    counts: Tensor


def log_density(logits: Tensor) -> Tensor:
    """Log-softmax over all pixels, in float32 whatever the autocast.

    Args:
        logits: (B, 1, H, W).

    Returns:
        Log-density of the same shape; its exponential sums to 1 per image.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return logits.float().flatten(1).log_softmax(dim=1).view_as(logits)
