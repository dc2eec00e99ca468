"""Learning-rate schedules that torch does not have in one piece."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gazelit.errors import InputError


class WarmupCosine(LambdaLR):
    """A linear rise, then half a cosine down (Loshchilov and Hutter 2017, without restarts); stepped once an epoch.

    The factor of the learning rate is (e + 1) / warmup in the first epochs e and then
    final + (1 − final) (1 + cos(π (e − warmup) / (epochs − warmup))) / 2.

    Args:
        optimizer: Whose learning rates are scaled; each of its groups by the same factor.
        epochs: Number of epochs of the training; the factor stays at ``final`` after them.
        warmup: Number of epochs of the rise.
        final: Factor at the end.

    Raises:
        InputError: ``warmup`` is not below ``epochs``, or a value is negative.
    """

    def __init__(self, optimizer: Optimizer, epochs: int, warmup: int = 0, final: float = 0.0) -> None:
        if not 0 <= warmup < epochs:
            raise InputError(f"warmup: must be at least 0 and below the {epochs} epochs, not {warmup}")
        if not 0 <= final <= 1:
            raise InputError(f"final: must be 0 to 1, not {final}")

        def factor(epoch: int) -> float:
            if epoch < warmup:
                return (epoch + 1) / warmup
            share = min(1.0, (epoch - warmup) / (epochs - warmup))
            return final + (1 - final) * (1 + math.cos(math.pi * share)) / 2

        super().__init__(optimizer, factor)
