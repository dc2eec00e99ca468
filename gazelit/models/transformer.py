"""Plain vision transformers as pyramids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import timm
from torch import Tensor, nn

from gazelit.models.encoder import Encoder, pyramid_part, rescaled

#: Of the tokens.
_STRIDE = 16


class TransformerEncoder(Encoder):
    """A plain vision transformer of timm with a simple feature pyramid at strides 4, 8, 16 and 32.

    The pyramid is that of Li et al. 2022 (Exploring plain vision transformer backbones for object detection, section
    3): all maps come from the last block's tokens, by transposed convolutions, as they are, and by max-pooling. The
    embedding is the tokens' mean. Images may have any size that is a multiple of 32; position embeddings are
    interpolated.

    Args:
        name: timm's name, such as ``vit_small_patch16_224``.
        input_range: See :class:`gazelit.models.encoder.LibraryEncoder`.
        options: Passed on to timm. Transformers with other patches take ``patch_size: 16``.

    Raises:
        RuntimeError: timm does not know the name, or the model is no plain transformer with patches of 16 pixels.
    """

    def __init__(self, name: str, input_range: Sequence[float] = (0.0, 1.0), **options: Any) -> None:
        super().__init__()
        self._name = name
        self._arguments = {"in_chans": 1, "num_classes": 0, "dynamic_img_size": True, **options}
        self.body = timm.create_model(name, **self._arguments)
        if not hasattr(self.body, "num_prefix_tokens"):
            raise RuntimeError(f"{name} is neither a pyramid nor a plain transformer")
        # timm's models are typed as modules, which tell nothing of their attributes.
        body = cast(Any, self.body)
        width, patch = int(body.num_features), tuple(body.patch_embed.patch_size)
        if patch != (_STRIDE, _STRIDE):
            raise RuntimeError(f"{name} has patches of {patch[0]} pixels; set options: {{patch_size: {_STRIDE}}}")
        self._low, self._high = input_range
        self.out_channels = [width // 4, width // 2, width, width]
        self.strides = [4, 8, 16, 32]
        self.to_stride_8 = nn.ConvTranspose2d(width, width // 2, 2, stride=2)
        self.to_stride_4 = nn.Sequential(
            nn.ConvTranspose2d(width, width // 2, 2, stride=2),
            nn.BatchNorm2d(width // 2),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2),
        )
        self.to_stride_32 = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """See :class:`Encoder`."""
        tokens = self._tokens(rescaled(x, self._low, self._high))
        height, width = x.shape[-2] // _STRIDE, x.shape[-1] // _STRIDE
        tokens = tokens.transpose(1, 2).reshape(x.shape[0], -1, height, width)
        return [self.to_stride_4(tokens), self.to_stride_8(tokens), tokens, self.to_stride_32(tokens)]

    def _tokens(self, x: Tensor) -> Tensor:
        body = cast(Any, self.body)
        return body.forward_features(x)[:, body.num_prefix_tokens :]

    def embedding_map(self, features: list[Tensor]) -> Tensor:
        """The tokens, at stride 16."""
        return features[2]

    def weight_target(self) -> nn.Module:
        """The transformer; the pyramid has no published weights."""
        return self.body

    def from_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :class:`Encoder`."""
        return pyramid_part(state, self._name, self.body.state_dict())

    def load_imagenet(self) -> None:
        """Fetches timm's weights."""
        self.body.load_state_dict(timm.create_model(self._name, pretrained=True, **self._arguments).state_dict())
