"""Metrics in a collection of torchmetrics."""

from __future__ import annotations

import uuid

import torch
from torchmetrics import Metric


def keep_apart(metric: Metric) -> None:
    """Adds a state whose name only the metric and its copies have.

    A collection of torchmetrics merges metrics whose states have the same names and, after the first batch, the same
    values, whatever they compute.

    Args:
        metric: Has its other states.
    """
    metric.add_state(f"of_{uuid.uuid4().hex}", torch.zeros(()), dist_reduce_fx="sum")
