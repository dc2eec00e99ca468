"""The history of a reading: a causal transformer over its fixations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gazelit.models.sequences import Sequences

#: Shorter durations count as this one (s), because the logarithm is modelled.
SHORTEST = 1e-3
#: Initial median of a duration's logarithm: that of fixations in reading.
LOG_MEDIAN = math.log(0.3)


class History(nn.Module):
    """A causal transformer over the fixations: its state before each of them and after the last.

    Arguments as in :class:`gazelit.models.ScanpathNetwork`; many, because each is one of its options.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        longest: int,
        readers: int,
        findings: int,
        unknown_share: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.unknown_share = unknown_share
        self.start = nn.Parameter(torch.zeros(width))
        self.step = nn.Embedding(longest + 1, width)
        # Entry 0 is an unknown reader, learned from all readings.
        self.reader = nn.Embedding(readers + 1, width)
        self.finding = nn.Embedding(findings + 1, width)
        self.fixation = nn.Sequential(nn.Linear(width + 5, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.film = nn.Linear(width, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        for table in (self.step, self.reader, self.finding):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, sequences: Sequences, features: Tensor, seen: Tensor, stride: int) -> Tensor:
        """The states.

        Args:
            sequences: S readings of T fixations.
            features: (B, width, h, w) features of their films.
            seen: (S, T, width) features at the fixations.
            stride: Stride of the features.

        Returns:
            (S, T + 1, width): entry t has seen t fixations.
        """
        count, length = sequences.duration.shape
        height, width = (side * stride for side in features.shape[-2:])
        tokens = self.tokens(sequences.position, sequences.duration, seen, (height, width))
        tokens = torch.cat([self.start.expand(count, 1, -1).to(tokens.dtype), tokens], dim=1)
        tokens = tokens + self.step(torch.arange(length + 1, device=tokens.device))
        whole = self.whole(sequences, features)
        mask = nn.Transformer.generate_square_subsequent_mask(length + 1, device=tokens.device, dtype=torch.float32)
        # On a CPU the attention's gradient takes six times as long in bfloat16.
        with torch.autocast(tokens.device.type, enabled=False):
            return self.layers((tokens + whole[:, None]).to(self.start.dtype), mask=mask, is_causal=True)

    def tokens(self, position: Tensor, duration: Tensor, seen: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens of fixations: position, distance from the one before, duration, and the film's features there.

        Args:
            position: (S, T, 2) in pixels.
            duration: (S, T) in s.
            seen: (S, T, width) features of the film there.
            size: Height and width of the film in pixels.

        Returns:
            (S, T, width).
        """
        relative = (position + 0.5) / position.new_tensor([size[1], size[0]]) * 2 - 1
        moved = torch.diff(relative, dim=1, prepend=relative[:, :1])
        log_duration = duration.clamp(min=SHORTEST).log()[..., None] - LOG_MEDIAN
        known = torch.cat([relative, moved, log_duration], dim=-1).to(seen.dtype)
        return self.fixation(torch.cat([seen, known], dim=-1))

    def after(self, token: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The state after one more token, from the layers' earlier inputs: :meth:`forward`, step by step.

        Args:
            token: (S, width), with step and condition, in evaluation mode.
            inputs: For each layer, (S, T, width) inputs of the T tokens before.

        Returns:
            The state (S, width), and the layers' inputs including that of the token, (S, T + 1, width) each.
        """
        state, longer = token[:, None], []
        for layer, before in zip(self.layers.layers, inputs, strict=True):
            own = layer.norm1(state)
            longer.append(torch.cat([before, own], dim=1))
            state = state + layer.self_attn(own, longer[-1], longer[-1], need_weights=False)[0]
            state = state + layer.linear2(layer.activation(layer.linear1(layer.norm2(state))))
        assert self.layers.norm is not None
        return self.layers.norm(state)[:, 0], longer

    def whole(self, sequences: Sequences, features: Tensor) -> Tensor:
        """(S, width) vectors of film, reader and finding, for all steps; arguments as in :meth:`forward`."""
        film = self.film(features.mean(dim=(2, 3)))[sequences.film]
        return film + self.reader(sequences.reader) + self.finding(sequences.finding)

    def withheld(self, sequences: Sequences) -> Sequences:
        """In training, the readings with the reader of some unknown, and the finding of some; else as they are."""
        if not self.training or not self.unknown_share:
            return sequences
        reader, finding = sequences.reader, sequences.finding
        withheld = torch.rand(2, len(reader), device=reader.device) < self.unknown_share
        return sequences._replace(
            reader=reader.masked_fill(withheld[0], 0), finding=finding.masked_fill(withheld[1], 0)
        )
