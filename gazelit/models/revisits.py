"""Looks near past fixations: a past fixation's part in the density of the next one.

Readers look more than once at what they have found. Where a region is large, or has several findings, its map cannot
say at which of them: the past fixations can. About each of them the static map is multiplied with a Gaussian and
normalised, which is a density of its own.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from gazelit.models.density_grid import nearest_cells
from gazelit.models.regions import RegionMaps
from gazelit.models.sequences import Sequences

#: Initial widths of the Gaussians, as shares of the image's longer side.
_WIDTHS = (0.015, 0.03, 0.08)
#: Length of the vectors that decide how likely a past fixation is looked at again.
_PAIR = 8
#: Sums that are divided by are at least this, so that a gradient stays finite.
_LEAST = 1e-20
#: Weight of a past fixation before training (nats), beside regions whose weights sum to 1.
_RARE = -5.0


class Near(NamedTuple):
    """The static map about each past fixation, as densities on a grid: J = kinds · T of them for each reading.

    Attributes:
        chance: (S, h, w) float32 of the static map, which sums to 1.
        down: (S, J, h) Gaussians along the rows, 1 at their middle.
        across: (S, J, w) likewise along the columns.
    """

    chance: Tensor
    down: Tensor
    across: Tensor

    def at(self, position: Tensor, stride: int) -> Tensor:
        """Each density at some positions, times a cell's area: (S, N, 2) x, y in pixels to (S, N, J)."""
        (rows, down), (columns, across) = (
            nearest_cells(position[..., axis], count, stride)
            for axis, count in ((1, self.chance.shape[-2]), (0, self.chance.shape[-1]))
        )
        series = torch.arange(position.shape[0], device=position.device)[:, None, None]
        static = self.chance[series[..., None], rows[..., :, None], columns[..., None, :]]
        static = static * down[..., :, None] * across[..., None, :]
        with torch.autocast(static.device.type, enabled=False):
            found = (static.mT @ self.down.mT[series, rows] * self.across.mT[series, columns]).sum(-2)
            return found / self._whole()[:, None]

    def chances(self, weight: Tensor) -> Tensor:
        """The sum of the densities with some weights, (S, N, J), as chances of the cells, (S, N, h, w)."""
        with torch.autocast(weight.device.type, enabled=False):
            height = weight / self._whole()[:, None]
            if weight.shape[1] == 1:
                about = ((height.mT * self.down).mT @ self.across)[:, None]
            else:
                # Many fixations ahead share the map of each past fixation.
                products = self.down[..., :, None] * self.across[..., None, :]
                about = (height @ products.flatten(2)).unflatten(-1, products.shape[-2:])
            return about * self.chance[:, None]

    def _whole(self) -> Tensor:
        """(S, J) sum of each product of map and Gaussian."""
        return ((self.down @ self.chance) * self.across).sum(-1).clamp(min=_LEAST)


class Revisits(nn.Module):
    """How likely each past fixation is looked at again, and how near; sums are in float32, whatever the precision.

    Args:
        width: Length of the history's states.
        longest: Fixations of a reading.
        stride: Side of a cell in pixels.
    """

    #: As :attr:`gazelit.models.encoder.Encoder.with_weights`.
    with_weights: ClassVar[tuple[str, ...]] = ("log_weights", "near")

    def __init__(self, width: int, longest: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.log_width = nn.Parameter(torch.tensor(_WIDTHS).log())
        self.pair_query = nn.Linear(width, len(_WIDTHS) * _PAIR)
        self.pair_key = nn.Linear(width, len(_WIDTHS) * _PAIR)
        self.lag = nn.Embedding(longest, len(_WIDTHS))
        nn.init.zeros_(self.lag.weight)
        nn.init.zeros_(self.pair_query.weight)

    def log_weights(self, before: Tensor, after: Tensor, valid: Tensor, first: int = 0) -> Tensor:
        """The past fixations' weights before N fixations of each reading, as logarithms.

        Args:
            before: (S, N, width) states before the fixations.
            after: (S, T, width) states that have seen each of the readings' T fixations.
            valid: (S, T) bool, false for padding.
            first: Number, from 0, of the fixation that ``before`` begins with.

        Returns:
            (S, N, kinds · T) float32; −∞ for what is not past.
        """
        query = self.pair_query(before).unflatten(-1, (len(_WIDTHS), _PAIR))
        key = self.pair_key(after).unflatten(-1, (len(_WIDTHS), _PAIR))
        height = torch.einsum("snmd,stmd->snmt", query, key).float() / math.sqrt(_PAIR)
        number = first + torch.arange(before.shape[1], device=before.device)
        lag = number[:, None] - torch.arange(after.shape[1], device=before.device) - 1
        height = height + self.lag(lag.clamp(min=0)).mT.float() + _RARE
        past = (lag >= 0)[:, None] & valid[:, None, None, :]
        return height.masked_fill(~past, -torch.inf).flatten(2)

    def near(self, maps: RegionMaps, looks: Sequences) -> Near:
        """The densities about T looks of S readings.

        Args:
            maps: Of each reading's film.
            looks: The readings.
        """
        chance = maps.log_static.exp()[maps.film]
        with torch.autocast(chance.device.type, enabled=False):
            longer = self.stride * max(chance.shape[-2:])
            scale = (-0.5 / (self.log_width.float().exp() * longer).square())[:, None, None]
            down, across = (
                (scale * ((torch.arange(count, device=chance.device) + 0.5) * self.stride - 0.5
                          - looks.position[:, None, :, axis, None].float()).square()).exp().flatten(1, 2)
                for count, axis in ((chance.shape[-2], 1), (chance.shape[-1], 0))
            )  # fmt: skip
            return Near(chance, down, across)
