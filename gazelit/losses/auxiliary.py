"""Objectives in addition to those of the tasks, and their sum."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from gazelit.errors import InputError
from gazelit.losses.objective import Objective, Tensors


class AuxiliaryLoss(Objective):
    """An objective in addition to those of the tasks, computed only in training.

    Args:
        weight: Factor of the loss before it is added to those of the tasks.

    Raises:
        InputError: The weight is negative.
    """

    #: Name in logs: ``train/<name>_loss``.
    name: str
    #: Of one that is taught: its teacher's file, see :class:`gazelit.losses.distillation.TaughtLoss`.
    checkpoint: str | None = None

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if not weight >= 0:
            raise InputError(f"weight: must be at least 0, not {weight}")
        self.weight = weight


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
    """The weighted sum of auxiliary objectives, to be added to the tasks' losses.

    Args:
        losses: The objectives.
        outputs: See :meth:`gazelit.losses.objective.Objective.forward`.
        batch: See :meth:`gazelit.losses.objective.Objective.forward`.

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
