"""The order of training cases: the same for all processes, and resumed in mid-epoch by any number of processes."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, DistributedSampler

from gazelit.data.sampling import EpochLoader, EpochSampler, Processes, outlive_signals
from gazelit.errors import InputError


class Cases(Dataset):
    """A dataset whose cases are their numbers."""

    def __init__(self, count):
        self.rows = np.arange(count)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        return torch.tensor(key)


def loaders(count, world=1, nodes=1, workers=0, batch=4, state=None, epoch=2, classes=None, seed=7):
    """The loaders of all processes, as Lightning would restore them: the state first, the epoch after it."""
    made = []
    for rank in range(world):
        cases = Cases(count)
        sampler = EpochSampler(
            cases, True, seed, Processes(world, rank, nodes), classes, pads=count < batch * world
        )  # fmt: skip
        loader = EpochLoader(
            cases, batch_size=batch, sampler=sampler, num_workers=workers, drop_last=not sampler.pads,
            persistent_workers=workers > 0, worker_init_fn=outlive_signals,
        )  # fmt: skip
        if state is not None:
            loader.load_state_dict(state)
        iterator = iter(loader)
        sampler.set_epoch(epoch)
        made.append((loader, iterator))
    return made


def train(made, steps=None):
    """Takes ``steps`` steps, or all that are left, in all processes; returns the cases that each saw, and the state."""
    seen = [[] for _ in made]
    taken = 0
    while taken != steps:
        batches = [next(iterator, None) for _, iterator in made]
        if batches[0] is None:
            assert batches == [None] * len(made)
            break
        for rank, batch in enumerate(batches):
            assert (batch[:, 0] == 2).all()
            seen[rank].append(batch[:, 1].tolist())
        taken += 1
    for loader, _ in made:
        loader.is_amid = steps is not None
    states = [loader.state_dict() for loader, _ in made]
    assert all(state == states[0] for state in states)
    return seen, states[0]


def flat(seen):
    return [position for batches in seen for batch in batches for position in batch]


LEGS = [
    ("1 to 2 processes", [{"world": 1}, {"world": 2}]),
    ("2 to 1", [{"world": 2}, {"world": 1}]),
    ("workers 0 to 2", [{"world": 1, "workers": 0}, {"world": 1, "workers": 2}]),
    ("3 to 2 to 4", [{"world": 3}, {"world": 2}, {"world": 4}]),
    ("other batches", [{"world": 2, "batch": 4}, {"world": 1, "batch": 6}]),
    ("2 to 3 nodes and back", [{"world": 4, "nodes": 2}, {"world": 3, "nodes": 3}, {"world": 2, "nodes": 2}]),
    ("nodes to none", [{"world": 4, "nodes": 2}, {"world": 2}]),
    ("the same nodes twice", [{"world": 4, "nodes": 2}, {"world": 2, "nodes": 2}, {"world": 4, "nodes": 2}]),
]


@pytest.mark.parametrize(("name", "legs"), LEGS)
@pytest.mark.parametrize("count", [96, 101])
def test_every_case_comes_once_whatever_processes_resume_an_epoch(name, legs, count):
    random = np.random.default_rng(count)
    seen, state = [], None
    for number, options in enumerate(legs):
        last = number == len(legs) - 1
        made = loaders(count, state=state, **options)
        expected = made[0][0].batches_left
        found, state = train(made, steps=None if last else int(random.integers(1, 4)))
        assert not last or len(found[0]) == expected
        assert len({tuple(map(len, batches)) for batches in found}) == 1
        seen += flat(found)
    counts = Counter(seen)
    assert set(counts.values()) == {1}
    # As in every epoch, cases at the end that do not fill a step are left out.
    step = legs[-1].get("batch", 4) * legs[-1]["world"]
    assert 0 <= count - len(seen) < step
    assert state["seen"] == []


@pytest.mark.parametrize("options", [{}, {"nodes": 2}, {"classes": torch.arange(101) % 3}, {"workers": 1}])
def test_the_same_processes_resume_with_the_same_batches(options):
    options = {"world": 2, **options}
    undisturbed, _ = train(loaders(101, **options))
    parts, state = [[], []], None
    for steps in (3, 5, None):
        found, state = train(loaders(101, state=state, **options), steps)
        parts = [part + more for part, more in zip(parts, found, strict=True)]
    assert parts == undisturbed


def test_steps_of_any_processes_see_the_beginning_of_the_order_that_torch_shuffles():
    plain = DistributedSampler(Cases(96), 1, 0, shuffle=True, seed=7)
    plain.set_epoch(2)
    order = list(plain)
    for world in (1, 2, 3):
        found, state = train(loaders(96, world=world), steps=2)
        assert set(flat(found)) == set(order[: 8 * world])
        assert state["seen"] == [[8 * world, 1]]


def test_a_balanced_epoch_is_the_same_whatever_the_processes():
    classes = (torch.arange(101) > 70).long()
    orders = [train(loaders(101, world=world, classes=classes), steps=12 // world)[0] for world in (1, 2, 3)]
    assert all(sorted(flat(found)) == sorted(flat(orders[0])) for found in orders)


def test_nodes_read_only_their_own_part_of_the_store_in_every_epoch():
    rows = [set(), set()]
    for epoch in range(2):
        made = loaders(100, world=4, nodes=2, batch=5, epoch=epoch)
        found = [[position for _, position in loader.sampler] for loader, _ in made]
        for rank, positions in enumerate(found):
            rows[rank // 2] |= set(positions)
        assert sorted(np.concatenate(found).tolist()) == list(range(100)), epoch
    assert rows == [set(range(50)), set(range(50, 100))]


def test_the_rest_of_an_epoch_may_be_less_than_a_step():
    _, state = train(loaders(40, world=1, batch=4), steps=8)
    made = loaders(40, world=6, batch=4, state=state)
    assert made[0][0].batches_left == 1
    found, _ = train(made)
    assert [list(map(len, batches)) for batches in found] == [[1]] * 6
    with pytest.raises(InputError, match=r"8 cases are left .* the 9 processes; set --trainer.devices to less"):
        loaders(40, world=9, state=state)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seed": 8}, "--data.seed"),
        ({"classes": torch.arange(96) % 3}, "--data.loader.sampling"),
        ({"count": 95}, "the training cases"),
    ],
)
def test_another_order_is_refused_in_one_line(options, name):
    _, state = train(loaders(96), steps=3)
    with pytest.raises(InputError, match=rf"^--ckpt_path: .* {name} .*was another then; set it as it was"):
        loaders(**{"count": 96, "state": state, **options})
    # After a finished epoch, nothing has to be the same.
    _, state = train(loaders(96))
    loaders(**{"count": 96, "state": state, **options})


def test_older_checkpoints_are_resumed():
    _, state = train(loaders(96, world=2), steps=3)
    found, _ = train(loaders(96, world=1, state=state))
    old, _ = train(loaders(96, world=1, state={"batches": 3, "batch_size": 4, "processes": 2}))
    assert old == found
