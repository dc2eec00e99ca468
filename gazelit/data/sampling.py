"""The order in which cases are loaded."""

from __future__ import annotations

import atexit
import signal
import weakref
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from torch.utils.data.distributed import DistributedSampler

from gazelit.data.dataset import GazeDataset
from gazelit.errors import InputError


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
        #: Positions that the next epoch leaves out, because an interrupted training has seen them.
        self.seen = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self._classes is not None:
            positions = iter(self._balanced(self._classes)[self.rank : self.total_size : self.num_replicas].tolist())
        else:
            positions = super().__iter__() if self._fixed is None else iter(self._fixed)
        seen, self.seen = self.seen, 0
        return ((self.epoch, position) for position in islice(positions, seen, None))

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


def outlive_signals(worker: int) -> None:
    """Lets a loader's process go on where SIGTERM or Ctrl-C is sent to all of a training's.

    Batch systems and terminals do. The training ends at its next step, for which it needs the batch, and Ctrl-C by its
    own clean-up; workers end with the process that loads.

    Args:
        worker: Its number.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


_LOADERS: weakref.WeakSet[DataLoader[Any]] = weakref.WeakSet()


def ends_with_interpreter(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Has a loader's processes ended when the interpreter ends, if nothing did before; returns the loader.

    An error in a validation leaves those of the training. Python would send them SIGTERM, which they ignore, and wait.
    """
    _LOADERS.add(loader)
    return loader


@atexit.register
def _end_processes() -> None:
    for loader in list(_LOADERS):
        # As Lightning ends them.
        if isinstance(loader._iterator, _MultiProcessingDataLoaderIter):
            loader._iterator._shutdown_workers()


class EpochLoader(DataLoader[Any]):
    """A loader that can go on in the middle of an epoch.

    Its ``state_dict`` is what Lightning stores in a checkpoint, and loads before the training goes on.
    """

    sampler: EpochSampler
    #: Set before a checkpoint is made in the middle of an epoch.
    is_interrupted = False
    _given = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator, so that workers are given an epoch's order when its first batch is asked for. Lightning 2.6 makes
        # a resumed training's iterator before it tells the sampler the epoch: workers would begin with that of epoch 0.
        self._given = self.sampler.seen // (self.batch_size or 1)
        for batch in super().__iter__():
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches have been given of an epoch that is interrupted, 0 of one that is over; and their size."""
        given = self._given if self.is_interrupted else 0
        return {"batches": given, "batch_size": self.batch_size or 1, "processes": self.sampler.num_replicas}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leaves out, in the next epoch, what was given before.

        Raises:
            InputError: The epoch was begun with other batches.
        """
        if not state["batches"]:
            return
        now = self.state_dict()
        for name, option in (("batch_size", "data.loader.batch_size"), ("processes", "trainer.devices")):
            if state[name] != now[name]:
                raise InputError(
                    f"--ckpt_path: the training was interrupted in the middle of an epoch with {name} {state[name]}, "
                    f"and has {now[name]} now; set --{option} as it was until the epoch is over"
                )
        self.sampler.seen = state["batches"] * state["batch_size"]
