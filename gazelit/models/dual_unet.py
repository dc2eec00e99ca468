"""The dual-encoder multi-task U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from gazelit.density import log_density
from gazelit.errors import InputError
from gazelit.models.decoder import UNetDecoder
from gazelit.models.heads import CentrePrior, FusionClassifier, SaliencyHead, enlarged
from gazelit.models.network import Network, apart
from gazelit.models.pooling import Pooling, concentration, pooled
from gazelit.models.registry import EncoderSpec, build_encoder

Features = Literal["fused", "encoder", "decoder"]


class DualEncoderUNet(Network):
    """A diagnosis encoder, a saliency encoder, one decoder, a saliency head and a fused classifier.

    The network of Qiu, Rivaz and Xiao 2025: the diagnosis encoder's coarsest map is the decoder's bottleneck, the
    saliency encoder's maps are its skip connections, and the classifier sees the encoder's embedding and the decoder's
    mean features together. With ``paper-densenet201`` and ``res-se`` it has 66,637,380 parameters. The last eight
    arguments depart from the paper, whose classifier sees global means; these do not show where a finding is. Many
    arguments, because each is an option of a configuration, and a stamp holds them by name.

    Args:
        encoder: The diagnosis encoder; its coarsest map must be at stride map_stride · 2 ** len(decoder_widths).
        saliency_encoder: The saliency encoder; its maps at the decoder's strides become skip connections. Null gives
            the diagnosis encoder's own finer maps as skip connections: a U-Net with one encoder.
        decoder_widths: Channels of the decoder's steps, the coarsest first.
        classes: Number of classes; null builds no classifier (stage 2).
        classifier_hidden: Hidden units of the classifier.
        dropout: Dropout of the classifier.
        classifier_features: What the classifier sees: the encoder's embedding map and the decoder's maps (``fused``),
            or one of the two.
        classifier_pooling: How each of these maps becomes a vector; with several poolings the classifier sees all
            vectors. ``mean``; the mean weighted by the predicted ``gaze`` (or by the reader's, where ``forward`` is
            given it); the mean of the ``top`` values; ``logsumexp``, a smooth maximum (:mod:`gazelit.models.pooling`).
        classifier_strides: Which of the decoder's maps the classifier sees, by their strides; null takes the last.
        classifier_concentration: Whether the classifier also sees how concentrated the predicted map is
            (:func:`gazelit.models.pooling.concentration`): a map with a peak indicates a finding.
        side_heads: Number of further saliency heads, on the decoder's outputs before the last, at strides 2, 4, …
            (deep supervision; the objective is then :class:`gazelit.losses.DeepSupervisionLoss`).
        centre_prior: Whether the saliency logits have a learned Gaussian prior.
        map_stride: Stride at which the decoder ends and the map is predicted; its logits are interpolated to full
            resolution (:func:`gazelit.models.heads.enlarged`). Above 1 the layers at full resolution are saved, in
            which most operations of the paper's network are spent. Fixation maps have little that a stride of 4 loses
            unless σ is below 6 pixels (docs/performance.md).

    Raises:
        InputError: The encoders do not fit the decoder, or an option does not fit the network.
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
        classifier_pooling: Pooling | Sequence[Pooling] = "mean",
        classifier_strides: Sequence[int] | None = None,
        classifier_concentration: bool = False,
        side_heads: int = 0,
        centre_prior: bool = False,
        map_stride: int = 1,
    ) -> None:
        super().__init__()
        spec = EncoderSpec.of(encoder)
        saliency_spec = None if saliency_encoder is None else EncoderSpec.of(saliency_encoder)
        widths = list(decoder_widths)
        poolings = [classifier_pooling] if isinstance(classifier_pooling, str) else list(classifier_pooling)
        strides = [map_stride] if classifier_strides is None else list(classifier_strides)
        self.arguments = {
            "encoder": spec.primitives(),
            "saliency_encoder": None if saliency_spec is None else saliency_spec.primitives(),
            "decoder_widths": widths,
            "classes": classes,
            "classifier_hidden": classifier_hidden,
            "dropout": dropout,
            "classifier_features": classifier_features,
            "classifier_pooling": poolings,
            "classifier_strides": strides,
            "classifier_concentration": classifier_concentration,
            "side_heads": side_heads,
            "centre_prior": centre_prior,
            "map_stride": map_stride,
        }
        if not 0 <= side_heads < len(widths):
            raise InputError(f"side_heads: must be 0 to {len(widths) - 1} with {len(widths)} decoder steps")
        if not poolings or set(poolings) - set(get_args(Pooling)) or len(set(poolings)) < len(poolings):
            raise InputError(f"classifier_pooling: must be one or several of {', '.join(get_args(Pooling))}, each once")
        if map_stride not in (1, 2, 4, 8):
            raise InputError(f"map_stride: must be 1, 2, 4 or 8, not {map_stride}")
        offered = [map_stride * 2**level for level in range(len(widths))]
        if not strides or set(strides) - set(offered) or len(set(strides)) < len(strides):
            raise InputError(f"classifier_strides: must be one or several of {', '.join(map(str, offered))}, each once")
        self.encoder = build_encoder(spec)
        if self.encoder.output_stride != 2 * offered[-1]:
            raise InputError(
                f"decoder_widths: {len(widths)} steps to stride {map_stride} reach back from stride {2 * offered[-1]}, "
                f"but encoder '{spec.name}' ends at stride {self.encoder.output_stride}"
            )
        self.specs = {"encoder": spec.primitives()}
        source = self.encoder
        if saliency_spec is not None:
            source = self.saliency_encoder = build_encoder(saliency_spec)
            self.specs["saliency_encoder"] = saliency_spec.primitives()
        self._dual = saliency_spec is not None
        channels = dict(zip(source.strides, source.out_channels, strict=True))
        skips = {stride: count for stride, count in channels.items() if stride in offered}
        bottleneck = self.encoder.out_channels[-1]
        self.decoder = UNetDecoder(bottleneck, skips, widths, map_stride)
        self.specs["decoder"] = {
            "bottleneck_channels": bottleneck,
            # Keys are text, because specifications are compared after they were written to a checkpoint or JSON.
            "skip_channels": {str(stride): count for stride, count in skips.items()},
            "widths": widths,
        }
        self.saliency_head = SaliencyHead(widths[-1])
        self.specs["saliency_head"] = {"channels": widths[-1]}
        self._map_stride = map_stride
        self._side_strides = offered[1 : side_heads + 1]
        if side_heads:
            side_widths = widths[-2 : -2 - side_heads : -1]
            self.side_heads = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in side_widths)
            self.specs["side_heads"] = {"channels": side_widths}
        self._has_prior = centre_prior
        if centre_prior:
            self.centre_prior = CentrePrior()
            self.specs["centre_prior"] = {}
        self._features, self._poolings = classifier_features, poolings
        self._concentration = classifier_concentration
        # The decoder's last map is the finest, the one before it half as fine.
        self._levels = [-1 - offered.index(stride) for stride in strides]
        if classes is not None:
            channels_of = {
                "encoder": [self.encoder.embedding_channels],
                "decoder": [widths[level] for level in self._levels],
            }
            channels_of["fused"] = channels_of["encoder"] + channels_of["decoder"]
            seen = len(poolings) * sum(channels_of[classifier_features]) + 3 * classifier_concentration
            self.classifier = FusionClassifier(seen, classifier_hidden, classes, dropout)
            self.specs["classifier"] = {
                "in_channels": seen,
                "hidden": classifier_hidden,
                "classes": classes,
                "features": classifier_features,
                "pooling": poolings,
                "strides": strides,
                # Only if it is set: classifiers of older checkpoints, without the entry, stay interchangeable.
                **({"concentration": True} if classifier_concentration else {}),
            }

    def forward(self, x: Tensor, attention: Tensor | None = None) -> dict[str, Tensor]:
        """Predicts gaze and, with a classifier, the diagnosis.

        Args:
            x: Images (B, 1, H, W) in [0, 1]; H and W multiples of the encoder's stride.
            attention: Densities (B, 1, H, W) that replace the predicted ones in a classifier that pools by ``gaze``. An
                image whose density is zero everywhere is pooled by the prediction.

        Returns:
            ``saliency_logits`` (B, 1, H, W), whose softmax over the pixels is the predicted density; ``logits``
            (B, classes); ``embedding_map`` (B, C, h, w), the encoder's map that the classifier pools, if it sees it;
            and ``saliency_logits_2`` (B, 1, H / 2, W / 2), ``…_4``, … of the side heads, from ``2 · map_stride`` on.
        """
        features, decoded = self.decoded(x)
        logits = enlarged(self.saliency_head(decoded[-1]), self._map_stride)
        outputs = {"saliency_logits": self.centre_prior(logits) if self._has_prior else logits}
        for number, stride in enumerate(self._side_strides):
            outputs[f"saliency_logits_{stride}"] = self.side_heads[number](decoded[-2 - number])
        if self.classes is not None:
            maps = []
            if self._features != "decoder":
                outputs["embedding_map"] = apart(self.encoder.embedding_map(features))
                maps.append(outputs["embedding_map"])
            maps += [] if self._features == "encoder" else [decoded[level] for level in self._levels]
            predicted = outputs["saliency_logits"]
            if "gaze" in self._poolings or self._concentration:
                predicted = log_density(predicted).exp()
            density = predicted
            if "gaze" in self._poolings and attention is not None:
                density = attention.where(attention.flatten(1).sum(1)[:, None, None, None] > 0, predicted)
            vectors = [pooled(each, pooling, density) for each in maps for pooling in self._poolings]
            if self._concentration:
                vectors.append(concentration(predicted))
            outputs["logits"] = self.classifier(vectors)
        return outputs

    def decoded(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The encoder's maps, finest first, and the decoder's maps, coarsest first, for images (B, 1, H, W)."""
        self.check_input(x, self.encoder.output_stride)
        features = self.encoder(x)
        source, maps = (self.saliency_encoder, self.saliency_encoder(x)) if self._dual else (self.encoder, features)
        return features, self.decoder(features[-1], dict(zip(source.strides, maps, strict=True)))
