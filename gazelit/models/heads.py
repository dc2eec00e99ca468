"""Heads: from features to a saliency map, a diagnosis or an embedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazelit.models.decoder import conv_bn_relu


class SaliencyHead(nn.Sequential):
    """conv-BN-ReLU, then a 1 × 1 convolution to one channel of logits.

    Args:
        channels: Channels of the decoder's output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(conv_bn_relu(channels, channels), nn.Conv2d(channels, 1, 1))


def enlarged(logits: Tensor, factor: int) -> Tensor:
    """Saliency logits at a finer resolution, interpolated bilinearly.

    Logits are interpolated and not densities: a density falls off like the exponential of a parabola, which straight
    lines approximate badly. The interpolation is two products with fixed matrices, because torch's own has no
    deterministic gradient on CUDA.

    Args:
        logits: (B, 1, h, w).
        factor: How much finer.

    Returns:
        (B, 1, h · factor, w · factor), in float32; the logits themselves for a factor of 1.
    """
    if factor == 1:
        return logits
    with torch.autocast(logits.device.type, enabled=False):
        down, across = (
            F.interpolate(
                torch.eye(size, device=logits.device)[None], scale_factor=factor, mode="linear", align_corners=False
            )[0]
            for size in logits.shape[-2:]
        )
        return down.T @ logits.float() @ across


class FusionClassifier(nn.Module):
    """Multi-scale feature fusion: the encoder's features concatenated with the decoder's.

    Linear, dropout, ReLU, linear, in the order of the reference implementation.

    Args:
        in_channels: Length of the concatenated features.
        hidden: Hidden units.
        classes: Number of classes.
        dropout: Dropout probability.
    """

    def __init__(self, in_channels: int, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_channels, hidden), nn.Dropout(dropout), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits (B, classes) of feature vectors (B, …) whose lengths add up to ``in_channels``."""
        seen = torch.cat(list(features), dim=1)
        # Pooling is in float32; the weights of a network that was turned to bfloat16 are not.
        return self.layers(seen.to(next(self.layers.parameters()).dtype))


class CentrePrior(nn.Module):
    """Adds the logarithm of a learned Gaussian to saliency logits, for the readers' centre bias.

    Mean and inverse variance are learned along both axes, in units of half the image's size from its middle. The prior
    begins almost flat, so that it hardly changes the logits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2))
        self.raw_precision = nn.Parameter(torch.full((2,), -4.0))

    def forward(self, logits: Tensor) -> Tensor:
        """(B, 1, H, W) to the same shape."""
        height, width = logits.shape[-2:]
        precision = F.softplus(self.raw_precision)
        x, y = ((torch.arange(size, device=logits.device) + 0.5) * (2 / size) - 1 for size in (width, height))
        across = precision[0] * (x - self.mean[0]).square()
        down = precision[1] * (y - self.mean[1]).square()
        return logits - (across[None, :] + down[:, None]) / 2


class Projector(nn.Sequential):
    """Linear-ReLU-linear projection of an embedding for a contrastive objective (Chen et al. 2020, SimCLR).

    Args:
        in_channels: Length of the embedding.
        hidden: Hidden units.
        out_channels: Length of the projection.
    """

    def __init__(self, in_channels: int, hidden: int, out_channels: int) -> None:
        super().__init__(nn.Linear(in_channels, hidden), nn.ReLU(), nn.Linear(hidden, out_channels))
