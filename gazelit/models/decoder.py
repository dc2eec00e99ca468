"""The U-Net decoder of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn_relu(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """3 × 3 convolution with bias, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


#: Pixels of a batch's map from which on merging is faster, although it computes a new kernel in each pass.
_WORTHWHILE = 256


def kernel_after_doubling(weight: Tensor) -> Tensor:
    """The kernel of the transposed convolution that equals a nearest × 2 followed by a 3 × 3 convolution.

    Doubling is a transposed convolution with a kernel of ones, 2 × 2 at stride 2, so both together are one with a
    kernel of 4 × 4. It needs 16 products instead of 36, and does not write the doubled map.

    Args:
        weight: Of the convolution, (C_out, C_in, 3, 3), applied with a padding of 1.

    Returns:
        (C_in, C_out, 4, 4), to be applied with a stride of 2 and a padding of 1.
    """
    kernel = weight.flip(2, 3).transpose(0, 1)
    rows = F.pad(kernel, (0, 0, 0, 1)) + F.pad(kernel, (0, 0, 1, 0))
    return F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))


class Doubling(nn.Sequential):
    """Nearest × 2 and conv-BN-ReLU.

    Attributes:
        merged: Whether doubling and convolution are computed as one (:func:`kernel_after_doubling`) if the map is large
            enough for this to be faster. The result is the same but for rounding, with less than half of the
            operations.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        # Nearest, as in the paper; bilinear has no deterministic gradient on CUDA.
        super().__init__(nn.Upsample(scale_factor=2, mode="nearest"), conv_bn_relu(in_channels, out_channels))
        self.merged = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) to (B, C_out, 2h, 2w)."""
        if not self.merged or x[:, 0].numel() < _WORTHWHILE:
            return super().forward(x)
        block = cast(nn.Sequential, self[1])
        conv = cast(nn.Conv2d, block[0])
        x = F.conv_transpose2d(x, kernel_after_doubling(conv.weight), conv.bias, stride=2, padding=1)
        return block[1:](x)


class DecoderStep(nn.Module):
    """Nearest × 2 and conv-BN-ReLU, concatenation (skip, up), then two conv-BN-ReLU."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = Doubling(in_channels, out_channels)
        self.convs = nn.Sequential(
            conv_bn_relu(skip_channels + out_channels, out_channels), conv_bn_relu(out_channels, out_channels)
        )

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(B, C_in, h, w) and (B, C_skip, 2h, 2w) to (B, C_out, 2h, 2w)."""
        x = self.up(x)
        return self.convs(x if skip is None else torch.cat([skip, x], dim=1))


class UNetDecoder(nn.Module):
    """Steps from the bottleneck back to full resolution, or to a coarser one.

    Args:
        bottleneck_channels: Channels of the coarsest map, at stride ``finest_stride * 2 ** len(widths)``.
        skip_channels: Channels of the skip connection by stride; strides that are absent have none.
        widths: Output channels of the steps, the coarsest first; the paper's are (512, 256, 128, 64, 64).
        finest_stride: Stride of the last step's output; the paper's is 1.
    """

    def __init__(
        self,
        bottleneck_channels: int,
        skip_channels: Mapping[int, int],
        widths: Sequence[int],
        finest_stride: int = 1,
    ) -> None:
        super().__init__()
        self.strides = [finest_stride * 2**level for level in reversed(range(len(widths)))]
        self.steps = nn.ModuleList(
            DecoderStep(before, skip_channels.get(stride, 0), width)
            for before, stride, width in zip([bottleneck_channels, *widths], self.strides, widths, strict=False)
        )

    def forward(self, bottleneck: Tensor, skips: Mapping[int, Tensor]) -> list[Tensor]:
        """Decodes.

        Args:
            bottleneck: (B, C, H / s, W / s), s its stride.
            skips: Maps by stride.

        Returns:
            Every step's output, the coarsest first; the last is (B, ``widths[-1]``, H, W), divided by
            ``finest_stride``.
        """
        outputs = [bottleneck]
        for stride, step in zip(self.strides, self.steps, strict=True):
            outputs.append(step(outputs[-1], skips.get(stride)))
        return outputs[1:]
