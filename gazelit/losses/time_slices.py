"""The objective over maps of the parts of a reading."""

from __future__ import annotations

import torch
from torch import Tensor

from gazelit.density import log_density
from gazelit.errors import InputError
from gazelit.losses.objective import Objective, Tensors


class TimeSlicesLoss(Objective):
    """KL divergence of each part's map, of the whole map, and of the mixture of the parts.

    Args:
        whole: Weight of the divergence of the whole reading's map.
        consistency: Weight of the divergence of the mixture of the parts, each with its share of the looking time.

    Raises:
        InputError: A weight is negative.
    """

    def __init__(self, whole: float = 1.0, consistency: float = 0.5) -> None:
        super().__init__()
        if min(whole, consistency) < 0:
            raise InputError("TimeSlicesLoss: weights must not be negative")
        self.whole, self.consistency = whole, consistency

    def forward(self, outputs: Tensors, batch: Tensors) -> Tensor:
        """The weighted sum of :meth:`parts`."""
        parts = self.parts(outputs, batch)
        return parts["slices"] + self.whole * parts["whole"] + self.consistency * parts["consistency"]

    def parts(self, outputs: Tensors, batch: Tensors) -> dict[str, Tensor]:
        """The parts of the loss, as means over the images with gaze.

        Args:
            outputs: ``slice_logits`` (B, K, H, W) and ``saliency_logits`` (B, 1, H, W).
            batch: ``heatmap`` (B, 1, H, W); ``slice_maps`` (B, K, H, W), densities, all zero without gaze; and
                ``slice_shares`` (B, K) of the looking time.

        Returns:
            ``slices`` (mean over the parts with gaze), ``whole`` and ``consistency``, scalars in nats.
        """
        logits = outputs["slice_logits"]
        log = log_density(logits.flatten(0, 1)[:, None]).view_as(logits).flatten(2)
        target, shares = batch["slice_maps"].float().flatten(2), batch["slice_shares"].float()
        seen = shares > 0
        each = (torch.xlogy(target, target) - target * log).sum(2)
        slices = torch.where(seen, each, 0.0).sum(1) / seen.sum(1).clamp(min=1)
        whole_target = batch["heatmap"].float().flatten(1)
        entropy = torch.xlogy(whole_target, whole_target).sum(1)
        whole = entropy - (whole_target * log_density(outputs["saliency_logits"]).flatten(1)).sum(1)
        weights = torch.where(seen, shares, 1e-12).log()
        mixture = (log + weights[..., None]).logsumexp(1)
        consistency = entropy - (whole_target * mixture).sum(1)
        count, has_gaze = self.counted(batch).clamp(min=1), batch["has_gaze"]
        named = {"slices": slices, "whole": whole, "consistency": consistency}
        return {name: torch.where(has_gaze, value, 0.0).sum() / count for name, value in named.items()}

    def counted(self, batch: Tensors) -> Tensor:
        """The images with gaze."""
        return batch["has_gaze"].sum()
