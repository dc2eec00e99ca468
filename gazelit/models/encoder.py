"""The encoder contract, and adapters to encoders of other libraries."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazelit.errors import InputError
from gazelit.models.layouts import log_recognised, recognise
from gazelit.models.weights import check_fit, read_state

logger = logging.getLogger("gazelit")


class Encoder(nn.Module):
    """A pyramid of feature maps of one grey image.

    ``forward(x)`` takes (B, 1, H, W) and gives maps finest first, map i of shape (B, ``out_channels[i]``, H /
    ``strides[i]``, W / ``strides[i]``). This is segmentation-models-pytorch's contract, without the copy of the input
    as the first map, and with explicit strides.

    Attributes:
        out_channels: Channels of each map.
        strides: Down-sampling factor of each map, ascending.
    """

    #: Methods besides ``forward`` that networks call and that may use weights, which sharding brings together for them.
    with_weights: ClassVar[tuple[str, ...]] = ("embedding_map",)
    #: Prefixes of keys in weight files that belong to a head, which the encoder does not have.
    head_prefixes: ClassVar[tuple[str, ...]] = ("classifier.", "fc.", "head.", "op_threshs")

    out_channels: list[int]
    strides: list[int]

    @property
    def output_stride(self) -> int:
        """Down-sampling factor of the coarsest map."""
        return self.strides[-1]

    @property
    def embedding_channels(self) -> int:
        """Length of :meth:`embed`'s vectors."""
        return self.out_channels[-1]

    def embedding_map(self, features: list[Tensor]) -> Tensor:
        """The map that :meth:`pool` reduces to the embedding, (B, ``embedding_channels``, h, w): the coarsest map."""
        return features[-1]

    def pool(self, embedding_map: Tensor) -> Tensor:
        """The embedding (B, ``embedding_channels``) of an :meth:`embedding_map`: its spatial mean."""
        return embedding_map.mean(dim=(2, 3))

    def embed(self, features: list[Tensor]) -> Tensor:
        """The vectors for a classifier or a contrastive objective, (B, ``embedding_channels``).

        An encoder with another embedding overrides :meth:`embedding_map` or :meth:`pool`, not this.
        """
        return self.pool(self.embedding_map(features))

    def weight_target(self) -> nn.Module:
        """The module whose keys weight files use."""
        return self

    def from_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A weight file's tensors under the keys of :meth:`weight_target`, without those of a head."""
        return {key: value for key, value in state.items() if not key.startswith(self.head_prefixes)}

    def load_imagenet(self) -> None:
        """Loads ImageNet weights through the library that publishes them."""
        raise InputError(f"{type(self).__name__} has no ImageNet weights; give a local file or weights: null")


class PublishersInput(nn.Module):
    """Images as a publisher's weights expect them: rescaled, then normalised in three channels, or left grey.

    Args:
        input_range: The values that pixel values 0 and 1 are mapped to.
        mean: Mean of each of three channels, to which the grey image is repeated; none unless given.
        std: Standard deviation of each.

    Attributes:
        channels: Number of output channels: 3 with statistics, 1 without.

    Raises:
        InputError: Not both or not three of ``mean`` and ``std`` are given, or not two of ``input_range``.
    """

    mean: Tensor | None
    std: Tensor

    def __init__(
        self, input_range: Sequence[float], mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None) or any(values is not None and len(values) != 3 for values in (mean, std)):
            raise InputError("mean and std: give both, three values each, or neither")
        if len(input_range) != 2:
            raise InputError("input_range: give two values, of black and of white")
        self._low, self._high = input_range
        self.channels = 1 if mean is None else 3
        # Not in checkpoints: they are options with which the encoder is built.
        for name, values in (("mean", mean), ("std", std)):
            channels = None if values is None else torch.tensor(values, dtype=torch.float32)[:, None, None]
            self.register_buffer(name, channels, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) in [0, 1] to (B, ``channels``, H, W)."""
        x = x if (self._low, self._high) == (0.0, 1.0) else x * (self._high - self._low) + self._low
        return x if self.mean is None else (x - self.mean) / self.std


class PyramidAdapter(Encoder):
    """An encoder with segmentation-models-pytorch's contract: maps at strides 1, 2, 4, …, the first being the input.

    Args:
        body: The module; its ``out_channels`` list the channels of all maps, the input's included. Maps without
            channels (some transformers' place-holders) are left out.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        channels = list(body.out_channels)  # type: ignore[arg-type]
        self._kept = [level for level, count in enumerate(channels) if level > 0 and count > 0]
        self.out_channels = [channels[level] for level in self._kept]
        self.strides = [2**level for level in self._kept]

    def forward(self, x: Tensor) -> list[Tensor]:
        """See :class:`Encoder`."""
        features = self.body(x)
        return [features[level] for level in self._kept]

    def weight_target(self) -> nn.Module:
        """The adapted module."""
        return self.body


class LibraryEncoder(PyramidAdapter):
    """A convolutional pyramid of segmentation-models-pytorch, or of timm under ``tu-<name>``.

    The embedding is the input of the library's own classifier, if that is a mean of the pyramid's last map. Layers with
    weights after the pyramid are left out: a last 1 × 1 convolution in EfficientNet, MobileNetV3 and GhostNet; a last
    normalisation in ConvNeXt, Swin and pre-activation ResNets; VGG's linear layers.

    Args:
        name: The library's name.
        depth: Number of down-samplings.
        input_range: The values that pixel values 0 and 1 are mapped to before the first layer, such as the (−1024,
            1024) that torchxrayvision's weights were trained with.
        mean: Mean of each of three channels that the publisher normalises with; the grey image is then repeated and
            normalised exactly. Without it the first layer has one channel.
        std: Standard deviation of each.
        options: Passed on to the library.

    Raises:
        InputError: Not both or not three of ``mean`` and ``std`` are given, or not two of ``input_range``.
    """

    def __init__(
        self,
        name: str,
        depth: int = 5,
        input_range: Sequence[float] = (0.0, 1.0),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        import segmentation_models_pytorch as smp
        from segmentation_models_pytorch.encoders.densenet import DenseNetEncoder

        prepared = PublishersInput(input_range, mean, std)
        self._arguments = {"name": name, "in_channels": prepared.channels, "depth": depth, **options}
        super().__init__(smp.encoders.get_encoder(**self._arguments, weights=None))
        self._ends_in_relu = isinstance(self.body, DenseNetEncoder)
        self._timm_name = name.removeprefix("tu-") if name.startswith("tu-") else None
        # The whole model has its head, and no stride of its last map.
        self._timm_options = {
            key: value for key, value in options.items() if key not in ("num_classes", "output_stride")
        }
        self.prepared = prepared
        # timm's windows of a Swin are made for one size of images.
        strict = (module for module in self.body.modules() if getattr(module, "strict_img_size", False))
        self._size = next((tuple(module.img_size) for module in strict if module.img_size), None)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> list[Tensor]:
        """See :class:`Encoder`.

        Raises:
            InputError: The library's encoder is built for images of another size.
        """
        size = tuple(x.shape[-2:])
        if self._size is not None and size != self._size:
            raise InputError(
                f"encoder '{self._arguments['name']}': made for images of {self._size[0]} × {self._size[1]}, not "
                f"{size[0]} × {size[1]}; set its options.img_size=[{size[0]}, {size[1]}]"
            )
        return super().forward(self.prepared(x))

    def embedding_map(self, features: list[Tensor]) -> Tensor:
        """The coarsest map; of torchvision's DenseNets after the ReLU that their forward pass ends with."""
        return F.relu(features[-1]) if self._ends_in_relu else features[-1]

    def from_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :class:`Encoder`; for timm, the pyramid's part of the keys of the whole model."""
        if self._timm_name is None:
            return super().from_file(state)
        recognised = recognise(state)
        if recognised is not None:
            log_recognised(recognised)
        named = state if recognised is None else recognised.state
        return pyramid_part(named, _timm_keys(self._timm_name, self._timm_options), self.weight_target().state_dict())

    def load_imagenet(self) -> None:
        """Fetches the library's ImageNet weights; without statistics the first convolution is adapted to grey."""
        import segmentation_models_pytorch as smp

        published = smp.encoders.get_encoder(**self._arguments, weights="imagenet" if self._timm_name is None else True)
        self.body.load_state_dict(published.state_dict())


def pyramid_part(state: Mapping[str, Tensor], whole: Sequence[str], pyramid: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a whole timm model that its pyramid uses, under the pyramid's keys.

    timm's pyramids write ``stages_0.…`` for ``stages.0.…``; layers after the last map are left out.

    Args:
        state: The tensors of a file.
        whole: The keys of the whole model with the pyramid's options.
        pyramid: The pyramid's tensors.
    """
    keys = {_flat(key.removeprefix("model.")): key for key in pyramid}
    unused = {key for key in whole if _flat(key) not in keys}
    return {keys.get(_flat(key), key): value for key, value in state.items() if key not in unused}


def _timm_keys(timm_name: str, options: Mapping[str, Any]) -> list[str]:
    """The keys of a whole timm model, built without memory for its weights if possible."""
    import timm

    try:
        with torch.device("meta"):
            return list(timm.create_model(timm_name, **options).state_dict())
    except (NotImplementedError, RuntimeError):
        # Some models compute with their tensors while they are built. Their random weights must not change the run's
        # random numbers.
        with torch.random.fork_rng():
            return list(timm.create_model(timm_name, **options).state_dict())


def _flat(key: str) -> str:
    return key.replace(".", "_")


def load_weight_file(encoder: Encoder, path: str) -> None:
    """Loads a local weight file (``.pt``, ``.pth``, ``.ckpt``, ``.safetensors``) into an encoder.

    Keys may be under ``state_dict``, ``model``, ``teacher`` and the like and start with ``module.``. Choose among
    several with ``FILE#teacher``, and keys that begin with ``teacher.backbone.`` with ``FILE#teacher.backbone``. The
    file may also hold a pickled module (torchxrayvision's do); then only its tensors are read, and no code is run.
    Tensors of a classification head are left out. If the encoder has one input channel, the first convolution's three
    are summed, which equals repeating the grey image.

    Raises:
        InputError: The file is missing or unreadable, or a tensor is missing, left over or of another shape.
    """
    state = read_state(path)
    target = encoder.weight_target()
    expected = target.state_dict()
    try:
        stored = encoder.from_file({key.removeprefix("module."): value for key, value in state.items()})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    for key, value in stored.items():
        if key in expected and value.ndim == 4 and value.shape[1] == 3 and expected[key].shape[1] == 1:
            stored[key] = value.sum(dim=1, keepdim=True)
    check_fit(stored, expected, f"{path}: the weight file")
    target.load_state_dict(stored)
    logger.info(
        "%s: loaded %d of the encoder's %d tensors, from %d in the file", path, len(stored), len(expected), len(state)
    )
