"""From gaze points to fixation density, exactly and for a whole batch at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gazelit.data.gaze.binning import BINNED, add_binned
from gazelit.errors import InputError

#: Exponent below which float32 has no normal numbers; computing with smaller numbers takes ten times as long.
FLOOR = -87.0
#: A point that is further outside the grid than this many σ does not count: its mass would be 0 in float64, too.
REACH = 38.0
#: Smallest σ (pixels): a narrower Gaussian can only be a mistake; for a wider one float32 holds its height at the
#: pixels.
SMALLEST_SIGMA = 0.01
#: From this many points on, parts of them, sorted by y, are added up over the rows they reach: those where their
#: Gaussian is above exp(−46) = 1e-20 of its peak.
DENSE = 512
DENSE_FLOOR = -46.0
DENSE_PART = 256
#: On other devices than the CPU, parts of the points are added up, so that a part's profiles have at most this many
#: numbers.
PART_NUMBERS = 2**28


def fixation_density(points: Tensor, size: tuple[int, int], sigma: float | tuple[float, float] | Tensor) -> Tensor:
    """Fixation density maps: the sum of Gaussians at the pixel centres, normalised over the grid.

    Every point adds a Gaussian whose integral is its weight. A Gaussian is separable, so a map is the product of the
    points' row profiles and column profiles, and its sum is known before it is formed. Profiles are relative to the
    pixel nearest to the point, and the logarithm of the Gaussian's height there is added to that of the point's weight.
    So a map is also correct if every point is many σ outside the grid or between the pixels.

    On the CPU, very many points of one image are binned before they are rendered
    (:mod:`gazelit.data.gaze.binning`), which moves less than 1e-4 of the map's mass.

    Args:
        points: (…, N, 3) x, y and weight in pixels of the grid (centres at integers); points of weight 0, whatever
            their coordinates, do not count, nor do points more than 38 σ outside the grid. Differentiable.
        size: (H, W) of the grid.
        sigma: Standard deviation in pixels: a number, (σx, σy), a tensor that broadcasts to (…, 2), or one of (…, N, 2)
            for a σ of each point, which zooming needs.

    Returns:
        (…, H, W) float32 densities that sum to 1; zero where no point has weight on the grid.

    Raises:
        InputError: A weight is negative or not finite, or a point that counts has a coordinate that is not finite or a
            σ that is not finite or below 0.01. On a GPU, where a check of the values would have to wait, the whole map
            is NaN instead.

    Example:
        Two fixations of one film, the second three times as long, on a grid of 32 × 24 pixels (width × height).

        >>> points = torch.tensor([[8.0, 6.0, 0.2], [24.0, 18.0, 0.6]])
        >>> density = fixation_density(points, size=(24, 32), sigma=1.0)
        >>> density.shape, round(density.sum().item(), 4)
        (torch.Size([24, 32]), 1.0)
        >>> round((density[18, 24] / density[6, 8]).item(), 4)
        3.0
    """
    with torch.autocast(points.device.type, enabled=False), _exact_products():
        points = points.float()
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=points.device)
        if 0 < sigma.dim() < points.dim():
            sigma = sigma.unsqueeze(-2)
        sigma = sigma.expand(*points.shape[:-1], 2)
        if not points.shape[-2]:
            return points.new_zeros(*points.shape[:-2], *size)
        differentiable = torch.is_grad_enabled() and (points.requires_grad or sigma.requires_grad)
        located = _locate(points, size, sigma)
        if points.shape[-2] >= DENSE and not differentiable:
            add = _add_dense if points.device.type == "cpu" else _add_parts
            return add(located, points.shape[:-2], size)
        columns = _profiles(located.nearest[..., 0], located.offset[..., 0], 0, size[1], located.scale[..., 0], FLOOR)
        rows = _profiles(located.nearest[..., 1], located.offset[..., 1], 0, size[0], located.scale[..., 1], FLOOR)
        mass = (located.weight * rows.sum(-1) * columns.sum(-1)).sum(-1)
        share = located.weight / torch.where(mass == 0, 1.0, mass)[..., None]
        if differentiable or points.device.type != "cpu":
            return (rows * share[..., None]).transpose(-1, -2) @ columns
        rows.mul_(share[..., None])
        # NumPy asks the kernel for huge pages and torch does not: half of the time went into page faults.
        density = torch.from_numpy(np.empty((*points.shape[:-2], *size), np.float32))
        return torch.matmul(rows.transpose(-1, -2), columns, out=density)


class Located(NamedTuple):
    """Points as they are rendered: for each the nearest pixel and the offset to it.

    Attributes:
        nearest: (…, N, 2) nearest pixel of the grid.
        offset: (…, N, 2) from the point to it.
        scale: (…, N, 2) −1/2σ².
        weight: (…, N) height of the point's Gaussian at the nearest pixel over the highest of the image; 0 where the
            point does not count.
    """

    nearest: Tensor
    offset: Tensor
    scale: Tensor
    weight: Tensor


def _locate(points: Tensor, size: tuple[int, int], sigma: Tensor) -> Located:
    weight = points[..., 2]
    # Padding may hold any value; NaN would stay NaN after a product with a zero weight.
    counts = weight != 0
    sound = (weight >= 0) & (weight < torch.inf)
    sound &= ~counts | (points[..., :2].isfinite().all(-1) & ((sigma >= SMALLEST_SIGMA) & (sigma < torch.inf)).all(-1))
    if points.device.type == "cpu" and not sound.all():
        raise InputError(_meaningless(points, sigma))
    position = torch.where(counts[..., None], points[..., :2], 0.0)
    sigma = torch.where(counts[..., None], sigma, 1.0)
    last = torch.tensor([size[1] - 1, size[0] - 1], dtype=torch.float32, device=points.device)
    nearest = torch.minimum(position.detach().round().clamp_(min=0), last)
    offset = nearest - position
    counts = counts & (offset.abs() <= torch.maximum(REACH * sigma, offset.new_tensor(0.5))).all(-1)
    precise = torch.float32 if points.device.type == "mps" else torch.float64
    height = torch.where(counts, weight, 1.0).to(precise).log() - sigma.to(precise).log().sum(-1)
    height = height - 0.5 * (offset.to(precise) / sigma.to(precise)).square().sum(-1)
    highest = torch.where(counts, height.detach(), -torch.inf).amax(-1, keepdim=True)
    relative = (height - torch.where(highest.isfinite(), highest, 0.0)).float()
    share = torch.where(counts & (relative >= FLOOR), relative, -torch.inf).exp()
    share = torch.where(sound, share, torch.nan)
    return Located(nearest, offset, -0.5 / sigma.square(), share)


@contextmanager
def _exact_products() -> Iterator[None]:
    """Multiplies maps in float32, even if a training script allows TensorFloat-32 or bfloat16."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _meaningless(points: Tensor, sigma: Tensor) -> str:
    weight = points[..., 2]
    if not ((weight >= 0) & (weight < torch.inf)).all():
        return "fixation density: a weight is negative or not finite; weights are durations or counts"
    if not points[..., :2][weight > 0].isfinite().all():
        return "fixation density: a point with weight has no finite x and y; give it weight 0"
    return f"sigma: must be finite and at least {SMALLEST_SIGMA:g} pixels for every point"


def _add_dense(located: Located, lead: torch.Size, size: tuple[int, int]) -> Tensor:
    """Densities of images with many points each, on the CPU, image by image."""
    density = torch.from_numpy(np.zeros((math.prod(lead), *size), np.float32))
    count = located.weight.shape[-1]
    for image in range(len(density)):
        image_points = Located(*(part.reshape(-1, count, *part.shape[len(lead) + 1 :])[image] for part in located))
        counts = image_points.weight > 0
        if not counts.all():
            image_points = Located(*(part[counts] for part in image_points))
        if len(image_points.weight) >= BINNED:
            left = torch.from_numpy(add_binned(density[image], *image_points))
            image_points = Located(*(part[left] for part in image_points))
        _add_sorted(density[image], image_points)
        total = density[image].sum()
        if total > 0:
            density[image].div_(total)
    return density.view(*lead, *size)


def _add_sorted(density: Tensor, located: Located) -> None:
    """Adds one image's points to a map (H, W), each a Gaussian of the height ``weight``."""
    height, width = density.shape
    order = located.nearest[:, 1].argsort()
    nearest, offset, scale, weight = (part[order] for part in located)
    # In parts that fit into the processor's cache and reach only some of the rows.
    for first in range(0, len(weight), DENSE_PART):
        part = slice(first, first + DENSE_PART)
        reach = math.sqrt(DENSE_FLOOR / float(scale[part, 1].max())) + 1
        top = max(0, math.floor(float(nearest[part][0, 1]) - reach))
        bottom = min(height, math.ceil(float(nearest[part][-1, 1]) + reach) + 1)
        columns = _profiles(nearest[part, 0], offset[part, 0], 0, width, scale[part, 0], DENSE_FLOOR)
        rows = _profiles(nearest[part, 1], offset[part, 1], top, bottom - top, scale[part, 1], DENSE_FLOOR)
        density[top:bottom].addmm_(rows.mul_(weight[part, None]).T, columns)


def _add_parts(located: Located, lead: torch.Size, size: tuple[int, int]) -> Tensor:
    """Densities of images with many points each, on another device, all images at once and part after part."""
    count = located.weight.shape[-1]
    nearest, offset, scale, weight = (part.reshape(-1, count, *part.shape[len(lead) + 1 :]) for part in located)
    density = weight.new_zeros(len(weight), *size)
    length = max(DENSE_PART, PART_NUMBERS // (sum(size) * max(1, len(weight))))
    for first in range(0, count, length):
        part = slice(first, first + length)
        columns, rows = (
            _profiles(nearest[:, part, axis], offset[:, part, axis], 0, size[1 - axis], scale[:, part, axis], FLOOR)
            for axis in (0, 1)
        )
        density.baddbmm_(rows.mul_(weight[:, part, None]).transpose(1, 2), columns)
    total = density.sum((1, 2), keepdim=True)
    return density.div_(torch.where(total == 0, 1.0, total)).view(*lead, *size)


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
    pixel = kept - (canvas - length) // 2
    position = position.double()[:, None]
    profile = torch.zeros(len(position), len(kept), dtype=torch.float64, device=position.device)
    for image in (position, -position, 2 * (length - 1) - position):
        distance = pixel - image
        profile += torch.where(
            distance.abs() <= REFERENCE_RADIUS, (-0.5 * (distance / REFERENCE_SIGMA) ** 2).exp(), 0.0
        )
    # A point on the border is its own mirror image and counts once.
    own = (position == 0) | (position == length - 1)
    return torch.where((pixel >= 0) & (pixel < length), torch.where(own, profile / 2, profile), 0.0)


def _profiles(nearest: Tensor, offset: Tensor, start: int, length: int, scale: Tensor, floor: float) -> Tensor:
    """exp(scale · ((i − position)² − (nearest − position)²)), at least exp(floor), at pixels i ≥ ``start``."""
    centres = torch.arange(start, start + length, dtype=torch.float32, device=nearest.device)
    # In place: fresh memory costs more than the arithmetic, and autograd keeps what it needs.
    distance = (centres - (nearest - offset)[..., None]).square_().sub_(offset.square()[..., None])
    return distance.mul_(scale[..., None]).clamp_(min=floor).exp_()
