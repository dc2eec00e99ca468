"""From gaze points to fixation density, exactly and for a whole batch at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

#: Exponent below which float32 has no normal numbers: computing with what lies below takes ten times as long.
FLOOR = -87.0
#: From this many points on, parts of them, sorted by y, are added up over the rows they reach: those where their
#: Gaussian is above exp(−46) = 1e-20 of its peak.
DENSE = 512
DENSE_FLOOR = -46.0
DENSE_PART = 256


def fixation_density(points: Tensor, size: tuple[int, int], sigma: float | tuple[float, float] | Tensor) -> Tensor:
    """Fixation density maps: the sum of Gaussians at the pixel centres, normalised over the grid.

    Every point adds a Gaussian whose integral is its weight. A Gaussian is separable, so a map is the product of the
    points' row profiles and column profiles, and its sum is known before it is formed. Points whose Gaussian has no
    mass on the grid in float32 have no part in it.

    Args:
        points: (…, N, 3) x, y and weight in pixels of the grid (centres at integers); points of weight 0, whatever
            their coordinates, do not count. Differentiable.
        size: (H, W) of the grid.
        sigma: Standard deviation in pixels: a number, (σx, σy), a tensor that broadcasts to (…, 2), or one of (…, N, 2)
            for a σ of each point, as a reader who zooms needs.

    Returns:
        (…, H, W) float32 densities that sum to 1; zero where no point has weight on the grid.
    """
    with torch.autocast(points.device.type, enabled=False), _exact_products():
        points = points.float()
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=points.device)
        if 0 < sigma.dim() < points.dim():
            sigma = sigma.unsqueeze(-2)
        sigma = sigma.expand(*points.shape[:-1], 2)
        grid = torch.tensor([size[1], size[0]], dtype=torch.float32, device=points.device)
        reach = sigma * (-2 * FLOOR) ** 0.5
        on_grid = ((points[..., :2] > -reach) & (points[..., :2] < grid - 1 + reach)).all(-1)
        # Padding may hold anything, NaN included, which a zero weight would not make vanish.
        counts = (points[..., 2] > 0) & on_grid
        weight = torch.where(counts, points[..., 2], 0.0) / sigma.prod(-1)
        place = torch.where(counts[..., None], points[..., :2], 0.0)
        differentiable = torch.is_grad_enabled() and (points.requires_grad or sigma.requires_grad)
        if points.device.type == "cpu" and points.shape[-2] >= DENSE and not differentiable:
            count = points.shape[-2]
            density = torch.zeros(*points.shape[:-2], *size)
            images = place.view(-1, count, 2), weight.view(-1, count), sigma.reshape(-1, count, 2)
            for one in zip(density.view(-1, *size), *images, strict=True):
                _add_dense(*one)
            return density
        scale = -0.5 / sigma.square()
        columns = _profiles(place[..., 0], 0, size[1], scale[..., 0], FLOOR)
        rows = _profiles(place[..., 1], 0, size[0], scale[..., 1], FLOOR)
        mass = (weight * rows.sum(-1) * columns.sum(-1)).sum(-1)
        share = weight / torch.where(mass > 0, mass, 1.0)[..., None]
        if differentiable or points.device.type != "cpu":
            return (rows * share[..., None]).transpose(-1, -2) @ columns
        rows.mul_(share[..., None])
        # NumPy asks the kernel for huge pages and torch does not: half of the time went into page faults.
        density = torch.from_numpy(np.empty((*points.shape[:-2], *size), np.float32))
        return torch.matmul(rows.transpose(-1, -2), columns, out=density)


@contextmanager
def _exact_products() -> Iterator[None]:
    """Whatever a training script allows for its network (TensorFloat-32, bfloat16), maps are multiplied in float32."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _add_dense(density: Tensor, place: Tensor, weight: Tensor, sigma: Tensor) -> None:
    """Adds the density of one image's many points, (N, 2), (N,), (N, 2), to an empty map (H, W)."""
    height, width = density.shape
    order = place[:, 1].argsort()
    x, y = place[order].unbind(1)
    weight, sigma = weight[order, None], sigma[order]
    scale = -0.5 / sigma.square()
    reach = float(sigma[:, 1].max()) * (-2 * DENSE_FLOOR) ** 0.5
    # In parts that fit into the processor's cache and reach a part of the rows alone.
    for first in range(0, len(y), DENSE_PART):
        part = slice(first, first + DENSE_PART)
        top = max(0, math.floor(float(y[part][0]) - reach))
        bottom = min(height, math.ceil(float(y[part][-1]) + reach) + 1)
        columns = _profiles(x[part], 0, width, scale[part, 0], DENSE_FLOOR)
        rows = _profiles(y[part], top, max(0, bottom - top), scale[part, 1], DENSE_FLOOR).mul_(weight[part])
        density[top:bottom].addmm_(rows.T, columns)
    total = density.sum()
    if total > 0:
        density.div_(total)


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


def _profiles(position: Tensor, start: int, length: int, scale: Tensor, floor: float) -> Tensor:
    """exp(scale · (i − position)²), at least exp(floor), at ``length`` pixel centres i from ``start`` on."""
    centres = torch.arange(start, start + length, dtype=torch.float32, device=position.device)
    # In place: fresh memory costs more than the arithmetic, and autograd keeps what it needs.
    return (centres - position[..., None]).square_().mul_(scale[..., None]).clamp_(min=floor).exp_()
