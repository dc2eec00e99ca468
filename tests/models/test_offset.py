"""The tracker's error of a reading: against quadrature, scipy's roots, and the closed form of a Gaussian law."""

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from gazelit.errors import InputError
from gazelit.models import EncoderSpec, ScanpathNetwork
from gazelit.models.offset import Offset, looked_at, recorded_at
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
        torch.tensor(CENTRES, dtype=torch.float32), torch.full((2,), LANDING**2), chance.mean(0).log(),
    )  # fmt: skip
    return RegionMaps(*(part.expand(readings, *part.shape) for part in whole), torch.arange(readings))


def follower(spread=ERROR):
    offset = Offset(1)
    with torch.no_grad():
        offset.log_spread.fill_(np.log(spread / (0.005 * SIDE)))
    return offset, Regions(2, 8, 1)


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
    look, log_slope = looked_at(sequences.position, error, (SIDE, SIDE))
    followed = regions.at(maps, look).mean(-1).log() + log_slope
    not_followed = regions.at(maps, sequences.position).mean(-1).log()
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


def test_in_the_middle_the_error_is_taken_off_and_the_border_stays():
    offset = torch.tensor([1.5, -2.0])
    look, log_slope = looked_at(torch.tensor([[31.5, 47.5], [-0.5, -0.5], [63.5, 95.5]]), offset, (96, 64))
    assert look[0].tolist() == pytest.approx([30, 49.5])
    assert look[1:].tolist() == [[-0.5, -0.5], [63.5, 95.5]]
    assert log_slope[0].item() == pytest.approx(0)


@pytest.mark.parametrize("offset", [(0.0, 0.0), (1.7, -3.9), (50.0, -50.0)])
def test_every_place_on_the_film_is_recorded_once(offset):
    offset = torch.tensor(offset, dtype=torch.float64)
    rng = np.random.default_rng(3)
    recorded = torch.tensor(rng.random((40, 2)) * [64, 96] - 0.5)
    look, log_slope = looked_at(recorded, offset, (96, 64))
    assert torch.allclose(recorded_at(look, offset, (96, 64)), recorded, atol=1e-9)
    # The slope is that of scipy's derivative, and the inverse scipy's root.
    for axis, side in ((0, 64), (1, 96)):

        def found(value, axis=axis):
            point = torch.zeros(2, dtype=torch.float64)
            point[axis] = value
            return looked_at(point, offset, (96, 64))[0][axis].item()

        for number in range(0, 40, 8):
            goal = look[number, axis].item()
            root = optimize.brentq(lambda value, goal=goal, found=found: found(value) - goal, -0.5, side - 0.5)
            assert root == pytest.approx(recorded[number, axis].item(), abs=1e-6)
    steps = torch.eye(2, dtype=torch.float64) * 1e-6
    slopes = [
        (looked_at(recorded + step, offset, (96, 64))[0] - look)[:, axis] / 1e-6 for axis, step in enumerate(steps)
    ]
    assert torch.allclose((slopes[0] * slopes[1]).log(), log_slope, atol=1e-5)


def test_there_must_be_regions():
    with pytest.raises(InputError, match="regions: must be at least 2, not 1"):
        ScanpathNetwork(EncoderSpec("densenet-small"), regions=1)
