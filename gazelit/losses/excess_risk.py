"""ExcessMTL: weights by the distance of each task from its optimum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gazelit.errors import InputError
from gazelit.losses.weighting import Losses, TaskWeighting, in_order, shares, task_gradients, with_gradient

#: Keeps the square roots of second moments from zero, as in the published code.
_EPSILON = 1e-7


class ExcessMTL(TaskWeighting):
    """Multi-task learning with excess risks (He, Zhou, Zou and Zhao, ICML 2024, algorithm 1).

    A task's excess risk, its loss above the lowest one it could have, is estimated to second order from its gradient g
    as gᵀ H⁻¹ g, with AdaGrad's root of the sum of squared gradients for the diagonal of H (equations 6 and 7), relative
    to its first estimate. The weights grow with exp(step_size · excess) and sum to the number of tasks (equation 9), so
    that a task weighs more the farther it is from convergence, whatever the floor of its loss.

    The gradients are over all trained parameters, averaged over processes. The sums of squares are in checkpoints: T
    numbers for each trained parameter. If a task pauses, or no image of the batch has its target, its weight stays as
    it is, and the others share theirs; a single task has weight 1.

    Args:
        tasks: The tasks' names; T of them.
        step_size: Step size of the exponentiated gradient for each batch; 0.01 in the published code.
        warmup: Number of batches whose mean excess risk is the unit of a task's risk; weights stay 1 in them. The
            published code takes one, the paper's appendix the batches of three epochs.

    Raises:
        InputError: An option is not above 0.
    """

    compares_tasks: ClassVar[bool] = True

    def __init__(
        self, tasks: tuple[str, ...] = ("diagnosis", "saliency"), step_size: float = 0.01, warmup: int = 1
    ) -> None:
        super().__init__()
        for option, value in (("step_size", step_size), ("warmup", warmup)):
            if not value > 0:
                raise InputError(f"{option}: must be above 0, not {value}")
        self.tasks = tuple(tasks)
        self.step_size, self.warmup = step_size, warmup
        number = len(self.tasks)
        self.register_buffer("logits", torch.zeros(number))
        self.register_buffer("units", torch.zeros(number))
        self.register_buffer("batches", torch.zeros(number))
        #: (T, P), made when P is known.
        self.register_buffer("squares", torch.zeros(number, 0))

    logits: Tensor
    units: Tensor
    batches: Tensor
    squares: Tensor

    def forward(self, losses: Losses, parameters: Sequence[nn.Parameter] = ()) -> Tensor:
        """The weighted sum of scalar losses.

        Args:
            losses: By task.
            parameters: The trained parameters; if given, the weights are first updated from the tasks' gradients.

        Raises:
            InputError: The tasks are not those of the constructor, or the parameters are sharded.
        """
        ordered = in_order(losses, self.tasks)
        values = torch.stack(ordered)
        if not parameters:
            return (self._weights(torch.ones_like(self.logits, dtype=torch.bool)) * values).sum()
        self.begin_epoch(parameters)
        gradients = task_gradients(ordered, parameters)
        excess = self._excess(gradients)
        present = excess > 0
        self._learn(excess, present)
        weights = self._weights(present)
        combined = torch.stack([weight * gradient for weight, gradient in zip(weights, gradients, strict=True)]).sum(0)
        return with_gradient((weights * values).sum(), parameters, combined)

    def begin_epoch(self, parameters: Sequence[nn.Parameter] = ()) -> None:
        """Allocates the sums of squares, if they are missing."""
        if not self.squares.numel():
            number = sum(parameter.numel() for parameter in parameters)
            self.squares = torch.zeros(len(self.tasks), number, device=self.logits.device)

    def _excess(self, gradients: Sequence[Tensor]) -> Tensor:
        excess = []
        for squares, gradient in zip(self.squares, gradients, strict=True):
            square = gradient.float().square()
            squares += square
            excess.append((square / (squares + _EPSILON).sqrt()).sum())
        return torch.stack(excess)

    def _learn(self, excess: Tensor, present: Tensor) -> None:
        warming = present & (self.batches < self.warmup)
        ready = present & ~warming
        steps = torch.where(ready, self.step_size * excess / self.units, 0.0)
        # Among tasks that learn the mean stays, so that one that waits keeps its weight.
        self.logits += torch.where(ready, steps - steps.sum() / ready.sum().clamp(min=1), 0.0)
        self.units += torch.where(warming, excess / self.warmup, 0.0)
        self.batches += warming

    def _weights(self, present: Tensor) -> Tensor:
        return present.sum() * shares(self.logits, present)

    def learned(self) -> dict[str, Tensor]:
        """The tasks' weights, for logs."""
        weights = self._weights(torch.ones_like(self.logits, dtype=torch.bool))
        return {f"weight_{task}": weight for task, weight in zip(self.tasks, weights, strict=True)}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        stored = state_dict.get(f"{prefix}squares")
        if stored is not None:
            self.squares = self.squares.new_zeros(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
