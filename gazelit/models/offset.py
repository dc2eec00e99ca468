"""The tracker's constant error of a reading, estimated as the reading goes on and taken off its positions.

A calibrated tracker still errs by some tenths of a degree, in one direction throughout a recording (Hornof and
Halverson, Behav Res Methods 2002), and the film's organs tell in which. If the eye lands in region k with mean c and
variance v, and the error has a normal prior about the reader's own mean, then the error's mean after some fixations is
that of the Kalman filter: each fixation's distance from c, weighted by 1 / v and by the chance that it was about k.

A fixation that is recorded on the film lies on the film, whatever the error. So the error is taken off in full in the
film's middle and less and less towards its border, which stays where it is: a density of looks is one of what is
recorded, times a slope.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gazelit.models.regions import RegionMaps, Regions
from gazelit.models.sequences import Sequences

#: 1 − u to this power is the share of the error that is taken off; u is 0 in the film's middle and ±1 at its borders.
_FLAT = 8
#: The greatest error that is taken off, as a share of a side. With it the slope stays above 0.
_GREATEST = 0.05
#: Newton's steps from a look to where it is recorded.
_STEPS = 12

#: Spread of the error before training, as a share of the film's longer side.
_SPREAD = 0.005


class Offset(nn.Module):
    """Estimates, before each fixation, how far the tracker is off; sums are in float32.

    Args:
        readers: Number of readers that are learned; entry 0 is an unknown reader.
    """

    def __init__(self, readers: int) -> None:
        super().__init__()
        self.mean = nn.Embedding(readers + 1, 2)
        # Of an unknown reader the spread is that of readers and readings, of a known one that of readings.
        self.log_spread = nn.Parameter(torch.zeros(2, 2))
        nn.init.zeros_(self.mean.weight)

    def forward(self, regions: Regions, maps: RegionMaps, sequences: Sequences) -> Tensor:
        """The error before each fixation of S readings of T fixations, and after the last.

        Args:
            regions: Tells which region a fixation is about.
            maps: Of each reading's film.
            sequences: The readings, as recorded.

        Returns:
            (S, T + 1, 2) float32 x, y in pixels, to be taken off what is recorded.
        """
        found = self.evidence(regions, maps, sequences)
        # Sums over the fixations before each, as a product: a running sum has no deterministic form on CUDA.
        earlier = found.new_ones(found.shape[1] + 1, found.shape[1]).tril(-1)
        with torch.autocast(found.device.type, enabled=False):
            return self.estimate(earlier @ found, regions, maps, sequences.reader)

    def evidence(self, regions: Regions, maps: RegionMaps, sequences: Sequences) -> Tensor:
        """What each fixation tells of the error, to be added up; arguments as in :meth:`forward`.

        Returns:
            (S, T, 3) float32: x and y of its distance from where it was expected, times its weight; and the weight.
        """
        with torch.autocast(maps.chance.device.type, enabled=False):
            weight = regions.share(maps, sequences) / maps.variance[:, None]
            whole = weight.sum(-1, keepdim=True)
            return torch.cat([whole * sequences.position.float() - weight @ maps.centre, whole], -1)

    def estimate(self, evidence: Tensor, regions: Regions, maps: RegionMaps, reader: Tensor) -> Tensor:
        """The mean of the error, (S, N, 2) float32 pixels, from (S, N, 3) evidence that is added up.

        Args:
            evidence: Sums of :meth:`evidence`.
            regions: As in :meth:`forward`.
            maps: As in :meth:`forward`.
            reader: (S,) numbers of the readers.
        """
        unit = _SPREAD * regions.stride * max(maps.cells)
        certainty = (-2 * self.log_spread[(reader > 0).long()].float()).exp()[:, None] / unit**2
        mean = self.mean(reader).float()[:, None] * unit
        return (evidence[..., :2] + certainty * mean) / (evidence[..., 2:] + certainty)


def looked_at(position: Tensor, offset: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where the eye looked, of what the tracker recorded.

    Args:
        position: (…, 2) recorded x, y in pixels on the film, centres at integers.
        offset: (…, 2) the tracker's error in pixels.
        size: Height and width of the film in pixels.

    Returns:
        (…, 2) pixels on the film, and (…) the logarithm of the slope: a density of looks there, times the slope, is
        the density of what is recorded.
    """
    look, slope = zip(*(along(position[..., axis], offset[..., axis], size[1 - axis]) for axis in (0, 1)), strict=True)
    return torch.stack(look, -1), torch.stack(slope, -1).log().sum(-1)


def recorded_at(look: Tensor, offset: Tensor, size: tuple[int, int]) -> Tensor:
    """Where the tracker records a look, the inverse of :func:`looked_at`; arguments likewise."""
    axes = []
    for axis in (0, 1):
        side, target, error = size[1 - axis], look[..., axis].double(), offset[..., axis].double()
        position = target
        for _ in range(_STEPS):
            found, slope = along(position, error, side)
            position = (position - (found - target) / slope).clamp(-0.5, side - 0.5)
        axes.append(position.to(look.dtype))
    return torch.stack(axes, -1)


def along(position: Tensor, offset: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """:func:`looked_at` along an axis: looks, and their slope, of (…) positions on a ``side`` of some pixels."""
    offset = offset.clamp(-_GREATEST * side, _GREATEST * side)
    middle = (position + 0.5) * 2 / side - 1
    return position - offset * (1 - middle**_FLAT), 1 + offset * 2 / side * _FLAT * middle ** (_FLAT - 1)
