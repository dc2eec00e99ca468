"""Work on untrusted files, in processes that may crash, hang or run out of memory.

A decoder that crashes ends only its own process and costs one film; the parent gets the reason and continues with a new
process.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Generic, TypeVar

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")

#: Longest time for one film; the largest that is accepted takes a few seconds.
SECONDS = 60.0
#: Jobs under way in a worker, so that it need not wait for the parent.
_AHEAD = 2
#: A worker uses one core.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
#: Signals at which the parent closes its workers.
_CLOSED_ON = (signal.SIGINT, signal.SIGTERM)
#: Signals from outside, such as from the kernel when memory is short. They may not be the film's fault, so it is tried
#: once more.
_SENT_BY_OTHERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@dataclass(frozen=True)
class Lost:
    """Replaces a result if the process died at the job."""

    reason: str


class Workers(Generic[JobT, ResultT]):
    """Processes that call a function on jobs and may die at one.

    They are started anew rather than forked or spawned: no thread's lock is copied, and the caller's own script is not
    imported again.

    Args:
        function: Defined at a module's top level; jobs and results are pickled.
        count: Number of processes; they start when the first job is given.
        memory: Bytes of address space that each may take besides what its imports take.
        seconds: Longest time for one job.
        held: Jobs, per process, that may be under way or done before their turn; bounds the memory of the results.
    """

    def __init__(
        self, function: Callable[[JobT], ResultT], count: int, memory: int, seconds: float = SECONDS, held: int = 4
    ) -> None:
        self._function, self._memory, self._seconds = function, memory, seconds
        self._count, self._held = count, held
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers[JobT, ResultT]:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.close()
        self._workers = []

    def map(self, jobs: Iterable[JobT]) -> Iterator[ResultT | Lost]:
        """Yields the result of each job, or why there is none, in the order of the jobs."""
        numbered = enumerate(jobs)
        again: deque[tuple[int, JobT]] = deque()
        tried: set[int] = set()
        results: dict[int, ResultT | Lost] = {}
        given = turn = 0
        exhausted = False
        while True:
            # Each process gets its first job before any gets its second.
            for depth, position in product(range(_AHEAD), range(self._count)):
                if position < len(self._workers) and len(self._workers[position].under_way) > depth:
                    continue
                if again:
                    number, job = again.popleft()
                elif exhausted or given - turn >= self._held * self._count:
                    break
                elif (entry := next(numbered, None)) is None:
                    exhausted = True
                    break
                else:
                    number, job = entry
                    given = number + 1
                if position == len(self._workers):
                    self._workers.append(_Worker(self._function, self._memory, self._seconds))
                self._workers[position].give(number, job)
            while turn in results:
                yield results.pop(turn)
                turn += 1
            busy = {worker.connection: worker for worker in self._workers if worker.under_way}
            if not busy:
                if exhausted and not again and turn == given:
                    return
                continue
            for ready in wait(list(busy)):
                worker = busy[ready]  # type: ignore[index]
                try:
                    taken = worker.take()
                except (EOFError, ConnectionError):
                    (number, job), *rest = worker.under_way
                    reason, foreign = worker.cause_of_death(self._seconds)
                    if foreign and number not in tried:
                        tried.add(number)
                        rest.insert(0, (number, job))
                    else:
                        results[number] = Lost(reason)
                    again.extendleft(reversed(rest))
                    self._workers[self._workers.index(worker)] = _Worker(self._function, self._memory, self._seconds)
                else:
                    if taken is not None:
                        number, result = taken
                        results[number] = result


class _Worker:
    """One process and the jobs it was given."""

    def __init__(self, function: Callable[..., Any], memory: int, seconds: float) -> None:
        self.connection, remote = Pipe()
        self.under_way: deque[tuple[int, Any]] = deque()
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({remote.fileno()})"
        threads = dict.fromkeys(_THREADS, "1")
        # It ignores signals to all processes of a session, but not yet while it starts.
        earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _CLOSED_ON)
        with remote, _masked_again(earlier):
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[remote.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Libraries print what they find in a file, patients' data among it.
                stderr=subprocess.DEVNULL,
                env={**os.environ, **threads},
            )
        self._started = False
        with suppress(ConnectionError):
            # If it died at once, reading from it shows that.
            self.connection.send((function, memory, seconds))

    def give(self, number: int, job: Any) -> None:
        self.under_way.append((number, job))
        with suppress(ConnectionError):
            # If it died at an earlier job, reading from it shows that.
            self.connection.send(job)

    def take(self) -> tuple[int, Any] | None:
        """The result of the oldest running job, or nothing if the message only says that the process has started.

        The start is a separate message. A parent that waited for the first result as well would keep the other
        processes waiting while that job runs.

        Raises:
            EOFError: The process is dead.
            RuntimeError: It could not even start.
        """
        try:
            message = self.connection.recv()
        except (EOFError, ConnectionError):
            if not self._started:
                code = self._process.wait()
                if -code not in _SENT_BY_OTHERS:
                    raise RuntimeError(f"a worker process cannot start (exit code {code})") from None
            raise
        if not self._started:
            self._started = True
            return None
        number, _ = self.under_way.popleft()
        return number, message

    def cause_of_death(self, seconds: float) -> tuple[str, bool]:
        """Why it died, and whether another process may have killed it."""
        code = self._process.wait()
        self.connection.close()
        if code == -signal.SIGALRM:
            return f"could not be decoded within {seconds:g} s", False
        if code < 0:
            return f"the decoder crashed ({signal.Signals(-code).name})", -code in _SENT_BY_OTHERS
        return f"the decoder ended (exit code {code})", False

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self.connection.close()


@contextmanager
def _masked_again(earlier: Iterable[int]) -> Iterator[None]:
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def serve(descriptor: int) -> None:
    """The loop of a worker: calls the function on each job until the connection is closed."""
    # A parent that is interrupted or terminated closes its workers, some at once and some after their current film.
    for number in _CLOSED_ON:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _CLOSED_ON)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Connection(descriptor) as connection:
        function, memory, seconds = connection.recv()
        _limit_memory(memory)
        connection.send("ready")
        while True:
            try:
                job = connection.recv()
                # There is no handler for the alarm, so it ends the process at any point.
                signal.setitimer(signal.ITIMER_REAL, seconds)
                try:
                    result = function(job)
                except Exception as error:
                    result = Lost(f"the decoder failed ({error.__class__.__name__})")
                signal.setitimer(signal.ITIMER_REAL, 0)
                connection.send(result)
            except (EOFError, ConnectionError):
                return


def _limit_memory(more: int) -> None:
    """Limits the address space to its present size and ``more``, if the system reports the present size."""
    try:
        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + more, taken + more))
    except (OSError, ValueError):
        return
