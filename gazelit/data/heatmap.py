"""From gaze points to fixation density, exactly and for a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor


def fixation_density(points: Tensor, size: tuple[int, int], sigma: float | tuple[float, float] | Tensor) -> Tensor:
    """Fixation density maps: the sum of Gaussians at the pixel centres, normalised over the grid.

    A Gaussian is separable, so a map is the product of the points' row profiles and column profiles, and its sum is
    known before it is formed. Points whose Gaussian has no mass on the grid in float32 have no part in it.

    Args:
        points: (…, N, 3) x, y and weight in pixels of the grid (centres at integers); points of weight 0, whatever
            their coordinates, do not count. Differentiable.
        size: (H, W) of the grid.
        sigma: Standard deviation in pixels: a number, (σx, σy), or a tensor that broadcasts to (…, 2).

    Returns:
        (…, H, W) float32 densities that sum to 1; zero where no point has weight on the grid.
    """
    with torch.autocast(points.device.type, enabled=False):
        points = points.float()
        # Padding may hold anything, NaN included, which a zero weight would not make vanish.
        counts = points[..., 2] > 0
        weight = torch.where(counts, points[..., 2], 0.0)
        place = torch.where(counts[..., None], points[..., :2], 0.0)
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=points.device).expand(*points.shape[:-2], 2)
        columns = _profiles(place[..., 0], size[1], sigma[..., 0])
        rows = _profiles(place[..., 1], size[0], sigma[..., 1])
        mass = (weight * rows.sum(-1) * columns.sum(-1)).sum(-1)
        share = weight / torch.where(mass > 0, mass, 1.0)[..., None]
        return (rows * share[..., None]).transpose(-1, -2) @ columns


def fixation_counts(points: Tensor, size: tuple[int, int]) -> Tensor:
    """How many points of positive weight have each pixel as their nearest.

    Args:
        points: (…, N, 3) as in :func:`fixation_density`.
        size: (H, W) of the grid.

    Returns:
        (…, H, W) float32 counts; points outside the grid are left out.
    """
    height, width = size
    lead = points.shape[:-2]
    flat = points.reshape(-1, *points.shape[-2:]).float()
    rounded = torch.nan_to_num(flat[..., :2], nan=-1.0, posinf=-1.0, neginf=-1.0).round().long()
    x, y = rounded[..., 0], rounded[..., 1]
    inside = (flat[..., 2] > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    pixel = torch.where(inside, y * width + x, 0)
    counts = flat.new_zeros(flat.shape[0], height * width)
    return counts.scatter_add_(1, pixel, inside.float()).view(*lead, height, width)


#: The reference implementation's canvas (H, W), its stride, and its Gaussian: OpenCV's σ for 501 pixels.
REFERENCE_CANVAS = (3200, 2560)
REFERENCE_STRIDE = 5
REFERENCE_RADIUS = 250
REFERENCE_SIGMA = 75.5


def reference_density(points: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The target map of the paper's reference implementation, for comparison with it.

    Every sample adds its weight to its pixel of the original image; a Gaussian of 75.5 pixels, cut off at 250, blurs
    it, mirrored at the borders; the image is centred on a canvas of 3200 × 2560, padded or cropped; every fifth pixel
    is kept and the map divided by its sum. Only the kept pixels are evaluated here, which gives the same values.

    Args:
        points: (N, 3) x, y and weight in pixels of the original image; points outside it do not count.
        image_size: (H, W) of the original image.

    Returns:
        (640, 512) float32, sums to 1; zero without a point.
    """
    pixel = points[:, :2].floor()
    limit = torch.tensor([image_size[1], image_size[0]], device=points.device)
    inside = ((pixel >= 0) & (pixel < limit)).all(dim=1) & (points[:, 2] > 0)
    columns, rows = (
        _reference_profiles(pixel[inside, axis], image_size[1 - axis], REFERENCE_CANVAS[1 - axis]) for axis in (0, 1)
    )
    density = (rows * points[inside, 2:].double()).T @ columns
    total = density.sum()
    return (density / torch.where(total > 0, total, 1.0)).float()


def _reference_profiles(position: Tensor, length: int, canvas: int) -> Tensor:
    """Weight of each point at the kept pixels of one axis: (N, canvas / stride) float64."""
    kept = torch.arange(0, canvas, REFERENCE_STRIDE, dtype=torch.float64, device=position.device)
    place = kept - (canvas - length) // 2
    position = position.double()[:, None]
    profile = torch.zeros(len(position), len(kept), dtype=torch.float64, device=position.device)
    for image in (position, -position, 2 * (length - 1) - position):
        distance = place - image
        profile += torch.where(
            distance.abs() <= REFERENCE_RADIUS, (-0.5 * (distance / REFERENCE_SIGMA) ** 2).exp(), 0.0
        )
    # A point on the border is its own mirror image and counts once.
    own = (position == 0) | (position == length - 1)
    return torch.where((place >= 0) & (place < length), torch.where(own, profile / 2, profile), 0.0)


def _profiles(position: Tensor, length: int, sigma: Tensor) -> Tensor:
    """exp(−(i − position)² / 2σ²) at the pixel centres i: (…, N, length)."""
    centres = torch.arange(length, dtype=torch.float32, device=position.device)
    # In place: fresh memory costs more than the arithmetic, and autograd keeps what it needs.
    return (centres - position[..., None]).div_(sigma[..., None, None]).square_().mul_(-0.5).exp_()
