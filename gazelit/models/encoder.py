"""The encoder contract, and encoders of other libraries behind it."""

from __future__ import annotations

from typing import Any, ClassVar

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from gazelit.errors import InputError
from gazelit.models.weights import check_fit, read_tensors


class Encoder(nn.Module):
    """A pyramid of feature maps of one grey image.

    ``forward(x)`` takes (B, 1, H, W) and gives maps finest first, map i of shape
    (B, ``out_channels[i]``, H / ``strides[i]``, W / ``strides[i]``). This is segmentation-models-pytorch's contract
    without the copy of the input at its front, and with the strides said.

    Attributes:
        out_channels: Channels of each map.
        strides: Down-sampling factor of each map, ascending.
    """

    #: Prefixes of keys in weight files that belong to a head the encoder does not have.
    head_prefixes: ClassVar[tuple[str, ...]] = ("classifier.", "fc.", "head.")

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

    def embed(self, features: list[Tensor]) -> Tensor:
        """What a classifier or contrastive objective sees: the coarsest map's mean, (B, ``embedding_channels``)."""
        return features[-1].mean(dim=(2, 3))

    def weight_target(self) -> nn.Module:
        """The module whose keys weight files use."""
        return self

    def load_imagenet(self) -> None:
        """Loads ImageNet weights through the library that publishes them."""
        raise InputError(f"{type(self).__name__} has no ImageNet weights; give a local file or weights: null")


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
    """An encoder of segmentation-models-pytorch, or of timm under ``tu-<name>``.

    Args:
        name: The library's name.
        depth: Number of down-samplings.
        options: Passed on to the library.
    """

    def __init__(self, name: str, depth: int = 5, **options: Any) -> None:
        self._arguments = {"name": name, "in_channels": 1, "depth": depth, **options}
        super().__init__(smp.encoders.get_encoder(**self._arguments, weights=None))

    def load_imagenet(self) -> None:
        """Fetches the library's ImageNet weights; a three-channel first convolution is adapted to grey."""
        published = smp.encoders.get_encoder(
            **self._arguments, weights=True if self._arguments["name"].startswith("tu-") else "imagenet"
        )
        self.body.load_state_dict(published.state_dict())


def load_weight_file(encoder: Encoder, path: str) -> None:
    """Loads a local weight file (``.pt``, ``.pth``, ``.ckpt``, ``.safetensors``) into an encoder.

    Keys may stand under ``state_dict`` or ``model`` and start with ``module.``; those of a classification head are
    left out. The first convolution's three input channels are summed where the encoder has one, which equals repeating
    the grey image.

    Raises:
        InputError: The file is missing or unreadable, or a tensor is missing, left over or of another shape.
    """
    state = read_tensors(path)
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    target = encoder.weight_target()
    ours = target.state_dict()
    theirs = {
        key.removeprefix("module."): value
        for key, value in state.items()
        if isinstance(value, Tensor) and not key.removeprefix("module.").startswith(encoder.head_prefixes)
    }
    for key, value in theirs.items():
        if key in ours and value.ndim == 4 and value.shape[1] == 3 and ours[key].shape[1] == 1:
            theirs[key] = value.sum(dim=1, keepdim=True)
    check_fit(theirs, ours, f"{path}: the weight file")
    target.load_state_dict(theirs)
