"""Saliency metrics over many images, averaged per image and exact over processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from gazelit.metrics import functional

#: Metrics of density maps, and metrics of a map at fixations.
MAP_METRICS: dict[str, Callable[..., Tensor]] = {
    "cc": functional.cc,
    "kld": functional.kld,
    "sim": functional.sim,
}
FIXATION_METRICS: dict[str, Callable[..., Tensor]] = {"nss": functional.nss, "auc_judd": functional.auc_judd}
NAMES = (*MAP_METRICS, *FIXATION_METRICS)


def saliency_values(
    prediction: Tensor, target: Tensor, counts: Tensor, mask: Tensor | None = None
) -> dict[str, Tensor]:
    """Every saliency metric of a batch.

    Args:
        prediction: Predicted densities (B, H, W).
        target: Fixation densities (B, H, W).
        counts: Fixation counts (B, H, W).
        mask: Pixels that count (B, H, W).

    Returns:
        By metric, (B,) float64; NaN where an image has no gaze.
    """
    values = {name: metric(prediction, target, mask) for name, metric in MAP_METRICS.items()}
    return values | {name: metric(prediction, counts, mask) for name, metric in FIXATION_METRICS.items()}


class SaliencyMetrics(Metric):
    """Means over images of CC, KLD, SIM, NSS and AUC-Judd.

    States are sums and counts, so that the mean over several processes is the mean over images, and memory does not
    grow with their number. Images without a defined value are left out of that metric and counted.
    """

    full_state_update = False
    total: Tensor
    count: Tensor
    images: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", torch.zeros(len(NAMES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(NAMES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: dict[str, Tensor]) -> None:
        """Adds the images of a batch.

        Args:
            values: As :func:`saliency_values` gives them.
        """
        stacked = torch.stack([values[name] for name in NAMES]).double()
        defined = ~stacked.isnan()
        self.total += torch.where(defined, stacked, 0.0).sum(1)
        self.count += defined.sum(1)
        self.images += stacked.shape[1]

    def compute(self) -> dict[str, Tensor]:
        """By metric, the mean over images (NaN if there is none), and ``n_without_gaze``."""
        means = self.total / self.count
        return {
            **{name: means[position] for position, name in enumerate(NAMES)},
            "n_without_gaze": self.images - self.count[NAMES.index("nss")],
        }
