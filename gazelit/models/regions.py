"""The film as a mixture of regions that are learned from gaze alone, and whose weights follow a reading's history.

Readers look at organs in an order of their own, leave for a while what they have seen, and go on to what is near. A
map's logits cannot say so of an organ as a whole: a Gaussian about a past fixation is as large everywhere, and is about
the point where the eye landed. So the density of the next fixation is a sum of maps, one for each region, and history
weighs the regions: which reader looks and for how long already, which regions were seen and how long ago, and how far
they are. No region is named or given: each begins about a tile of the film, and the likelihood of gaze forms it.

Much of what readers look at has no border of its own (the middle of a lung zone), and lies where the rest of the chest
says it does. So a region's place is found in two steps. Each region has a map of evidence, whose mean is a place to a
fraction of a cell (Sun et al., Integral Human Pose Regression, ECCV 2018); it is looked for about the region's tile.
Then every place is corrected by all of them together, and by further points that are found likewise, as points of a
shape correct each other in an active shape model (Cootes et al., CVIU 1995). A region is a Gaussian about its place,
whose width follows the film's scale, times what the film shows there.

A mixture is normalised as it stands. So the density at a fixation is had from the maps at that place alone, and a
training need not normalise a map for each of thousands of fixations.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from gazelit.models.density_grid import SPLINE_VARIANCE, at_positions
from gazelit.models.sequences import Sequences

#: Share of the chance that is spread over the whole film, so that no cell's logarithm is infinite.
_ANYWHERE = 1e-4
#: Sums that are divided by are at least this, so that a gradient stays finite: a look far from all regions is of none.
_LEAST = 1e-20
#: Points that are found about each region's tile: its place, and further ones that correct places.
_POINTS = 2
#: Widths of the Gaussians of distance, as shares of the image's longer side.
_DISTANCES = (0.05, 0.12, 0.25)
#: A region's width changes as many times as fast as other parameters: it falls from a tile's to a landmark's.
_WIDTH_RATE = 5.0
#: Least width of a region's Gaussian in cells: sampled at cells' middles, a narrower one lies beside its centre.
_NARROWEST = 0.4
#: Nats that a region's width may be from a tile's, so that a gradient stays finite.
_EXTREME = 20.0
#: Nats that a region loses over the whole longer side before training, in units of ``near``'s first weight.
_FALL = 4.0


class RegionMaps(NamedTuple):
    """The K regions of B films, or of S readings of them.

    Attributes:
        chance: (B, K, h, w) float32, where the eye lands in a region; each map sums to 1.
        log_size: (S, K) float32, the region's part in the static map, as a logarithm.
        token: (S, K, width) what a region is: its own vector and the film's features there.
        centre: (S, K, 2) float32 x, y in pixels.
        variance: (S, K) float32 of where the eye lands, along an axis (square pixels, mean of both axes).
        log_static: (B, h, w) float32 logarithm of the static map's chances: the regions in their sizes.
        film: (S,) int64 number of the maps that each reading is of; of the films themselves 0 to B − 1.
    """

    chance: Tensor
    log_size: Tensor
    token: Tensor
    centre: Tensor
    variance: Tensor
    log_static: Tensor
    film: Tensor

    def rows(self, rows: Tensor) -> RegionMaps:
        """The regions of some of the films or readings, or of each several times; maps are not copied."""
        kept = self._asdict()
        names = ("log_size", "token", "centre", "variance", "film")
        return self._replace(**{name: kept[name][rows] for name in names})

    def summed(self, weight: Tensor) -> Tensor:
        """The sum of each reading's regions with some weights: (S, N, K) to (S, N, h, w)."""
        maps = self.chance.flatten(2)
        found = weight.new_empty(*weight.shape[:2], maps.shape[-1])
        with torch.autocast(weight.device.type, enabled=False):
            # Film by film: a copy of the maps for each reading would take longer than the product.
            for film in self.film.unique():
                rows = self.film == film
                found[rows] = weight[rows] @ maps[film]
        return found.unflatten(-1, self.cells)

    @property
    def cells(self) -> tuple[int, int]:
        """Numbers of rows and columns of a map."""
        return self.chance.shape[-2], self.chance.shape[-1]


def anywhere(chance: Tensor, cells: int) -> Tensor:
    """Logarithm of the chances of cells with a small share of each spread over all ``cells``: none is infinite."""
    return ((1 - _ANYWHERE) * chance + _ANYWHERE / cells).log()


def region_chance(log_weight: Tensor, at: Tensor) -> Tensor:
    """Chance that a fixation was at each region, by Bayes' rule, (…, K) float32; 0 far from all regions.

    Args:
        log_weight: (…, K) logarithms of the regions' weights before it, up to a constant.
        at: (…, K) chance of its place by each region.
    """
    chance = log_weight.softmax(-1) * at
    return chance / chance.sum(-1, keepdim=True).clamp(min=_LEAST)


def _middles(cells: int, maps: Tensor) -> Tensor:
    """Middles of cells along an axis, from -1 to 1 between the film's borders, on the device of some maps."""
    return (torch.arange(cells, device=maps.device) + 0.5) / cells * 2 - 1


def _gaussians(centre: Tensor, width: Tensor, size: tuple[int, int], height: Tensor | float = 0.0) -> Tensor:
    """Logits of Gaussians on the cells of a film.

    Args:
        centre: (B, K, 2) x, y; the film's borders are at -1 and 1.
        width: (B, K, 2), or (B, K, 1) for both axes, in halves of the film's sides; B may be 1.
        size: Numbers of rows and columns h, w.
        height: (K,) logits at the centres.

    Returns:
        (B, h, w, K) float32.
    """
    width = width.expand(-1, -1, 2)
    across, down = (
        -0.5 * ((_middles(cells, centre)[:, None] - centre[:, None, :, axis]) / width[:, None, :, axis]).square()
        for axis, cells in enumerate(reversed(size))
    )
    return (down + height)[:, :, None] + across[:, None]


class Regions(nn.Module):
    """Regions of films, and how the history of a reading weighs them; sums are in float32, whatever the precision.

    Args:
        count: Number of regions K, at least 2.
        width: Length of the history's states and of the film's features.
        stride: Side of a cell in pixels.
    """

    #: As :attr:`gazelit.models.encoder.Encoder.with_weights`.
    with_weights: ClassVar[tuple[str, ...]] = ("log_weights",)

    def __init__(self, count: int, width: int, stride: int) -> None:
        super().__init__()
        self.count, self.stride = count, stride
        # A constant is nothing in a softmax over the film.
        self.evidence = nn.Conv2d(width, _POINTS * count, 1, bias=False)
        self.heat = nn.Conv2d(width, count, 1)
        # Films are higher than wide or square: more rows of tiles than columns.
        down = round(math.sqrt(1.5 * count))
        across = math.ceil(count / down)
        tile = torch.arange(count)
        middle = torch.stack([(tile % across + 0.5) / across, (tile // across + 0.5) / down], 1)
        # Where evidence is looked for, and from where places are measured; a width is in halves of the film's sides.
        self.tile_centre = nn.Parameter(2 * middle - 1)
        self.tile_log_width = nn.Parameter(torch.full((count, 1), -math.log(across)))
        # Of the region's own Gaussian along x and y, beside 1 / across: at 0 it is as wide as a tile's.
        self.log_width = nn.Parameter(torch.zeros(count, 2))
        self.tile_width = 1 / across
        # Films differ in the length that a pixel stands for.
        self.film_log_width = nn.Linear(width, 2)
        nn.init.zeros_(self.film_log_width.weight)
        nn.init.zeros_(self.film_log_width.bias)
        # By how much each point moves all places, for each step from its tile's middle.
        self.together = nn.Parameter(torch.zeros(2 * count, 2 * _POINTS * count))
        self.own = nn.Parameter(0.1 * torch.randn(count, width))
        self.content = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.near = nn.Linear(width, 1 + len(_DISTANCES))
        with torch.no_grad():
            self.near.weight.zero_()
            self.near.bias.copy_(torch.eye(1 + len(_DISTANCES))[0])

    def forward(self, features: Tensor) -> RegionMaps:
        """The regions of films: (B, width, h, w) features."""
        with torch.autocast(features.device.type, enabled=False):
            size = features.shape[-2], features.shape[-1]
            # Regions are the last axis in memory: a fixation reads those of a cell. Autocast gives half precision.
            features = features.to(self.own.dtype).flatten(2).mT
            points = torch.cartesian_prod(*(_middles(cells, features) for cells in size)).flip(-1)
            logits = self._logits(features, points, size)
            log_size, chance = logits.logsumexp(1), logits.softmax(1)
            pixels = ((points + 1) * points.new_tensor(size[::-1]) * self.stride - 1) / 2
            # All means at once, because chances are large.
            weighed = torch.cat([pixels, pixels.square()], 1).expand(chance.shape[0], -1, -1)
            means = chance.mT @ torch.cat([weighed, features.float()], -1)
            centre, squares, seen = means.split([2, 2, features.shape[-1]], -1)
            # A region of a single cell is as wide as the cell's spline.
            variance = (squares - centre.square()).mean(-1).clamp(min=0) + SPLINE_VARIANCE * self.stride**2
            token = self.own + self.content(seen.to(self.own.dtype))
            log_static = anywhere((chance @ log_size.softmax(-1)[..., None])[..., 0], points.shape[0])
            film = torch.arange(chance.shape[0], device=chance.device)
            chance, log_static = chance.mT.unflatten(-1, size), log_static.unflatten(-1, size)
            return RegionMaps(chance, log_size, token, centre, variance, log_static, film)

    def _logits(self, features: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits of where the eye lands in regions, (B, cells, K) float32; a region may lie outside the film.

        Args:
            features: (B, cells, width).
            points: (cells, 2) x, y of the cells' middles; the film's borders are at -1 and 1.
            size: Numbers of rows and columns.
        """
        assert self.heat.bias is not None
        shown = (features @ torch.cat([self.evidence.weight, self.heat.weight]).flatten(1).mT).float()
        evidence, heat = shown.split([_POINTS * self.count, self.count], -1)
        tiles = _gaussians(self.tile_centre.float()[None], self.tile_log_width.float().exp()[None], size).flatten(1, 2)
        found = (evidence + tiles.repeat(1, 1, _POINTS)).softmax(1).mT @ points
        moved = found.unflatten(1, (_POINTS, self.count)) - self.tile_centre.float()
        correction = moved.flatten(1) @ self.together.float().mT
        position = found[:, : self.count] + correction.unflatten(1, (self.count, 2))
        log_width = _WIDTH_RATE * self.log_width.float() + self.film_log_width(features.mean(1)).float()[:, None]
        width = log_width.clamp(-_EXTREME, _EXTREME).exp() * self.tile_width
        narrowest = width.new_tensor([2 * _NARROWEST / cells for cells in reversed(size)])
        width = (width.square() + narrowest.square()).sqrt()
        about = _gaussians(position, width, size, self.heat.bias.float())
        return heat + about.flatten(1, 2)

    def log_weights(self, maps: RegionMaps, before: Tensor, sequences: Sequences, first: int = 0) -> Tensor:
        """Logarithms of the regions' weights before N fixations of each reading, up to a constant and what was seen.

        Args:
            maps: Of each reading's film.
            before: (S, N, width) states before the fixations.
            sequences: The S readings of T fixations.
            first: Number, from 0, of the fixation that ``before`` begins with.

        Returns:
            (S, N, K) float32; what was seen adds to it (:mod:`gazelit.models.inhibition`).
        """
        with torch.autocast(before.device.type, enabled=False):
            before = before.to(self.own.dtype)
            number = first + torch.arange(before.shape[1], device=before.device)
            alike = (self.query(before) @ maps.token.mT).float() / math.sqrt(maps.token.shape[-1])
            without_history = maps.log_size[:, None] + alike
            if not sequences.valid.shape[1]:
                return without_history
            return without_history + self._nearness(maps, before, number, sequences)

    def at(self, maps: RegionMaps, position: Tensor) -> Tensor:
        """Each region's chance at some positions, interpolated: (S, T, 2) x, y in pixels to (S, T, K) float32."""
        return at_positions(maps.chance, position, self.stride, maps.film)

    def share(self, maps: RegionMaps, sequences: Sequences) -> Tensor:
        """Chance that each fixation was about each region, by its place alone, (S, T, K) float32; 0 for padding.

        Args:
            maps: Of each reading's film.
            sequences: The readings.
        """
        return self._share_at(maps, sequences.position) * sequences.valid[..., None]

    def _share_at(self, maps: RegionMaps, position: Tensor) -> Tensor:
        """Chance that a look at each position, (S, T, 2) pixels, was about each region, (S, T, K)."""
        return region_chance(maps.log_size[:, None], self.at(maps, position))

    def _nearness(self, maps: RegionMaps, before: Tensor, number: Tensor, sequences: Sequences) -> Tensor:
        """What regions gain by being near what the last fixation was about, (S, N, K); nothing before the first."""
        last = sequences.position[:, (number - 1).clamp(0, sequences.valid.shape[1] - 1)]
        # The eye lands beside what it was sent to, and goes on from there to what is near that.
        share = self._share_at(maps, last)
        aim = share @ maps.centre + (1 - share.sum(-1, keepdim=True)) * last
        longer = self.stride * max(maps.cells)
        # The square root has no slope at 0.
        distance = ((aim[:, :, None] - maps.centre[:, None]) / longer).square().sum(-1).add(1e-6).sqrt()
        kinds = [-_FALL * distance, *((-0.5 * (distance / width).square()).exp() for width in _DISTANCES)]
        gained = (torch.stack(kinds, -1) * self.near(before).float()[:, :, None]).sum(-1)
        return gained * (number > 0)[:, None]
