"""The dual-encoder multi-task U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from gazelit.errors import InputError
from gazelit.losses.saliency import log_density
from gazelit.models.decoder import UNetDecoder
from gazelit.models.heads import CentrePrior, FusionClassifier, SaliencyHead, attention_pooled
from gazelit.models.network import Network
from gazelit.models.registry import EncoderSpec, build_encoder

Features = Literal["fused", "encoder", "decoder"]
Pooling = Literal["mean", "gaze"]


class DualEncoderUNet(Network):
    """A diagnosis encoder beside a saliency encoder, one decoder, a saliency head and a fused classifier.

    The network of Qiu, Rivaz and Xiao 2025: the diagnosis encoder's coarsest map is the decoder's bottleneck, the
    saliency encoder's maps are its skip connections, and the classifier sees the encoder's embedding and the decoder's
    mean features together. With ``paper-densenet201`` and ``res-se`` it has 66,637,380 parameters. The last five
    arguments lead away from the paper.

    Args:
        encoder: The diagnosis encoder; its coarsest map must be at stride 2 ** len(decoder_widths).
        saliency_encoder: The saliency encoder; its maps at the decoder's strides become skip connections. Null gives
            the diagnosis encoder's own finer maps as skip connections: a U-Net with one encoder.
        decoder_widths: Channels of the decoder's steps, the coarsest first.
        classes: Number of classes; null builds no classifier (stage 2).
        classifier_hidden: Hidden units of the classifier.
        dropout: Dropout of the classifier.
        classifier_features: What the classifier sees: the encoder's embedding and the decoder's mean features
            (``fused``), or one of the two.
        classifier_pooling: How the encoder's map becomes its embedding: the ``mean``, or the mean weighted by the
            predicted ``gaze`` (or by the reader's, where ``forward`` is given it).
        side_heads: Number of further saliency heads, on the decoder's outputs at strides 2, 4, … (deep supervision;
            the objective is then :class:`gazelit.losses.DeepSupervisionLoss`).
        centre_prior: Whether the saliency logits have a learned Gaussian prior.

    Raises:
        InputError: The encoders do not fit the decoder, or an option fits nothing.
    """

    def __init__(
        self,
        encoder: EncoderSpec,
        saliency_encoder: EncoderSpec | None,
        decoder_widths: Sequence[int] = (512, 256, 128, 64, 64),
        classes: int | None = 3,
        classifier_hidden: int = 64,
        dropout: float = 0.25,
        classifier_features: Features = "fused",
        classifier_pooling: Pooling = "mean",
        side_heads: int = 0,
        centre_prior: bool = False,
    ) -> None:
        super().__init__()
        spec = EncoderSpec.of(encoder)
        saliency_spec = None if saliency_encoder is None else EncoderSpec.of(saliency_encoder)
        widths = list(decoder_widths)
        self.arguments = {
            "encoder": spec.primitives(),
            "saliency_encoder": None if saliency_spec is None else saliency_spec.primitives(),
            "decoder_widths": widths,
            "classes": classes,
            "classifier_hidden": classifier_hidden,
            "dropout": dropout,
            "classifier_features": classifier_features,
            "classifier_pooling": classifier_pooling,
            "side_heads": side_heads,
            "centre_prior": centre_prior,
        }
        if not 0 <= side_heads < len(widths):
            raise InputError(f"side_heads: must be 0 to {len(widths) - 1} with {len(widths)} decoder steps")
        if classifier_features == "decoder" and classifier_pooling == "gaze":
            raise InputError("classifier_pooling: gaze pools the encoder's map, which this classifier does not see")
        self.encoder = build_encoder(spec)
        if self.encoder.output_stride != 2 ** len(widths):
            raise InputError(
                f"decoder_widths: {len(widths)} steps reach back from stride {2 ** len(widths)}, but encoder "
                f"'{spec.name}' ends at stride {self.encoder.output_stride}"
            )
        self.specs = {"encoder": spec.primitives()}
        source = self.encoder
        if saliency_spec is not None:
            source = self.saliency_encoder = build_encoder(saliency_spec)
            self.specs["saliency_encoder"] = saliency_spec.primitives()
        self._dual = saliency_spec is not None
        channels = dict(zip(source.strides, source.out_channels, strict=True))
        skips = {stride: count for stride, count in channels.items() if stride < self.encoder.output_stride}
        bottleneck = self.encoder.out_channels[-1]
        self.decoder = UNetDecoder(bottleneck, skips, widths)
        self.specs["decoder"] = {
            "bottleneck_channels": bottleneck,
            # Text keys: specifications are compared after a trip through a checkpoint or JSON.
            "skip_channels": {str(stride): count for stride, count in skips.items()},
            "widths": widths,
        }
        self.saliency_head = SaliencyHead(widths[-1])
        self.specs["saliency_head"] = {"channels": widths[-1]}
        self._side_strides = [2**level for level in range(1, side_heads + 1)]
        if side_heads:
            side_widths = widths[-2 : -2 - side_heads : -1]
            self.side_heads = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in side_widths)
            self.specs["side_heads"] = {"channels": side_widths}
        self._has_prior = centre_prior
        if centre_prior:
            self.centre_prior = CentrePrior()
            self.specs["centre_prior"] = {}
        self._features, self._pooling = classifier_features, classifier_pooling
        if classes is not None:
            seen = {
                "fused": self.encoder.embedding_channels + widths[-1],
                "encoder": self.encoder.embedding_channels,
                "decoder": widths[-1],
            }[classifier_features]
            self.classifier = FusionClassifier(seen, classifier_hidden, classes, dropout)
            self.specs["classifier"] = {
                "in_channels": seen,
                "hidden": classifier_hidden,
                "classes": classes,
                "features": classifier_features,
                "pooling": classifier_pooling,
            }

    def forward(self, x: Tensor, attention: Tensor | None = None) -> dict[str, Tensor]:
        """Predicts gaze and, with a classifier, the diagnosis.

        Args:
            x: Images (B, 1, H, W) in [0, 1]; H and W multiples of the encoder's stride.
            attention: Densities (B, 1, H, W) that the classifier pools by in place of the predicted ones, with
                ``classifier_pooling: gaze``; an image whose density is zero everywhere is pooled by the prediction.

        Returns:
            ``saliency_logits`` (B, 1, H, W), whose softmax over the pixels is the predicted density; ``logits``
            (B, classes); and ``saliency_logits_2`` (B, 1, H / 2, W / 2), ``…_4``, … of the side heads.
        """
        self.check_input(x, self.encoder.output_stride)
        features = self.encoder(x)
        source, maps = (self.saliency_encoder, self.saliency_encoder(x)) if self._dual else (self.encoder, features)
        decoded = self.decoder(features[-1], dict(zip(source.strides, maps, strict=True)))
        logits = self.saliency_head(decoded[-1])
        outputs = {"saliency_logits": self.centre_prior(logits) if self._has_prior else logits}
        for number, stride in enumerate(self._side_strides):
            outputs[f"saliency_logits_{stride}"] = self.side_heads[number](decoded[-2 - number])
        if self.classes is not None:
            outputs["logits"] = self.classifier(self._seen(features, decoded[-1], outputs, attention))
        return outputs

    def _seen(
        self, features: list[Tensor], decoded: Tensor, outputs: dict[str, Tensor], attention: Tensor | None
    ) -> list[Tensor]:
        """The vectors that the classifier sees."""
        vectors = []
        if self._features != "decoder" and self._pooling == "mean":
            vectors.append(self.encoder.embed(features))
        elif self._features != "decoder":
            density = log_density(outputs["saliency_logits"]).exp()
            if attention is not None:
                density = attention.where(attention.flatten(1).sum(1)[:, None, None, None] > 0, density)
            vectors.append(attention_pooled(self.encoder.embedding_map(features), density))
        if self._features != "encoder":
            vectors.append(decoded.mean(dim=(2, 3)))
        return vectors
