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
from gazelit.losses.excess_risk import ExcessMTL
from gazelit.losses.famo import FAMO
from gazelit.losses.multitask import (
    DynamicWeightAverage,
    FixedWeighting,
    GradientSurgery,
    ReferenceWeighting,
    UncertaintyWeighting,
)
from gazelit.losses.objective import Objective
from gazelit.losses.pairing import GazeSimilarity, Pairing, SameClass, SameImage
from gazelit.losses.saliency import (
    CorrelationLoss,
    DeepSupervisionLoss,
    KLDivergenceLoss,
    NSSLoss,
    SaliencyLoss,
    SimilarityLoss,
    WeightedSaliencyLoss,
)
from gazelit.losses.scanpath import ScanpathLikelihood
from gazelit.losses.time_slices import TimeSlicesLoss
from gazelit.losses.weighting import TaskWeighting

__all__ = [
    "FAMO",
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
    "ExcessMTL",
    "FixedWeighting",
    "GazeSimilarity",
    "GradientSurgery",
    "KLDivergenceLoss",
    "NSSLoss",
    "NTXentLoss",
    "Objective",
    "Pairing",
    "ReferenceWeighting",
    "SaliencyLoss",
    "SameClass",
    "SameImage",
    "ScanpathLikelihood",
    "SimilarityLoss",
    "SupervisedContrastiveLoss",
    "TaskWeighting",
    "TimeSlicesLoss",
    "UncertaintyWeighting",
    "WeightedSaliencyLoss",
]
