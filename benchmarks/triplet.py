"""Batch-all triplets of a batch against the loop over them, at the reference implementation's size; on the CPU.

The reference implementation computes the loss of one triplet at a time over feature maps of 1920 × 20 × 16, flattened
here to vectors so that both sides compute the same. Prints both times, their ratio and the largest relative difference
of loss and gradient.

    python benchmarks/triplet.py [--batch 32] [--repeats 3]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import torch
from measure import Workload
from torch import Tensor
from torch.nn import functional as F

from gazelit.losses import BatchAllTripletLoss

SHAPE = (1920, 20, 16)


def loop(leaf: Tensor, label: Tensor) -> Tensor:
    """The mean over valid triplets and its gradient, one at a time.

    The reference implementation keeps the graph of every triplet until the end, which at this size takes tens of
    gigabytes; going backward after each spares it that.
    """
    classes = label.tolist()
    # Apart once: indexing the batch for every triplet would cost a gradient of the whole batch each time.
    rows = [row.detach().requires_grad_() for row in leaf.split(1)]
    valid = [
        (a, p, n)
        for a, p, n in itertools.product(range(len(classes)), repeat=3)
        if a != p and classes[a] == classes[p] and classes[a] != classes[n]
    ]
    total = torch.zeros(())
    for a, p, n in valid:
        loss = F.triplet_margin_loss(rows[a], rows[p], rows[n], eps=0) / len(valid)
        loss.backward()
        total += loss.detach()
    leaf.grad = torch.cat([row.grad for row in rows if row.grad is not None])
    return total


def vectorised(leaf: Tensor, label: Tensor) -> Tensor:
    """gazelit's, and its gradient."""
    loss = BatchAllTripletLoss()(leaf, label)
    loss.backward()
    return loss.detach()


def timed(objective: Callable[[Tensor, Tensor], Tensor], batch: Tensor, label: Tensor) -> tuple[float, Tensor, Tensor]:
    """Seconds, loss and gradient."""
    leaf = batch.clone().requires_grad_()
    start = time.perf_counter()
    loss = objective(leaf, label)
    seconds = time.perf_counter() - start
    assert leaf.grad is not None
    return seconds, loss, leaf.grad


def workloads() -> list[Workload]:
    """A batch of 9 small maps, which the loop over triplets can do several times."""
    torch.manual_seed(0)
    embedding, label = torch.randn(9, 60_000) * 0.05, torch.arange(9) % 3

    def difference() -> float:
        fast, slow = (timed(way, embedding, label) for way in (vectorised, loop))
        return float((fast[1] - slow[1]).abs() / slow[1].abs())

    ways = {"loop over triplets": lambda: timed(loop, embedding, label)}
    ways["gazelit"] = lambda: timed(vectorised, embedding, label)
    return [Workload("batch-all triplets, with gradient", ways, difference, 1e-4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    embedding = torch.randn(options.batch, SHAPE[0] * SHAPE[1] * SHAPE[2]) * 0.05
    label = torch.arange(options.batch) % 3
    timed(vectorised, embedding, label)
    fast = [timed(vectorised, embedding, label) for _ in range(options.repeats)]
    slow = timed(loop, embedding, label)
    seconds = min(one[0] for one in fast)
    loss_error = float((fast[0][1] - slow[1]).abs() / slow[1].abs())
    gradient_error = float((fast[0][2] - slow[2]).abs().max() / slow[2].abs().max())
    size = " × ".join(map(str, SHAPE))
    print(f"batch {options.batch} of {size}, {torch.get_num_threads()} threads, with gradient")
    print(f"loop      {slow[0]:9.3f} s")
    print(f"gazelit   {seconds:9.4f} s   {slow[0] / seconds:.0f} times as fast")
    print(f"relative difference: loss {loss_error:.1e}, gradient {gradient_error:.1e}")


if __name__ == "__main__":
    main()
