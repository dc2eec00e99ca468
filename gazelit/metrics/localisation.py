"""Whether a map points at a region, by the map's ranks and its mass, with a value for each image.

A map without information scores chance: the region's share of the valid pixels (pointing game and mass), and 0.5 (AUC).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gazelit.metrics.functional import auc_judd


def pointing_game(maps: Tensor, region: Tensor, mask: Tensor) -> Tensor:
    """Whether the map's maximum lies in the region (Zhang et al. 2018), without their margin of 15 pixels.

    If several pixels share the maximum, it is the share of them that lie in the region.

    Args:
        maps: (B, H, W), not negative.
        region: (B, H, W) bool.
        mask: (B, H, W) bool, true where pixels count.

    Returns:
        (B,) float64 in [0, 1]; NaN where no pixel of the region counts.
    """
    values = torch.where(mask, maps.double(), -torch.inf).flatten(1)
    top = (values == values.amax(1, keepdim=True)).double()
    inside = (region & mask).flatten(1)
    return _defined((top * inside).sum(1) / top.sum(1), inside)


def mass_inside(maps: Tensor, region: Tensor, mask: Tensor) -> Tensor:
    """Share of the map's mass in the region (the energy-based pointing game of Wang et al. 2020, Score-CAM).

    Args:
        maps: (B, H, W), not negative.
        region: (B, H, W) bool.
        mask: (B, H, W) bool, true where pixels count.

    Returns:
        (B,) float64 in [0, 1]; for a map of zeros the region's share of the area; NaN where no pixel of the region
        counts.
    """
    valid, inside = mask.flatten(1), (region & mask).flatten(1)
    values = torch.where(valid, maps.double().flatten(1), 0.0)
    total = values.sum(1)
    share = torch.where(total > 0, (values * inside).sum(1) / total, inside.double().sum(1) / valid.sum(1))
    return _defined(share, inside)


def equal_area_iou(maps: Tensor, region: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union of the region and the same number of the map's highest pixels, so without a threshold.

    If several pixels share the lowest chosen value, the expected number of them in the region counts.

    Args:
        maps: (B, H, W), not negative.
        region: (B, H, W) bool.
        mask: (B, H, W) bool, true where pixels count.

    Returns:
        (B,) float64 in [0, 1]; NaN where no pixel of the region counts.
    """
    values = torch.where(mask, maps.double(), -torch.inf).flatten(1)
    inside = (region & mask).flatten(1)
    results = []
    for row, within in zip(values, inside, strict=True):
        area = int(within.sum())
        if not area:
            results.append(row.new_tensor(torch.nan))
            continue
        lowest = row.topk(area).values[-1]
        above, at = row > lowest, row == lowest
        taken = (area - above.sum()) / at.sum()
        shared = (above & within).sum() + taken * (at & within).sum()
        results.append((shared / (2 * area - shared)).double())
    return torch.stack(results)


def localisation_values(maps: Tensor, region: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """The three above, the AUC of the region's pixels against the others, and the region's share of the area.

    Args:
        maps: (B, H, W), not negative.
        region: (B, H, W) bool.
        mask: (B, H, W) bool, true where pixels count.

    Returns:
        ``pointing``, ``mass``, ``iou``, ``auc``, ``area``, each (B,) float64.
    """
    inside = region & mask
    return {
        "pointing": pointing_game(maps, region, mask),
        "mass": mass_inside(maps, region, mask),
        "iou": equal_area_iou(maps, region, mask),
        "auc": auc_judd(maps, inside.float(), mask),
        "area": inside.flatten(1).double().sum(1) / mask.flatten(1).sum(1),
    }


def _defined(value: Tensor, inside: Tensor) -> Tensor:
    return torch.where(inside.any(1), value, torch.nan)
