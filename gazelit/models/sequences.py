"""Readings as sequences of fixations, unfolded from the batch of their films."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Sequences(NamedTuple):
    """S readings of at most T fixations each.

    Attributes:
        film: (S,) int64, number within the batch of the film that a reading is of.
        position: (S, T, 2) float32 x and y in working pixels, centres at integers; 0 after the last fixation.
        duration: (S, T) float32 s; 0 after the last fixation.
        valid: (S, T) bool, true for fixations.
        ends: (S,) bool, whether the reading ends with its last fixation here; false for one that was cut off.
        reader: (S,) int64, number of the reader in the network's table; 0 is an unknown reader.
        finding: (S,) int64, number of the finding that was searched for; 0 is an unknown one.
    """

    film: Tensor
    position: Tensor
    duration: Tensor
    valid: Tensor
    ends: Tensor
    reader: Tensor
    finding: Tensor

    @classmethod
    def of(cls, batch: Mapping[str, Tensor], readers: Tensor, findings: Tensor, longest: int) -> Sequences:
        """Unfolds a batch's events.

        Args:
            batch: ``events`` (B, N, 4), ``reading``, ``reader`` and ``finding`` (B, N), by film and, within a film, by
                reading and time.
            readers: (R + 1,) the network's number of each of the data's readers; the last entry is that of an unknown
                reader.
            findings: (F + 1,) likewise for the findings that were searched for.
            longest: Number of fixations of a reading that are kept, the first ones.
        """
        reading = batch["reading"]
        film, event = (reading >= 0).nonzero(as_tuple=True)
        key = film * (int(reading.max()) + 1 if reading.numel() else 1) + reading[film, event]
        of_sequence, counts = torch.unique_consecutive(key, return_inverse=True, return_counts=True)[1:]
        starts = counts.cumsum(0) - counts
        step = torch.arange(len(key), device=key.device) - starts[of_sequence]
        kept = step < longest
        film, event, of_sequence, step = film[kept], event[kept], of_sequence[kept], step[kept]
        shape = len(counts), int(counts.clamp(max=longest).max()) if len(counts) else 1
        first = batch["events"].new_zeros(shape, dtype=torch.int64)
        position = batch["events"].new_zeros(*shape, 2)
        duration, valid = position.new_zeros(shape), first.bool()
        events = batch["events"][film, event]
        position[of_sequence, step] = events[:, :2]
        duration[of_sequence, step] = events[:, 3]
        valid[of_sequence, step] = True
        begins = step == 0
        # The number −1 takes the last entry, that of an unknown reader.
        reader, finding = (
            table.to(key.device)[batch[name][film, event][begins]]
            for name, table in (("reader", readers), ("finding", findings))
        )
        return cls(film[begins], position, duration, valid, counts <= longest, reader, finding)

    @classmethod
    def alone(cls, position: Tensor, duration: Tensor, reader: Tensor, finding: Tensor) -> Sequences:
        """Paths of equal length that have not ended, one for each film: (B, T, 2), (B, T), (B,) and (B,)."""
        # torch.export takes the length of a tensor for a constant.
        count = position.shape[0]
        film = torch.arange(count, device=position.device)
        valid = torch.ones_like(duration, dtype=torch.bool)
        return cls(film, position, duration, valid, film < 0, reader, finding)

    @property
    def lengths(self) -> Tensor:
        """(S,) number of fixations."""
        return self.valid.sum(1)
