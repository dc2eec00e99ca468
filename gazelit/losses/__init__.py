"""Objectives, in plain PyTorch."""

from gazelit.losses.contrastive import (
    BatchAllTripletLoss,
    BatchHardTripletLoss,
    BatchSemiHardTripletLoss,
    SupervisedContrastiveLoss,
)
from gazelit.losses.diagnosis import DiagnosisLoss
from gazelit.losses.multitask import (
    DynamicWeightAverage,
    FixedWeighting,
    ReferenceWeighting,
    UncertaintyWeighting,
)
from gazelit.losses.saliency import CorrelationLoss, KLDivergenceLoss, NSSLoss, SimilarityLoss, WeightedSaliencyLoss

__all__ = [
    "BatchAllTripletLoss",
    "BatchHardTripletLoss",
    "BatchSemiHardTripletLoss",
    "CorrelationLoss",
    "DiagnosisLoss",
    "DynamicWeightAverage",
    "FixedWeighting",
    "KLDivergenceLoss",
    "NSSLoss",
    "ReferenceWeighting",
    "SimilarityLoss",
    "SupervisedContrastiveLoss",
    "UncertaintyWeighting",
    "WeightedSaliencyLoss",
]
