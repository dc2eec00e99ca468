"""Objectives beside those of the tasks: what they get, and how a stage adds them up."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from gazelit.errors import InputError

Tensors = Mapping[str, Tensor]


class AuxiliaryLoss(nn.Module):
    """An objective over everything that the network gives and the batch holds; computed in training alone.

    Args:
        weight: By what the loss is multiplied before it is added to those of the tasks.

    Raises:
        InputError: The weight is negative.
    """

    #: Name in logs: ``train/<name>_loss``.
    name: str

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if not weight >= 0:
            raise InputError(f"weight: must be at least 0, not {weight}")
        self.weight = weight

    @abstractmethod
    def forward(self, outputs: Tensors, batch: Tensors) -> Tensor:
        """Computes the loss in float32.

        Args:
            outputs: Of the network, such as ``logits`` (B, K), ``saliency_logits`` (B, 1, H, W) and ``embedding_map``
                (B, C, h, w), the encoder's map that the classifier pools.
            batch: ``image`` and ``heatmap`` (B, 1, H, W), ``label`` (B,) or (B, K), ``has_gaze`` (B,) and so on.

        Returns:
            Scalar: a mean over the images that :meth:`counted` counts; zero with a zero gradient without any.
        """

    @abstractmethod
    def counted(self, batch: Tensors) -> Tensor:
        """Number of images of a batch that the loss is a mean over, a scalar."""


def auxiliary_modules(losses: Sequence[AuxiliaryLoss]) -> nn.ModuleList:
    """The objectives as a part of a stage.

    Raises:
        InputError: Two have the same name, under which they are logged.
    """
    names = [loss.name for loss in losses]
    if len(set(names)) < len(names):
        raise InputError(f"auxiliary: {', '.join(names)} must have different names")
    return nn.ModuleList(losses)


def add_auxiliary(
    losses: Iterable[AuxiliaryLoss], outputs: Tensors, batch: Tensors
) -> tuple[Tensor, dict[str, Tensor]]:
    """What auxiliary objectives add to the tasks' losses.

    Args:
        losses: The objectives.
        outputs: See :meth:`AuxiliaryLoss.forward`.
        batch: See :meth:`AuxiliaryLoss.forward`.

    Returns:
        The weighted sum, and each value by ``<name>_loss``, detached.
    """
    total = torch.zeros((), device=batch["image"].device)
    values: dict[str, Tensor] = {}
    for loss in losses:
        value = loss(outputs, batch)
        total = total + loss.weight * value
        values[f"{loss.name}_loss"] = value.detach()
    return total, values
