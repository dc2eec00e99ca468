"""The interface of task weightings, and gradients of single tasks for weightings that compare them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from gazelit.errors import InputError

Losses = Mapping[str, Tensor]


class TaskWeighting(nn.Module):
    """Makes one scalar to minimise out of the tasks' losses.

    Values that a weighting learns by gradient are ``nn.Parameter``, which the stage trains at a rate of their own. All
    other state between batches is in buffers, so that a resumed run ends in the same bytes. Its values must be the same
    in all processes (:func:`mean_over_processes`).
    """

    #: Whether it compares tasks that are trained in the same step, and does nothing where they never are.
    compares_tasks: ClassVar[bool] = False

    @abstractmethod
    def forward(self, losses: Losses, parameters: Sequence[nn.Parameter] = ()) -> Tensor:
        """The scalar to minimise.

        Args:
            losses: By task, scalars. In training, one without a graph (``requires_grad`` is false) is of a task that
                pauses in this step: its value is known, and nothing is trained on it.
            parameters: The trained parameters in training; empty in evaluation.
        """

    def begin_epoch(self, parameters: Sequence[nn.Parameter] = ()) -> None:
        """Called before the first batch of each training epoch.

        Args:
            parameters: What is trained.
        """

    def learned(self) -> dict[str, Tensor]:
        """Scalars to log each epoch, by name."""
        return {}


def weigh(
    weighting: TaskWeighting, losses: Losses, parameters: Sequence[nn.Parameter], active: Sequence[str]
) -> Tensor:
    """The scalar that a training step minimises.

    Args:
        weighting: The weighting of the tasks.
        losses: By task.
        parameters: The trained parameters.
        active: The tasks that are trained in this step. Parameters of only the other tasks have a gradient of zero, and
            not none, because several processes exchange it.
    """
    paused = [task for task in losses if task not in active]
    total = weighting({task: loss.detach() if task in paused else loss for task, loss in losses.items()}, parameters)
    for task in paused:
        total = total + 0 * losses[task]
    return total


def in_order(losses: Losses, tasks: Sequence[str]) -> list[Tensor]:
    """The losses of a weighting's tasks, in float32.

    Raises:
        InputError: The tasks are others.
    """
    if set(losses) != set(tasks):
        raise InputError(f"tasks: {', '.join(tasks)} were configured, but the losses are {', '.join(losses)}")
    return [losses[task].float() for task in tasks]


def shares(logits: Tensor, present: Tensor) -> Tensor:
    """The softmax over the tasks that are present; zero for the others.

    Args:
        logits: (T,).
        present: (T,), booleans.

    Returns:
        (T,).
    """
    # Those that are absent must not be the largest, beside which the others would vanish.
    seen = torch.where(present, logits, logits.min())
    weights = (seen - seen.max()).exp() * present
    return weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of a tensor over processes, in place; every process must call it."""
    if distributed.is_initialized():
        distributed.all_reduce(values)
        values /= distributed.get_world_size()
    return values


def task_gradients(losses: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Each task's gradient, averaged over processes as that of one process with the whole batch would be.

    Args:
        losses: Scalars; the gradient of a loss without a graph is zero.
        parameters: Parameters with P values in all.

    Returns:
        For each loss (P,).

    Raises:
        InputError: The parameters are sharded, so that no process holds a whole gradient to compare.
    """
    if any(isinstance(parameter, DTensor) for parameter in parameters):
        raise InputError(
            "weighting: this one compares gradients of the tasks, which sharded parameters do not have in one piece; "
            "use --trainer.strategy=ddp, or a weighting that needs the losses alone"
        )
    return [mean_over_processes(_gradient(loss, parameters)) for loss in losses]


def _gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    parts: Sequence[Tensor | None] = [None] * len(parameters)
    if loss.requires_grad:
        parts = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [
            torch.zeros_like(parameter).flatten() if part is None else part.flatten()
            for part, parameter in zip(parts, parameters, strict=True)
        ]
    )


def with_gradient(value: Tensor, parameters: Sequence[nn.Parameter], gradient: Tensor) -> Tensor:
    """A scalar whose backward pass gives a fixed gradient; hooks of DDP, scalers and accumulation still work.

    Args:
        value: The scalar.
        parameters: Parameters with P values in all.
        gradient: (P,), as from :func:`task_gradients`.
    """
    parts = gradient.split([parameter.numel() for parameter in parameters])
    carrier = sum((parameter.flatten() * part).sum() for parameter, part in zip(parameters, parts, strict=True))
    return value.detach() + carrier - carrier.detach()
