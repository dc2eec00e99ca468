"""Means over images, exact over processes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, distributed, nn


class ImageMeans(nn.Module):
    """Weighted means of named values, over the images that have the target of a value.

    Lightning's own mean over processes truncates the mean number of images a process to an integer (2.6.6), so that
    shares of 3 and 2 images count as 2 and 2; and it would count images without a target.
    """

    def __init__(self) -> None:
        super().__init__()
        # Gives a process that has seen no image the device of the other processes' sums.
        self.register_buffer("_anchor", torch.zeros((), dtype=torch.float64), persistent=False)
        self._sums: dict[str, Tensor] = {}

    _anchor: Tensor

    def update(self, values: Mapping[str, Tensor], weights: Mapping[str, Tensor | int] | Tensor | int) -> None:
        """Adds a batch, without waiting for the device.

        Args:
            values: By name, a scalar mean of the batch.
            weights: Number of images that each value is a mean over, by name or for all; a value without images is
                ignored.
        """
        for name, value in values.items():
            given = weights[name] if isinstance(weights, Mapping) else weights
            weight = torch.as_tensor(given, dtype=torch.float64, device=value.device).detach()
            total = torch.where(weight > 0, value.detach().double() * weight, 0.0)
            added = torch.stack([total, weight])
            self._sums[name] = self._sums[name] + added if name in self._sums else added

    def update_each(self, values: Mapping[str, Tensor]) -> None:
        """Adds a batch.

        Args:
            values: By name, (B,) the value of each image; NaN where it has none.
        """
        known = {name: ~value.isnan() for name, value in values.items()}
        means = {name: torch.where(known[name], value, 0.0).sum() / known[name].sum() for name, value in values.items()}
        self.update(means, {name: counts.sum() for name, counts in known.items()})

    def compute(self) -> dict[str, Tensor]:
        """The means by name, over all processes, of values with at least one image. Every process must call it."""
        sums = self.sums()
        counted = torch.stack([total[1] > 0 for total in sums.values()]).tolist() if sums else []
        return {
            name: total / weight
            for (name, (total, weight)), counts in zip(sums.items(), counted, strict=True)
            if counts
        }

    def sums(self) -> dict[str, Tensor]:
        """By name, the weighted sum and the sum of weights (2,), over all processes. Every process must call it."""
        names = list(self._sums)
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        if several:
            gathered: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
            distributed.all_gather_object(gathered, names)
            names = list(dict.fromkeys(chain.from_iterable(gathered)))
        if not names:
            return {}
        empty = self._anchor.new_zeros(2)
        sums = torch.stack([self._sums.get(name, empty).to(empty.device) for name in names])
        if several:
            distributed.all_reduce(sums)
        return dict(zip(names, sums, strict=True))

    def restore(self, sums: Mapping[str, Tensor]) -> None:
        """Continues from sums of all processes; the first process keeps them."""
        is_first = not distributed.is_initialized() or distributed.get_rank() == 0
        self._sums = {name: total.to(self._anchor.device) for name, total in sums.items()} if is_first else {}

    def reset(self) -> None:
        """Resets all sums."""
        self._sums = {}
