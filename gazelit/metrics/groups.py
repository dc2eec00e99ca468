"""Metrics in a collection of torchmetrics."""

from __future__ import annotations

import hashlib
import pickle

import torch
from torchmetrics import Metric


def keep_apart(metric: Metric, *settings: object) -> None:
    """Adds a state whose name tells what a metric computes.

    A collection of torchmetrics merges metrics whose states have the same names and, after the first batch, the same
    values. The name is the same in every process and training, so that saved states can be loaded.

    Args:
        metric: The metric; its class counts.
        settings: What else its values depend on.
    """
    cls = type(metric)
    digest = hashlib.sha256(pickle.dumps((cls.__module__, cls.__qualname__, *settings))).hexdigest()
    metric.add_state(f"of_{digest[:16]}", torch.zeros(()), dist_reduce_fx="sum")
