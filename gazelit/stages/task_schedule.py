"""When each task of a joint training is trained: in turns, or in epochs of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from gazelit.errors import InputError
from gazelit.stages.nonfinite import local_part


@dataclass(frozen=True)
class Epochs:
    """Epochs in which a task is trained.

    Attributes:
        start: The first epoch, counted from 0.
        until: The first epoch in which the task is no longer trained; the end of the training unless given.

    Raises:
        InputError: There is no such epoch.
    """

    start: int = 0
    until: int | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.until is not None and self.until <= self.start):
            raise InputError(f"schedule.epochs: there is no epoch from {self.start} until {self.until}")

    def __contains__(self, epoch: int) -> bool:
        return epoch >= self.start and (self.until is None or epoch < self.until)


@dataclass(frozen=True)
class TaskSchedule:
    """Which tasks are trained in a step. The others pause: their losses are computed and logged, but not trained.

    Attributes:
        turns: Tasks take turns, one each ``step`` of the optimiser or each ``epoch``, in the order diagnosis, saliency.
        epochs: By task, the epochs in which its loss is trained (asynchronous training); all unless given. Tasks that
            also take turns do so in epochs in which several are trained.
    """

    turns: Literal["step", "epoch"] | None = None
    epochs: dict[str, Epochs] = field(default_factory=dict)

    def active(self, tasks: Sequence[str], epoch: int, step: int) -> list[str]:
        """The tasks that are trained.

        Args:
            tasks: All tasks.
            epoch: From 0.
            step: Of the optimiser, from 0.

        Raises:
            InputError: No task is trained.
        """
        within = [task for task in tasks if epoch in self.epochs.get(task, Epochs())]
        if not within:
            raise InputError(f"schedule.epochs: no task is trained in epoch {epoch}; end the training before, or later")
        if self.turns is None:
            return within
        return [within[(epoch if self.turns == "epoch" else step) % len(within)]]

    def check(self, tasks: Sequence[str], needs_several: str | None) -> None:
        """Checks that the schedule fits the tasks.

        Args:
            tasks: All tasks.
            needs_several: Name of a weighting that compares tasks within a step, if it does.

        Raises:
            InputError: A task is unknown, or no two are ever trained in one step.
        """
        if unknown := self.epochs.keys() - set(tasks):
            raise InputError(f"schedule.epochs: no task {', '.join(sorted(unknown))}; the tasks are {', '.join(tasks)}")
        if needs_several is None:
            return
        starts = [self.epochs.get(task, Epochs()).start for task in tasks]
        together = any(sum(start in self.epochs.get(task, Epochs()) for task in tasks) > 1 for start in starts)
        if self.turns is not None or not together:
            raise InputError(
                f"schedule: {needs_several} compares tasks that are trained in the same step, and here none are; take "
                "FixedWeighting, or a schedule without turns whose epochs overlap"
            )


def leave_out_paused(parameters: Iterable[nn.Parameter]) -> None:
    """Removes gradients that are zero, before an optimiser step with a paused task.

    Several processes have to exchange such gradients. An optimiser would still apply momentum and weight decay; without
    a gradient, parameters that only the paused task trains stay as they are.
    """
    for parameter in parameters:
        if parameter.grad is not None and not local_part(parameter.grad).any():
            parameter.grad = None
