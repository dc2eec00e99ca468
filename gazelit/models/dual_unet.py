"""The dual-encoder multi-task U-Net."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gazelit.errors import InputError
from gazelit.models.decoder import UNetDecoder
from gazelit.models.heads import FusionClassifier, SaliencyHead
from gazelit.models.network import Network
from gazelit.models.registry import EncoderSpec, build_encoder


class DualEncoderUNet(Network):
    """A diagnosis encoder beside a saliency encoder, one decoder, a saliency head and a fused classifier.

    The network of Qiu, Rivaz and Xiao 2025: the diagnosis encoder's coarsest map is the decoder's bottleneck, the
    saliency encoder's maps are its skip connections, and the classifier sees the encoder's embedding and the decoder's
    mean features together. With ``paper-densenet201`` and ``res-se`` it has 66,637,380 parameters.

    Args:
        encoder: The diagnosis encoder; its coarsest map must be at stride 2 ** len(decoder_widths).
        saliency_encoder: The saliency encoder; its maps at the decoder's strides become skip connections.
        decoder_widths: Channels of the decoder's steps, the coarsest first.
        classes: Number of classes; null builds no classifier (stage 2).
        classifier_hidden: Hidden units of the classifier.
        dropout: Dropout of the classifier.

    Raises:
        InputError: The encoders do not fit the decoder.
    """

    def __init__(
        self,
        encoder: EncoderSpec,
        saliency_encoder: EncoderSpec,
        decoder_widths: Sequence[int] = (512, 256, 128, 64, 64),
        classes: int | None = 3,
        classifier_hidden: int = 64,
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        spec, saliency_spec = EncoderSpec.of(encoder), EncoderSpec.of(saliency_encoder)
        widths = list(decoder_widths)
        self.arguments = {
            "encoder": spec.primitives(),
            "saliency_encoder": saliency_spec.primitives(),
            "decoder_widths": widths,
            "classes": classes,
            "classifier_hidden": classifier_hidden,
            "dropout": dropout,
        }
        self.encoder = build_encoder(spec)
        self.saliency_encoder = build_encoder(saliency_spec)
        if self.encoder.output_stride != 2 ** len(widths):
            raise InputError(
                f"decoder_widths: {len(widths)} steps reach back from stride {2 ** len(widths)}, but encoder "
                f"'{spec.name}' ends at stride {self.encoder.output_stride}"
            )
        channels = dict(zip(self.saliency_encoder.strides, self.saliency_encoder.out_channels, strict=True))
        skips = {stride: count for stride, count in channels.items() if stride < self.encoder.output_stride}
        bottleneck = self.encoder.out_channels[-1]
        self.decoder = UNetDecoder(bottleneck, skips, widths)
        self.saliency_head = SaliencyHead(widths[-1])
        self.specs = {
            "encoder": spec.primitives(),
            "saliency_encoder": saliency_spec.primitives(),
            "decoder": {
                "bottleneck_channels": bottleneck,
                # Text keys: specifications are compared after a trip through a checkpoint or JSON.
                "skip_channels": {str(stride): count for stride, count in skips.items()},
                "widths": widths,
            },
            "saliency_head": {"channels": widths[-1]},
        }
        self._classifies = classes is not None
        if classes is not None:
            fused = self.encoder.embedding_channels + widths[-1]
            self.classifier = FusionClassifier(fused, classifier_hidden, classes, dropout)
            self.specs["classifier"] = {"in_channels": fused, "hidden": classifier_hidden, "classes": classes}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Predicts gaze and, with a classifier, the diagnosis.

        Args:
            x: Images (B, 1, H, W) in [0, 1]; H and W multiples of the encoder's stride.

        Returns:
            ``saliency_logits`` (B, 1, H, W), whose softmax over the pixels is the predicted density, and ``logits``
            (B, classes).
        """
        self.check_input(x, self.encoder.output_stride)
        features = self.encoder(x)
        skips = dict(zip(self.saliency_encoder.strides, self.saliency_encoder(x), strict=True))
        decoded = self.decoder(features[-1], skips)
        outputs = {"saliency_logits": self.saliency_head(decoded)}
        if self._classifies:
            outputs["logits"] = self.classifier(self.encoder.embed(features), decoded)
        return outputs
