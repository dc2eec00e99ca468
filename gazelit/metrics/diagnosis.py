"""Diagnosis metrics of exclusive classes or of several labels with unknowns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_roc
from torchmetrics.utilities import dim_zero_cat

from gazelit.metrics.catalogue import BINS, SPECIFICITY


class DiagnosisMetrics(Metric):
    """Metrics of a classifier; exact, over all cases at once.

    AUC and average precision are given per class (one-versus-rest) and as macro means; the micro AUC pools all pairs of
    case and class. They are undefined (NaN) for a class that no case or every case has, and the macro mean is over the
    other classes. Unknown labels (NaN) of a multi-label problem do not count. ``docs/metrics.md`` has the definitions.

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
        """The metrics by name.

        ``auroc_macro``, ``auroc_micro``, ``auroc_<class>``, ``ap_macro``, ``ap_<class>``, ``sensitivity_<class>`` (at a
        specificity of at least 0.9), ``accuracy``, ``brier``, ``ece``; for exclusive classes also
        ``balanced_accuracy`` and ``f1_macro``, for several labels ``f1_<class>`` at 0.5.
        """
        probabilities, labels = dim_zero_cat(self.probabilities), dim_zero_cat(self.labels)
        classes = len(self.class_names)
        truth = torch.nn.functional.one_hot(labels, classes).float() if self.exclusive else labels.float()
        known = ~truth.isnan()
        by_class: dict[str, list[Tensor]] = {"auroc": [], "ap": [], "sensitivity": []}
        for position in range(classes):
            is_known = known[:, position]
            values = _ranked(probabilities[is_known, position], truth[is_known, position].long())
            for name, value in zip(by_class, values, strict=True):
                by_class[name].append(value)
        columns = {name: torch.stack(values) for name, values in by_class.items()}
        results = {
            "auroc_macro": columns["auroc"].nanmean(),
            "auroc_micro": _ranked(probabilities[known], truth[known].long())[0],
            "ap_macro": columns["ap"].nanmean(),
        }
        results |= {
            f"{kind}_{name}": value
            for kind, values in columns.items()
            for name, value in zip(self.class_names, values, strict=True)
        }
        results["brier"] = _brier(probabilities, truth, known, self.exclusive)
        if self.exclusive:
            confidence, chosen = probabilities.max(1)
            right = (chosen == labels).float()
            results["accuracy"] = right.mean()
            recalls = [right[labels == label].mean() for label in labels.unique()]
            results["balanced_accuracy"] = torch.stack(recalls).mean()
            scores = torch.stack([_f1(chosen == number, labels == number) for number in range(classes)])
            results["f1_macro"] = scores.nanmean()
            results["ece"] = expected_calibration_error(confidence, right)
        else:
            chosen = probabilities >= 0.5
            results["accuracy"] = (chosen == (truth == 1))[known].float().mean()
            for position, name in enumerate(self.class_names):
                is_known = known[:, position]
                results[f"f1_{name}"] = _f1(chosen[is_known, position], truth[is_known, position] == 1)
            results["ece"] = expected_calibration_error(probabilities[known], truth[known])
        return results


def expected_calibration_error(confidence: Tensor, right: Tensor, bins: int = BINS) -> Tensor:
    """Mean distance of confidence and frequency over bins with equal numbers of cases (Nixon et al. 2019).

    Bins have equal mass, because bins of equal width are mostly empty, which biases their error.

    Args:
        confidence: (N,) predicted probabilities.
        right: (N,) 0 or 1: whether the prediction was right.
        bins: Number of bins; with fewer cases, each case is a bin.

    Returns:
        Scalar in [0, 1]; NaN without cases.
    """
    if not len(confidence):
        return confidence.new_tensor(torch.nan)
    order = confidence.argsort(stable=True)
    pairs = zip(confidence[order].tensor_split(bins), right[order].float().tensor_split(bins), strict=True)
    gaps = [(chance.mean() - outcome.mean()).abs() * len(chance) for chance, outcome in pairs if len(chance)]
    return torch.stack(gaps).sum() / len(confidence)


def _ranked(score: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """AUC, average precision, and sensitivity at ``SPECIFICITY``; NaN with one class only."""
    if not 0 < int(positive.sum()) < len(positive):
        undefined = score.new_tensor(torch.nan)
        return undefined, undefined, undefined
    false, true, _ = binary_roc(score, positive)
    sensitivity = true[false <= 1 - SPECIFICITY + 1e-9].max()
    return binary_auroc(score, positive), binary_average_precision(score, positive), sensitivity


def _brier(probabilities: Tensor, truth: Tensor, known: Tensor, exclusive: bool) -> Tensor:
    """Mean squared error of the probabilities: summed over exclusive classes (Brier 1950), averaged over labels."""
    error = torch.where(known, (probabilities - truth.nan_to_num()).square(), 0.0)
    return error.sum(1).mean() if exclusive else error.sum() / known.sum()


def _f1(chosen: Tensor, positive: Tensor) -> Tensor:
    """F1; NaN if a class is neither present nor predicted."""
    hits = (chosen & positive).sum()
    total = chosen.sum() + positive.sum()
    return torch.where(total > 0, 2 * hits / total.clamp(min=1), torch.nan)
