"""Stops at the first loss, gradient, weight or criterion that is not finite, and says where it is."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from gazelit.errors import InputError

OnNonFinite = Literal["stop", "skip"]
logger = logging.getLogger("gazelit")

#: Rows of a batch that a message names at most.
_ROWS = 32
#: Parts of a checkpoint that must be finite. Those of callbacks may be infinite until there is a first score.
_STATES = ("state_dict", "optimizer_states", "current_model_state")


class NonFiniteError(InputError):
    """A value of the training is not finite; the message says at which step, over which rows, and in which tensor."""


@dataclass(frozen=True)
class _MicroBatch:
    number: int
    index: Tensor
    loss: Tensor
    parts: Mapping[str, Tensor]


class StepGuard:
    """Checks the losses and gradients of an optimiser step before the weights change.

    Each step reads one number from the device, whatever the number of parameters and accumulated batches. Only if it is
    not finite, the tensor is searched for.

    Args:
        on_nonfinite: ``stop`` raises; ``skip`` leaves the weights, the optimiser's state and the module's buffers
            (BatchNorm statistics) as they were before the step.
        max_skipped: How many steps of an epoch may be skipped.

    Raises:
        InputError: An option is impossible.
    """

    def __init__(self, on_nonfinite: OnNonFinite = "stop", max_skipped: int = 10) -> None:
        if on_nonfinite not in ("stop", "skip"):
            raise InputError(f"on_nonfinite: must be 'stop' or 'skip', not '{on_nonfinite}'")
        if max_skipped < 1:
            raise InputError(f"max_skipped: must be at least 1, not {max_skipped}")
        self.skips = on_nonfinite == "skip"
        self.max_skipped = max_skipped
        #: Steps of this epoch that were skipped.
        self.skipped = 0
        self._batches: list[_MicroBatch] = []
        self._buffers: list[Tensor] = []

    def begin_epoch(self) -> None:
        """Begins the count of skipped steps."""
        self.skipped, self._batches = 0, []

    def begin_batch(self, module: nn.Module) -> None:
        """Saves the buffers before the first batch of a step, if steps may be skipped."""
        if self.skips and not self._batches:
            self._buffers = [buffer.clone() for buffer in module.buffers()]

    def add(self, number: int, batch: Mapping[str, Tensor], loss: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Adds a batch to the step.

        Args:
            number: Of the batch in its epoch.
            batch: With ``index`` (B,).
            loss: Scalar.
            parts: Further scalars the loss is made of.
        """
        self._batches.append(_MicroBatch(number, batch["index"], loss.detach(), parts))

    def check(self, module: L.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Checks the step before it is taken; every process must call it.

        Raises:
            NonFiniteError: Something is not finite, and the step may not be skipped, or no further one.
        """
        batches, self._batches = self._batches, []
        # A gradient scaler finds overflows itself, lowers its scale and skips the step.
        scaled = getattr(module.trainer.precision_plugin, "scaler", None) is not None
        trained = [] if scaled else [parameter.grad for parameter in module.parameters()]
        gradients = [local_part(gradient) for gradient in trained if gradient is not None]
        # A process may hold no part of a small parameter that is sharded.
        gradients = [gradient for gradient in gradients if gradient.numel()]
        found = [batch.loss.float() for batch in batches]
        if gradients:
            found.append(torch.nn.utils.get_total_norm(gradients, math.inf).float())
        if not found:
            return
        failed = (~torch.stack(found).isfinite().all()).float()
        several = module.trainer.world_size > 1
        if several:
            distributed.all_reduce(failed, distributed.ReduceOp.MAX)
        if not failed:
            return
        message = _first_known(self._describe(module, batches), several)
        if not self.skips:
            raise NonFiniteError(
                f"{message}; lower the learning rate, look at these rows, or set --model.on_nonfinite=skip"
            )
        self.skipped += 1
        if self.skipped > self.max_skipped:
            raise NonFiniteError(
                f"{message}; {self.max_skipped} steps of this epoch were skipped before (--model.max_skipped)"
            )
        with torch.no_grad():
            for buffer, kept in zip(module.buffers(), self._buffers, strict=True):
                buffer.copy_(kept)
        # Optimisers change neither parameters without a gradient nor their state.
        optimizer.zero_grad(set_to_none=True)
        if module.global_rank == 0:
            logger.warning("%s; step skipped", message)

    def _describe(self, module: L.LightningModule, batches: Sequence[_MicroBatch]) -> str:
        """Names this process's first tensor that is not finite, losses before gradients; empty if there is none."""
        at = f"stage '{getattr(module, 'name', type(module).__name__)}', epoch {module.current_epoch}, "
        at += f"step {module.global_step}"
        for batch in batches:
            scalars = {**batch.parts, "loss": batch.loss}
            name = next((name for name, value in scalars.items() if not value.isfinite()), None)
            if name is not None:
                weight = first_nonfinite(module.named_parameters())
                cause = f" (the weights of {weight} are not finite either)" if weight else ""
                return f"{at}: {name} is {float(scalars[name])} over rows {_rows(batch.index)} of the store{cause}"
        named = ((name, parameter.grad) for name, parameter in module.named_parameters())
        gradients = ((name, gradient) for name, gradient in named if gradient is not None)
        name = first_nonfinite(gradients)
        if name is None:
            return ""
        rows = torch.cat([batch.index for batch in batches]) if batches else torch.empty(0)
        return f"{at}: the gradient of {name} is not finite over rows {_rows(rows)} of the store"


def first_nonfinite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name of the first floating-point tensor with a value that is not finite."""
    return next(
        (name for name, tensor in tensors if tensor.is_floating_point() and not local_part(tensor).isfinite().all()),
        None,
    )


def check_checkpoint(checkpoint: Mapping[str, Any], module: L.LightningModule) -> None:
    """Refuses a checkpoint whose weights, running statistics or optimiser state are not finite.

    Every process must call it.

    Raises:
        NonFiniteError: One of them is not.
    """
    trained = {name for name, _ in module.named_parameters()}
    weights = {
        f"{key}: {name}": tensor
        for key in _STATES
        for name, tensor in _tensors(checkpoint.get(key))
        # In other buffers an infinity may have a meaning.
        if key == "optimizer_states" or name in trained or name.endswith(("running_mean", "running_var"))
    }
    flags = [local_part(tensor).isfinite().all() for tensor in weights.values() if tensor.is_floating_point()]
    failed = torch.zeros((), device=module.device)
    if flags:
        failed += ~torch.stack([flag.to(module.device) for flag in flags]).all()
    several = module._trainer is not None and module.trainer.world_size > 1
    if several:
        distributed.all_reduce(failed, distributed.ReduceOp.MAX)
    if failed:
        at = f"stage '{getattr(module, 'name', '')}', epoch {module.current_epoch}, step {module.global_step}"
        name = first_nonfinite(weights.items())
        message = _first_known(f"{at}: {name} is not finite" if name else "", several)
        raise NonFiniteError(f"{message}, and is not saved; earlier checkpoints stay; lower the learning rate")


def _tensors(state: Any, name: str = "") -> Iterable[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, (list, tuple)):
        for position, value in enumerate(state):
            yield from _tensors(value, f"{name}.{position}" if name else str(position))


def _first_known(message: str, several: bool) -> str:
    """The first process's message, in all of them."""
    if not several:
        return message
    messages: list[str] = [""] * distributed.get_world_size()
    distributed.all_gather_object(messages, message)
    return next(filter(None, messages), "a value is not finite")


def _rows(index: Tensor) -> str:
    rows = sorted(int(row) for row in index)
    text = ", ".join(map(str, rows[:_ROWS]))
    return f"{text} and {len(rows) - _ROWS} more" if len(rows) > _ROWS else text


def local_part(tensor: Tensor) -> Tensor:
    """The part of a tensor, which may be sharded, that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
