"""Metrics of diagnosis and of predicted gaze, in plain PyTorch and torchmetrics.

torchmetrics takes 300 MB to import, which tests need and reports do not: each name is imported when it is first used.
"""

from typing import TYPE_CHECKING

from gazelit.lazy import lazy_names

if TYPE_CHECKING:
    from gazelit.metrics.custom import CaseMetric, ComparedMetric
    from gazelit.metrics.diagnosis import DiagnosisMetrics
    from gazelit.metrics.embedding import EmbeddingMetrics
    from gazelit.metrics.map_values import saliency_values
    from gazelit.metrics.means import ImageMeans
    from gazelit.metrics.saliency import SaliencyMetrics

__all__ = [
    "CaseMetric",
    "ComparedMetric",
    "DiagnosisMetrics",
    "EmbeddingMetrics",
    "ImageMeans",
    "SaliencyMetrics",
    "saliency_values",
]

_NAMES = {
    "gazelit.metrics.custom": ("CaseMetric", "ComparedMetric"),
    "gazelit.metrics.diagnosis": ("DiagnosisMetrics",),
    "gazelit.metrics.embedding": ("EmbeddingMetrics",),
    "gazelit.metrics.map_values": ("saliency_values",),
    "gazelit.metrics.means": ("ImageMeans",),
    "gazelit.metrics.saliency": ("SaliencyMetrics",),
}

__getattr__, __dir__ = lazy_names(__name__, _NAMES, globals())
