"""How a network is run: compiled, channels last, activations recomputed, steps merged; the results are the same."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from gazelit.errors import InputError
from gazelit.models.decoder import Doubling
from gazelit.models.network import Network
from gazelit.models.transformer import TransformerEncoder

#: Size of a small image, on which a network is tried.
_SMALL = (64, 64)


@dataclass
class Execution:
    """How a network is run.

    Attributes:
        compile: Components compiled by ``torch.compile``.
        recompute: Components whose blocks keep no activations for the backward pass, but compute them again (activation
            checkpointing): a third more time for a fraction of the memory.
        channels_last: Whether maps lie in memory with their channels innermost, which is fast on tensor cores.
        merge_doubling: Whether the decoder doubles maps and convolves them in one operation: 8 % fewer operations of
            the paper's network, the same results but for rounding.
    """

    compile: list[str] = field(default_factory=list)
    recompute: list[str] = field(default_factory=list)
    channels_last: bool = False
    merge_doubling: bool = False


def apply_execution(network: Network, execution: Execution, size: tuple[int, int]) -> None:
    """Applies the options to a network; the keys of its state dict stay the same.

    Args:
        network: The network.
        execution: The options.
        size: Height and width of an image that the network takes.

    Raises:
        InputError: A component is unknown, or has no blocks to recompute.
    """
    for option in ("compile", "recompute"):
        unknown = [name for name in getattr(execution, option) if name not in network.specs]
        if unknown:
            raise InputError(
                f"execution.{option}: no component {', '.join(unknown)}; the network has {', '.join(network.specs)}"
            )
    called = _called(network, size) if execution.recompute else set()
    for name in execution.recompute:
        blocks = _blocks(network.get_submodule(name), called)
        if not blocks:
            raise InputError(f"execution.recompute: {name} has no blocks whose activations could be computed again")
        for block in blocks:
            _recompute_block(block)
    doublings = [module for module in network.modules() if isinstance(module, Doubling)]
    if execution.merge_doubling and not doublings:
        raise InputError("execution.merge_doubling: the network has no decoder; leave it out")
    for module in doublings:
        module.merged = execution.merge_doubling
    if execution.channels_last:
        network.to(memory_format=torch.channels_last)
    for name in execution.compile:
        network.get_submodule(name).compile()


def reached(network: Network, outputs: str, size: tuple[int, int]) -> set[str]:
    """Names of the parameters that some outputs depend on, whether they are trained or frozen.

    Others, such as a last layer whose map no decoder step takes, would have no gradient; DistributedDataParallel
    reports that as an error.

    Args:
        network: The network.
        outputs: Beginnings of the names of these outputs.
        size: Of an image that the network takes.
    """
    leaves = {name: parameter.detach().requires_grad_() for name, parameter in network.named_parameters()}
    names = {id(leaf): name for name, leaf in leaves.items()}
    edges = [value.grad_fn for key, value in _trial(network, size, leaves).items() if key.startswith(outputs)]
    seen: set[Any] = set()
    found = set()
    while edges:
        node = edges.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(names[id(node.variable)])
        edges += [following for following, _ in node.next_functions]
    return found


def freeze_all_but(names: Collection[str], network: Network) -> None:
    """Leaves all but the named parameters out of training; of those, what is frozen stays so."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in names)


def layers_of(network: Network, component: str, size: tuple[int, int]) -> list[list[nn.Parameter]]:
    """A component's parameters by depth: those before its blocks, of each block, and after the blocks.

    Of a plain transformer the patches' embedding, tokens and positions are one layer before the blocks, as in BEiT, and
    the pyramid is after them.

    Args:
        network: The network.
        component: Its name.
        size: Of an image that the network takes.

    Returns:
        Lists from the input to the output, none empty, each parameter in one.
    """
    module = network.get_submodule(component)
    parts = (
        cast(Any, module.body).blocks
        if isinstance(module, TransformerEncoder)
        else _blocks(module, _called(network, size))
    )
    blocks = [list(block.parameters()) for block in parts]
    within = {id(parameter) for block in blocks for parameter in block}
    order = list(module.parameters())
    first = next((position for position, parameter in enumerate(order) if id(parameter) in within), len(order))
    outside = [(position, parameter) for position, parameter in enumerate(order) if id(parameter) not in within]
    before, after = ([p for position, p in outside if (position < first) == is_before] for is_before in (True, False))
    return [layer for layer in (before, *blocks, after) if layer]


def shard(network: Network, mesh: DeviceMesh) -> None:
    """Shards parameters, gradients and optimiser states over processes, component by component (FSDP2).

    Args:
        network: The network, with whole weights.
        mesh: The processes.
    """
    for name in network.specs:
        component = network.get_submodule(name)
        fully_shard(component, mesh=mesh)
        for method in getattr(component, "with_weights", ()):
            register_fsdp_forward_method(component, method)
    fully_shard(network, mesh=mesh)


def _trial(
    network: Network, size: tuple[int, int], parameters: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The outputs of an empty image, in evaluation mode: BatchNorm statistics and random numbers stay as they are."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        try:
            return functional_call(network, dict(parameters or {}), torch.zeros(1, 1, *_SMALL))
        except (AssertionError, RuntimeError, ValueError):
            # Some transformers take images of only one size.
            return functional_call(network, dict(parameters or {}), torch.zeros(1, 1, *size))
    finally:
        for module, training in modes.items():
            module.training = training


def _called(network: Network, size: tuple[int, int]) -> set[nn.Module]:
    """The modules that are called in the forward pass."""
    called: set[nn.Module] = set()
    handles = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in network.modules()]
    try:
        _trial(network, size)
    finally:
        for handle in handles:
            handle.remove()
    return called


def recomputed(function: Callable[..., Any], modules: Sequence[nn.Module], *arguments: Tensor) -> Any:
    """Calls a function whose activations are computed again in the backward pass.

    Args:
        function: What to call.
        modules: Modules whose BatchNorm statistics must not be updated a second time.
        arguments: Arguments of the function.
    """
    norms = [norm for module in modules for norm in module.modules() if isinstance(norm, _BatchNorm)]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _keeping_statistics(norms)

    return checkpoint(function, *arguments, use_reentrant=False, context_fn=contexts)


@contextmanager
def _keeping_statistics(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def _recompute_block(block: nn.Module) -> None:
    if "forward" in vars(block):
        return
    plain = type(block).forward

    def forward(self: nn.Module, *arguments: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return plain(self, *arguments)
        return recomputed(MethodType(plain, self), [self], *arguments)

    # Bound to the block and not closed over, so that copies (an EMA's) run their own block.
    block.forward = MethodType(forward, block)


def _blocks(module: nn.Module, called: set[nn.Module]) -> list[nn.Module]:
    """The outermost parts of a component that run one after another: stages, levels, steps, transformer blocks."""
    found: list[nn.Module] = []
    for child in module.children():
        if child not in called:
            found += _blocks(child, called)
        elif any(True for _ in child.children()):
            # The parts of a long sequence are recomputed one by one, to hold few activations at a time.
            found += (_blocks(child, called) if isinstance(child, nn.Sequential) else []) or [child]
    return _blocks(found[0], called) or found if len(found) == 1 else found
