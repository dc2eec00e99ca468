"""Plain vision transformers as pyramids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from torch.nn import functional as F

from gazelit.errors import InputError
from gazelit.models.encoder import Encoder, PublishersInput
from gazelit.models.layouts import log_recognised, recognise

#: Stride of the tokens' map, whatever the patches' size.
_STRIDE = 16


class TransformerEncoder(Encoder):
    """A plain vision transformer of timm with a simple feature pyramid at strides 4, 8, 16 and 32.

    The pyramid is that of Li et al. 2022 (Exploring plain vision transformer backbones for object detection, section
    3): all maps are made from the last block's tokens, by transposed convolutions, unchanged, and by max-pooling. The
    embedding is the tokens' mean. Images may have any size that is a multiple of 32; position embeddings are
    interpolated. With patches of another size than 16 pixels the image is resampled to the next multiple of a patch (of
    14: 640 × 512 to 644 × 518), and the tokens to stride 16.

    Weight files may have the keys of timm, of Hugging Face (DINOv2, DINOv3, SigLIP, CLIP), of Meta or of open_clip; see
    :mod:`gazelit.models.layouts`. Positions and patches of another size are resampled. Positions are taken for those of
    a square image if their number is a square, and otherwise for those of an image of ``img_size`` (timm's option).

    Args:
        name: timm's name, such as ``vit_small_patch16_224``.
        input_range: See :class:`gazelit.models.encoder.LibraryEncoder`.
        mean: Mean of each of three channels that the publisher's images are normalised with; the grey image is then
            repeated and normalised exactly. Without it the first layer has one channel.
        std: Standard deviation of each.
        options: Passed on to timm.

    Raises:
        InputError: Not both or not three of ``mean`` and ``std`` are given, or not two of ``input_range``.
        RuntimeError: timm does not know the name, or the model is no plain transformer with square patches.
    """

    # Poolings of the tokens to one vector belong to a head, too.
    head_prefixes: ClassVar[tuple[str, ...]] = (*Encoder.head_prefixes, "head_dist.", "attn_pool.", "fc_norm.")

    def __init__(
        self,
        name: str,
        input_range: Sequence[float] = (0.0, 1.0),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        import timm

        super().__init__()
        prepared = PublishersInput(input_range, mean, std)
        self._name = name
        self._arguments = {
            "in_chans": prepared.channels,
            "num_classes": 0,
            "dynamic_img_size": True,
            **options,
        }
        self.body = timm.create_model(name, **self._arguments)
        if not hasattr(self.body, "num_prefix_tokens"):
            raise RuntimeError(f"{name} is neither a pyramid nor a plain transformer")
        # timm's models are typed as modules, without their attributes.
        body = cast(Any, self.body)
        if getattr(body, "attn_pool", None) is not None:
            # Pools tokens to one vector, which the pyramid does not need.
            body.attn_pool = None
        if any(True for _ in getattr(body, "fc_norm", nn.Identity()).parameters()):
            # Normalises only the pooled vector.
            body.fc_norm = nn.Identity()
        width, patch = int(body.num_features), tuple(body.patch_embed.patch_size)
        if patch[0] != patch[1]:
            raise RuntimeError(f"{name} has patches of {patch[0]} × {patch[1]} pixels, which are not square")
        self._patch = int(patch[0])
        self.prepared = prepared
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
        inside = [-(-side // self._patch) * self._patch for side in x.shape[-2:]]
        image = x
        if inside != list(x.shape[-2:]):
            image = F.interpolate(x, inside, mode="bilinear", align_corners=False)
        grid = [side // self._patch for side in inside]
        tokens = self.tokens(image).transpose(1, 2).reshape(x.shape[0], -1, *grid)
        if self._patch != _STRIDE:
            tokens = F.interpolate(
                tokens, [side // _STRIDE for side in x.shape[-2:]], mode="bilinear", align_corners=False
            )
        return [self.to_stride_4(tokens), self.to_stride_8(tokens), tokens, self.to_stride_32(tokens)]

    def tokens(self, x: Tensor) -> Tensor:
        """The last block's tokens of the patches, normalised, (B, N, C).

        Args:
            x: (B, 1, H, W) of whole patches, in [0, 1].
        """
        body = cast(Any, self.body)
        return body.forward_features(self.prepared(x))[:, body.num_prefix_tokens :]

    def embedding_map(self, features: list[Tensor]) -> Tensor:
        """The tokens, at stride 16."""
        return features[2]

    def weight_target(self) -> nn.Module:
        """The transformer; the pyramid has no published weights."""
        return self.body

    def from_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :class:`Encoder`; keys of another layout are renamed to timm's, positions and patches are resampled."""
        recognised = recognise(state)
        if recognised is not None:
            log_recognised(recognised)
        named = dict(state) if recognised is None else recognised.state
        return super().from_file(self._without_empty_biases(self._resampled(named), self.body.state_dict()))

    def _resampled(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        from timm.layers import resample_abs_pos_embed, resample_patch_embed

        body = cast(Any, self.body)
        result = dict(state)
        patches = result.get("patch_embed.proj.weight")
        if patches is not None and patches.ndim == 4 and patches.shape[-1] != self._patch:
            result["patch_embed.proj.weight"] = resample_patch_embed(patches, [self._patch, self._patch])
        positions, own = result.get("pos_embed"), getattr(body, "pos_embed", None)
        if positions is not None and own is not None:
            prefix = 0 if getattr(body, "no_embed_class", False) else body.num_prefix_tokens
            grid = list(body.patch_embed.grid_size)
            given = _grid(positions.shape[1] - prefix, grid)
            if given != grid:
                result["pos_embed"] = resample_abs_pos_embed(positions, grid, given, num_prefix_tokens=prefix)
        return result

    def _without_empty_biases(self, state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Removes biases of queries and values that the model lacks, if they are 0, as in some published files."""
        further = [key for key in state if key.endswith(("attn.q_bias", "attn.v_bias")) and key not in expected]
        if further and any(bool(state[key].any()) for key in further):
            raise InputError(
                f"{self._name} has no biases of queries and values, but the file has; take {self._name}_qkvb"
            )
        return {key: value for key, value in state.items() if key not in further}

    def load_imagenet(self) -> None:
        """Fetches timm's weights."""
        import timm

        published = timm.create_model(self._name, pretrained=True, **self._arguments).state_dict()
        self.body.load_state_dict({key: value for key, value in published.items() if not key.startswith("attn_pool.")})


def _grid(count: int, own: list[int]) -> list[int]:
    """Rows and columns of a file's positions, which it does not tell.

    Publishers' images are square. Others are of the size that is given with the file.
    """
    side = round(max(count, 0) ** 0.5)
    if side and side * side == count:
        return [side, side]
    if count == own[0] * own[1]:
        return own
    raise InputError(
        f"pos_embed: {count} positions of patches are no square; set the encoder's option img_size: [HEIGHT, WIDTH] to "
        "that of the file's images"
    )
