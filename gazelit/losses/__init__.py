"""Objectives, in plain PyTorch."""

from gazelit.losses.contrastive import BatchAllTripletLoss, BatchHardTripletLoss, SupervisedContrastiveLoss
from gazelit.losses.diagnosis import DiagnosisLoss
from gazelit.losses.multitask import FixedWeighting, ReferenceWeighting, UncertaintyWeighting
from gazelit.losses.saliency import CorrelationLoss, KLDivergenceLoss, SimilarityLoss, WeightedSaliencyLoss

__all__ = [
    "BatchAllTripletLoss",
    "BatchHardTripletLoss",
    "CorrelationLoss",
    "DiagnosisLoss",
    "FixedWeighting",
    "KLDivergenceLoss",
    "ReferenceWeighting",
    "SimilarityLoss",
    "SupervisedContrastiveLoss",
    "UncertaintyWeighting",
    "WeightedSaliencyLoss",
]
