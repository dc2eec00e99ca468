"""A density over an image from a grid of chances: piecewise quadratic, smooth and exactly normalised.

A quadratic B-spline along each axis spreads a cell's chance over three cells; what would lie beyond the image's border
is reflected into it (Unser, Splines: a perfect fit for signal and image processing, IEEE Signal Process Mag 1999). Each
spline's integral is the cell's side. So the density's integral over the image is 1, and so is its sum over the pixels.
Bilinear interpolation, with hat functions, has kinks at the cells' middles, and loses three times as many bits of a
density of looks where cells are no wider than looks are spread (``benchmarks/grid_ceiling.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Variance of a cell's spline, in squares of the cell's side: that of the sum of three uniform random numbers.
SPLINE_VARIANCE = 1 / 4


def splines(position: Tensor, count: int, stride: int) -> Tensor:
    """The splines of all cells of an axis at some positions.

    Args:
        position: (…) in pixels, centres at integers.
        count: Number of cells n.
        stride: Side of a cell in pixels.

    Returns:
        (…, n), each row sums to 1.
    """
    cells, part = nearest_cells(position, count, stride)
    number = torch.arange(count, device=position.device)
    return (part[..., None] * (cells[..., None] == number)).sum(-2)


def at_positions(maps: Tensor, position: Tensor, stride: int, film: Tensor) -> Tensor:
    """Feature maps at some positions, interpolated by the splines.

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
    with torch.autocast(maps.device.type, enabled=False):
        return (part[..., None, :] @ values)[..., 0, :]


def nearest_cells(position: Tensor, count: int, stride: int) -> tuple[Tensor, Tensor]:
    """Of positions on an axis of ``count`` cells: the three nearest cells (…, 3), and their splines' values there.

    At a border a cell occurs twice, with its own spline and with what is reflected of it.
    """
    cell = ((position + 0.5) / stride - 0.5).clamp(-0.5, count - 0.5)
    middle = cell.detach().round().clamp(0, count - 1)
    beside = cell - middle
    cells = torch.stack([middle - 1, middle, middle + 1], -1).clamp(0, count - 1).long()
    part = [(0.5 - beside).square() / 2, 0.75 - beside.square(), (0.5 + beside).square() / 2]
    return cells, torch.stack(part, -1)


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
        down, across = splines(rows, chance.shape[-2], stride), splines(columns, chance.shape[-1], stride)
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
        # The sum of three uniform random numbers has the spline as its density.
        beside = torch.rand(3, len(cell), generator=generator, dtype=torch.float64).sum(0) - 1.5
        # Of the image and its reflections at both borders, in cells from its first border.
        along = (number + 0.5 + beside).abs()
        axes.append((count - (count - along).abs()) * stride - 0.5)
    return torch.stack(axes, dim=1).float()
