"""What turns features into a saliency map, a diagnosis or an embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gazelit.models.decoder import conv_bn_relu


class SaliencyHead(nn.Sequential):
    """conv-BN-ReLU, then a 1 × 1 convolution to one channel of logits.

    Args:
        channels: Channels of the decoder's output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(conv_bn_relu(channels, channels), nn.Conv2d(channels, 1, 1))


class FusionClassifier(nn.Module):
    """Multi-scale feature fusion: the encoder's embedding beside the decoder's mean features.

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

    def forward(self, embedding: Tensor, decoded: Tensor) -> Tensor:
        """Logits (B, classes) of an embedding (B, C) and decoder features (B, D, H, W)."""
        return self.layers(torch.cat([embedding, decoded.mean(dim=(2, 3))], dim=1))


class Projector(nn.Sequential):
    """Linear-ReLU-linear projection of an embedding for a contrastive objective (Chen et al. 2020, SimCLR).

    Args:
        in_channels: Length of the embedding.
        hidden: Hidden units.
        out_channels: Length of the projection.
    """

    def __init__(self, in_channels: int, hidden: int, out_channels: int) -> None:
        super().__init__(nn.Linear(in_channels, hidden), nn.ReLU(), nn.Linear(hidden, out_channels))
