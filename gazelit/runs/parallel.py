"""Trainings in parallel: each has its share of processors and GPUs; if one fails, all end."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

from gazelit import processors
from gazelit.errors import InputError

_ResultT = TypeVar("_ResultT")


class EndedError(InputError):
    """A training was ended because another failed."""


@dataclass(frozen=True)
class Share:
    """The processors and GPUs that a training may use.

    Attributes:
        variables: Environment variables of its processes.
        is_alone: Whether no other training runs at the same time.
        stop: Set when the training must end.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    is_alone: bool = True
    stop: threading.Event = field(default_factory=threading.Event)


def side_by_side(tasks: Sequence[Callable[[Share], _ResultT]], jobs: int) -> list[_ResultT]:
    """The results of tasks in their order; at most ``jobs`` run at the same time.

    Args:
        tasks: Functions of the share, which end soon with an InputError after its ``stop`` is set.
        jobs: Number of tasks that run at the same time.

    Raises:
        InputError: The error of the first task that failed.
    """
    if jobs == 1 or len(tasks) < 2:
        return [task(Share()) for task in tasks]
    stop = threading.Event()
    count = min(jobs, len(tasks))
    free: queue.SimpleQueue[Share] = queue.SimpleQueue()
    for number in range(count):
        free.put(Share(_gpus(number, count), False, stop))

    def with_share(task: Callable[[Share], _ResultT]) -> _ResultT:
        share = free.get()
        try:
            if stop.is_set():
                raise EndedError("another training failed")
            return task(share)
        except BaseException:
            stop.set()
            raise
        finally:
            free.put(share)

    with processors.threads_divided(count), ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(with_share, task) for task in tasks]
        try:
            wait(futures)
        except BaseException:
            stop.set()
            raise
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, EndedError)):
        raise error
    return [future.result() for future in futures]


def _gpus(number: int, jobs: int) -> dict[str, str]:
    """The GPUs of one of several trainings: its part of them, or one if there are fewer than trainings."""
    # A run of one training at a time does not wait for it.
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(device) for device in range(torch.cuda.device_count())]
    if not names or not torch.cuda.is_available():
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[number::jobs] or [names[number % len(names)]])}
