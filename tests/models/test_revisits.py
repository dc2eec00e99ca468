"""Looks near past fixations: densities against products that numpy normalises, and weights of the past alone."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from gazelit.models.regions import Regions
from gazelit.models.revisits import Revisits
from gazelit.models.sequences import Sequences

STRIDE, ROWS, COLUMNS = 4, 6, 5


def parts(readings=2, length=3):
    torch.manual_seed(0)
    regions, revisits = Regions(4, 8, STRIDE), Revisits(8, 10, STRIDE)
    maps = regions(torch.randn(readings, 8, ROWS, COLUMNS))
    xy = torch.rand(readings, length, 2) * torch.tensor([COLUMNS, ROWS]) * STRIDE - 0.5
    unknown = torch.zeros(readings, dtype=torch.int64)
    looks = Sequences.alone(xy, torch.full((readings, length), 0.3), unknown, unknown)
    return revisits, maps, looks


def expected(maps, looks, widths):
    """(S, J, h, w) by numpy: the static map times a Gaussian about each look, each of sum 1."""
    rows, columns = ((np.arange(count) + 0.5) * STRIDE - 0.5 for count in (ROWS, COLUMNS))
    found = []
    for static, points in zip(maps.log_static.exp().detach().numpy(), looks.position.numpy(), strict=True):
        for width in widths:
            for x, y in points:
                product = static * np.outer(stats.norm.pdf(rows, y, width), stats.norm.pdf(columns, x, width))
                found.append(product / product.sum())
    return np.reshape(found, (len(looks.position), -1, ROWS, COLUMNS))


def test_each_is_the_static_map_times_a_gaussian():
    revisits, maps, looks = parts()
    widths = revisits.log_width.exp().detach().numpy() * STRIDE * ROWS
    assert widths == pytest.approx([0.36, 0.72, 1.92])
    with torch.no_grad():
        # Narrower than a cell, a Gaussian may have no cell within its reach.
        revisits.log_width.add_(1.5)
    widths = revisits.log_width.exp().detach().numpy() * STRIDE * ROWS
    near, by_numpy = revisits.near(maps, looks), expected(maps, looks, widths)
    one_by_one = torch.eye(by_numpy.shape[1]).expand(2, -1, -1)
    assert near.chances(one_by_one).detach().numpy() == pytest.approx(by_numpy, rel=1e-3, abs=1e-7)
    weight = torch.rand(2, 1, by_numpy.shape[1])
    summed = (weight.numpy()[:, 0, :, None, None] * by_numpy).sum(1)
    assert near.chances(weight)[:, 0].detach().numpy() == pytest.approx(summed, rel=1e-3)


def test_at_a_place_it_is_interpolated_as_scipy_does():
    revisits, maps, looks = parts()
    with torch.no_grad():
        revisits.log_width.add_(1.5)
        near, places = revisits.near(maps, looks), torch.rand(2, 7, 2) * 20 - 0.5
        found = near.at(places, STRIDE).numpy()
        grids = near.chances(torch.eye(9).expand(2, -1, -1)).numpy()
    cells = ((places.numpy() + 0.5) / STRIDE - 0.5)[..., ::-1]
    for reading in range(2):
        for number, each in enumerate(grids[reading]):
            by_scipy = ndimage.map_coordinates(each, cells[reading].T, order=2, mode="reflect", prefilter=False)
            assert found[reading, :, number] == pytest.approx(by_scipy, abs=1e-5)


def test_only_what_is_past_and_no_padding_has_a_weight():
    revisits, _, looks = parts()
    valid = looks.valid.clone()
    valid[1, 2] = False
    states = torch.randn(2, 3, 8)
    weight = revisits.log_weights(states, states, valid).unflatten(-1, (3, 3)).isfinite()
    past = torch.ones(3, 3).tril(-1).bool()
    assert torch.equal(weight[0], past[:, None].expand(-1, 3, -1))
    # Before its last fixation a reading has two, and the second reading has no third.
    after = revisits.log_weights(states[:, :1], states, valid, first=3).unflatten(-1, (3, 3)).isfinite()
    assert after[:, 0, 0].tolist() == [[True, True, True], [True, True, False]]
    assert revisits.log_weights(states[:, :1], states[:, :0], valid[:, :0]).shape == (2, 1, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_densities_are_in_full_precision_under_autocast(dtype):
    revisits, maps, looks = parts()
    places, weight = torch.rand(2, 7, 2) * 20, torch.rand(2, 7, 9)

    def found():
        near = revisits.near(maps, looks)
        return near.at(places, STRIDE), near.chances(weight), near.chances(weight[:, :1]), maps.summed(weight[..., :4])

    plain = found()
    with torch.autocast("cpu", dtype=dtype):
        mixed = found()
    assert all(torch.equal(*pair) for pair in zip(plain, mixed, strict=True))
