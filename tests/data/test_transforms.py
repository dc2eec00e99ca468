"""What augmentation does to padding and to the width of a Gaussian."""

import numpy as np
import pytest
import torch

from gazelit.data.gaze.heatmap import fixation_density
from gazelit.data.images.transforms import Augmentation


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_finding_c11_padding_stays_black(dtype):
    image = np.full((96, 80), 128 if dtype == np.uint8 else 0.5, dtype)
    mask = np.zeros((96, 80), bool)
    mask[20:76] = True
    image[~mask] = 0
    nowhere = np.zeros((0, 3), np.float32), np.zeros((0, 2), np.float32)
    for seed in range(20):
        moved = Augmentation()(image, mask, *nowhere, seed)
        assert not moved.image[~moved.mask].any()
        # The corners are padding for every shift.
        assert not moved.image[[0, 0, -1, -1], [0, -1, 0, -1]].any()
        assert moved.image[48, 40] > 0


def test_finding_c19_sigma_follows_the_scale_of_the_augmentation():
    """The map of the transformed points equals the transformed map; with the old σ it would not."""
    points = np.array([[40, 48, 1], [60, 80, 2], [90, 60, 1]], np.float32)
    sigma = np.full((3, 2), 7.0, np.float32)
    density = fixation_density(torch.from_numpy(points), (140, 130), 7.0).numpy()
    augmentation = Augmentation(shift=0.05, scale=0.3, rotation=20, contrast=0.0, gamma=0.0)
    scales = []
    for seed in range(12):
        moved = augmentation(density / density.max(), np.ones((140, 130), bool), points, sigma, seed)
        if not moved.inside.all():
            continue
        expected = moved.image.astype(np.float64) / moved.image.sum()
        ours = fixation_density(torch.from_numpy(moved.points), (140, 130), torch.from_numpy(moved.sigma)).numpy()
        stale = fixation_density(torch.from_numpy(moved.points), (140, 130), 7.0).numpy()
        scale = moved.sigma[0, 0] / 7
        scales.append(scale)
        assert np.allclose(moved.sigma, 7 * scale, rtol=1e-3)
        assert np.abs(ours - expected).sum() < 0.02
        if abs(scale - 1) > 0.1:
            assert np.abs(stale - expected).sum() > 5 * np.abs(ours - expected).sum()
    assert np.ptp(scales) > 0.2


def test_width_and_height_are_scaled_alike():
    """The ratio of the heart's width to the chest's is a finding, so it must not change."""
    corners = np.array([[20, 20, 1], [60, 20, 1], [20, 70, 1]], np.float32)
    for seed in range(10):
        moved = Augmentation()(np.zeros((96, 80), np.uint8), np.ones((96, 80), bool), corners, np.ones((3, 2)), seed)
        across, down = (np.linalg.norm(moved.points[k, :2] - moved.points[0, :2]) for k in (1, 2))
        assert across / down == pytest.approx(40 / 50, rel=1e-3)


def test_a_sigma_that_differs_by_axis_turns_with_the_film():
    augmentation = Augmentation(shift=0.0, scale=0.0, rotation=90, contrast=0.0, gamma=0.0)
    point = np.array([[40, 40, 1]], np.float32)
    for seed in range(5):
        moved = augmentation(np.zeros((81, 81), np.uint8), np.ones((81, 81), bool), point, np.array([[6.0, 3.0]]), seed)
        assert (moved.sigma**2).sum() == pytest.approx(45, rel=1e-3)
        assert (moved.sigma >= 3 - 1e-3).all()
        assert (moved.sigma <= 6 + 1e-3).all()
