"""Scanpath metrics over many batches, exact over processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from gazelit.errors import InputError
from gazelit.metrics.groups import keep_apart
from gazelit.metrics.scanpath.conditional import scored_fixations
from gazelit.metrics.scanpath.distances import dtw, eyenalysis, frechet, hausdorff, stde, tde
from gazelit.metrics.scanpath.multimatch import multimatch
from gazelit.metrics.scanpath.paths import packed_paths
from gazelit.metrics.scanpath.recurrence import cross_recurrence
from gazelit.metrics.scanpath.strings import scanmatch, sed, sequence_score
from gazelit.metrics.scanpath.values import Settings

#: The functional forms by name.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "scanmatch": scanmatch,
    "multimatch": multimatch,
    "sed": sed,
    "sequence_score": sequence_score,
    "tde": tde,
    "stde": stde,
    "dtw": dtw,
    "frechet": frechet,
    "hausdorff": hausdorff,
    "eyenalysis": eyenalysis,
    "cross_recurrence": cross_recurrence,
}
#: Metrics of which a higher value is better.
SIMILARITIES = ("scanmatch", "multimatch", "sequence_score", "stde", "cross_recurrence")


class ScanpathMetric(Metric):
    """The mean over pairs of a scanpath metric.

    States are sums and counts, so that the mean over several processes is the mean over pairs. Pairs without a value
    are left out and counted (``undefined``).

    Args:
        name: One of ``FUNCTIONS``.
        settings: Arguments of the function, such as ``{"size": [224, 224], "bins": [8, 6]}``.
        options: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        InputError: There is no such metric, or it has no such setting.
    """

    full_state_update = False
    is_differentiable = False
    total: Tensor
    count: Tensor
    pairs: Tensor

    def __init__(self, name: str, settings: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        if name not in FUNCTIONS:
            raise InputError(f"name: no scanpath metric {name}; there are {', '.join(FUNCTIONS)}")
        self.name = name
        self.arguments = dict(settings or {})
        empty = self._function([], [], **self._arguments_for(0))
        self.fields: tuple[str, ...] = getattr(empty, "_fields", ())
        #: The settings on which the values depend.
        self.settings: Settings = empty.settings
        for state in ("total", "count"):
            self.add_state(state, torch.zeros(max(1, len(self.fields)), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pairs", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        keep_apart(self, name, sorted(self.arguments.items()))

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Whether a higher value is better."""
        return self.name in SIMILARITIES

    def _function(self, prediction: Any, target: Any, **arguments: Any) -> Any:
        try:
            return FUNCTIONS[self.name](prediction, target, **arguments)
        except TypeError as error:
            if "keyword" not in str(error):
                raise
            raise InputError(f"{self.name}: {str(error).partition('() ')[2]}") from error

    def _arguments_for(self, pairs: int) -> dict[str, Any]:
        regions = self.arguments.get("regions")
        return {**self.arguments, "regions": []} if pairs == 0 and isinstance(regions, list) else self.arguments

    def update(self, prediction: Any, target: Any, **arguments: Any) -> None:
        """Adds the pairs of a batch.

        Args:
            prediction: List of (n, 3) arrays or tensors of x, y (pixels) and duration (s).
            target: As many.
            arguments: Arguments that differ from batch to batch, such as ``regions``.
        """
        packed = [packed_paths(paths, name) for paths, name in ((prediction, "prediction"), (target, "target"))]
        scores = self._function(*packed, **{**self.arguments, **arguments})
        columns = [np.asarray(dimension) for dimension in (scores if self.fields else (scores,))]
        values = torch.from_numpy(np.stack(columns)).to(self.total.device)
        defined = ~values.isnan()
        self.total += torch.where(defined, values, 0.0).sum(1)
        self.count += defined.sum(1)
        self.pairs += len(packed[0])

    def compute(self) -> Any:
        """The mean, a scalar; a dictionary if the metric has several dimensions. NaN without any pair."""
        means = self.total / self.count
        return dict(zip(self.fields, means, strict=True)) if self.fields else means[0]

    @property
    def undefined(self) -> int:
        """Number of pairs without a value so far; if there are several dimensions, their greatest number.

        Of several processes each counts its own pairs.
        """
        return int((self.pairs - self.count).max())


class ConditionalMetric(Metric):
    """Conditional IG, NSS or AUC, averaged over all fixations that are scored.

    Args:
        name: ``ig``, ``nss`` or ``auc``.
        given: Number of fixations at the start of a path that are given and not scored.
        options: Arguments of :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self, name: Literal["ig", "nss", "auc"] = "ig", given: int = 1, **options: Any) -> None:
        super().__init__(**options)
        if name not in ("ig", "nss", "auc"):
            raise InputError(f"name: must be ig, nss or auc, not {name}")
        self.name = name
        self.given = given
        for state in ("total", "count"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        keep_apart(self, name, given)

    def update(self, log_density: Any, paths: Any, baseline: Any | None = None) -> None:
        """Adds the fixations of some paths.

        Args:
            log_density: List of (n, H, W) logarithms of conditional densities.
            paths: List of (n, 3) arrays.
            baseline: (H, W) logarithm of the baseline's density, or a list of such; needed by ``ig``.

        Raises:
            InputError: ``ig`` has no baseline; see also :func:`conditional_scores`.
        """
        if self.name == "ig" and baseline is None:
            raise InputError("baseline: information is gained over something; give the centre bias")
        for scores in scored_fixations(log_density, paths, baseline, self.given):
            values = getattr(scores, self.name).values
            self.total += float(values.sum())
            self.count += len(values)

    def compute(self) -> Tensor:
        """The mean over fixations; NaN without any."""
        return self.total / self.count
