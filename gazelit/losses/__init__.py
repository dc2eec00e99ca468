"""Objectives, in plain PyTorch."""

from gazelit.losses.attention import AttentionConsistencyLoss
from gazelit.losses.auxiliary import AuxiliaryLoss
from gazelit.losses.contrastive import (
    BatchAllTripletLoss,
    BatchHardTripletLoss,
    BatchSemiHardTripletLoss,
    NTXentLoss,
    SupervisedContrastiveLoss,
)
from gazelit.losses.diagnosis import DiagnosisLoss
from gazelit.losses.distillation import Distillation
from gazelit.losses.multitask import (
    DynamicWeightAverage,
    FixedWeighting,
    GradientSurgery,
    ReferenceWeighting,
    UncertaintyWeighting,
)
from gazelit.losses.pairing import GazeSimilarity, SameClass, SameImage
from gazelit.losses.saliency import (
    CorrelationLoss,
    DeepSupervisionLoss,
    KLDivergenceLoss,
    NSSLoss,
    SimilarityLoss,
    WeightedSaliencyLoss,
)

__all__ = [
    "AttentionConsistencyLoss",
    "AuxiliaryLoss",
    "BatchAllTripletLoss",
    "BatchHardTripletLoss",
    "BatchSemiHardTripletLoss",
    "CorrelationLoss",
    "DeepSupervisionLoss",
    "DiagnosisLoss",
    "Distillation",
    "DynamicWeightAverage",
    "FixedWeighting",
    "GazeSimilarity",
    "GradientSurgery",
    "KLDivergenceLoss",
    "NSSLoss",
    "NTXentLoss",
    "ReferenceWeighting",
    "SameClass",
    "SameImage",
    "SimilarityLoss",
    "SupervisedContrastiveLoss",
    "UncertaintyWeighting",
    "WeightedSaliencyLoss",
]
