"""The U-Net decoder of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def conv_bn_relu(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """3 × 3 convolution with bias, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class DecoderStep(nn.Module):
    """Nearest × 2 and conv-BN-ReLU, concatenation (skip, up), then two conv-BN-ReLU."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        # Nearest, as in the paper; bilinear has no deterministic gradient on CUDA.
        self.up = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), conv_bn_relu(in_channels, out_channels))
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
