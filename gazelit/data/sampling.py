"""The order in which cases are loaded, and how a training goes on in the middle of it."""

from __future__ import annotations

import atexit
import hashlib
import multiprocessing
import signal
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from torch.utils.data.distributed import DistributedSampler

from gazelit.data.dataset import GazeDataset
from gazelit.errors import NO_SHARED_MEMORY, InputError


@dataclass(frozen=True)
class Processes:
    """The processes of a run, node after node, and which of them this is.

    Attributes:
        count: How many there are.
        rank: Of this one, from 0.
        nodes: On how many nodes they are; to a sampler that goes through the nodes' own parts, 1 elsewhere.
    """

    count: int = 1
    rank: int = 0
    nodes: int = 1

    def share(self, order: Tensor) -> Tensor:
        """What this process has of an order that nodes take turns in: its node's, that its processes take turns in."""
        per_node = self.count // self.nodes
        node, rank_in_node = divmod(self.rank, per_node)
        return order[node :: self.nodes][rank_in_node::per_node]


class EpochSampler(DistributedSampler[Any]):
    """Yields (epoch, position), so that workers that live for several epochs know the epoch.

    Training has one global order, a function of seed and epoch, of which every step takes the next cases of all
    processes together: whatever their number, the first N steps of a batch size have seen the beginning of the same
    order. What an interrupted training has seen is therefore a number, and the rest is shared among any processes.

    Where there are several nodes (``processes.nodes``), each goes through a part of the store of its own, the same in
    every epoch, and the order takes from these parts in turn. What is left of an epoch that other nodes began is
    divided anew.

    Evaluation shares are not of equal length, so that no case is evaluated twice.

    Args:
        dataset: What to sample.
        shuffle: Whether to shuffle by seed and epoch, for training.
        seed: Of the order.
        processes: Who shares the cases.
        classes: (N,) class of each case, to draw as many of every class; all cases alike unless given.
        pads: Whether training shares are made of equal length, as gradients need it, by repeating cases, for data that
            are fewer than a step takes; otherwise by leaving out the last ones of the order.
    """

    def __init__(
        self,
        dataset: GazeDataset,
        shuffle: bool,
        seed: int,
        processes: Processes = Processes(),
        classes: Tensor | None = None,
        pads: bool = True,
    ) -> None:
        super().__init__(dataset, processes.count, processes.rank, shuffle=shuffle, seed=seed)
        self.processes = processes
        self.pads = pads
        self._fixed = None if shuffle else range(processes.rank, len(dataset), processes.count)
        self._classes = classes
        #: What an interrupted training has seen of the next epoch: how many cases it took, on how many nodes, in turn.
        self.seen: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        positions = self._fixed if self._fixed is not None else self.processes.share(self._equal(self.left())).tolist()
        self.seen = []
        return ((self.epoch, position) for position in positions)

    def left(self) -> Tensor:
        """The positions that are left of the epoch, in their global order."""
        left = torch.arange(len(self.dataset))  # type: ignore[arg-type]
        for cases, nodes in self.seen:
            left = self._order(left.sort().values, nodes)[cases:]
        nodes_now = self.processes.nodes
        goes_on = bool(self.seen) and self.seen[-1][1] == nodes_now
        return left if goes_on else self._order(left.sort().values, nodes_now)

    def _order(self, positions: Tensor, nodes: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if self._classes is not None:
            return self._balanced(self._classes, generator)
        parts = [part[torch.randperm(len(part), generator=generator)] for part in positions.tensor_split(nodes)]
        shortest = min(len(part) for part in parts)
        in_turn = torch.stack([part[:shortest] for part in parts], dim=1).flatten()
        return torch.cat([in_turn, *(part[shortest:] for part in parts)])

    def _balanced(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Positions, as many of every class; a class is gone through before one of its cases repeats."""
        present = classes.unique()
        share = -(-len(classes) // len(present))
        drawn = []
        for label in present:
            members = torch.nonzero(classes == label).flatten()
            rounds = -(-share // len(members))
            orders = [members[torch.randperm(len(members), generator=generator)] for _ in range(rounds)]
            drawn.append(torch.cat(orders)[:share])
        # A case more of some classes than of others at most.
        positions = torch.stack(drawn, dim=1).flatten()[: len(classes)]
        return positions[torch.randperm(len(positions), generator=generator)]

    def _equal(self, order: Tensor) -> Tensor:
        count = self.processes.count
        if not self.pads or self.seen:
            return order[: len(order) // count * count]
        total = -(-len(order) // count) * count
        return order.repeat(-(-total // max(1, len(order))))[:total]

    def __len__(self) -> int:
        if self._fixed is not None:
            return len(self._fixed)
        return len(self.dataset) // self.processes.count if not self.pads else super().__len__()  # type: ignore[arg-type]

    def fingerprint(self) -> dict[str, Any]:
        """What the order is a function of, besides epoch and nodes; in primitives, no ids."""
        content = [self.dataset.rows.astype("<i8").tobytes()]  # type: ignore[attr-defined]
        if self._classes is not None:
            content.append(self._classes.numpy().tobytes())
        digest = hashlib.sha256(b"".join(content)).hexdigest()[:16]
        return {"seed": self.seed, "balanced": self._classes is not None, "cases": digest}


def outlive_signals(worker: int) -> None:
    """Lets a loader's process go on where SIGTERM or Ctrl-C is sent to all of a training's.

    Batch systems and terminals do. The training ends at its next step, for which it needs the batch, and Ctrl-C by its
    own clean-up; workers end with the process that loads.

    Args:
        worker: Its number.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def check_shared_memory(workers: int) -> None:
    """Sees that a loader can have processes, before torch makes them: it cannot clean up a part of them.

    Args:
        workers: How many.

    Raises:
        InputError: There is no shared memory, not even for the locks.
    """
    try:
        # As many as a queue for each and one for all have, and an event.
        _ = [multiprocessing.Lock() for _ in range(8 + 3 * workers)]
    except OSError as error:
        raise InputError(NO_SHARED_MEMORY) from error


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
    """A loader that can go on in the middle of an epoch, also with other processes, workers and batches.

    Its ``state_dict`` is what Lightning stores in a checkpoint, and loads before the training goes on.
    """

    sampler: EpochSampler
    batch_sampler: BatchSampler
    #: Whether the epoch goes on after the batch that is trained on: what a checkpoint of now has to remember.
    is_amid = False
    _given = 0
    _begun: Sequence[tuple[int, int]] = ()

    @property
    def _step(self) -> int:
        """How many cases all processes together take per batch."""
        return (self.batch_size or 1) * self.sampler.processes.count

    @property
    def _left(self) -> int:
        """How many cases are left of the epoch that is next."""
        return len(self.sampler.dataset) - sum(cases for cases, _ in self.sampler.seen)  # type: ignore[arg-type]

    @property
    def batches_left(self) -> int:
        """How many batches of the epoch that is next each process will be given."""
        return max(1, self._left // self._step) if self.sampler.seen else len(self)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator, so that workers are given an epoch's order when its first batch is asked for. Lightning 2.6 makes
        # a resumed training's iterator before it tells the sampler the epoch: workers would begin with that of epoch 0.
        self._begun, self._given = self.sampler.seen, 0
        # Fewer cases may be left of what other processes began than a step of these takes: one smaller step.
        self.batch_sampler.drop_last = self.drop_last and not 0 < self._left < self._step
        for batch in super().__iter__():
            self._given += self._step
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """How much of its epoch has been given, and which order that is of; nothing of an epoch that is over."""
        seen = [*self._begun, (self._given, self.sampler.processes.nodes)] if self.is_amid else []
        if len(seen) > 1 and seen[-1][1] == seen[-2][1]:
            (before, nodes), (since, _) = seen[-2:]
            seen[-2:] = [(before + since, nodes)]
        return {"seen": [list(part) for part in seen], **self.sampler.fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Leaves out, in the next epoch, what was given before.

        Raises:
            InputError: The epoch was begun in an order that cannot be gone on with.
        """
        if "batches" in state:
            # As it was written until November 2026, when only the same processes went on.
            cases = state["batches"] * state["batch_size"] * state["processes"]
            state = {"seen": [[cases, 1]] if cases else []}
        if not state["seen"]:
            return
        for name, now in self.sampler.fingerprint().items():
            if state.get(name, now) != now:
                raise InputError(
                    f"--ckpt_path: the training was interrupted in the middle of an epoch, and {_DECIDES[name]} was "
                    "another then; set it as it was until the epoch is over"
                )
        self.sampler.seen = [(int(cases), int(nodes)) for cases, nodes in state["seen"]]
        if self._left < self.sampler.processes.count:
            raise InputError(
                f"--ckpt_path: {self._left} cases are left of the epoch that was interrupted, fewer than the "
                f"{self.sampler.processes.count} processes; set --trainer.devices to less until it is over"
            )


#: By name in what a loader stores, what decides it.
_DECIDES = {
    "seed": "--data.seed",
    "balanced": "--data.loader.sampling",
    "cases": "the training cases (--data.store, --data.split, --data.labels)",
}
