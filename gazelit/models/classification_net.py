"""The network of supervised fine-tuning and of the single-task classifier."""

from __future__ import annotations

from torch import Tensor, nn

from gazelit.models.network import Network, apart
from gazelit.models.registry import EncoderSpec, build_encoder


class ClassificationNetwork(Network):
    """An encoder with a linear classifier, without gaze.

    Args:
        encoder: The diagnosis encoder.
        classes: Number of classes.
    """

    def __init__(self, encoder: EncoderSpec, classes: int = 3) -> None:
        super().__init__()
        spec = EncoderSpec.of(encoder)
        self.arguments = {"encoder": spec.primitives(), "classes": classes}
        self.encoder = build_encoder(spec)
        self.linear_classifier = nn.Linear(self.encoder.embedding_channels, classes)
        self.specs = {
            "encoder": spec.primitives(),
            # Not "classifier": that of the joint network is another module, and is trained from scratch there.
            "linear_classifier": {"in_channels": self.encoder.embedding_channels, "classes": classes},
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Classifies images.

        Args:
            x: (B, 1, H, W).

        Returns:
            ``logits`` (B, classes), and ``embedding_map`` (B, C, h, w), which is pooled to the classifier's embedding.
        """
        self.check_input(x, self.encoder.output_stride)
        seen = apart(self.encoder.embedding_map(self.encoder(x)))
        return {"logits": self.linear_classifier(self.encoder.pool(seen)), "embedding_map": seen}
