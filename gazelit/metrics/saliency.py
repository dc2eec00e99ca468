"""Saliency metrics over many images, averaged per image and exact over processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from gazelit.density import CentreBias
from gazelit.metrics import functional
from gazelit.metrics.fused import cc_kld_sim_nss

#: What every validation computes.
NAMES = ("cc", "kld", "sim", "nss", "auc_judd")
#: What a convention defines otherwise than gazelit.
OTHERWISE = {"mit": ("kld", "sim", "nss", "auc_judd", "ig"), "reference": ("nss",)}


def names_at_test(conventions: Sequence[str]) -> tuple[str, ...]:
    """Names of what :func:`values_at_test` gives."""
    further = [f"{name}_{convention}" for convention in conventions for name in OTHERWISE[convention]]
    return (*NAMES, "auc_borji", "sauc", "ig", "emd", *further)


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
    values = cc_kld_sim_nss(prediction, target, counts, mask)
    return values | {"auc_judd": functional.auc_judd(prediction, counts, mask)}


def values_at_test(
    prediction: Tensor,
    target: Tensor,
    counts: Tensor,
    mask: Tensor,
    bias: CentreBias,
    conventions: Sequence[str] = (),
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
    density, others = bias.density.to(prediction.device), bias.counts.to(prediction.device)
    values = saliency_values(prediction, target, counts, mask)
    values["auc_borji"] = functional.auc_borji(prediction, counts, mask)
    values["sauc"] = functional.sauc(prediction, counts, others, mask)
    values["ig"] = functional.ig(prediction, counts, density, mask)
    values["emd"] = functional.emd(prediction, target, mask)
    for one in conventions:
        option: dict[str, Any] = {"mask": mask, "convention": one}
        if one == "mit":
            values["kld_mit"] = functional.kld(prediction, target, **option)
            values["sim_mit"] = functional.sim(prediction, target, **option)
            values["nss_mit"] = functional.nss(prediction, counts, **option)
            values["auc_judd_mit"] = functional.auc_judd(prediction, counts, **option)
            values["ig_mit"] = functional.ig(prediction, counts, density, **option)
        else:
            values["nss_reference"] = functional.nss(prediction, target, **option)
    # The target of an image without gaze is empty; what is at its fixations is undefined with every convention.
    seen = counts.flatten(1).sum(1) > 0
    return {name: torch.where(seen, value, torch.nan) for name, value in values.items()}


class SaliencyMetrics(Metric):
    """Means over images of saliency metrics.

    States are sums and counts, so that the mean over several processes is the mean over images, and memory does not
    grow with their number. Images without a defined value are left out of that metric and counted.

    Args:
        names: Of the metrics.
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
