"""Published encoders of chest X-rays and other images, by name: size, patches, statistics, licence, source of the file.

Nothing is fetched: a user gets the file from its publisher, under the publisher's terms, and names it as ``weights``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gazelit.models.encoder import Encoder, LibraryEncoder
from gazelit.models.registry import register_encoder
from gazelit.models.transformer import TransformerEncoder

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preset:
    """A published encoder.

    Attributes:
        name: As ``encoder.name``.
        architecture: timm's or segmentation-models-pytorch's name.
        size: Side in pixels that it was trained with.
        statistics: Mean and standard deviation of three channels that the publisher normalises with.
        licence: Of the weights, as the publisher states it; read it.
        where: Where a user gets the file.
        options: Further keyword arguments of the encoder.
        is_pyramid: Whether the library gives it as a pyramid; otherwise it is a plain transformer.
    """

    name: str
    architecture: str
    size: int
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None
    licence: str
    where: str
    options: dict[str, Any] = field(default_factory=dict)
    is_pyramid: bool = False

    def build(self, **options: Any) -> Encoder:
        """The encoder with random weights.

        Args:
            options: Override the preset's.
        """
        settings = dict(self.options)
        if self.statistics is not None:
            settings["mean"], settings["std"] = self.statistics
        if self.is_pyramid:
            return LibraryEncoder(self.architecture, **{**settings, **options})
        return TransformerEncoder(self.architecture, **{"img_size": self.size, **settings, **options})


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "rad-dino", "vit_base_patch14_dinov2", 518, ((0.5307,) * 3, (0.2583,) * 3),
            "MSRLA (research)", "huggingface.co/microsoft/rad-dino",
        ),
        Preset(
            "biomedclip", "vit_base_patch16_224", 224, _CLIP,
            "MIT", "huggingface.co/microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        ),
        Preset(
            "medsiglip", "vit_so400m_patch14_siglip_378", 448, _HALF,
            "Health AI Developer Foundations (gated)", "huggingface.co/google/medsiglip-448",
            # The activation that SigLIP was trained with; timm's model of 378 pixels has the exact function.
            {"act_layer": "gelu_tanh"},
        ),
        *(
            Preset(
                f"dinov3-{letter}", f"vit_{size}_patch16_dinov3_qkvb", 256, _IMAGENET,
                "DINOv3 License (gated)", f"huggingface.co/facebook/dinov3-vit{letter}16-pretrain-lvd1689m",
            )
            for letter, size in (("s", "small"), ("b", "base"), ("l", "large"))
        ),
        *(
            Preset(
                f"eva-x-{letter}", f"eva02_{size}_patch14_224", 224, ((0.49185243,) * 3, (0.28509309,) * 3),
                "MIT", "github.com/hustvl/EVA-X", {"patch_size": 16, "ref_feat_shape": (14, 14)},
            )
            for letter, size in (("ti", "tiny"), ("s", "small"), ("b", "base"))
        ),
        Preset(
            "xrv-densenet121", "densenet121", 224, None,
            "Apache-2.0", "github.com/mlmed/torchxrayvision/releases", {"input_range": (-1024.0, 1024.0)}, True,
        ),
        Preset(
            "ark-plus", "tu-swin_large_patch4_window12_384", 768, _IMAGENET,
            "ASU, non-commercial", "github.com/jlianglab/Ark; weights: FILE#teacher", {"img_size": 768}, True,
        ),
    )
}  # fmt: skip


def _factory(preset: Preset) -> Callable[..., Encoder]:
    return preset.build


for _preset in PRESETS.values():
    register_encoder(_preset.name)(_factory(_preset))
