"""Where a certain reader looks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gazelit.errors import InputError
from gazelit.models.dual_unet import DualEncoderUNet
from gazelit.models.heads import enlarged
from gazelit.models.registry import EncoderSpec


class ReaderUNet(DualEncoderUNet):
    """The saliency network, with the decoder's last map scaled and shifted by reader (FiLM, Perez et al. 2018).

    A reader is a short vector. The vector of an unknown reader is learned from readings whose reader is withheld.
    Before training all readers have the map of the network without readers. Encoders, decoder and saliency head are
    those of :class:`DualEncoderUNet`, and can be handed over from its stages. Readers as vectors: Chen et al., arXiv
    2404.12235.

    Args:
        encoder: See :class:`DualEncoderUNet`.
        saliency_encoder: Likewise.
        readers: ``reader_id`` of the readers that are learned.
        embedding: Length of a reader's vector.
        unknown_share: Share of the training readings whose reader is withheld.
        decoder_widths: Likewise.
        map_stride: Likewise.

    Raises:
        InputError: No reader is named, or one is named twice, or a number is impossible; see also
            :class:`DualEncoderUNet`.
    """

    def __init__(
        self,
        encoder: EncoderSpec,
        saliency_encoder: EncoderSpec | None,
        readers: Sequence[str],
        embedding: int = 16,
        unknown_share: float = 0.2,
        decoder_widths: Sequence[int] = (512, 256, 128, 64, 64),
        map_stride: int = 1,
    ) -> None:
        super().__init__(encoder, saliency_encoder, decoder_widths, classes=None, map_stride=map_stride)
        if not readers or len(set(readers)) < len(readers):
            raise InputError("readers: name each of the readers once, such as --model.network.readers=[a,b]")
        if not 0 <= unknown_share < 1 or embedding < 1:
            raise InputError(
                f"unknown_share must be at least 0 and below 1, embedding above 0, not {unknown_share} and {embedding}"
            )
        self.readers, self.unknown_share = tuple(readers), unknown_share
        kept = ("encoder", "saliency_encoder", "decoder_widths", "map_stride")
        own = {"readers": list(readers), "embedding": embedding, "unknown_share": unknown_share}
        self.arguments = {**{name: self.arguments[name] for name in kept}, **own}
        self.reader_film = ReaderFilm(len(readers), embedding, decoder_widths[-1])
        self.specs["reader_film"] = {"channels": decoder_widths[-1], "readers": list(readers), "embedding": embedding}

    def forward(self, x: Tensor, film: Tensor | None = None, reader: Tensor | None = None) -> dict[str, Tensor]:
        """Predicts gaze.

        Args:
            x: Images (B, 1, H, W) in [0, 1].
            film: (S,) the image that each reading is of; one reading of each image unless given.
            reader: (S,) numbers of the readers from 1 on, 0 for an unknown one; unknown unless given.

        Returns:
            ``saliency_logits`` (S, 1, H, W).
        """
        return self.maps(self.decoded(x)[1][-1], film, reader)

    def maps(self, last: Tensor, film: Tensor | None = None, reader: Tensor | None = None) -> dict[str, Tensor]:
        """The maps of readings, from the decoder's last map (B, C, h, w); see :meth:`forward`."""
        last = last if film is None else last[film]
        # torch.export takes the length of a tensor for a constant.
        number = torch.zeros(last.shape[0], dtype=torch.int64, device=last.device) if reader is None else reader
        if self.training and self.unknown_share:
            withheld = torch.rand(len(number), device=number.device) < self.unknown_share
            number = number.masked_fill(withheld, 0)
        return {"saliency_logits": enlarged(self.saliency_head(self.reader_film(last, number)), self._map_stride)}


class ReaderFilm(nn.Module):
    """Scales and shifts the channels of maps by reader.

    Args:
        readers: Number of readers.
        embedding: Length of a reader's vector.
        channels: Channels of the maps.
    """

    def __init__(self, readers: int, embedding: int, channels: int) -> None:
        super().__init__()
        # Entry 0 is an unknown reader.
        self.table = nn.Embedding(readers + 1, embedding)
        nn.init.normal_(self.table.weight, std=0.1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, maps: Tensor, reader: Tensor) -> Tensor:
        """(S, C, h, w) and (S,) numbers in the table to the same shape."""
        scale, shift = self.modulation(self.table(reader))[..., None, None].chunk(2, dim=1)
        return maps * (1 + scale) + shift
