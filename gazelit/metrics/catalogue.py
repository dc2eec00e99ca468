"""The catalogue of gazelit's metrics, each once: its name, its label and its better direction.

Logs, curves, tables of predictions and reports take their metrics from here. To add a map metric, write a function in
:mod:`gazelit.metrics.functional` and an entry of :data:`MAP_METRICS`. A metric from outside the package is a
:class:`gazelit.metrics.CaseMetric` or any ``torchmetrics.Metric`` in ``model.metrics`` (``docs/extending.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from gazelit.density import CentreBias
from gazelit.metrics import functional
from gazelit.metrics.functional import Convention
from gazelit.metrics.fused import cc_kld_sim_nss

#: Number of bins of the expected calibration error; all have the same number of cases.
BINS = 15
#: Specificity at which the sensitivity is reported.
SPECIFICITY = 0.9
#: Prefix of the names of metrics and predictions of a classifier that was given the reader's gaze.
WITH_GAZE = "with_gaze"


@dataclass(frozen=True)
class MetricEntry:
    """The properties of a metric.

    Attributes:
        name: Name in logs after the split, such as ``test/cc``, and in tables of predictions.
        label: Name in reports, with its unit if it has one.
        higher_is_better: Whether a higher value is better.
    """

    name: str
    label: str
    higher_is_better: bool

    @property
    def direction(self) -> str:
        """``higher is better`` or ``lower is better``."""
        return f"{'higher' if self.higher_is_better else 'lower'} is better"

    @property
    def short(self) -> str:
        """The label without its unit, for columns of tables."""
        return self.label.partition(" (")[0]

    def of_class(self, class_name: str) -> MetricEntry:
        """The same metric of one class."""
        return replace(self, name=f"{self.name}_{class_name}", label=f"{self.label} {class_name}")


@dataclass(frozen=True)
class Maps:
    """The maps that a map metric compares.

    Attributes:
        prediction: Predicted densities (B, H, W).
        target: Fixation densities (B, H, W).
        counts: Fixation counts (B, H, W).
        mask: Pixels that count (B, H, W).
        bias: At test, the training cases' density and fixation counts: the baseline of the information gain and the
            negatives of the shuffled AUC.
    """

    prediction: Tensor
    target: Tensor
    counts: Tensor
    mask: Tensor | None = None
    bias: CentreBias | None = None

    @cached_property
    def passes(self) -> dict[str, Tensor]:
        """CC, KLD, SIM and NSS of two passes over the maps."""
        return cc_kld_sim_nss(self.prediction, self.target, self.counts, self.mask)

    @cached_property
    def training_density(self) -> Tensor:
        """The training cases' mean density (H, W)."""
        return self._bias.density.to(self.prediction.device)

    @cached_property
    def training_counts(self) -> Tensor:
        """The training cases' fixation counts (H, W)."""
        return self._bias.counts.to(self.prediction.device)

    @property
    def _bias(self) -> CentreBias:
        if self.bias is None:
            raise ValueError("this metric needs the centre bias of the training cases, which there is at test")
        return self.bias


@dataclass(frozen=True)
class MapMetric(MetricEntry):
    """A metric of a predicted saliency map.

    Attributes:
        compute: Computes the values (B,), NaN where the metric is undefined.
        at_validation: Whether it is cheap enough for every validation; at test all are computed.
        conventions: How other conventions compute it (``docs/metrics.md``); their values are named
            ``<name>_<convention>``.
    """

    compute: Callable[[Maps], Tensor] = field(kw_only=True)
    at_validation: bool = field(default=False, kw_only=True)
    conventions: Mapping[Convention, Callable[[Maps], Tensor]] = field(default_factory=dict, kw_only=True)


#: Map metrics by name, in the order of logs and tables.
MAP_METRICS: dict[str, MapMetric] = {
    metric.name: metric
    for metric in (
        MapMetric("cc", "CC", True, compute=lambda maps: maps.passes["cc"], at_validation=True),
        MapMetric(
            "kld", "KLD (nats)", False,
            compute=lambda maps: maps.passes["kld"],
            at_validation=True,
            conventions={"mit": lambda maps: functional.kld(maps.prediction, maps.target, maps.mask, "mit")},
        ),
        MapMetric(
            "sim", "SIM", True,
            compute=lambda maps: maps.passes["sim"],
            at_validation=True,
            conventions={"mit": lambda maps: functional.sim(maps.prediction, maps.target, maps.mask, "mit")},
        ),
        MapMetric(
            "nss", "NSS", True,
            compute=lambda maps: maps.passes["nss"],
            at_validation=True,
            conventions={
                "mit": lambda maps: functional.nss(maps.prediction, maps.counts, maps.mask, "mit"),
                "reference": lambda maps: functional.nss(maps.prediction, maps.target, maps.mask, "reference"),
            },
        ),
        MapMetric(
            "auc_judd", "AUC-Judd", True,
            compute=lambda maps: functional.auc_judd(maps.prediction, maps.counts, maps.mask),
            at_validation=True,
            conventions={"mit": lambda maps: functional.auc_judd(maps.prediction, maps.counts, maps.mask, "mit")},
        ),
        MapMetric(
            "auc_borji", "AUC-Borji", True,
            compute=lambda maps: functional.auc_borji(maps.prediction, maps.counts, maps.mask),
        ),
        MapMetric(
            "sauc", "shuffled AUC", True,
            compute=lambda maps: functional.sauc(maps.prediction, maps.counts, maps.training_counts, maps.mask),
        ),
        MapMetric(
            "ig", "information gain over the centre bias (bits)", True,
            compute=lambda maps: functional.ig(maps.prediction, maps.counts, maps.training_density, maps.mask),
            conventions={
                "mit": lambda maps: functional.ig(
                    maps.prediction, maps.counts, maps.training_density, maps.mask, "mit"
                )
            },
        ),
        MapMetric(
            "emd", "EMD (pixels)", False,
            compute=lambda maps: functional.emd(maps.prediction, maps.target, maps.mask),
        ),
    )
}  # fmt: skip

#: Metrics of scanpaths, bits first: a film's mean over its fixations, given the earlier ones, or over drawn paths.
SCANPATH_METRICS: dict[str, MetricEntry] = {
    metric.name: metric
    for metric in (
        MetricEntry("scanpath_bits", "bits a fixation (over the centre bias, given the history)", True),
        MetricEntry("scanpath_cnss", "conditional NSS", True),
        MetricEntry("scanpath_cauc", "conditional AUC", True),
        MetricEntry("scanpath_scanmatch", "ScanMatch 16 × 12", True),
        MetricEntry("scanpath_scanmatch_50ms", "ScanMatch 16 × 12, 50 ms", True),
        MetricEntry("scanpath_sed", "SED 5 × 5 over the longer length", False),
        MetricEntry("scanpath_multimatch", "MultiMatch, mean of five", True),
    )
}
#: All metrics by name: diagnoses, embeddings, maps and scanpaths.
METRICS: dict[str, MetricEntry] = {
    metric.name: metric
    for metric in (
        MetricEntry("auroc_macro", "macro AUC", True),
        MetricEntry("auroc_micro", "micro AUC", True),
        MetricEntry("ap_macro", "macro average precision", True),
        MetricEntry("accuracy", "accuracy", True),
        MetricEntry("balanced_accuracy", "balanced accuracy", True),
        MetricEntry("f1_macro", "macro F1", True),
        MetricEntry("brier", "Brier score", False),
        MetricEntry("ece", "expected calibration error", False),
        MetricEntry("knn_auroc_macro", "neighbours, macro AUC", True),
        MetricEntry("probe_auroc_macro", "linear probe, macro AUC", True),
        *MAP_METRICS.values(),
        *SCANPATH_METRICS.values(),
    )
}
#: Metrics of a single class, by the part of the name before ``_<class>``.
CLASS_METRICS: dict[str, MetricEntry] = {
    metric.name: metric
    for metric in (
        MetricEntry("auroc", "AUC", True),
        MetricEntry("ap", "average precision", True),
        MetricEntry("sensitivity", "sensitivity at a specificity of 0.9 to", True),
        MetricEntry("f1", "F1", True),
    )
}


def short_labels(*names: str) -> dict[str, str]:
    """Labels of metrics in columns of tables, by name."""
    return {name: METRICS[name].short for name in names}


def entry(name: str, class_names: Sequence[str] = ()) -> MetricEntry | None:
    """The entry of a metric; None for a metric that is not gazelit's.

    Args:
        name: Name in logs, after the split.
        class_names: Classes whose names may follow a metric's name.
    """
    if name in METRICS:
        return METRICS[name]
    kind, _, class_name = name.partition("_")
    return CLASS_METRICS[kind].of_class(class_name) if kind in CLASS_METRICS and class_name in class_names else None
