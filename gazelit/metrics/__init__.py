"""Metrics of diagnosis and of predicted gaze, in plain PyTorch and torchmetrics."""

from gazelit.metrics.custom import CaseMetric, ComparedMetric
from gazelit.metrics.diagnosis import DiagnosisMetrics
from gazelit.metrics.embedding import EmbeddingMetrics
from gazelit.metrics.means import ImageMeans
from gazelit.metrics.saliency import SaliencyMetrics, saliency_values

__all__ = [
    "CaseMetric",
    "ComparedMetric",
    "DiagnosisMetrics",
    "EmbeddingMetrics",
    "ImageMeans",
    "SaliencyMetrics",
    "saliency_values",
]
