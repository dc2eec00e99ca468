"""A density over an image from a grid of chances: piecewise bilinear, continuous and exactly normalised.

A hat function along each axis, the basis of bilinear interpolation, spreads a cell's chance; towards the image's border
the hat is constant. Each hat's integral is the cell's side. So the density's integral over the image is 1, and so is
its sum over the pixels. Everything is a product of matrices, because torch's own interpolation has no deterministic
gradient on CUDA.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hats(position: Tensor, count: int, stride: int) -> Tensor:
    """The hat functions of one axis at some positions.

    Args:
        position: (…) in pixels, centres at integers.
        count: Number of cells n.
        stride: Side of a cell in pixels.

    Returns:
        (…, n), each row sums to 1.
    """
    cell = ((position + 0.5) / stride - 0.5).clamp(0, count - 1)
    return (1 - (cell[..., None] - torch.arange(count, device=position.device)).abs()).clamp(min=0)


def at_positions(maps: Tensor, position: Tensor, stride: int) -> Tensor:
    """Bilinear interpolation of feature maps at some positions.

    Args:
        maps: (S, C, h, w).
        position: (S, T, 2) x, y in pixels.
        stride: Side of a cell.

    Returns:
        (S, T, C).
    """
    across, down = hats(position[..., 0], maps.shape[-1], stride), hats(position[..., 1], maps.shape[-2], stride)
    return torch.einsum("schw,sth,stw->stc", maps, down.to(maps.dtype), across.to(maps.dtype))


def log_density_at(log_chance: Tensor, position: Tensor, stride: int) -> Tensor:
    """Log-density at some positions, in nats per square pixel.

    Args:
        log_chance: (…, h, w) logarithm of the cells' chances, which sum to 1.
        position: (…, 2) x, y in pixels, one for each grid.
        stride: Side of a cell.

    Returns:
        (…) float32.
    """
    across, down = (hats(position[..., axis], log_chance.shape[-1 - axis], stride) for axis in (0, 1))
    weight = down[..., :, None] * across[..., None, :]
    tiny = torch.finfo(weight.dtype).tiny
    terms = (log_chance.float() + weight.clamp(min=tiny).log()).masked_fill(weight == 0, -torch.inf)
    return terms.flatten(-2).logsumexp(-1) - 2 * math.log(stride)


def moved(log_chance: Tensor, offset: Tensor, stride: int) -> Tensor:
    """Grids moved by some pixels: logarithms are interpolated, so that a Gaussian keeps its width.

    Args:
        log_chance: (…, h, w) float32 logarithm of the cells' chances.
        offset: (…, 2) x, y in pixels, one for each grid.
        stride: Side of a cell.

    Returns:
        (…, h, w), normalised; beyond the border a grid goes on as at the border.
    """
    with torch.autocast(log_chance.device.type, enabled=False):
        across, down = (
            hats(
                torch.arange(cells, device=offset.device) * stride + (stride - 1) / 2 - offset[..., axis, None],
                cells, stride,
            )
            for axis, cells in ((0, log_chance.shape[-1]), (1, log_chance.shape[-2]))
        )  # fmt: skip
        return (down @ log_chance @ across.mT).flatten(-2).log_softmax(-1).view_as(log_chance)


def on_pixels(chance: Tensor, stride: int) -> Tensor:
    """The density at the pixels: (…, h, w) to (…, h · stride, w · stride), of the same sum."""
    down, across = (
        hats(torch.arange(cells * stride, device=chance.device, dtype=torch.float32), cells, stride)
        for cells in chance.shape[-2:]
    )
    return down.to(chance.dtype) @ chance @ across.to(chance.dtype).T / stride**2


def drawn(chance: Tensor, stride: int, generator: torch.Generator) -> Tensor:
    """Positions drawn from the density.

    Args:
        chance: (B, h, w) the cells' chances.
        stride: Side of a cell.
        generator: Generator of the draws, on the CPU, so that a seed draws the same on every device.

    Returns:
        (B, 2) x, y in pixels, centres at integers.
    """
    chance = chance.detach().cpu().double()
    cell = torch.multinomial(chance.flatten(1), 1, generator=generator)[:, 0]
    axes = []
    for number, count in ((cell % chance.shape[-1], chance.shape[-1]), (cell // chance.shape[-1], chance.shape[-2])):
        first, second = torch.rand(2, len(cell), generator=generator, dtype=torch.float64)
        # The sum of two uniform random numbers has a hat function as its density.
        offset = first + second - 1
        outward = ((number == 0) & (offset < 0)) | ((number == count - 1) & (offset > 0))
        level = torch.rand(len(cell), generator=generator, dtype=torch.float64) / 2 * offset.sign()
        axes.append((number + 0.5 + torch.where(outward, level, offset)) * stride - 0.5)
    return torch.stack(axes, dim=1).float()
