"""Objectives over diagnoses: exclusive classes, or several labels with unknowns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gazelit.errors import InputError
from gazelit.losses.objective import Objective, Tensors


class DiagnosisLoss(Objective):
    """Cross-entropy of exclusive classes, or binary cross-entropy over the known labels of several.

    Args:
        class_weights: Weight of each of the K classes, or of each label's positives; 1 unless given.
        label_smoothing: Share of a label's certainty that is spread over all classes, or over both of its values.

    Raises:
        InputError: A weight is not positive, or the smoothing is not in [0, 1).
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if class_weights is not None and not all(weight > 0 for weight in class_weights):
            raise InputError("class_weights: must be above 0")
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing: must be at least 0 and below 1, not {label_smoothing}")
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        # Not a part of checkpoints: it is configured.
        self.register_buffer("class_weights", weights, persistent=False)
        self.label_smoothing = label_smoothing

    def forward(self, outputs: Tensors, batch: Tensors) -> Tensor:
        """Computes the loss in float32.

        Args:
            outputs: ``logits`` (B, K).
            batch: ``label``, (B,) int64 class indices, or (B, K) float32 of 0, 1 and NaN for unknown.

        Returns:
            Scalar: the mean over images (weighted as in torch), or over known labels; zero with a zero gradient if none
                is known.

        Raises:
            InputError: The number of weights is not K.
        """
        # Under bf16 autocast the logits would lose the digits the loss lives on.
        logits, label, weights = outputs["logits"].float(), batch["label"], self.class_weights
        if weights is not None and len(weights) != logits.shape[1]:
            raise InputError(f"class_weights: {len(weights)} are given for {logits.shape[1]} classes")
        if not label.is_floating_point():
            return F.cross_entropy(logits, label, weights, label_smoothing=self.label_smoothing)
        known = ~label.isnan()
        target = torch.where(known, label, 0.0) * (1 - self.label_smoothing) + self.label_smoothing / 2
        each = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weights, reduction="none")
        return torch.where(known, each, 0.0).sum() / known.sum().clamp(min=1)

    def counted(self, batch: Tensors) -> Tensor:
        """Of several labels the known ones; of exclusive classes the images, or the sum of their classes' weights."""
        label = batch["label"]
        if label.is_floating_point():
            return (~label.isnan()).sum()
        # torch divides by the weights of the images' classes.
        return torch.tensor(len(label)) if self.class_weights is None else self.class_weights[label].sum()
