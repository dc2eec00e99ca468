"""FAMO: weights under which the tasks' log-losses fall at the same rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from gazelit.errors import InputError
from gazelit.losses.weighting import Losses, TaskWeighting, in_order, mean_over_processes, shares


class FAMO(TaskWeighting):
    """Fast adaptive multitask optimisation (Liu, Feng, Stone and Liu, NeurIPS 2023, algorithm 1).

    The network descends the log-losses, Σ z_t log ℓ_t with z = softmax(ξ), scaled so that the weights of the losses'
    own gradients, z_t / ℓ_t, sum to 1. Then ξ descends z · (log ℓ before the step − log ℓ after it): a task whose
    log-loss fell less weighs more. As in the published code, that descent is Adam's and ξ decays by its weight decay.

    The losses after a step are those of the next batch, as in the paper's toy problem, and not of a second pass over
    the same batch: a step costs no more than without FAMO, and dropout and BatchNorm statistics do not change.
    Differences between batches cancel over steps, because each loss is added once and subtracted once. Without noise
    both ways are the same.

    If a task pauses, or no image of the batch has its target, the others share the weights and ξ stays; a single task
    has weight 1.

    Args:
        tasks: The tasks' names; T of them.
        learning_rate: Learning rate of ξ for each batch; 0.025 in the published code.
        decay: Decay of ξ towards equal weights, γ of the paper.
        floors: By task, the lower bound of its loss, which is subtracted before the logarithm; 0 unless given.

    Raises:
        InputError: An option is negative, or a floor belongs to no task.
    """

    compares_tasks: ClassVar[bool] = True

    def __init__(
        self,
        tasks: tuple[str, ...] = ("diagnosis", "saliency"),
        learning_rate: float = 0.025,
        decay: float = 0.01,
        floors: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        for option, value in (("learning_rate", learning_rate), ("decay", decay)):
            if not value >= 0:
                raise InputError(f"{option}: must be at least 0, not {value}")
        floors = dict(floors or {})
        if unknown := floors.keys() - set(tasks):
            raise InputError(f"floors: no task {', '.join(sorted(unknown))}; the tasks are {', '.join(tasks)}")
        self.tasks = tuple(tasks)
        self.learning_rate, self.decay = learning_rate, decay
        number = len(self.tasks)
        self.register_buffer("floors", torch.tensor([floors.get(task, 0.0) for task in tasks]), persistent=False)
        self.register_buffer("logits", torch.zeros(number))
        self.register_buffer("first_moment", torch.zeros(number))
        self.register_buffer("second_moment", torch.zeros(number))
        self.register_buffer("steps", torch.zeros(()))
        #: Losses of the batch before, above their floors; NaN where the task was not trained on it.
        self.register_buffer("last", torch.full((number,), torch.nan))

    floors: Tensor
    logits: Tensor
    first_moment: Tensor
    second_moment: Tensor
    steps: Tensor
    last: Tensor

    def forward(self, losses: Losses, parameters: Sequence[nn.Parameter] = ()) -> Tensor:
        """The weighted sum of scalar losses; in training ξ is first updated by their change since the last batch.

        Raises:
            InputError: The tasks are not those of the constructor, or a loss is below its floor.
        """
        values = torch.stack(in_order(losses, self.tasks))
        heights = values.detach().clone()
        if self.training:
            mean_over_processes(heights)
        heights -= self.floors
        if (heights < 0).any():
            listed = ", ".join(f"{task} {height:g}" for task, height in zip(self.tasks, heights.tolist(), strict=True))
            raise InputError(
                f"weighting: FAMO takes logarithms of losses above their floors, but they are {listed}; set lower "
                "--model.weighting.floors, or another weighting"
            )
        present = heights > 0
        if self.training:
            present &= torch.tensor([losses[task].requires_grad for task in self.tasks], device=present.device)
            self._learn(heights, present)
        # log(z / ℓ); the shares of its softmax are the weights of the losses' own gradients.
        tiny = torch.finfo(heights.dtype).tiny
        weights = shares(self.logits - heights.clamp(min=tiny).log(), present)
        return (weights * values).sum()

    @torch.no_grad()
    def _learn(self, heights: Tensor, present: Tensor) -> None:
        if (present & ~self.last.isnan()).all():
            fall = self.last.log() - heights.log()
            z = self.logits.softmax(0)
            gradient = z * (fall - (z * fall).sum())
            adam(
                [self.logits], [gradient], [self.first_moment], [self.second_moment], [], [self.steps],
                foreach=False, amsgrad=False, beta1=0.9, beta2=0.999, lr=self.learning_rate, weight_decay=self.decay,
                eps=1e-8, maximize=False,
            )  # fmt: skip
        self.last.copy_(torch.where(present, heights, torch.nan))

    def learned(self) -> dict[str, Tensor]:
        """The tasks' shares z of the log-losses, for logs."""
        return {f"weight_{task}": z for task, z in zip(self.tasks, self.logits.softmax(0), strict=True)}
