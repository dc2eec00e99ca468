"""Task weightings: fixed, by learned uncertainty, by how fast losses fall, by conflicts of gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, distributed, nn

from gazelit.errors import InputError
from gazelit.losses.weighting import Losses, TaskWeighting, in_order, task_gradients, with_gradient


class FixedWeighting(TaskWeighting):
    """A weighted sum.

    Args:
        weights: By task; tasks without one count with weight 1.
    """

    def __init__(self, weights: dict[str, float] | None = None) -> None:
        super().__init__()
        self.weights = dict(weights or {})

    def forward(self, losses: Losses, parameters: Sequence[nn.Parameter] = ()) -> Tensor:
        """The weighted sum of scalar losses.

        Raises:
            InputError: A weight belongs to no task.
        """
        unknown = self.weights.keys() - losses.keys()
        if unknown:
            raise InputError(f"weights: no task {', '.join(sorted(unknown))}; the tasks are {', '.join(losses)}")
        return torch.stack([self.weights.get(task, 1.0) * loss for task, loss in losses.items()]).sum()


class ReferenceWeighting(TaskWeighting):
    """The reference implementation's weighting: L_diagnosis / σ² + log(σ + 1) + L_saliency / 2 + log 2.

    s = log σ is learned; the saliency weight is fixed. It differs from Kendall, Gal and Cipolla (2018): log(σ + 1) for
    log σ, and 1/σ² for 1/(2σ²). With σ = 1 it starts as L_diagnosis + L_saliency / 2 + 2 log 2.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.zeros(()))

    def forward(self, losses: Losses, parameters: Sequence[nn.Parameter] = ()) -> Tensor:
        """The weighted sum of the losses ``diagnosis`` and ``saliency``.

        Raises:
            InputError: There are other tasks.
        """
        if set(losses) != {"diagnosis", "saliency"}:
            raise InputError(f"ReferenceWeighting weighs diagnosis and saliency, not {', '.join(losses)}")
        sigma = self.log_sigma.exp()
        return losses["diagnosis"] / sigma.square() + torch.log1p(sigma) + losses["saliency"] / 2 + math.log(2)

    def learned(self) -> dict[str, Tensor]:
        """σ, for logs."""
        return {"sigma_diagnosis": self.log_sigma.detach().exp()}


class UncertaintyWeighting(TaskWeighting):
    """Homoscedastic uncertainty: Σ L_t / (2 σ_t²) + log σ_t with each s_t = log σ_t learned.

    Kendall, Gal and Cipolla 2018, equation 7.

    Args:
        tasks: The tasks' names.
    """

    def __init__(self, tasks: tuple[str, ...] = ("diagnosis", "saliency")) -> None:
        super().__init__()
        self.log_sigma = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in tasks})

    def forward(self, losses: Losses, parameters: Sequence[nn.Parameter] = ()) -> Tensor:
        """The weighted sum of scalar losses.

        Raises:
            InputError: The tasks are not those of the constructor.
        """
        if set(losses) != set(self.log_sigma):
            raise InputError(
                f"tasks: {', '.join(self.log_sigma)} were configured, but the losses are {', '.join(losses)}"
            )
        terms = [loss / (2 * (2 * self.log_sigma[task]).exp()) + self.log_sigma[task] for task, loss in losses.items()]
        return torch.stack(terms).sum()

    def learned(self) -> dict[str, Tensor]:
        """The tasks' σ, for logs."""
        return {f"sigma_{task}": value.detach().exp() for task, value in self.log_sigma.items()}


class DynamicWeightAverage(TaskWeighting):
    """Weights by the rate at which each task's loss falls: Σ λ_t L_t with λ = T softmax(w / temperature).

    w_t is the ratio of a task's mean losses of the last two epochs; a task that falls slowly weighs more. In the first
    two epochs all weigh 1. Liu, Johns and Davison 2019, equation 7.

    Args:
        tasks: The tasks' names; T of them.
        temperature: Softens the weights; towards infinity all are 1.

    Raises:
        InputError: The temperature is not above 0.
    """

    def __init__(self, tasks: tuple[str, ...] = ("diagnosis", "saliency"), temperature: float = 2.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise InputError(f"temperature: must be above 0, not {temperature}")
        self.tasks = tuple(tasks)
        self.temperature = temperature
        # In checkpoints, so that a resumed run goes on with the same weights.
        self.register_buffer("weights", torch.ones(len(self.tasks)))
        self.register_buffer("last", torch.full((len(self.tasks),), torch.nan))
        self.register_buffer("sums", torch.zeros(len(self.tasks) + 1))

    weights: Tensor
    last: Tensor
    sums: Tensor

    def forward(self, losses: Losses, parameters: Sequence[nn.Parameter] = ()) -> Tensor:
        """The weighted sum of scalar losses; in training they are stored for :meth:`begin_epoch`.

        Raises:
            InputError: The tasks are not those of the constructor.
        """
        values = torch.stack(in_order(losses, self.tasks))
        if self.training:
            noted = torch.cat([values.detach(), values.new_ones(1)])
            # At every step, so that all processes, and a checkpoint at any time, hold the same sums.
            if distributed.is_initialized():
                distributed.all_reduce(noted)
            self.sums += noted
        return (self.weights * values).sum()

    def learned(self) -> dict[str, Tensor]:
        """The tasks' weights, for logs."""
        return {f"weight_{task}": weight for task, weight in zip(self.tasks, self.weights, strict=True)}

    def begin_epoch(self, parameters: Sequence[nn.Parameter] = ()) -> None:
        """Sets the epoch's weights from the losses stored since the last call, if there are any."""
        if self.sums[-1] == 0:
            return
        mean = self.sums[:-1] / self.sums[-1]
        if not self.last.isnan().any():
            ratio = mean / self.last.clamp(min=1e-12)
            self.weights.copy_(len(self.tasks) * (ratio / self.temperature).softmax(0))
        self.last.copy_(mean)
        self.sums.zero_()


class GradientSurgery(TaskWeighting):
    """The sum of the losses, where each task's gradient loses the part that opposes another task's (PCGrad).

    If two gradients have a negative inner product, each is projected onto the plane at right angles to the other before
    they are added (Yu et al. 2020, algorithm 1). The order of the projections matters from three tasks on; here it is
    that of the losses and not random, so that runs repeat. Gradients are averaged over processes first, so that the
    projection is that of one process with the whole batch.
    """

    compares_tasks: ClassVar[bool] = True

    def forward(self, losses: Losses, parameters: Sequence[nn.Parameter] = ()) -> Tensor:
        """The sum of scalar losses.

        Args:
            losses: By task.
            parameters: The trained parameters; if given, the sum has the projected gradient. Without them, as in
                evaluation, it is the plain sum.
        """
        total = torch.stack(list(losses.values())).sum()
        if not parameters:
            return total
        gradients = task_gradients(list(losses.values()), parameters)
        projected = []
        for own in gradients:
            freed = own.clone()
            for gradient in gradients:
                along = torch.dot(freed, gradient)
                if gradient is not own and along < 0:
                    freed -= along / torch.dot(gradient, gradient) * gradient
            projected.append(freed)
        return with_gradient(total, parameters, torch.stack(projected).sum(0))
