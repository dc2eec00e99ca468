"""Encoders by name: gazelit's own, segmentation-models-pytorch's, timm's, and any importable class."""

from __future__ import annotations

import difflib
import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import nn

from gazelit import trust
from gazelit.errors import InputError, first_line
from gazelit.models.adapters import LoRA, add_adapters, state_for
from gazelit.models.encoder import Encoder, LibraryEncoder, PyramidAdapter, load_weight_file
from gazelit.models.transformer import TransformerEncoder

_OWN: dict[str, Callable[..., Encoder]] = {}
_E = TypeVar("_E", bound=Callable[..., Encoder])


@dataclass
class EncoderSpec:
    """Which encoder, in primitive values.

    Attributes:
        name: An own name, a segmentation-models-pytorch name (``resnet18``), a timm name as ``tu-<name>``, or
            ``package.module:Class``.
        weights: ``imagenet`` (fetched by the library), the path of a local weight file, or null for random weights.
        options: Keyword arguments of the encoder.
        lora: Adapters; with them only they are trained of the pretrained part, without them all of it.
    """

    name: str
    weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    lora: LoRA | None = None

    def __post_init__(self) -> None:
        # jsonargparse 4.53 turns a null on the command line, for a field of a nested dataclass, into this text.
        if self.weights == "None":
            self.weights = None
        if isinstance(self.lora, Mapping):
            self.lora = LoRA(**self.lora)

    @classmethod
    def of(cls, value: EncoderSpec | Mapping[str, Any]) -> EncoderSpec:
        """The specification itself, or one made from a mapping of its fields."""
        return value if isinstance(value, cls) else cls(**value)  # type: ignore[arg-type]

    def primitives(self) -> dict[str, Any]:
        """The fields as a dictionary; ``lora`` only if it is set, as in older checkpoints."""
        fields = asdict(self)
        return fields if self.lora is not None else {key: value for key, value in fields.items() if key != "lora"}

    def interchangeable(self) -> dict[str, Any]:
        """The fields without the source of the weights; encoders have one architecture exactly if these are equal."""
        return {key: value for key, value in self.primitives().items() if key != "weights"}


def register_encoder(name: str) -> Callable[[_E], _E]:
    """Registers an :class:`Encoder` class, or a function that makes one, under a name.

    Raises:
        ValueError: The name is taken.
    """

    def decorate(factory: _E) -> _E:
        if name in _OWN:
            raise ValueError(f"an encoder named '{name}' is registered already")
        _OWN[name] = factory
        return factory

    return decorate


def list_encoders(pattern: str = "") -> list[str]:
    """Names that contain ``pattern``: own ones first, then segmentation-models-pytorch's, then timm's as ``tu-…``."""
    import segmentation_models_pytorch as smp
    import timm

    _import_own()
    names = [*sorted(_OWN), *smp.encoders.get_encoder_names(), *(f"tu-{name}" for name in timm.list_models())]
    return [name for name in names if pattern in name]


def build_encoder(spec: EncoderSpec | Mapping[str, Any]) -> Encoder:
    """Builds an encoder for one grey channel, with random weights: nothing is fetched.

    Raises:
        InputError: The name or an option is unknown, the class breaks the encoder contract, or no layer fits the
            adapters.
    """
    spec = EncoderSpec.of(spec)
    encoder = _built(spec)
    if spec.lora is not None:
        try:
            add_adapters(encoder.weight_target(), spec.lora)
        except InputError as error:
            raise InputError(f"encoder '{spec.name}': {error}") from error
    return encoder


def _built(spec: EncoderSpec) -> Encoder:
    _import_own()
    factory = _OWN.get(spec.name)
    try:
        if factory is not None:
            return factory(**spec.options)
        if ":" in spec.name:
            return _adapted(_own_class(spec.name)(**spec.options), spec.name)
        if spec.name.startswith("tu-"):
            return _timm_encoder(spec)
        import segmentation_models_pytorch as smp

        if spec.name in smp.encoders.encoders:
            return LibraryEncoder(spec.name, **spec.options)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"encoder '{spec.name}': options do not fit: {first_line(error)}") from error
    except RuntimeError as error:
        # timm raises this for an unknown name or a model without a pyramid.
        raise InputError(f"encoder '{spec.name}': {error}") from error
    close = difflib.get_close_matches(spec.name, list_encoders(), n=3)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    raise InputError(
        f"encoder '{spec.name}' is unknown{hint} (own, segmentation-models-pytorch, tu-<timm>, module:Class)"
    )


def _timm_encoder(spec: EncoderSpec) -> Encoder:
    try:
        return LibraryEncoder(spec.name, **spec.options)
    except ValueError as no_pyramid:
        # segmentation-models-pytorch takes pyramids only; the rest are plain transformers.
        try:
            return TransformerEncoder(spec.name.removeprefix("tu-"), **spec.options)
        except TypeError as error:
            # All plain transformers take this option, which the user did not give.
            raise no_pyramid if "dynamic_img_size" in str(error) else error from None


def load_pretrained(encoder: nn.Module, spec: EncoderSpec | Mapping[str, Any]) -> None:
    """Loads ``spec.weights`` into an encoder built from ``spec``; does nothing if there are none.

    Raises:
        InputError: The weights cannot be fetched or do not fit.
    """
    spec = EncoderSpec.of(spec)
    if spec.weights is None:
        return
    if not isinstance(encoder, Encoder):
        raise InputError(f"encoder '{spec.name}' cannot load weights; set weights: null")
    if spec.lora is not None:
        # Weight files know nothing of adapters.
        plain = replace(spec, lora=None)
        with torch.random.fork_rng(devices=[]):
            source = _built(plain)
        load_pretrained(source, plain)
        target = encoder.weight_target()
        target.load_state_dict(state_for(target, source.weight_target().state_dict()))
    elif spec.weights == "imagenet":
        try:
            encoder.load_imagenet()
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise InputError(
                f"encoder '{spec.name}': ImageNet weights could not be fetched ({error.__class__.__name__}); "
                "give the path of a local weight file, or weights: null"
            ) from error
    else:
        load_weight_file(encoder, spec.weights)


def weights_digest(encoder: Encoder) -> str:
    """SHA-256 of the part of an encoder that weight files fill: names, types and bytes of its tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(encoder.weight_target().state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _import_own() -> None:
    for module in ("densenet", "res_se", "presets"):
        importlib.import_module(f"gazelit.models.{module}")


def _own_class(path: str) -> type[nn.Module]:
    """The class that ``package.module:Class`` names."""
    if path.startswith("tu-"):
        raise InputError(f"encoder '{path}': models are not fetched from a hub by name; give a local weight file")
    return trust.load_class(path, nn.Module, "encoder")


def _adapted(module: nn.Module, name: str) -> Encoder:
    if isinstance(module, Encoder):
        return module
    if not isinstance(module, nn.Module) or not hasattr(module, "out_channels"):
        raise InputError(f"encoder '{name}' breaks the contract: it needs forward(x) -> list of maps, and out_channels")
    return PyramidAdapter(module)
