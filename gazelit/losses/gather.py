"""Gathering a batch over processes, with gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


class _GatherRows(torch.autograd.Function):
    """Concatenates the processes' rows; a row's gradient is the sum of its gradients in all processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        distributed.all_reduce(gradient)
        return gradient[distributed.get_rank() * ctx.count :][: ctx.count]


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes' batches, in the order of their ranks.

    After DistributedDataParallel's average over processes, an objective of the gathered batch has the gradient of one
    process with the whole batch: every process computes the whole objective, and the sum over processes here cancels
    that average.

    Args:
        rows: (B, …), with the same B in every process.

    Returns:
        (world size · B, …); ``rows`` itself in a single process.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return rows
    return _GatherRows.apply(rows)
