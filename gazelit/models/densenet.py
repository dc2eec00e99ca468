"""DenseNet with the taps of the paper."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from gazelit.errors import InputError
from gazelit.models.encoder import Encoder
from gazelit.models.registry import register_encoder

_DENSENET201 = {"growth_rate": 32, "blocks": (6, 12, 48, 32), "stem": 64}


class DenseNetEncoder(Encoder):
    """torchvision's DenseNet with the two taps of Qiu, Rivaz and Xiao 2025.

    The last map, which the decoder takes, is the last dense block's output before ``norm5``. The embedding is the
    spatial mean of ``norm5``'s output after ReLU, as in torchvision's own classifier. (The reference implementation
    keeps ``norm5``'s output in a hook, and torchvision's forward then applies ReLU to that tensor in place.) The grey
    image is repeated to three channels and not normalised, as in the reference implementation. Finer maps are the
    stem's and the dense blocks' outputs at strides 2, 4, 8 and 16.

    Args:
        growth_rate: Channels that each dense layer adds.
        blocks: Layers of the four dense blocks.
        stem: Channels of the first convolution.
    """

    def __init__(self, growth_rate: int, blocks: Sequence[int], stem: int) -> None:
        from torchvision.models import DenseNet

        super().__init__()
        blocks = tuple(blocks)
        self._published = {"growth_rate": growth_rate, "blocks": blocks, "stem": stem} == _DENSENET201
        # One class, because torchvision builds a classifier that is not kept.
        self.features = DenseNet(growth_rate, blocks, stem, num_classes=1).features
        channels, width = [stem], stem
        for layers in blocks:
            width += layers * growth_rate
            channels.append(width)
            width //= 2
        self.out_channels = channels
        self.strides = [2, 4, 8, 16, 32]

    def forward(self, x: Tensor) -> list[Tensor]:
        """See :class:`Encoder`."""
        x = x.expand(-1, 3, -1, -1)
        maps: list[Tensor] = []
        for name, layer in self.features.named_children():
            if name == "norm5":
                break
            x = layer(x)
            if name == "relu0" or name.startswith("denseblock"):
                maps.append(x)
        return maps

    def embedding_map(self, features: list[Tensor]) -> Tensor:
        """ReLU of ``norm5`` of the last map: (B, C, h, w)."""
        return F.relu(self.features.norm5(features[-1]))

    def weight_target(self) -> nn.Module:
        """The encoder itself: its keys ``features.…`` are torchvision's."""
        return self

    def load_imagenet(self) -> None:
        """Loads torchvision's ImageNet weights of DenseNet-201."""
        if not self._published:
            raise InputError("ImageNet weights exist for paper-densenet201 only; set weights: null")
        from torchvision.models import DenseNet201_Weights, densenet201

        self.features.load_state_dict(densenet201(weights=DenseNet201_Weights.IMAGENET1K_V1).features.state_dict())


@register_encoder("paper-densenet201")
def paper_densenet201() -> DenseNetEncoder:
    """The paper's encoder: 18,092,928 parameters."""
    return DenseNetEncoder(**_DENSENET201)  # type: ignore[arg-type]


@register_encoder("densenet-small")
def densenet_small(growth_rate: int = 16, blocks: Sequence[int] = (2, 4, 4, 3), stem: int = 16) -> DenseNetEncoder:
    """The same architecture, small enough for a CPU."""
    return DenseNetEncoder(growth_rate, blocks, stem)
