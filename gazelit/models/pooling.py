"""How a feature map becomes a vector for a classifier, with or without weights by gaze."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Pooling = Literal["mean", "gaze", "top", "logsumexp"]

#: Share of the cells whose strongest values ``top`` averages.
TOP_SHARE = 0.1
#: Between the mean (0) and the maximum (∞) for ``logsumexp``.
SHARPNESS = 4.0


def pooled(features: Tensor, pooling: Pooling, attention: Tensor) -> Tensor:
    """Pools a feature map.

    Args:
        features: (B, C, h, w).
        pooling: ``mean`` over the cells; ``gaze``, see :func:`attention_pooled`; ``top``, see :func:`top_pooled`;
            ``logsumexp``, see :func:`logsumexp_pooled`.
        attention: Density (B, 1, H, W), used only by ``gaze``.

    Returns:
        (B, C), float32 or wider.
    """
    if pooling == "gaze":
        return attention_pooled(features, attention)
    if pooling == "top":
        return top_pooled(features)
    if pooling == "logsumexp":
        return logsumexp_pooled(features)
    return _wide(features).mean(dim=(2, 3))


def attention_pooled(features: Tensor, attention: Tensor) -> Tensor:
    """Mean of a feature map, weighted by gaze.

    Args:
        features: (B, C, h, w).
        attention: Density (B, 1, H, W) that sums to 1 per image, H and W multiples of h and w; an image whose
            attention is zero everywhere is pooled evenly.

    Returns:
        (B, C), float32 or wider.
    """
    with torch.autocast(features.device.type, enabled=False):
        coarse = F.adaptive_avg_pool2d(_wide(attention), (features.shape[-2], features.shape[-1])).flatten(2)
        total = coarse.sum(dim=2, keepdim=True)
        even = torch.full_like(coarse, 1 / coarse.shape[2])
        weight = torch.where(total > 0, coarse / total.clamp(min=1e-20), even)
        return (_wide(features).flatten(2) * weight).sum(dim=2)


def top_pooled(features: Tensor, share: float = TOP_SHARE) -> Tensor:
    """Mean of each channel's strongest values (Durand et al. 2017, WILDCAT, without its weakest ones).

    A small finding counts as much as a large one, wherever it is.

    Args:
        features: (B, C, h, w).
        share: Share of the cells that is averaged; at least one is taken.

    Returns:
        (B, C), float32 or wider.
    """
    cells = _wide(features).flatten(2)
    count = max(1, round(share * cells.shape[2]))
    return cells.topk(count, dim=2).values.mean(dim=2)


def logsumexp_pooled(features: Tensor, sharpness: float = SHARPNESS) -> Tensor:
    """A smooth maximum: ln(mean(exp(r x))) / r over the cells (Pinheiro and Collobert 2015, equation 6).

    Args:
        features: (B, C, h, w).
        sharpness: r.

    Returns:
        (B, C), float32 or wider, between the mean and the maximum of each channel.
    """
    with torch.autocast(features.device.type, enabled=False):
        cells = _wide(features).flatten(2) * sharpness
        return (cells.logsumexp(dim=2) - math.log(cells.shape[2])) / sharpness


def concentration(attention: Tensor) -> Tensor:
    """How concentrated a density is, at any place: its highest value, Σp² and negative entropy, against a uniform one.

    Args:
        attention: Density (B, 1, H, W) that sums to 1 per image.

    Returns:
        (B, 3) natural logarithms, 0 for a uniform density: ln(N max p), ln(N Σp²) and ln N − entropy over N pixels.
    """
    with torch.autocast(attention.device.type, enabled=False):
        density = _wide(attention).flatten(1).clamp(min=1e-20)
        size = math.log(density.shape[1])
        entropy = -(density * density.log()).sum(1)
        return torch.stack([density.amax(1).log() + size, density.square().sum(1).log() + size, size - entropy], dim=1)


def _wide(values: Tensor) -> Tensor:
    """In float32 at least: a mean over many cells in bfloat16 loses the contribution of single cells."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
