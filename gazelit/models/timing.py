"""How long a fixation lasts, and whether it is a reading's last."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from gazelit.models.history import LOG_MEDIAN, SHORTEST

#: Initial spread of a duration's logarithm: that of fixations in reading.
_LOG_SPREAD = 0.5


class Timing(nn.Module):
    """Duration and end, from the states of the history.

    Args:
        width: Length of the states and of the film's features.
    """

    #: As :attr:`gazelit.models.encoder.Encoder.with_weights`.
    with_weights: ClassVar[tuple[str, ...]] = ("durations", "stops")

    def __init__(self, width: int) -> None:
        super().__init__()
        self.times = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 2))
        self.stop = nn.Linear(width, 1)
        # Initially about fifty fixations a reading.
        nn.init.constant_(self.stop.bias, -4.0)

    def durations(self, before: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the spread of a duration's logarithm, (S, T) float32 each.

        Args:
            before: (S, T, width) states before each fixation.
            seen: (S, T, width) features of the film where it is.
        """
        values = self.times(torch.cat([before, seen], dim=-1)).float()
        return values[..., 0] + LOG_MEDIAN, values[..., 1].clamp(-3, 3) + math.log(_LOG_SPREAD)

    def stops(self, after: Tensor) -> Tensor:
        """Logits of the chance to stop, float32: states that have seen a fixation, (…, width), to (…)."""
        return self.stop(after)[..., 0].float()


def log_normal(duration: Tensor, log_median: Tensor, log_spread: Tensor) -> Tensor:
    """Log-density of durations (nats per s) whose logarithm is normal; float32, at least at ``SHORTEST``."""
    log = duration.float().clamp(min=SHORTEST).log()
    standard = (log - log_median) / log_spread.exp()
    return -0.5 * standard.square() - log_spread - 0.5 * math.log(2 * math.pi) - log
