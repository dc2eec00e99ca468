"""Objectives, in plain PyTorch."""

from gazelit.losses.contrastive import BatchAllTripletLoss
from gazelit.losses.multitask import FixedWeighting, ReferenceWeighting, UncertaintyWeighting
from gazelit.losses.saliency import KLDivergenceLoss

__all__ = [
    "BatchAllTripletLoss",
    "FixedWeighting",
    "KLDivergenceLoss",
    "ReferenceWeighting",
    "UncertaintyWeighting",
]
