"""The likelihood of scanpaths as an objective."""

from __future__ import annotations

import torch
from torch import Tensor

from gazelit.errors import InputError
from gazelit.losses.objective import Objective, Tensors

#: What a reading's likelihood is the product of.
FACTORS = ("place", "duration", "stop")


class ScanpathLikelihood(Objective):
    """Negative log-likelihood of readings in nats a fixation, with a weight for each factor.

    With weights of 1 it is that of place, duration and end together. The static map is also trained, as a model of
    independent fixations: it is a yardstick, and the map that is drawn for a film.

    Args:
        place: Weight of the fixations' places.
        duration: Weight of their durations.
        stop: Weight of the decision to stop.
        static: Weight of the static map's own likelihood.

    Raises:
        InputError: A weight is negative, or that of ``place`` is 0.
    """

    def __init__(self, place: float = 1.0, duration: float = 1.0, stop: float = 1.0, static: float = 1.0) -> None:
        super().__init__()
        self.weights = {"place": place, "duration": duration, "stop": stop, "static": static}
        if place <= 0 or min(self.weights.values()) < 0:
            raise InputError("ScanpathLikelihood: weights must not be negative, and that of place above 0")

    def forward(self, outputs: Tensors, batch: Tensors) -> Tensor:
        """Computes the loss in float32.

        Args:
            outputs: ``place``, ``duration``, ``stop`` and ``static`` (S, T), log-densities of each fixation, and
                ``valid`` (S, T).
            batch: Not used.

        Returns:
            Scalar: the mean over the fixations; zero with a zero gradient without any.
        """
        return torch.stack([weight * self.mean(outputs, name) for name, weight in self.weights.items()]).sum()

    def mean(self, outputs: Tensors, name: str) -> Tensor:
        """The mean over fixations of one of the factors, negative."""
        valid = outputs["valid"]
        return -torch.where(valid, outputs[name], 0.0).sum() / valid.sum().clamp(min=1)

    def counted(self, batch: Tensors) -> Tensor:
        """The fixations of the readings."""
        return (batch["reading"] >= 0).sum()
