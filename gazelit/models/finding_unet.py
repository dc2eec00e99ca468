"""Where readers look for each finding."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gazelit.errors import InputError
from gazelit.models.decoder import conv_bn_relu
from gazelit.models.dual_unet import DualEncoderUNet
from gazelit.models.heads import enlarged
from gazelit.models.registry import EncoderSpec


class FindingUNet(DualEncoderUNet):
    """The saliency network with a map for each finding, added to the logits of the map of the whole reading.

    Encoders, decoder and saliency head are those of :class:`DualEncoderUNet`, and can be handed over from its stages.
    Before training each finding's map is that of the whole reading.

    Args:
        encoder: See :class:`DualEncoderUNet`.
        saliency_encoder: Likewise.
        findings: Names of the findings, as in the regions and in ``data.gaze.phrases``.
        decoder_widths: Likewise.
        map_stride: Likewise.

    Raises:
        InputError: No finding is named, or one is named twice; see also :class:`DualEncoderUNet`.
    """

    def __init__(
        self,
        encoder: EncoderSpec,
        saliency_encoder: EncoderSpec | None,
        findings: Sequence[str],
        decoder_widths: Sequence[int] = (512, 256, 128, 64, 64),
        map_stride: int = 1,
    ) -> None:
        super().__init__(encoder, saliency_encoder, decoder_widths, classes=None, map_stride=map_stride)
        if not findings or len(set(findings)) < len(findings):
            raise InputError("findings: name each finding once, such as --model.network.findings=[nodule]")
        self.findings = tuple(findings)
        kept = ("encoder", "saliency_encoder", "decoder_widths", "map_stride")
        self.arguments = {**{name: self.arguments[name] for name in kept}, "findings": list(findings)}
        width = decoder_widths[-1]
        last = nn.Conv2d(width, len(self.findings), 1)
        nn.init.zeros_(last.weight)
        self.finding_heads = nn.Sequential(conv_bn_relu(width, width), last)
        self.specs["finding_heads"] = {"channels": width, "findings": list(findings)}

    def forward(self, x: Tensor, attention: Tensor | None = None) -> dict[str, Tensor]:
        """Predicts gaze.

        Args:
            x: Images (B, 1, H, W) in [0, 1].
            attention: Not used: there is no classifier.

        Returns:
            ``saliency_logits`` (B, 1, H, W) of the whole reading and ``finding_logits`` (B, F, H, W).
        """
        last = self.decoded(x)[1][-1]
        whole = self.saliency_head(last)
        return {
            "saliency_logits": enlarged(whole, self._map_stride),
            "finding_logits": enlarged(whole + self.finding_heads(last), self._map_stride),
        }
