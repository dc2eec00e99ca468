"""Saliency metrics of each image of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from gazelit.density import CentreBias
from gazelit.metrics.catalogue import MAP_METRICS, Maps
from gazelit.metrics.functional import Convention

#: Metrics that every validation computes.
NAMES = tuple(name for name, metric in MAP_METRICS.items() if metric.at_validation)


def _at_test(conventions: Sequence[Convention]) -> Iterator[tuple[str, Callable[[Maps], Tensor]]]:
    for name, metric in MAP_METRICS.items():
        yield name, metric.compute
    for convention in conventions:
        for name, metric in MAP_METRICS.items():
            if convention in metric.conventions:
                yield f"{name}_{convention}", metric.conventions[convention]


def names_at_test(conventions: Sequence[Convention]) -> tuple[str, ...]:
    """Names of the values of :func:`values_at_test`."""
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
        bias: The negatives of the shuffled AUC, and the baseline of the information gain.
        conventions: Further conventions, ``mit`` and ``reference``; names of their values end with the convention.

    Returns:
        By metric, (B,) float64.
    """
    maps = Maps(prediction, target, counts, mask, bias)
    values = {name: compute(maps) for name, compute in _at_test(conventions)}
    # An image without gaze has an empty target, and metrics at fixations are undefined with every convention.
    seen = counts.flatten(1).sum(1) > 0
    return {name: torch.where(seen, value, torch.nan) for name, value in values.items()}
