"""The order in which cases are loaded, and how a training resumes within an epoch."""

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
        count: Number of processes.
        rank: Rank of this process, from 0.
        nodes: Number of nodes, for a sampler that gives each node its own part; otherwise 1.
    """

    count: int = 1
    rank: int = 0
    nodes: int = 1

    def share(self, order: Tensor) -> Tensor:
        """This process's share of an order. Nodes take turns in it, and the processes of a node in the node's part."""
        per_node = self.count // self.nodes
        node, rank_in_node = divmod(self.rank, per_node)
        return order[node :: self.nodes][rank_in_node::per_node]


class EpochSampler(DistributedSampler[Any]):
    """Yields (epoch, position), so that workers that live for several epochs know the epoch.

    Training has one global order, a function of seed and epoch. Every step takes the next cases of this order for all
    processes together. So the state of an interrupted training is the number of cases that it has seen, and any number
    of processes can share the rest.

    With several nodes (``processes.nodes``) each node has its own part of the store, the same in every epoch, and the
    order takes from these parts in turn. The rest of an epoch that was begun with other nodes is divided anew.

    Evaluation shares are not of equal length, so that no case is evaluated twice.

    Args:
        dataset: What to sample.
        shuffle: Whether to shuffle by seed and epoch, for training.
        seed: Seed of the order.
        processes: The processes that share the cases.
        classes: (N,) class of each case, to draw as many of every class; all cases alike unless given.
        pads: Whether shares of a training, which must have equal length, are padded with repeated cases, for data with
            fewer cases than a step takes. Otherwise the last cases of the order are left out.
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
        #: The part of the next epoch that an interrupted training has seen: pairs of a number of cases and of nodes, in
        #: order.
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
        """Positions, equally many of every class; a case repeats only after all others of its class."""
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
        """The inputs of the order, besides epoch and nodes; in primitives, no ids."""
        content = [self.dataset.rows.astype("<i8").tobytes()]  # type: ignore[attr-defined]
        if self._classes is not None:
            content.append(self._classes.numpy().tobytes())
        digest = hashlib.sha256(b"".join(content)).hexdigest()[:16]
        return {"seed": self.seed, "balanced": self._classes is not None, "cases": digest}


def outlive_signals(worker: int) -> None:
    """Makes a loader's process ignore SIGTERM and Ctrl-C that are sent to all processes of a training.

    Batch systems and terminals send them to all. After SIGTERM the training ends at its next step, for which it needs
    the batch; after Ctrl-C its own clean-up ends the workers. Workers end with the process that loads.

    Args:
        worker: Its number.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def check_shared_memory(workers: int) -> None:
    """Checks that a loader can start processes, before torch does: torch cannot clean up if only some of them start.

    Args:
        workers: Number of processes.

    Raises:
        InputError: There is no shared memory, not even for the locks.
    """
    try:
        # As many locks as a queue for each process, one for all, and an event need.
        _ = [multiprocessing.Lock() for _ in range(8 + 3 * workers)]
    except OSError as error:
        raise InputError(NO_SHARED_MEMORY) from error


_LOADERS: weakref.WeakSet[DataLoader[Any]] = weakref.WeakSet()


def ends_with_interpreter(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Ends a loader's processes when the interpreter ends, if they still run; returns the loader.

    After an error in a validation the training's processes still run. Python would send them SIGTERM, which they
    ignore, and wait.
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
    """A loader that can resume within an epoch, also with other numbers of processes and workers or batch sizes.

    Lightning stores its ``state_dict`` in a checkpoint, and loads it before the training resumes.
    """

    sampler: EpochSampler
    batch_sampler: BatchSampler
    #: Whether the epoch continues after the current batch; a checkpoint that is written now has to record it.
    is_amid = False
    _given = 0
    _begun: Sequence[tuple[int, int]] = ()

    @property
    def _step(self) -> int:
        """Number of cases that all processes together take per step."""
        return (self.batch_size or 1) * self.sampler.processes.count

    @property
    def _left(self) -> int:
        """Number of cases that are left of the next epoch."""
        return len(self.sampler.dataset) - sum(cases for cases, _ in self.sampler.seen)  # type: ignore[arg-type]

    @property
    def batches_left(self) -> int:
        """Number of batches of the next epoch for each process."""
        return max(1, self._left // self._step) if self.sampler.seen else len(self)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator, so that workers get an epoch's order only when its first batch is needed. Lightning 2.6 makes a
        # resumed training's iterator before it sets the sampler's epoch: workers would begin with the order of epoch 0.
        self._begun, self._given = self.sampler.seen, 0
        # If other processes began the epoch, fewer cases may be left than a step takes: then there is one smaller step.
        self.batch_sampler.drop_last = self.drop_last and not 0 < self._left < self._step
        for batch in super().__iter__():
            self._given += self._step
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The number of cases of the epoch that were given out, and the inputs of the order; empty after the epoch."""
        seen = [*self._begun, (self._given, self.sampler.processes.nodes)] if self.is_amid else []
        if len(seen) > 1 and seen[-1][1] == seen[-2][1]:
            (before, nodes), (since, _) = seen[-2:]
            seen[-2:] = [(before + since, nodes)]
        return {"seen": [list(part) for part in seen], **self.sampler.fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Leaves out, in the next epoch, the cases that were given out before.

        Raises:
            InputError: The epoch was begun in another order, which cannot be continued.
        """
        if "batches" in state:
            # The format until November 2026, when only the same number of processes could resume.
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


#: The options that decide each entry of a loader's state.
_DECIDES = {
    "seed": "--data.seed",
    "balanced": "--data.loader.sampling",
    "cases": "the training cases (--data.store, --data.split, --data.labels)",
}
