"""Where readers look at different times: a map for each part of a reading."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from gazelit.errors import InputError
from gazelit.models.decoder import conv_bn_relu
from gazelit.models.dual_unet import DualEncoderUNet
from gazelit.models.heads import enlarged
from gazelit.models.registry import EncoderSpec


class TimeResolvedUNet(DualEncoderUNet):
    """The saliency network with further heads, one for each part of a reading (TempSAL: Aydemir et al., CVPR 2023).

    Each head adds to the logits of the map of the whole reading; before training all parts have that map. Encoders,
    decoder and saliency head are those of :class:`DualEncoderUNet`, and can be handed over from its stages.

    Args:
        encoder: See :class:`DualEncoderUNet`.
        saliency_encoder: Likewise.
        edges: Seconds at which the parts meet; the last part lasts to the end of the reading.
        decoder_widths: Likewise.
        map_stride: Likewise.

    Raises:
        InputError: The edges do not ascend from above 0; see also :class:`DualEncoderUNet`.
    """

    def __init__(
        self,
        encoder: EncoderSpec,
        saliency_encoder: EncoderSpec | None,
        edges: Sequence[float] = (1.0, 3.0, 10.0),
        decoder_widths: Sequence[int] = (512, 256, 128, 64, 64),
        map_stride: int = 1,
    ) -> None:
        super().__init__(encoder, saliency_encoder, decoder_widths, classes=None, map_stride=map_stride)
        if not edges or edges[0] <= 0 or any(later <= earlier for earlier, later in itertools.pairwise(edges)):
            raise InputError(f"edges: must ascend from above 0 s, not {list(edges)}")
        self.edges = tuple(float(edge) for edge in edges)
        kept = ("encoder", "saliency_encoder", "decoder_widths", "map_stride")
        self.arguments = {**{name: self.arguments[name] for name in kept}, "edges": list(self.edges)}
        width, parts = decoder_widths[-1], len(self.edges) + 1
        last = nn.Conv2d(width, parts, 1)
        nn.init.zeros_(last.weight)
        self.slice_heads = nn.Sequential(conv_bn_relu(width, width), last)
        self.specs["slice_heads"] = {"channels": width, "edges": list(self.edges)}

    def forward(self, x: Tensor, attention: Tensor | None = None) -> dict[str, Tensor]:
        """Predicts gaze.

        Args:
            x: Images (B, 1, H, W) in [0, 1].
            attention: Not used: there is no classifier.

        Returns:
            ``saliency_logits`` (B, 1, H, W) of the whole reading and ``slice_logits`` (B, K, H, W) of its parts.
        """
        last = self.decoded(x)[1][-1]
        whole = self.saliency_head(last)
        return {
            "saliency_logits": enlarged(whole, self._map_stride),
            "slice_logits": enlarged(whole + self.slice_heads(last), self._map_stride),
        }
