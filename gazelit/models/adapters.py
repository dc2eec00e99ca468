"""Low-rank adapters (LoRA): a pretrained encoder stays frozen, and small additions to its weights are trained.

Hu et al. 2022 (LoRA: Low-rank adaptation of large language models): ``alpha / rank · B A`` is added to the weight W of
a linear layer, with B zero at first. The addition is a parametrization of the weight; peft's is a layer around the
layer. The attention of timm's EVA and DINOv3 uses the weight of a layer without calling the layer, so that an adapter
around it would have no effect.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import register_parametrization

from gazelit.errors import InputError

_M = TypeVar("_M", bound=nn.Module)
#: Between a layer's name and its own weight, and between that name and its adapter's matrices, in a state dict.
_ORIGINAL = ".parametrizations.weight.original"
_DOWN, _UP = ".parametrizations.weight.0.down", ".parametrizations.weight.0.up"


@dataclass
class LoRA:
    """Which linear layers of an encoder get adapters, and of which size.

    Attributes:
        rank: Of the matrix that is added to a layer's weight.
        alpha: The addition is multiplied by alpha / rank.
        targets: Ends of names of layers, such as ``qkv`` or ``attn.proj``; all linear layers unless given.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < math.inf:
            raise InputError(f"lora: rank must be at least 1 and alpha above 0, not {self.rank} and {self.alpha}")
        # A list from a YAML file or a stamp equals the same tuple.
        self.targets = list(self.targets)

    @property
    def scale(self) -> float:
        """The factor of the addition."""
        return self.alpha / self.rank


class LowRankAddition(nn.Module):
    """Adds a trained matrix of low rank to a weight (out, in); nothing at first.

    Args:
        weight: The weight, for its shape, type and device.
        lora: Rank and scale.
    """

    def __init__(self, weight: Tensor, lora: LoRA) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.down = nn.Parameter(weight.new_empty(lora.rank, inputs))
        self.up = nn.Parameter(weight.new_zeros(outputs, lora.rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.scale = lora.scale

    def forward(self, weight: Tensor) -> Tensor:
        """(out, in) to the same shape."""
        # As precise as the weights are: merged they give the same outputs, also in a training with bfloat16.
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.scale * (self.up @ self.down)


def add_adapters(pretrained: nn.Module, lora: LoRA) -> None:
    """Freezes a module, and gives the linear layers in it adapters, which are trained.

    Args:
        pretrained: The part of an encoder that weight files fill.
        lora: Which layers, and the adapters' size.

    Raises:
        InputError: It has no linear layer, or none of a given name.
    """
    linear = {
        name: module
        for name, module in pretrained.named_modules()
        if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
    }
    if not linear:
        raise InputError(
            "lora: the encoder has no linear layer (a convolutional one has none); freeze it, or give it a rate of its "
            "own with model.learning_rates"
        )
    for target in lora.targets:
        if not any(_ends_with(name, target) for name in linear):
            known = sorted({name.rpartition(".")[2] for name in linear})
            raise InputError(f"lora.targets: no linear layer is called {target}; there are {', '.join(known)}")
    pretrained.requires_grad_(False)
    for name, layer in linear.items():
        if not lora.targets or any(_ends_with(name, target) for target in lora.targets):
            register_parametrization(layer, "weight", LowRankAddition(layer.weight, lora))
    keep_statistics(pretrained)


def _ends_with(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")


def _adapted(module: nn.Module) -> list[nn.Linear]:
    """The layers with an adapter."""
    linear = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    return [layer for layer in linear if any(isinstance(part, LowRankAddition) for part in layer.modules())]


def has_adapters(module: nn.Module) -> bool:
    """Whether any layer of a module has an adapter."""
    return bool(_adapted(module))


def keep_statistics(module: nn.Module) -> None:
    """Keeps the statistics of frozen BatchNorm layers fixed; other layers train as before.

    Args:
        module: A network or a part of it; without adapters nothing is changed.
    """
    if not has_adapters(module):
        return
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and norm.weight is not None and not norm.weight.requires_grad:
            norm.eval()


def merged(module: _M) -> _M:
    """A copy whose adapters are merged into the weights; the module itself if it has none."""
    if not has_adapters(module):
        return module
    module = copy.deepcopy(module)
    names = {layer: name for name, layer in module.named_modules()}
    for layer in _adapted(module):
        # A new layer: copies share the class of a parametrized layer, so that removing it from the copy would change
        # both.
        plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        plain.weight, plain.bias = nn.Parameter(layer.weight.detach()), layer.bias
        parent, _, name = names[layer].rpartition(".")
        setattr(module.get_submodule(parent), name, plain.train(layer.training))
    return module


def merged_state(state: Mapping[str, Tensor], lora: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict with the adapters added to the weights, under the keys of a module without.

    Args:
        state: Of a module with adapters.
        lora: The fields of :class:`LoRA` that they were made with.

    Raises:
        InputError: The adapters are not whole.
    """
    scale = LoRA(**lora).scale
    result = {}
    for key, value in state.items():
        if not key.endswith((_ORIGINAL, _DOWN, _UP)):
            result[key] = value
        elif key.endswith(_ORIGINAL):
            name = key.removesuffix(_ORIGINAL)
            down, up = state.get(name + _DOWN), state.get(name + _UP)
            if down is None or up is None or (up.shape[0], down.shape[1]) != tuple(value.shape):
                raise InputError(f"{name}: its adapter is not whole, or of another layer")
            result[f"{name}.weight"] = value + scale * (up @ down)
    return result


def state_for(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without adapters, under the keys of a module with adapters; the module's adapters are kept."""
    own = module.state_dict()
    names = {f"{key.removesuffix(_ORIGINAL)}.weight": key for key in own if key.endswith(_ORIGINAL)}
    renamed = {names.get(key, key): value for key, value in state.items()}
    return renamed | {key: value for key, value in own.items() if key.endswith((_DOWN, _UP))}


def without_adapters(specification: Any) -> Any:
    """A component's specification, or a network's whole configuration, after its adapters are merged."""
    if isinstance(specification, Mapping):
        is_encoder = {"name", "options"} <= specification.keys()
        return {
            key: without_adapters(value) for key, value in specification.items() if not (is_encoder and key == "lora")
        }
    if isinstance(specification, Sequence) and not isinstance(specification, str):
        return [without_adapters(value) for value in specification]
    return specification
