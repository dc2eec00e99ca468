"""The residual squeeze-and-excitation pyramid that encodes saliency."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from gazelit.errors import InputError
from gazelit.models.decoder import conv_bn_relu
from gazelit.models.encoder import Encoder
from gazelit.models.registry import register_encoder


class ResidualBlock(nn.Module):
    """conv-BN-ReLU, conv-BN, plus a 3 × 3 convolution of the input without BN, then ReLU.

    The paper's figure draws an identity shortcut; its code, followed here, has the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, shortcut: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 3, padding=1) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H, W)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.conv_shortcut is not None:
            y = y + self.conv_shortcut(x)
        return F.relu(y)


class SqueezeExcitation(nn.Module):
    """Scales channels by a gate of their global means (Hu et al. 2018), without biases."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return x * self.fc(x.mean(dim=(2, 3)))[:, :, None, None]


@register_encoder("res-se")
class ResSEEncoder(Encoder):
    """Residual squeeze-and-excitation levels with 2 × 2 max-pooling between them.

    The paper's finest level is at full resolution, where most of the operations are. With a stem of strided
    convolutions the same pyramid begins at stride 2 or 4.

    Args:
        widths: Channels of the levels, the finest first. The paper's are the default.
        reduction: Channels per hidden unit of the squeeze-and-excitation gate.
        residual: Whether the blocks have their shortcut convolution.
        squeeze_excitation: Whether the levels have their gate.
        stem_stride: Stride of the finest level: 1, the paper's, has no stem; 2 or 4 have a 3 × 3 convolution of stride
            2, BatchNorm and ReLU for each halving.

    Raises:
        InputError: ``stem_stride`` is none of these.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        reduction: int = 16,
        residual: bool = True,
        squeeze_excitation: bool = True,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        if stem_stride not in (1, 2, 4):
            raise InputError(f"stem_stride: must be 1, 2 or 4, not {stem_stride}")
        self.out_channels = list(widths)
        self.strides = [stem_stride * 2**level for level in range(len(self.out_channels))]
        halvings = self.strides[0].bit_length() - 1
        stem_widths = [1, *(self.out_channels[0] // 2 ** (halvings - number) for number in range(1, halvings + 1))]
        self.stem = nn.Sequential(*(conv_bn_relu(before, width, stride=2) for before, width in pairwise(stem_widths)))
        self.levels = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(before, width, residual),
                SqueezeExcitation(width, reduction) if squeeze_excitation else nn.Identity(),
            )
            for before, width in zip([stem_widths[-1], *self.out_channels], self.out_channels, strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """See :class:`Encoder`."""
        maps: list[Tensor] = []
        x = self.stem(x)
        for number, level in enumerate(self.levels):
            x = level(F.max_pool2d(x, 2) if number else x)
            maps.append(x)
        return maps
