"""The tracker's error of a reading: against quadrature, scipy's shift, and the closed form of a Gaussian law."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from gazelit.errors import InputError
from gazelit.models import EncoderSpec, ScanpathNetwork
from gazelit.models.density_grid import log_density_at, moved
from gazelit.models.offset import Offset
from gazelit.models.regions import RegionMaps, Regions
from gazelit.models.sequences import Sequences

SIDE = 64
CENTRES = np.array([[14.0, 20.0], [48.0, 41.0]])
LANDING, ERROR = 2.5, 1.5


def blobs(readings):
    """Two Gaussian regions, far apart, on a grid with a cell a pixel."""
    axes = [stats.norm.pdf(np.arange(SIDE), centre, LANDING) for centre in CENTRES.ravel()]
    chance = torch.tensor(np.stack([np.outer(axes[1], axes[0]), np.outer(axes[3], axes[2])]), dtype=torch.float32)
    whole = (
        chance / chance.sum((1, 2), keepdim=True), torch.zeros(2), torch.zeros(2, 8),
        torch.tensor(CENTRES, dtype=torch.float32), torch.full((2,), LANDING**2),
    )  # fmt: skip
    return RegionMaps(*(part.expand(readings, *part.shape) for part in whole))


def follower(spread=ERROR):
    offset = Offset(1)
    with torch.no_grad():
        offset.log_spread.fill_(np.log(spread / (0.005 * SIDE)))
    return offset, Regions(2, 8, 50, 1)


def biased(readings, length, rng):
    """Readings of both regions by a tracker with a constant error: what is recorded, and the regions."""
    target = rng.integers(0, 2, (readings, length))
    error = rng.normal(0, ERROR, (readings, 1, 2))
    position = CENTRES[target] + error + rng.normal(0, LANDING, (readings, length, 2))
    unknown = torch.zeros(readings, dtype=torch.int64)
    xy = torch.tensor(position, dtype=torch.float32)
    return Sequences.alone(xy, torch.full((readings, length), 0.3), unknown, unknown), target


def test_the_estimate_is_the_mean_of_the_posterior():
    sequences, target = biased(3, 7, np.random.default_rng(0))
    offset, regions = follower()
    with torch.no_grad():
        found = offset(regions, blobs(3), sequences)
    grid = np.linspace(-12, 12, 4001)
    for reading in range(3):
        for axis in range(2):
            log = stats.norm.logpdf(grid, 0, ERROR)
            for number in range(8):
                density = np.exp(log - log.max())
                mean = (grid * density).sum() / density.sum()
                assert found[reading, number, axis].item() == pytest.approx(mean, abs=1e-3)
                if number < 7:
                    away = sequences.position[reading, number, axis].item() - CENTRES[target[reading, number], axis]
                    log = log + stats.norm.logpdf(away, grid, LANDING)


def test_later_fixations_are_as_likely_as_by_the_law_and_more_likely_than_without():
    sequences, target = biased(400, 30, np.random.default_rng(1))
    offset, regions = follower()
    maps = blobs(400)
    with torch.no_grad():
        error = offset(regions, maps, sequences)[:, :-1]
    own = maps.log_chance(torch.zeros(400, 30, 2))
    followed = log_density_at(moved(own, error, 1), sequences.position, 1)
    not_followed = log_density_at(own, sequences.position, 1)
    # Both regions are equally likely, and the error is known but for what 20 fixations or more leave open.
    left = 1 / (1 / ERROR**2 + np.arange(20, 30) / LANDING**2)
    by_law = -np.log(2) - np.log(2 * np.pi * np.e * (LANDING**2 + left))
    assert followed[:, 20:].mean().item() == pytest.approx(by_law.mean(), abs=0.03)
    without = -np.log(2) - np.log(2 * np.pi * LANDING**2) - (1 + ERROR**2 / LANDING**2)
    assert not_followed[:, 20:].mean().item() == pytest.approx(without, abs=0.1)
    assert by_law.mean() > without + 0.2
    assert len(np.unique(target)) == 2


def test_a_readers_own_error_is_the_estimate_before_the_first_fixation():
    sequences, _ = biased(2, 1, np.random.default_rng(2))
    offset, regions = follower()
    with torch.no_grad():
        offset.mean.weight[1] = torch.tensor([5.0, -2.0])
        found = offset(regions, blobs(2), sequences._replace(reader=torch.tensor([0, 1])))
    assert found[:, 0].tolist() == [[0, 0], pytest.approx([5 * 0.005 * SIDE, -2 * 0.005 * SIDE])]


def test_an_unknown_readers_error_has_a_spread_of_its_own():
    sequences, _ = biased(1, 1, np.random.default_rng(4))
    sequences = Sequences(*(part.repeat(2, *[1] * (part.ndim - 1)) for part in sequences))
    offset, regions = follower()
    with torch.no_grad():
        offset.log_spread[0] += np.log(2)
        found = offset(regions, blobs(2), sequences._replace(reader=torch.tensor([0, 1])))[:, 1]
    # What a fixation moves the estimate by, as a share of its distance: the Kalman gain of each prior.
    gain = [spread**2 / (spread**2 + LANDING**2) for spread in (2 * ERROR, ERROR)]
    assert (found[0] / found[1]).tolist() == pytest.approx([gain[0] / gain[1]] * 2, rel=1e-3)


@pytest.mark.parametrize("stride", [1, 4])
def test_a_moved_grid_is_scipys(stride):
    rng = np.random.default_rng(3)
    log_chance = torch.tensor(np.log(rng.dirichlet(np.ones(12 * 9), 3).reshape(3, 12, 9)), dtype=torch.float32)
    offset = torch.tensor([[0.0, 0.0], [1.3, -2.6], [-7.0, 3.1]]) * stride
    found = moved(log_chance, offset, stride).exp().numpy()
    for grid, (x, y), result in zip(log_chance.numpy(), (offset / stride).tolist(), found, strict=True):
        expected = np.exp(ndimage.shift(grid, (y, x), order=1, mode="nearest"))
        assert result == pytest.approx(expected / expected.sum(), rel=1e-4)


def test_there_must_be_regions():
    with pytest.raises(InputError, match="follow_offset: needs regions"):
        ScanpathNetwork(EncoderSpec("densenet-small"), follow_offset=True)
