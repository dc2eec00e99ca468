"""Replaces very many gaze points by the few nodes of a coarse grid that give the same map."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: From this many points of an image on they are binned.
BINNED = 4096
#: Each point becomes weights on so many nodes an axis, which keep as many of its moments.
TAPS = 8
#: σ of a class of points over the distance between nodes.
NODES_PER_SIGMA = 3.0
#: A class holds points whose σ² differs by this share at most from that of the class, either way.
SPREAD = 0.1
#: Fewer points a class are rendered one by one, and so is a σ that is hardly wider than a pixel.
FEWEST = 1024
NARROWEST = 2.0
#: With more nodes than this for each point they would cost more than the points.
MOST_NODES = 20


def add_binned(density: Tensor, nearest: Tensor, offset: Tensor, scale: Tensor, weight: Tensor) -> NDArray[np.bool_]:
    """Adds to a map those of one image's points that can be binned.

    Convolved with a Gaussian, weights on the nodes of a grid make the same map as a point if they have its moments:
    with 8 nodes an axis, a third of σ apart, the first eight of them, the map differs by some 1e-5 of its mass. The
    moments are those of a Gaussian as wide as the point's σ exceeds the class's, so that a class holds points of
    different σ. (An interpolation in the manner of fast Gauss transforms: Greengard and Strain 1991.)

    Args:
        density: (H, W) map.
        nearest: (N, 2) nearest pixel.
        offset: (N, 2) from the point to it.
        scale: (N, 2) −1/2σ².
        weight: (N,) height of the point's Gaussian at that pixel.

    Returns:
        (N,) bool: which points are not binned, and have to be added one by one.
    """
    position = (nearest - offset).double().numpy()
    variance = -0.5 / scale.double().numpy()
    # Of a point on the grid the height at the nearest pixel is hardly less than at the point itself.
    height = weight.double().numpy() * np.exp((0.5 * offset.double().numpy() ** 2 / variance).sum(1))
    last = np.array(density.shape[::-1]) - 1
    within = ((position >= -0.5) & (position <= last + 0.5) & (variance >= NARROWEST**2)).all(1)
    width = np.log1p(SPREAD) - np.log1p(-SPREAD)
    lowest = variance[within].min(axis=0, initial=np.inf)
    steps = np.zeros((len(position), 2), np.int64)
    steps[within] = np.floor(np.log(variance[within] / lowest) / width)
    name = np.where(within, steps[:, 1] * (steps[:, 0].max() + 1) + steps[:, 0], -1)
    left = np.asarray(~within, bool)
    for number, count in zip(*np.unique(name[within], return_counts=True), strict=True):
        members = name == number
        # The class's own σ² has that of its narrowest and of its widest point as far away.
        common = (variance[members].min(axis=0) + variance[members].max(axis=0)) / 2
        nodes = np.prod(np.ptp(position[members], axis=0) * NODES_PER_SIGMA / np.sqrt(common) + TAPS)
        if count < FEWEST or nodes > MOST_NODES * count:
            left[members] = True
        else:
            _add_class(density, position[members], variance[members], height[members], common)
    return left


def _add_class(
    density: Tensor,
    position: NDArray[np.float64],
    variance: NDArray[np.float64],
    height: NDArray[np.float64],
    common: NDArray[np.float64],
) -> None:
    sigma = np.sqrt(common)
    spacing = sigma / NODES_PER_SIGMA
    low = position.min(axis=0) - (TAPS // 2) * spacing
    nodes = np.ceil((position.max(axis=0) - low) / spacing).astype(np.int64) + TAPS
    first, weights = zip(
        *(
            _stencil((position[:, k] - low[k]) / spacing[k], (variance[:, k] - common[k]) / spacing[k] ** 2)
            for k in (0, 1)
        ),
        strict=True,
    )
    # The height of a Gaussian of the class whose integral is the point's.
    height = height * np.sqrt((variance / common).prod(axis=1))
    bins = np.zeros(nodes[0] * nodes[1])
    for row in range(TAPS):
        node = (first[1] + row) * nodes[0] + first[0]
        for column in range(TAPS):
            bins += np.bincount(node + column, height * weights[1][row] * weights[0][column], len(bins))
    columns, rows = (
        np.exp(-0.5 * ((np.arange(length) - (low[k] + spacing[k] * np.arange(nodes[k]))[:, None]) / sigma[k]) ** 2)
        for k, length in ((0, density.shape[1]), (1, density.shape[0]))
    )
    grid = torch.from_numpy(bins.reshape(nodes[1], nodes[0]).astype(np.float32))
    columns, rows = (torch.from_numpy(profile.astype(np.float32)) for profile in (columns, rows))
    density.add_((rows.T @ (grid @ columns)).clamp_(min=0))


def _stencil(
    position: NDArray[np.float64], variance: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Weights on nodes at integers with the first moments of Gaussians, of any variance, negative too.

    Returns:
        (N,) first of the nodes, (TAPS, N) their weights.
    """
    base = np.floor(position)
    first = base.astype(np.int64) - (TAPS // 2 - 1)
    mean = position - base - 0.5
    moments = [np.ones_like(mean), mean]
    for power in range(1, TAPS - 1):
        moments.append(mean * moments[power] + power * variance * moments[power - 1])
    nodes = np.arange(TAPS) - (TAPS - 1) / 2
    return first, np.linalg.inv(np.vander(nodes, increasing=True).T) @ np.array(moments)
