"""When a classifier that pools by gaze is given the reader's gaze instead of the predicted one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gazelit.errors import InputError


@dataclass(frozen=True)
class TeacherForcing:
    """A share of the training films that changes linearly over epochs.

    With the reader's gaze at the beginning, the classifier learns what to look for before the predicted map is
    accurate. With the predicted gaze towards the end, it learns from the input that it will have at test (scheduled
    sampling, Bengio et al. 2015).

    Attributes:
        start: Share in the first epoch.
        end: Share in epoch ``epochs`` − 1 and later.
        epochs: Number of epochs over which the share changes; at least 1.

    Raises:
        InputError: A share is not within 0 and 1, or there is no epoch.
    """

    start: float = 1.0
    end: float = 1.0
    epochs: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.start <= 1 and 0 <= self.end <= 1):
            raise InputError(f"teacher_forcing: shares must be within 0 and 1, not {self.start} and {self.end}")
        if self.epochs < 1:
            raise InputError(f"teacher_forcing: epochs must be at least 1, not {self.epochs}")

    def share(self, epoch: int) -> float:
        """The share of films in an epoch, from 0."""
        if epoch >= self.epochs - 1:
            return self.end
        return self.start + (self.end - self.start) * epoch / (self.epochs - 1)

    def attention(self, heatmap: Tensor, epoch: int) -> Tensor:
        """The readers' densities of the films that are drawn; zero for the others, which are pooled by the prediction.

        Args:
            heatmap: (B, 1, H, W).
            epoch: From 0.

        Returns:
            (B, 1, H, W).
        """
        share = self.share(epoch)
        if share == 1:
            return heatmap
        # On the CPU, so that a film's draw does not depend on the device.
        drawn = torch.rand(len(heatmap)) < share
        return heatmap * drawn.to(heatmap.device, heatmap.dtype)[:, None, None, None]
