"""The order in which cases are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from gazelit.data.dataset import GazeDataset


class EpochSampler(DistributedSampler[Any]):
    """Yields (epoch, position), so that workers that live for several epochs know the epoch.

    Training shares are padded to equal length, as gradients need it; others are not, so that no case is evaluated
    twice.

    Args:
        dataset: What to sample.
        shuffle: Whether to shuffle by seed and epoch, for training.
        seed: Of the order.
        world_size: Number of processes.
        rank: Of this process.
        classes: (N,) class of each case, to draw as many of every class; all cases alike unless given.
    """

    def __init__(
        self,
        dataset: GazeDataset,
        shuffle: bool,
        seed: int,
        world_size: int,
        rank: int,
        classes: Tensor | None = None,
    ) -> None:
        super().__init__(dataset, world_size, rank, shuffle=shuffle, seed=seed)
        self._fixed = None if shuffle else range(rank, len(dataset), world_size)
        self._classes = classes

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self._classes is not None:
            positions = iter(self._balanced(self._classes)[self.rank : self.total_size : self.num_replicas].tolist())
        else:
            positions = super().__iter__() if self._fixed is None else iter(self._fixed)
        return ((self.epoch, position) for position in positions)

    def _balanced(self, classes: Tensor) -> Tensor:
        """``total_size`` positions, as many of every class; a class is gone through before one of its cases repeats."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        present = classes.unique()
        share = -(-self.total_size // len(present))
        drawn = []
        for label in present:
            members = torch.nonzero(classes == label).flatten()
            rounds = -(-share // len(members))
            orders = [members[torch.randperm(len(members), generator=generator)] for _ in range(rounds)]
            drawn.append(torch.cat(orders)[:share])
        # A case more of some classes than of others at most.
        positions = torch.stack(drawn, dim=1).flatten()[: self.total_size]
        return positions[torch.randperm(len(positions), generator=generator)]

    def __len__(self) -> int:
        return super().__len__() if self._fixed is None else len(self._fixed)
