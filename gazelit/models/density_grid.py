"""A density over an image from a grid of chances: piecewise bilinear, continuous and exactly normalised.

A hat function along each axis, the basis of bilinear interpolation, spreads a cell's chance; towards the image's border
the hat is constant. Each hat's integral is the cell's side. So the density's integral over the image is 1, and so is
its sum over the pixels. Torch's own interpolation has no deterministic gradient on CUDA, and is not used.
"""

from __future__ import annotations

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


def at_positions(maps: Tensor, position: Tensor, stride: int, film: Tensor) -> Tensor:
    """Bilinear interpolation of feature maps at some positions.

    Args:
        maps: (B, C, h, w).
        position: (S, T, 2) x, y in pixels.
        stride: Side of a cell.
        film: (S,) number of the maps that each of S rows is of.

    Returns:
        (S, T, C).
    """
    (rows, down), (columns, across) = (
        nearest_cells(position[..., axis], count, stride) for axis, count in ((1, maps.shape[-2]), (0, maps.shape[-1]))
    )
    cell = (rows[..., :, None] * maps.shape[-1] + columns[..., None, :]).flatten(-2)
    part = (down[..., :, None] * across[..., None, :]).flatten(-2).to(maps.dtype)
    # Indexing, and not torch's gather, whose gradient has no deterministic form on CUDA.
    values = maps.flatten(2).mT[film[:, None, None], cell]
    return (part[..., None] * values).sum(-2)


def nearest_cells(position: Tensor, count: int, stride: int) -> tuple[Tensor, Tensor]:
    """Of positions on an axis of ``count`` cells: the two nearest cells (…, 2), and their hats' values there."""
    cell = ((position + 0.5) / stride - 0.5).clamp(0, count - 1)
    first = cell.detach().floor()
    cells = torch.stack([first, (first + 1).clamp(max=count - 1)], -1).long()
    return cells, torch.stack([1 - (cell - first), cell - first], -1)


def density_on(chance: Tensor, rows: Tensor, columns: Tensor, stride: int) -> Tensor:
    """The density at the crossings of some rows and columns, per square pixel.

    Args:
        chance: (…, h, w) of the cells.
        rows: (…, H) y in pixels.
        columns: (…, W) x in pixels.
        stride: Side of a cell.

    Returns:
        (…, H, W). On all pixels its sum is that of the chances.
    """
    with torch.autocast(chance.device.type, enabled=False):
        down, across = hats(rows, chance.shape[-2], stride), hats(columns, chance.shape[-1], stride)
        return down.to(chance.dtype) @ chance @ across.to(chance.dtype).mT / stride**2


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
    # torch.multinomial draws a random number for every cell; one for each row does.
    edges = chance.flatten(1).cumsum(1)
    point = torch.rand(len(edges), 1, generator=generator, dtype=torch.float64) * edges[:, -1:]
    cell = torch.searchsorted(edges, point, right=True)[:, 0].clamp(max=edges.shape[1] - 1)
    axes = []
    for number, count in ((cell % chance.shape[-1], chance.shape[-1]), (cell // chance.shape[-1], chance.shape[-2])):
        first, second = torch.rand(2, len(cell), generator=generator, dtype=torch.float64)
        # The sum of two uniform random numbers has a hat function as its density.
        offset = first + second - 1
        outward = ((number == 0) & (offset < 0)) | ((number == count - 1) & (offset > 0))
        level = torch.rand(len(cell), generator=generator, dtype=torch.float64) / 2 * offset.sign()
        axes.append((number + 0.5 + torch.where(outward, level, offset)) * stride - 0.5)
    return torch.stack(axes, dim=1).float()
