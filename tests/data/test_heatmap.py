"""Fixation density against a float64 sum of Gaussians."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gazelit.data.gaze import heatmap
from gazelit.data.gaze.binning import BINNED
from gazelit.data.gaze.heatmap import fixation_counts, fixation_density, reference_density
from gazelit.errors import InputError


def oracle(points, size, sigma):
    """The sum of Gaussians at the pixel centres, point by point, in float64."""
    ys, xs = np.mgrid[: size[0], : size[1]].astype(float)
    total = np.zeros(size)
    for x, y, weight in points.astype(float):
        total += weight * np.exp(-0.5 * (((xs - x) / sigma[0]) ** 2 + ((ys - y) / sigma[1]) ** 2))
    return total / total.sum()


@pytest.mark.parametrize("sigma", [(5.0, 5.0), (4.0, 9.0)])
def test_equals_the_float64_sum(sigma):
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-3, 130, 45), rng.uniform(-3, 165, 45), rng.uniform(0.1, 1, 45)]).astype(
        np.float32
    )
    density = fixation_density(torch.from_numpy(points), (160, 128), sigma).numpy()
    expected = oracle(points, (160, 128), sigma)
    seen = expected > 1e-30
    assert np.abs(density[seen] / expected[seen] - 1).max() <= 1e-5
    assert density.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)


def test_many_samples_are_as_exact():
    """Raw samples are rendered by other code than a few fixations."""
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.normal(64, 40, 900), rng.normal(150, 90, 900), rng.uniform(0.1, 1, 900)])
    points = points.astype(np.float32)
    density = fixation_density(torch.from_numpy(points), (320, 128), (4.0, 6.0)).numpy()
    expected = oracle(points, (320, 128), (4.0, 6.0))
    seen = expected > 1e-18 * expected.max()
    assert seen.mean() > 0.9
    assert np.abs(density[seen] / expected[seen] - 1).max() <= 1e-5
    few = torch.from_numpy(points).requires_grad_()
    assert np.allclose(density, fixation_density(few, (320, 128), (4.0, 6.0)).detach(), rtol=1e-4, atol=1e-12)


def test_a_sigma_for_each_point():
    """Every point adds a Gaussian with the mass of its weight, whatever its σ: zooming in does not add weight."""
    points = np.array([[20, 30, 1], [50, 60, 2]], np.float32)
    sigma = np.array([[3, 3], [6, 4]], np.float32)
    density = fixation_density(torch.from_numpy(points), (90, 80), torch.from_numpy(sigma)).numpy()
    maps = [oracle(points[[n]], (90, 80), sigma[n]) * points[n, 2] for n in (0, 1)]
    assert np.allclose(density, (maps[0] + maps[1]) / 3, rtol=1e-4, atol=1e-9)
    batch = fixation_density(torch.from_numpy(points)[None], (90, 80), torch.from_numpy(sigma)[None])
    assert np.allclose(batch[0], density, atol=1e-9)


def test_a_point_beside_the_grid_does_not_fill_it():
    near = torch.tensor([[5.0, 5.0, 1.0], [1e4, 5.0, 50.0]])
    assert torch.allclose(fixation_density(near, (16, 16), 2.0), fixation_density(near[:1], (16, 16), 2.0))
    beside = torch.tensor([[1e4, 5.0, 1.0]])
    assert torch.equal(fixation_density(beside, (16, 16), 2.0), torch.zeros(16, 16))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 63), st.floats(0, 31), st.floats(0.01, 5)), min_size=1, max_size=8),
    st.floats(0.5, 20),
    st.integers(0, 5),
)
def test_sums_to_one_and_ignores_padding(rows, sigma, padding):
    points = torch.tensor(rows)
    padded = torch.cat([points, torch.tensor([[float("nan"), 1e9, 0.0]]).repeat(padding, 1)])
    density = fixation_density(points, (32, 64), sigma)
    assert density.sum().item() == pytest.approx(1, abs=1e-4)
    assert torch.allclose(density, fixation_density(padded, (32, 64), sigma), atol=1e-7)


def test_a_batch_equals_its_images_with_a_sigma_each():
    torch.manual_seed(0)
    points = torch.rand(4, 3, 7, 3) * 20
    sigma = torch.rand(4, 3, 2) * 3 + 1
    whole = fixation_density(points, (24, 20), sigma)
    assert whole.shape == (4, 3, 24, 20)
    assert torch.allclose(whole[2, 1], fixation_density(points[2, 1], (24, 20), tuple(sigma[2, 1].tolist())), atol=1e-7)


def test_no_weight_gives_an_empty_map():
    assert torch.equal(fixation_density(torch.zeros(5, 3), (8, 8), 2.0), torch.zeros(8, 8))
    far = torch.tensor([[1e5, 1e5, 1.0]])
    assert torch.equal(fixation_density(far, (8, 8), 2.0), torch.zeros(8, 8))


def test_is_differentiable_in_the_points():
    points = torch.tensor([[3.2, 4.1, 0.7], [5.0, 2.0, 0.4], [0.0, 0.0, 0.0]], requires_grad=True)
    fixation_density(points, (8, 9), 1.5)[4, 3].backward()
    step = 1e-3
    for row, column in ((0, 0), (1, 1), (0, 2)):
        moved = [points.detach().clone() for _ in range(2)]
        moved[0][row, column] += step
        moved[1][row, column] -= step
        up, down = (fixation_density(shifted, (8, 9), 1.5)[4, 3].item() for shifted in moved)
        assert points.grad[row, column].item() == pytest.approx((up - down) / (2 * step), rel=2e-2, abs=1e-5)
    assert torch.isfinite(points.grad).all()


def test_stays_float32_under_autocast():
    points = torch.rand(1, 9, 3) * 100
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fixation_density(points, (100, 100), 8.0)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, fixation_density(points, (100, 100), 8.0))


@pytest.mark.parametrize("count", [45, 900])
def test_stays_exact_whatever_precision_the_network_may_use(count):
    points = torch.rand(count, 3) * torch.tensor([64.0, 96.0, 1.0])
    exact = fixation_density(points, (96, 64), 5.0)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(fixation_density(points, (96, 64), 5.0), exact)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_resolution_does_not_move_the_map():
    # Pixel centres are at integers, so (x + 0.5) / 2 − 0.5 is the same point on a grid of half the size.
    points = torch.tensor([[20.0, 31.0, 1.0], [44.5, 12.5, 2.0]])
    fine = fixation_density(points, (64, 64), 6.0)
    half = torch.cat([(points[:, :2] + 0.5) / 2 - 0.5, points[:, 2:]], dim=1)
    coarse = fixation_density(half, (32, 32), 3.0)
    pooled = torch.nn.functional.avg_pool2d(fine[None], 2)[0] * 4
    assert torch.corrcoef(torch.stack([pooled.flatten(), coarse.flatten()]))[0, 1] > 0.9999


def test_counts_every_fixation_on_its_nearest_pixel():
    points = torch.tensor(
        [
            [1.4, 2.6, 0.2],
            [1.0, 3.0, 0.9],
            [1.0, 3.0, 0.0],
            [-0.6, 0.0, 1.0],
            [9.0, 1.0, 1.0],
            [float("nan"), 1, 1],
        ]
    )
    counts = fixation_counts(points, (5, 4))
    assert counts[3, 1] == 2
    assert counts.sum() == 2
    assert torch.equal(fixation_counts(torch.stack([points, points]), (5, 4))[1], counts)


def reference_map(points, size):
    """The reference implementation's map, step by step: full-size histogram, OpenCV blur, centring, every 5th pixel."""
    counts = np.zeros(size, np.float32)
    for x, y, weight in points:
        if 0 <= x < size[1] and 0 <= y < size[0]:
            counts[int(y), int(x)] += weight
    blurred = cv2.GaussianBlur(counts, (501, 501), 0)
    blurred /= blurred.max()
    canvas = np.zeros((3200, 2560), np.float32)
    top, left = (3200 - size[0]) // 2, (2560 - size[1]) // 2
    source = blurred[max(-top, 0) : size[0] - max(-top, 0), max(-left, 0) : size[1] - max(-left, 0)]
    canvas[max(top, 0) : max(top, 0) + source.shape[0], max(left, 0) : max(left, 0) + source.shape[1]] = source
    kept = canvas[::5, ::5]
    kept = (kept - kept.min()) / (kept.max() - kept.min())
    return kept / kept.sum()


@pytest.mark.parametrize("size", [(3056, 2544), (2022, 2021)])
def test_the_reference_mode_is_the_references_map(size):
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.normal(0.5, 0.3, 300) * size[1], rng.normal(0.5, 0.3, 300) * size[0], np.ones(300)])
    points = points.astype(np.float32)
    # The maps agree on the border too, where the blur is mirrored.
    points[:3] = [[0, 40, 1], [size[1] - 1, 1000, 1], [700, size[0] - 1, 1]]
    ours = reference_density(torch.from_numpy(points), size).numpy()
    expected = reference_map(points, size)
    assert ours.shape == (640, 512)
    assert ours.sum() == pytest.approx(1, abs=1e-5)
    assert np.corrcoef(ours.ravel(), expected.ravel())[0, 1] > 0.9999
    assert np.abs(ours - expected).max() < 0.01 * expected.max()


def limit(points, size, sigma):
    """The float64 sum of Gaussians over the height of the highest at its nearest pixel, which avoids underflow."""
    points, sigma = points.astype(np.float32).astype(float), np.broadcast_to(sigma, (len(points), 2)).astype(np.float32)
    ys, xs = np.arange(size[0]), np.arange(size[1])
    exponent = [
        -0.5 * ((ys[:, None] - y) / s[1]) ** 2 - 0.5 * ((xs - x) / s[0]) ** 2 + np.log(w) - np.log(s).sum()
        for (x, y, w), s in zip(points, sigma.astype(float), strict=True)
    ]
    total = np.exp(np.array(exponent) - np.max(exponent)).sum(axis=0)
    return total / total.sum()


FAR = np.random.default_rng(1).uniform(0, 40, (600, 3))
FAR[:, 0] = 39 + 9 * 4
UNUSUAL = {
    "one point 10 sigma off": ([[-40.0, 3.3, 1.0]], 4.0),
    "one point 10 sigma off in both": ([[39 + 40.0, 59 + 40.0, 1.0]], 4.0),
    "one point 30 sigma off": ([[-120.0, 3.3, 1.0]], 4.0),
    "sigma of 0.05 midway between pixels": ([[10.5, 20.5, 1.0]], 0.05),
    "sigma of 0.045 between pixels": ([[10.3, 20.6, 1.0], [5.5, 7.1, 2.0]], 0.045),
    "sigma of 0.01": ([[10.2, 20.3, 1.0], [11.3, 7.4, 2.0]], 0.01),
    "600 points all 9 sigma off": (FAR, 4.0),
    "sigma larger than the grid": ([[10.0, 20.0, 1.0]], 500.0),
    "weights of very different size": ([[10.0, 20.0, 1e-30], [30.0, 20.0, 1e-33]], 3.0),
    "heavy weights": ([[10.0, 20.0, 3e38], [30.0, 20.0, 3e38]], 3.0),
    "a sigma each": ([[10.0, 20.0, 1.0], [-30.0, 20.0, 5.0]], [[0.03, 2.0], [3.0, 0.5]]),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_finding_d6_unusual_points_make_the_right_map(name):
    points, sigma = UNUSUAL[name]
    points = np.array(points)
    given = torch.tensor(sigma) if isinstance(sigma, list) else sigma
    density = fixation_density(torch.from_numpy(points).float(), (60, 40), given).double().numpy()
    assert np.abs(density - limit(points, (60, 40), sigma)).sum() < 1e-4
    leaf = torch.from_numpy(points).float().requires_grad_()
    traced = fixation_density(leaf, (60, 40), given)
    traced[3, 4].backward()
    assert torch.isfinite(leaf.grad).all()
    assert np.abs(traced.detach().numpy() - density).sum() < 1e-4


@pytest.mark.parametrize(
    ("point", "sigma", "message"),
    [
        ([1.0, 1.0, float("inf")], 2.0, "weight"),
        ([1.0, 1.0, float("nan")], 2.0, "weight"),
        ([1.0, 1.0, -1.0], 2.0, "weight"),
        ([float("nan"), 1.0, 1.0], 2.0, "finite x and y"),
        ([1.0, float("inf"), 1.0], 2.0, "finite x and y"),
        ([1.0, 1.0, 1.0], 0.0, "sigma"),
        ([1.0, 1.0, 1.0], float("nan"), "sigma"),
        ([1.0, 1.0, 1.0], -2.0, "sigma"),
        ([1.0, 1.0, 1.0], (2.0, float("inf")), "sigma"),
    ],
)
@pytest.mark.parametrize("count", [1, 600])
def test_finding_d6_meaningless_points_are_refused(point, sigma, message, count):
    with pytest.raises(InputError, match=message):
        fixation_density(torch.tensor([[2.0, 2.0, 1.0]] * (count - 1) + [point]), (8, 8), sigma)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 5, 700]), st.floats(0.02, 30))
def test_finding_d6_any_map_is_the_float64_limit(seed, count, sigma):
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-20 * sigma, 20 * sigma + 30, 2)
    points = np.column_stack([centre + rng.normal(0, sigma, (count, 2)), rng.exponential(1, count)])
    # Farther from the outermost pixels a point adds nothing.
    reach = 37 * sigma
    if not (-reach < points[:, :2]).all() or not (points[:, :2] < [29 + reach, 23 + reach]).all():
        return
    density = fixation_density(torch.from_numpy(points).float(), (24, 30), sigma).double().numpy()
    assert np.abs(density - limit(points, (24, 30), sigma)).sum() < 2e-3


def test_no_point_at_all_gives_an_empty_map():
    assert torch.equal(fixation_density(torch.zeros(2, 0, 3), (8, 8), 2.0), torch.zeros(2, 8, 8))


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.4])
def test_finding_d16_very_many_samples_are_binned_within_1e_4_of_the_mass(spread):
    """The bound also holds if every point has a σ, if points lie beside the grid, and if a few points differ in σ."""
    rng = np.random.default_rng(0)
    count = 3 * BINNED
    rests = np.repeat(rng.uniform(-20, 180, (count // 64, 2)), 64, axis=0)
    points = np.column_stack([rests + rng.normal(0, 2, (count, 2)), rng.uniform(0.1, 1, count)]).astype(np.float32)
    sigma = (6 * np.exp(rng.uniform(-spread, spread, (count, 2)))).astype(np.float32)
    sigma[:5] = 1.0
    density = fixation_density(torch.from_numpy(points), (160, 128), torch.from_numpy(sigma)).double().numpy()
    ys, xs = np.arange(160), np.arange(128)
    rows = np.exp(-0.5 * ((ys - points[:, 1:2]) / sigma[:, 1:]) ** 2)
    columns = np.exp(-0.5 * ((xs - points[:, :1]) / sigma[:, :1]) ** 2)
    expected = (rows * (points[:, 2] / sigma.prod(axis=1))[:, None]).T @ columns.astype(float)
    assert np.abs(density - expected / expected.sum()).sum() < 1e-4
    assert density.min() >= 0


def test_finding_d16_of_fifty_thousand_samples_none_is_rendered_by_itself(monkeypatch):
    """``benchmarks/heatmap.py`` has the times."""
    left = []
    add_binned = heatmap.add_binned
    monkeypatch.setattr(heatmap, "add_binned", lambda *parts: left.append(add_binned(*parts)) or left[-1])
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.uniform(0, 1, (50_000, 3)).astype(np.float32)) * torch.tensor([511.0, 639.0, 1.0])
    fixation_density(points, (640, 512), 15.0)
    assert [int(each.sum()) for each in left] == [0]


def test_parts_on_another_device_add_up_to_the_same_map(monkeypatch):
    monkeypatch.setattr(heatmap, "PART_NUMBERS", 1)
    points = torch.rand(2, 700, 3) * torch.tensor([64.0, 96.0, 1.0])
    located = heatmap._locate(points, (96, 64), torch.tensor([5.0, 4.0]).expand(2, 700, 2))
    parts = heatmap._add_parts(located, torch.Size([2]), (96, 64))
    assert torch.allclose(parts, fixation_density(points, (96, 64), (5.0, 4.0)), rtol=1e-4, atol=1e-9)
