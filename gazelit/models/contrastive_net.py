"""The network of contrastive pretraining: an encoder and, optionally, a projector."""

from __future__ import annotations

from torch import Tensor

from gazelit.models.heads import Projector
from gazelit.models.network import Network
from gazelit.models.registry import EncoderSpec, build_encoder


class ContrastiveNetwork(Network):
    """Gives the embedding that a contrastive objective compares.

    Args:
        encoder: The diagnosis encoder.
        projection: Length of the projected embedding; null, as in the paper, compares the encoder's own.
    """

    def __init__(self, encoder: EncoderSpec, projection: int | None = None) -> None:
        super().__init__()
        spec = EncoderSpec.of(encoder)
        self.arguments = {"encoder": spec.primitives(), "projection": projection}
        self.encoder = build_encoder(spec)
        self.specs = {"encoder": spec.primitives()}
        if projection is not None:
            channels = self.encoder.embedding_channels
            self.projector = Projector(channels, channels, projection)
            self.specs["projector"] = {"in_channels": channels, "out_channels": projection}
        self._projects = projection is not None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Embeds images.

        Args:
            x: (B, 1, H, W).

        Returns:
            ``embedding`` (B, C), and ``features`` (B, C'), the encoder's own embedding; they are equal without a
            projector.
        """
        self.check_input(x, self.encoder.output_stride)
        features = self.encoder.embed(self.encoder(x))
        return {"embedding": self.projector(features) if self._projects else features, "features": features}
