"""Attention consistency: draws the classifier's evidence to where the reader looked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gazelit.errors import InputError
from gazelit.losses.auxiliary import AuxiliaryLoss
from gazelit.losses.objective import Tensors


class AttentionConsistencyLoss(AuxiliaryLoss):
    """Compares the class-activation map of an image's own classes with where its reader looked.

    The evidence at a cell is Σ_k α_k A_k, A the encoder's map that the classifier pools and α_k the mean over the cells
    of the gradient of the logit (Grad-CAM, Selvaraju et al. 2017, equations 1 and 2, without the final ReLU, after
    which evidence that is negative everywhere would have no gradient). The idea to train it is from Wang et al. 2022
    ("Follow My Eye") and GG-CAM (Zhu et al. 2022). They compare scaled maps by squared differences; here the measure is
    a saliency metric.

    Args:
        weight: See :class:`gazelit.losses.auxiliary.AuxiliaryLoss`.
        classes: Positions of the classes for which gaze shows the evidence; all unless given. Gaze on a normal film is
            no evidence that it is normal, so that such a class is best left out.
        measure: ``cc``: 1 − CC of evidence and gaze; ``kl``: KL divergence from the softmax of the evidence over the
            cells to gaze.

    Raises:
        InputError: ``classes`` is empty, or an option is impossible.
    """

    name = "attention"

    def __init__(
        self, weight: float = 1.0, classes: Sequence[int] | None = None, measure: Literal["cc", "kl"] = "cc"
    ) -> None:
        super().__init__(weight)
        if classes is not None and (not classes or min(classes) < 0):
            raise InputError("classes: name at least one class by its position, from 0, or leave the option out")
        if measure not in ("cc", "kl"):
            raise InputError(f"measure: must be cc or kl, not '{measure}'")
        self.classes = None if classes is None else list(dict.fromkeys(classes))
        self.measure = measure

    def forward(self, outputs: Tensors, batch: Tensors) -> Tensor:
        """See :meth:`gazelit.losses.objective.Objective.forward`.

        Raises:
            InputError: The network's classifier sees no map of the encoder, or lacks a class.
        """
        if "embedding_map" not in outputs:
            raise InputError(
                "AttentionConsistencyLoss: the classifier sees no map of the encoder; set classifier_features: fused"
            )
        features, logits = outputs["embedding_map"], outputs["logits"]
        if self.classes is not None and max(self.classes) >= logits.shape[1]:
            raise InputError(
                f"classes: there is no class {max(self.classes)}; the network has {logits.shape[1]} classes"
            )
        own = self._own(batch["label"])
        explained = logits[:, : own.shape[1]] if self.classes is None else logits[:, self.classes]
        with torch.autocast(features.device.type, enabled=False):
            evidence = _class_activation(features, (explained * own).sum())
            gaze = F.adaptive_avg_pool2d(batch["heatmap"].float(), (features.shape[-2], features.shape[-1])).flatten(1)
            if self.measure == "cc":
                per_image = 1 - (_standardised(evidence) * _standardised(gaze)).sum(1)
            else:
                gaze = gaze / gaze.sum(1, keepdim=True).clamp(min=1e-20)
                per_image = (torch.xlogy(gaze, gaze) - gaze * evidence.log_softmax(1)).sum(1)
            counts = own.any(1) & batch["has_gaze"]
            return torch.where(counts, per_image, 0.0).sum() / counts.sum().clamp(min=1)

    def counted(self, batch: Tensors) -> Tensor:
        """Images with gaze that have one of the classes."""
        return (self._own(batch["label"]).any(1) & batch["has_gaze"]).sum()

    def _own(self, label: Tensor) -> Tensor:
        """(B, C) bool: which of ``classes`` an image has; of the network's first C unless they are given."""
        if label.is_floating_point():
            return (label if self.classes is None else label[:, self.classes]) == 1
        if self.classes is None:
            return F.one_hot(label).bool()
        return label[:, None] == torch.tensor(self.classes, device=label.device)


def _class_activation(features: Tensor, logit: Tensor) -> Tensor:
    """Evidence (B, cells) for a sum of logits; an image's logits depend only on its own features."""
    (gradient,) = torch.autograd.grad(logit, features, create_graph=True)
    weight = gradient.float().mean(dim=(2, 3), keepdim=True)
    return (weight * features.float()).sum(1).flatten(1)


def _standardised(values: Tensor) -> Tensor:
    """(B, N) with mean 0 and norm 1; constant rows become 0."""
    return F.normalize(values - values.mean(1, keepdim=True), dim=1, eps=1e-20)
