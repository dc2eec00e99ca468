"""Saliency metrics over many images, averaged per image and exact over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from gazelit.density import CentreBias
from gazelit.metrics.catalogue import MAP_METRICS, Maps
from gazelit.metrics.functional import Convention

#: What every validation computes.
NAMES = tuple(name for name, metric in MAP_METRICS.items() if metric.at_validation)


def _at_test(conventions: Sequence[Convention]) -> Iterator[tuple[str, Callable[[Maps], Tensor]]]:
    for name, metric in MAP_METRICS.items():
        yield name, metric.compute
    for convention in conventions:
        for name, metric in MAP_METRICS.items():
            if convention in metric.conventions:
                yield f"{name}_{convention}", metric.conventions[convention]


def names_at_test(conventions: Sequence[Convention]) -> tuple[str, ...]:
    """Names of what :func:`values_at_test` gives."""
    return tuple(name for name, _ in _at_test(conventions))


def saliency_values(
    prediction: Tensor, target: Tensor, counts: Tensor, mask: Tensor | None = None
) -> dict[str, Tensor]:
    """The saliency metrics of a validation batch.

    Args:
        prediction: Predicted densities (B, H, W).
        target: Fixation densities (B, H, W).
        counts: Fixation counts (B, H, W).
        mask: Pixels that count (B, H, W).

    Returns:
        By metric, (B,) float64; NaN where an image has no gaze.
    """
    maps = Maps(prediction, target, counts, mask)
    return {name: MAP_METRICS[name].compute(maps) for name in NAMES}


def values_at_test(
    prediction: Tensor,
    target: Tensor,
    counts: Tensor,
    mask: Tensor,
    bias: CentreBias,
    conventions: Sequence[Convention] = (),
) -> dict[str, Tensor]:
    """Every saliency metric of a test batch: also AUC-Borji, shuffled AUC, information gain and EMD.

    Args:
        prediction: Predicted densities (B, H, W).
        target: Fixation densities (B, H, W).
        counts: Fixation counts (B, H, W).
        mask: Pixels that count (B, H, W).
        bias: The negatives of the shuffled AUC, and what information is gained over.
        conventions: Further conventions, ``mit`` and ``reference``; their values have the convention's name behind.

    Returns:
        By metric, (B,) float64.
    """
    maps = Maps(prediction, target, counts, mask, bias)
    values = {name: compute(maps) for name, compute in _at_test(conventions)}
    # The target of an image without gaze is empty; what is at its fixations is undefined with every convention.
    seen = counts.flatten(1).sum(1) > 0
    return {name: torch.where(seen, value, torch.nan) for name, value in values.items()}


class SaliencyMetrics(Metric):
    """Means over images of saliency metrics.

    States are sums and counts, so that the mean over several processes is the mean over images, and memory does not
    grow with their number. Images without a defined value are left out of that metric and counted.

    Args:
        names: Of the metrics, in :mod:`gazelit.metrics.catalogue`; those of every validation unless given.
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
            values: As :func:`saliency_values` or :func:`values_at_test` give them.
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
