"""Saliency metrics over many images, averaged per image and exact over processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from gazelit.metrics.map_values import NAMES


class SaliencyMetrics(Metric):
    """Means over images of saliency metrics.

    States are sums and counts, so that the mean over several processes is the mean over images, and memory does not
    grow with their number. Images without a defined value are left out of that metric and counted.

    Args:
        names: Names of the metrics, from :mod:`gazelit.metrics.catalogue`; those of every validation unless given.
    """

    full_state_update = False
    total: Tensor
    count: Tensor
    images: Tensor

    def __init__(self, names: Sequence[str] = NAMES, **options: Any) -> None:
        super().__init__(**options)
        self.names = tuple(names)
        self.add_state("total", torch.zeros(len(names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: dict[str, Tensor]) -> None:
        """Adds the images of a batch.

        Args:
            values: Result of :func:`gazelit.metrics.map_values.values_at_test`, or of ``saliency_values``.
        """
        stacked = torch.stack([values[name] for name in self.names]).double()
        defined = ~stacked.isnan()
        self.total += torch.where(defined, stacked, 0.0).sum(1)
        self.count += defined.sum(1)
        self.images += stacked.shape[1]

    def compute(self) -> dict[str, Tensor]:
        """By metric, the mean over images (NaN if there is none), and ``n_without_gaze``."""
        means = self.total / self.count
        return {
            **{name: means[position] for position, name in enumerate(self.names)},
            "n_without_gaze": self.images - self.count[self.names.index("nss")],
        }
