"""Work in parallel with the network: films are decoded before it, and results are written after it."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def read_ahead(items: Iterable[T], depth: int) -> Iterator[Iterator[T]]:
    """Reads items in a thread of its own, up to ``depth`` of them in advance.

    Args:
        items: Read in their order; an error ends them and is raised at its place in the order.
        depth: Number of items that may wait.

    Yields:
        The items.
    """
    waiting: queue.Queue[tuple[str, object]] = queue.Queue(depth)
    ended = threading.Event()

    def put(kind: str, item: object) -> bool:
        while not ended.is_set():
            try:
                waiting.put((kind, item), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def take() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
        except BaseException as error:
            put("error", error)
        else:
            put("end", None)

    def given() -> Iterator[T]:
        while True:
            kind, item = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(item, BaseException)
                raise item
            yield item  # type: ignore[misc]

    thread = threading.Thread(target=take, name="gazelit-decoding", daemon=True)
    thread.start()
    try:
        yield given()
    finally:
        ended.set()
        thread.join()


class Behind:
    """Calls a function in a thread of its own, in order, and raises its errors in the caller.

    Args:
        depth: Number of calls that may wait; with more the caller waits.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="gazelit-writing")
        self._calls: deque[Future[None]] = deque()

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            while self._calls:
                self._calls.popleft().result()

    def __call__(self, function: Callable[[], None]) -> None:
        """Queues a call of the function; raises the error of an earlier call."""
        self._calls.append(self._pool.submit(function))
        while self._calls and (len(self._calls) > self._depth or self._calls[0].done()):
            self._calls.popleft().result()
