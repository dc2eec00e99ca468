"""Groups of parameters with a learning rate each, and random numbers that a resumed run repeats."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: Key of a group of parameters: the factor of its learning rate, applied once the optimiser has the group.
_SCALE = "lr_scale"


def parameter_groups(
    module: nn.Module,
    apart: Mapping[str, tuple[nn.Module, float]],
    layers: Mapping[str, tuple[Sequence[Sequence[nn.Parameter]], float]] | None = None,
) -> list[Any]:
    """The trained parameters: a group for each part with a learning rate of its own, and one for the rest.

    Args:
        module: The stage.
        apart: By name, a part of it and its learning rate.
        layers: By name, a part's parameters from the input to the output, and how much lower the rate of each layer is
            than that of the next one; see :func:`scale_rates`.

    Returns:
        Groups of parameters; if there is no part, the parameters themselves.
    """
    layers = layers or {}
    groups: list[dict[str, Any]] = []
    seen: set[int] = set()
    for name in dict.fromkeys((*apart, *layers)):
        own = {"lr": apart[name][1]} if name in apart else {}
        parts: list[tuple[list[nn.Parameter], dict[str, float]]] = []
        if name in layers:
            depths, decay = layers[name]
            for depth, each in enumerate(depths):
                parts.append((_trained(each), {_SCALE: decay ** (len(depths) - 1 - depth)}))
        else:
            parts.append((_trained(apart[name][0].parameters()), {}))
        for parameters, scale in parts:
            if parameters:
                groups.append({"params": parameters, **own, **scale})
                seen |= {id(parameter) for parameter in parameters}
    rest = [parameter for parameter in _trained(module.parameters()) if id(parameter) not in seen]
    return [{"params": rest}, *groups] if groups else rest


def scale_rates(optimizer: torch.optim.Optimizer) -> None:
    """Scales, in place, the learning rates of the groups of layers that :func:`parameter_groups` made."""
    for group in optimizer.param_groups:
        group["lr"] *= group.pop(_SCALE, 1.0)


def seed_batch(epoch: int, batch: int, rank: int) -> None:
    """Makes the random numbers of a batch (dropout) a function of the run's seed, the epoch, the batch and the process.

    A resumed run then repeats them. Batches that are accumulated for one step draw different numbers.
    """
    seed = torch.initial_seed() if (stored := global_seed()) is None else stored
    for number, base in ((epoch, 1_000_003), (batch, 1_000_003), (rank, 4_099)):
        seed = seed * base + number
    torch.manual_seed(seed % 2**63)


def global_seed() -> int | None:
    """The seed of ``seed_everything`` as Lightning records it for all processes of a run."""
    seed = os.environ.get("PL_GLOBAL_SEED")
    return int(seed) if seed is not None else None


def average_gradient(parameter: Tensor) -> None:
    """Averages a parameter's gradient over processes."""
    if parameter.grad is not None:
        torch.distributed.all_reduce(parameter.grad)
        parameter.grad /= torch.distributed.get_world_size()


def _trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]
