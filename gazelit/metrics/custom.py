"""Metrics from outside the package: their inputs from a stage, and the use of their values."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics import Metric

from gazelit.errors import InputError
from gazelit.metrics.catalogue import CLASS_METRICS, METRICS
from gazelit.metrics.groups import keep_apart

Tensors = Mapping[str, Tensor]


class CaseMetric(Metric):
    """The mean over images of a value that each image has; a subclass computes that value.

    It is exact over processes, and the value of each image is in ``predictions.parquet`` under the metric's name.
    Images without a defined value (NaN) are left out of the mean. A subclass with settings gives them to
    :func:`gazelit.metrics.groups.keep_apart`, if metrics of several settings are to be in one ``MetricCollection``.
    """

    full_state_update = False
    total: Tensor
    count: Tensor
    #: The values of the last batch.
    cases: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        keep_apart(self)

    @abstractmethod
    def per_case(self, outputs: Tensors, batch: Tensors) -> Tensor:
        """The value of each image.

        Args:
            outputs: See :func:`update_metrics`.
            batch: Batch of the stage.

        Returns:
            (B,); NaN where it is undefined.
        """

    def update(self, outputs: Tensors, batch: Tensors) -> None:
        """Adds the images of a batch.

        Raises:
            InputError: The number of values is not B.
        """
        self.cases = self.per_case(outputs, batch).detach().double()
        if self.cases.shape != batch["index"].shape:
            raise InputError(
                f"metrics: {metric_name(self)}: per_case gave {tuple(self.cases.shape)} values for "
                f"{len(batch['index'])} images"
            )
        defined = ~self.cases.isnan()
        self.total += torch.where(defined, self.cases, 0.0).sum()
        self.count += defined.sum()

    def compute(self) -> Tensor:
        """The mean; NaN if no image has a value."""
        return self.total / self.count


class ComparedMetric(Metric):
    """A metric of torchmetrics, or with its interface, that compares a prediction with a truth.

    Args:
        metric: Takes ``(prediction, truth)``, such as ``torchmetrics.classification.MulticlassMatthewsCorrCoef``.
        prediction: Key of the outputs, such as ``probabilities``, ``logits`` or ``density``.
        truth: Key of the batch, such as ``label`` or ``heatmap``.
        name: Name in logs; that of the class unless given.
    """

    full_state_update = False

    def __init__(self, metric: Metric, prediction: str, truth: str, name: str | None = None) -> None:
        super().__init__()
        self.metric = metric
        self.prediction, self.truth = prediction, truth
        self.name = name if name is not None else metric_name(metric)

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """Whether a higher value is better; None if it is not known."""
        return self.metric.higher_is_better

    def update(self, outputs: Tensors, batch: Tensors) -> None:
        """Compares a batch.

        Raises:
            InputError: The stage has no such output, or the batch no such entry.
        """
        for key, where, found in ((self.prediction, "prediction", outputs), (self.truth, "truth", batch)):
            if key not in found:
                raise InputError(f"metrics: {self.name}: no {where} '{key}'; there are {', '.join(sorted(found))}")
        self.metric.update(outputs[self.prediction], batch[self.truth])

    def compute(self) -> Any:
        """The value of the metric."""
        return self.metric.compute()

    def reset(self) -> None:
        """Resets the metric."""
        super().reset()
        self.metric.reset()


def metric_name(metric: Metric) -> str:
    """Name of a metric in logs: its ``name``, or its class's name in lower case: ``MeanGap`` is ``mean_gap``."""
    named = getattr(metric, "name", None)
    return str(named) if named else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(metric).__name__).lower()


def check_metrics(metrics: Sequence[Metric]) -> None:
    """Checks the names of metrics.

    Raises:
        InputError: Two metrics have the same name, or one has that of a metric of gazelit.
    """
    names = [metric_name(metric) for metric in metrics]
    for name in names:
        if names.count(name) > 1 or name in METRICS or name.partition("_")[0] in CLASS_METRICS:
            raise InputError(f"metrics: '{name}' is the name of another metric; give it a `name` of its own")
        if not re.fullmatch(r"\w+", name):
            raise InputError(f"metrics: '{name}' is no name for logs; use letters, digits and underscores")


def update_metrics(metrics: Sequence[Metric], outputs: Tensors, batch: Tensors) -> dict[str, Tensor]:
    """Updates metrics with a batch.

    Args:
        metrics: Each takes ``update(outputs, batch)``.
        outputs: Outputs of the network, and ``probabilities`` (B, K) of a diagnosis or ``density`` (B, 1, H, W), the
            predicted map that sums to 1, if the stage predicts them.
        batch: Batch of the stage.

    Returns:
        By name, the values (B,) of those that have one for each image, in an attribute ``cases``.
    """
    per_case = {}
    for metric in metrics:
        metric.update(outputs, batch)
        if hasattr(metric, "cases"):
            per_case[metric_name(metric)] = cast(Tensor, metric.cases)
    return per_case


def computed(metric: Metric) -> dict[str, Tensor]:
    """A metric's values by name; several are named ``<metric>_<key>``. Every process must call it."""
    name, values = metric_name(metric), metric.compute()
    if not isinstance(values, Mapping):
        values = {"": values}
    found = {f"{name}_{key}" if key else name: torch.as_tensor(value) for key, value in values.items()}
    if several := [key for key, value in found.items() if value.numel() != 1]:
        raise InputError(f"metrics: {', '.join(several)}: compute must give a number, or numbers by name")
    return found


def described(metrics: Sequence[Metric]) -> dict[str, dict[str, Any]]:
    """Data of metrics for reports, by name: ``label`` and ``higher_is_better``, null if not known."""
    return {
        metric_name(metric): {
            "label": str(getattr(metric, "label", metric_name(metric).replace("_", " "))),
            "higher_is_better": metric.higher_is_better,
        }
        for metric in metrics
    }
