"""Diagnosis metrics of exclusive classes or of several labels with unknowns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities import dim_zero_cat


class DiagnosisMetrics(Metric):
    """AUC per class and macro (one-versus-rest), and accuracy.

    The AUC is exact. A class that is absent, or that every case has, has no AUC (NaN); the macro AUC is the mean over
    the classes that have one. Unknown labels (NaN) of a multi-label problem do not count.

    Args:
        class_names: Names of the K classes.
        exclusive: Whether labels are class indices (B,), or 0, 1 and NaN for each class (B, K).
    """

    full_state_update = False
    probabilities: list[Tensor]
    labels: list[Tensor]

    def __init__(self, class_names: list[str], exclusive: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.class_names = list(class_names)
        self.exclusive = exclusive
        self.add_state("probabilities", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            probabilities: (B, K).
            labels: (B,) class indices, or (B, K).
        """
        self.probabilities.append(probabilities.detach().float())
        self.labels.append(labels.detach())

    def compute(self) -> dict[str, Tensor]:
        """``auroc_macro``, ``auroc_<class>``, ``accuracy`` and, for exclusive classes, ``balanced_accuracy``."""
        probabilities, labels = dim_zero_cat(self.probabilities), dim_zero_cat(self.labels)
        classes = len(self.class_names)
        truth = torch.nn.functional.one_hot(labels, classes).float() if self.exclusive else labels.float()
        known = ~truth.isnan()
        curves = []
        for position in range(classes):
            ours = known[:, position]
            positive = truth[ours, position].long()
            both = 0 < int(positive.sum()) < len(positive)
            value = (
                binary_auroc(probabilities[ours, position], positive) if both else probabilities.new_tensor(torch.nan)
            )
            curves.append(value)
        auroc = torch.stack(curves)
        results = {"auroc_macro": auroc.nanmean()}
        results |= {f"auroc_{name}": value for name, value in zip(self.class_names, auroc, strict=True)}
        if self.exclusive:
            right = (probabilities.argmax(1) == labels).float()
            results["accuracy"] = right.mean()
            results["balanced_accuracy"] = torch.stack([right[labels == one].mean() for one in labels.unique()]).mean()
        else:
            results["accuracy"] = ((probabilities >= 0.5) == (truth == 1))[known].float().mean()
        return results
