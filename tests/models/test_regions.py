"""Regions of films: a mixture weighted by the reading's history, against laws whose entropy is known."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from gazelit.models.inhibition import Inhibition
from gazelit.models.regions import _WIDTH_RATE, RegionMaps, Regions, anywhere
from gazelit.models.sequences import Sequences

STRIDE = 4


def readings(xy, seconds=0.3):
    count, length = xy.shape[:2]
    unknown = torch.zeros(count, dtype=torch.int64)
    return Sequences.alone(xy, torch.full((count, length), seconds), unknown, unknown)


def patches(films):
    """Four regions, the quarters of a film of 8 x 8 cells, with uniform density in each."""
    chance = torch.zeros(4, 8, 8)
    for number in range(4):
        row, column = divmod(number, 2)
        chance[number, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1 / 16
    middle = torch.tensor([[7.5, 7.5], [23.5, 7.5], [7.5, 23.5], [23.5, 23.5]])
    whole = (chance, torch.zeros(4), torch.eye(4).repeat(1, 4), middle, torch.full((4,), 20.0), chance.mean(0).log())
    return RegionMaps(*(part.expand(films, *part.shape) for part in whole), torch.arange(films))


def learned_nats(targets, scatter=12.0, steps=400):
    """Nats of each fixation, (T,), after the history's weights were trained on readings of the four quarters."""
    torch.manual_seed(0)
    regions, inhibition = Regions(4, 16, STRIDE), Inhibition(16)
    maps = patches(len(targets))
    number = torch.as_tensor(targets)
    spread = (torch.rand(*targets.shape, 2) - 0.5) * scatter
    sequences = readings(maps.centre[0][number] + spread)
    before = torch.zeros(len(targets), targets.shape[1], 16)
    at = regions.at(maps, sequences.position)
    optimizer = torch.optim.Adam([*regions.parameters(), *inhibition.parameters()], lr=0.05)
    for _ in range(steps):
        log_weight = inhibition(maps.token, regions.log_weights(maps, before, sequences), at).log_softmax(-1)
        nats = -log_weight.gather(2, number[..., None])[..., 0]
        optimizer.zero_grad()
        nats.mean().backward()
        optimizer.step()
    return nats.mean(0).detach()


def test_each_region_is_seen_once_and_never_again():
    rng = np.random.default_rng(0)
    targets = np.array([rng.permutation(4) for _ in range(400)])
    # Numbers of regions that are left at each fixation, all equally likely.
    expected = torch.tensor([4.0, 3.0, 2.0, 1.0]).log()
    assert torch.allclose(learned_nats(targets), expected, atol=0.06)


def test_the_region_that_is_noticed_first_is_looked_at_again_and_again():
    rng = np.random.default_rng(2)
    targets = np.repeat(rng.integers(0, 4, (400, 1)), 4, axis=1)
    assert torch.allclose(learned_nats(targets), torch.tensor([math.log(4), 0, 0, 0]), atol=0.06)


def test_a_region_is_left_for_one_fixation_and_then_as_likely_as_before():
    rng = np.random.default_rng(3)
    targets = rng.integers(0, 4, (400, 1))
    for _ in range(5):
        targets = np.column_stack([targets, (targets[:, -1] + rng.integers(1, 4, len(targets))) % 4])
    expected = torch.tensor([4.0, *[3.0] * 5]).log()
    assert torch.allclose(learned_nats(targets, scatter=2.0), expected, atol=0.06)


def test_the_next_region_is_a_neighbour_of_the_last():
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 4, (400, 1))
    for _ in range(3):
        # The next region is beside or below the last, never diagonal.
        targets = np.column_stack([targets, targets[:, -1] ^ rng.choice([1, 2], len(targets))])
    nats = learned_nats(targets, scatter=2.0)
    assert nats[0] == pytest.approx(math.log(4), abs=0.02)
    assert nats[1] == pytest.approx(math.log(2), abs=0.06)


def test_the_static_map_is_the_sum_of_the_regions_in_their_sizes():
    torch.manual_seed(0)
    maps = Regions(3, 8, STRIDE)(torch.randn(2, 8, 6, 5))
    for number in range(2):
        expected = np.average(maps.chance[number].detach(), axis=0, weights=maps.log_size[number].exp().detach())
        # A share of 1e-4 is spread over the film's 30 cells.
        expected = (1 - 1e-4) * expected + 1e-4 / 30
        assert maps.log_static[number].exp().detach().numpy() == pytest.approx(expected, abs=1e-6)
    assert maps.log_static.exp().sum((1, 2)).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_no_place_is_impossible():
    assert anywhere(torch.tensor([0.0, 1.0]), 100).exp().tolist() == pytest.approx([1e-6, 1 - 1e-4 + 1e-6])


def test_readings_of_a_film_share_its_maps():
    torch.manual_seed(0)
    regions, features = Regions(3, 8, STRIDE), torch.randn(2, 8, 6, 5)
    maps, xy = regions(features), torch.rand(3, 4, 2) * 20
    of_readings = maps.rows(torch.tensor([1, 1, 0]))
    assert of_readings.chance is maps.chance
    copied = regions(features[[1, 1, 0]])
    assert torch.allclose(regions.at(of_readings, xy), regions.at(copied, xy), atol=1e-6)
    assert torch.allclose(of_readings.token, copied.token, atol=1e-6)
    weight = torch.rand(3, 2, 3)
    expected = np.einsum("snk,skyx->snyx", weight.numpy(), copied.chance.detach().numpy())
    assert of_readings.summed(weight).detach().numpy() == pytest.approx(expected, abs=1e-6)


def blind(count, width=8):
    """Regions that see nothing of a film yet."""
    torch.manual_seed(0)
    regions = Regions(count, width, STRIDE)
    with torch.no_grad():
        for parameter in (regions.evidence.weight, regions.heat.weight, regions.heat.bias):
            parameter.zero_()
    return regions


def set_width(regions, across, down, cells):
    """Regions as wide as so many cells along x and y, on films of (h, w) cells."""
    width = torch.tensor([2 * across / cells[1], 2 * down / cells[0]])
    with torch.no_grad():
        regions.log_width[:] = (width / regions.tile_width).log() / _WIDTH_RATE


def test_regions_begin_about_tiles_and_their_middle_is_in_pixels():
    maps = blind(6)(torch.randn(1, 8, 30, 20))
    # Three rows of two regions: the mean of a Gaussian about a tile's middle within the film, and a Gaussian about it.
    for number, (row, column) in enumerate((r, c) for r in range(3) for c in range(2)):
        expected = []
        for middle, cells in (((column + 0.5) / 2, 20), ((row + 0.5) / 3, 30)):
            cell = np.arange(cells) + 0.5
            place = middle * cells
            for least in (0, 0.4):
                place = np.average(cell, weights=stats.norm.pdf(cell, place, np.hypot(0.5 * cells / 2, least)))
            expected.append(place * STRIDE - 0.5)
        assert maps.centre[0, number].tolist() == pytest.approx(expected, abs=1e-3)


def test_a_region_lies_where_its_evidence_is_and_between_cells():
    regions = blind(2, width=3)
    set_width(regions, 1.5, 1.5, (20, 24))
    with torch.no_grad():
        regions.evidence.weight[0, 0] = regions.evidence.weight[1, 1] = 200.0
        # No tile is preferred.
        regions.tile_log_width[:] = 10.0
    features = torch.zeros(1, 3, 20, 24)
    features[0, 0, 9, 7:9] = 1
    features[0, 1, 8:12, 13] = 1
    centre = regions(features).centre[0]
    assert centre[0].tolist() == pytest.approx([8 * STRIDE - 0.5, 9.5 * STRIDE - 0.5], abs=0.02)
    assert centre[1].tolist() == pytest.approx([13.5 * STRIDE - 0.5, 10 * STRIDE - 0.5], abs=0.02)


def test_a_region_that_sees_nothing_is_moved_by_another():
    regions = blind(2, width=1)
    set_width(regions, 1, 1, (20, 24))
    with torch.no_grad():
        regions.evidence.weight[0] = 200.0
        regions.tile_log_width[0] = 10.0
        regions.together[2, 0], regions.together[3, 1] = 0.5, 0.25
    features = torch.zeros(2, 1, 20, 24)
    features[0, 0, 6, 8] = features[1, 0, 9, 14] = 1
    centre = regions(features).centre
    moved = (centre[1] - centre[0]).tolist()
    # The mark lies 6 columns and 3 rows farther on the second film; of two regions in two rows each moves by its share.
    assert moved[0] == pytest.approx([6 * STRIDE, 3 * STRIDE], abs=0.05)
    assert moved[1] == pytest.approx([3 * STRIDE, 0.75 * STRIDE], abs=0.05)


def test_a_region_that_sees_nothing_is_moved_by_a_further_point():
    regions = blind(2, width=1)
    set_width(regions, 1, 1, (20, 24))
    with torch.no_grad():
        # The further point of the second region, which no region has as its place.
        regions.evidence.weight[3] = 200.0
        regions.tile_log_width[:] = 10.0
        regions.together[0, 6], regions.together[1, 7] = 0.5, 0.25
    features = torch.zeros(2, 1, 20, 24)
    features[0, 0, 6, 8] = features[1, 0, 9, 14] = 1
    moved = torch.diff(regions(features).centre, dim=0)[0].tolist()
    assert moved[0] == pytest.approx([3 * STRIDE, 0.75 * STRIDE], abs=0.05)
    assert moved[1] == pytest.approx([0, 0], abs=0.05)


def test_widths_follow_the_film():
    cells = (40, 48)
    regions = blind(1, width=1)
    set_width(regions, 3, 2, cells)
    with torch.no_grad():
        # The logarithm of what a film's mean feature multiplies widths with.
        regions.film_log_width.weight[:] = torch.tensor([[math.log(2)], [math.log(1.5)]])
    spread = np.sqrt(regions(torch.tensor([0.0, 1.0])[:, None, None, None].expand(-1, -1, *cells)).variance.detach())
    expected = [np.sqrt((np.square(width) + 0.4**2).mean() + 1 / 4) for width in ([3, 2], [6, 3])]
    assert (spread[:, 0] / STRIDE).tolist() == pytest.approx(expected, rel=0.03)


def test_the_next_look_is_near_what_the_last_one_was_about():
    """Each look lies beside its region's middle; regions gain by their distance from that middle."""
    torch.manual_seed(0)
    regions, maps = Regions(4, 16, STRIDE), patches(1)
    maps = maps._replace(token=torch.zeros_like(maps.token), log_size=maps.log_size.expand(1, -1))
    found = []
    for beside in (0.0, 4.0):
        xy = maps.centre[:, :1] + beside
        found.append(regions.log_weights(maps, torch.zeros(1, 2, 16), readings(xy.expand(-1, 2, -1)))[0, 1])
    assert torch.allclose(*found, atol=1e-5)
    # Before training a region loses four nats for each longer side of the film between the middles.
    assert (found[0] - found[0][0]).tolist() == pytest.approx([0, -2, -2, -2 * math.sqrt(2)], abs=0.02)


@pytest.mark.parametrize("shift", [-0.5, -0.25, 0.0, 0.4])
@pytest.mark.parametrize(("across", "down"), [(0.6, 2.5), (3.0, 1.0)])
def test_a_region_is_a_gaussian_of_its_widths(across, down, shift):
    cells = (40, 48)
    regions = blind(1, width=1)
    set_width(regions, across, down, cells)
    with torch.no_grad():
        regions.tile_centre[:] = torch.tensor([[2 * (20.5 + shift) / cells[1] - 1, 2 * (17.5 - shift) / cells[0] - 1]])
        regions.tile_log_width[:] = math.log(0.1)
    maps = regions(torch.zeros(1, 1, *cells))
    assert maps.centre[0, 0].tolist() == pytest.approx(
        [(20.5 + shift) * STRIDE - 0.5, (17.5 - shift) * STRIDE - 0.5], abs=0.1 * STRIDE
    )
    spread = np.sqrt([across**2 + 0.4**2, down**2 + 0.4**2]) * STRIDE
    expected = np.square(spread).mean() + STRIDE**2 / 4
    assert maps.variance.item() == pytest.approx(expected, rel=0.03)
    for axis, sigma in ((2, spread[0]), (3, spread[1])):
        marginal = maps.chance.sum(axis)[0, 0].detach().numpy()
        cell = np.arange(len(marginal))
        found = np.sqrt(np.average((cell - np.average(cell, weights=marginal)) ** 2, weights=marginal)) * STRIDE
        assert found == pytest.approx(sigma, rel=0.03)


@pytest.mark.parametrize("place", [0.3, 1.5, -4.0])
@pytest.mark.parametrize("nats", [-200.0, -4.0, 0.0, 200.0])
def test_any_width_and_place_have_finite_maps_and_gradients(nats, place):
    regions = blind(2)
    with torch.no_grad():
        regions.log_width[:] = nats
        regions.tile_centre[0] = place
        regions.together.fill_(0.5)
    features = torch.randn(1, 8, 12, 16)
    maps = regions(features)
    (maps.log_static.mean() + maps.centre.sum() + maps.log_size.sum()).backward()
    assert all(part.isfinite().all() for part in maps)
    assert all(each.grad.isfinite().all() for each in regions.parameters() if each.grad is not None)


def test_readers_look_where_the_film_is_empty():
    """Looks are at a distance from a mark that another region sees: the nats come down to the looks' own spread."""
    torch.manual_seed(0)
    films, cells, spread = 200, 16, 1.2 * STRIDE
    column, row = torch.randint(3, 9, (2, films))
    features = torch.zeros(films, 1, cells, cells)
    features[torch.arange(films), 0, row, column] = 1
    mark = (torch.stack([column, row], -1) + 0.5) * STRIDE - 0.5
    xy = (mark + torch.tensor([4.0, 3.0]) * STRIDE)[:, None] + spread * torch.randn(films, 20, 2)
    regions = Regions(2, 1, STRIDE)
    optimizer = torch.optim.Adam(regions.parameters(), lr=0.03)
    for _ in range(250):
        maps = regions(features)
        nats = -(regions.at(maps, xy)[..., 1] / STRIDE**2).log().mean()
        optimizer.zero_grad()
        nats.backward()
        # The second region sees nothing itself, and moves by the first one's place alone.
        regions.evidence.weight.grad[1:] = 0
        regions.together.grad[2:, 2:] = 0
        optimizer.step()
    assert nats.item() == pytest.approx(2 * stats.norm.entropy(scale=spread), abs=0.12)


def test_weights_in_half_precision_give_about_the_same_and_sums_in_float32():
    torch.manual_seed(0)
    regions, features = Regions(5, 8, STRIDE), torch.randn(2, 8, 6, 6)
    before, sequences = torch.randn(2, 3, 8), readings(torch.rand(2, 3, 2) * 24)
    plain = regions.log_weights(regions(features), before, sequences).log_softmax(-1)
    half = regions.to(torch.bfloat16)
    maps = half(features.to(torch.bfloat16))
    found = half.log_weights(maps, before.to(torch.bfloat16), sequences)
    assert found.dtype == maps.chance.dtype == torch.float32
    assert torch.allclose(maps.chance.sum((2, 3)), torch.ones(2, 5), atol=1e-5)
    assert (found.log_softmax(-1) - plain).abs().max() < 0.05
    found.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype):
    torch.manual_seed(0)
    regions, features = Regions(5, 8, STRIDE), torch.randn(2, 8, 6, 6)
    before, sequences = torch.randn(2, 3, 8), readings(torch.rand(2, 3, 2) * 24)
    plain = regions.log_weights(regions(features), before, sequences)
    with torch.autocast("cpu", dtype=dtype):
        mixed = regions.log_weights(regions(features), before, sequences)
    assert torch.equal(plain, mixed)
