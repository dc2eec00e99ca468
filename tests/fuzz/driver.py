"""Runs a reader over many inputs, each in a child process that may die, hang or eat memory.

A fuzzer gives two functions (children import them by name):

- ``make(index, seed, folder, corpus) -> Input`` writes input number ``index`` into ``folder``, which stays for the next
  input; the same numbers give the same input, so that it can be made again and a run can go on from any index;
- ``read(path)`` reads it, and returns or raises :class:`gazelit.errors.InputError`.

Anything else is a failure: a crash of the child, over ``seconds`` of processor time, another exception, over
``megabytes`` more memory than the child held before. A child goes ahead of its parent over a batch of inputs, so that
neither waits for the other; the files lie in memory where there is a folder for them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import resource
import shutil
import signal
import stat
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from gazelit.errors import InputError

FAILURES = ("crash", "hang", "traceback", "memory")
#: Address space of a child: an input that would take all memory ends in a MemoryError.
ADDRESS_SPACE = 8 * 2**30
#: Limits of reading an input, as docs/reliability.md promises: seconds of processor time and MB of memory.
SECONDS, MEGABYTES = 2.0, 1024.0
#: Number of inputs that a child is given at once.
BATCH = 64
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Input:
    """An input.

    Attributes:
        path: File or folder that the reader is given.
        kind: Row of the table in which it counts, such as ``jpeg-ls``.
    """

    path: Path
    kind: str


Make = Callable[[int, int, Path, "Path | None"], Input]
Read = Callable[[Path], object]


@dataclass(frozen=True)
class Outcome:
    """The outcome of an input.

    Attributes:
        index: Number of the input.
        kind: See :class:`Input`.
        result: ``accepted``, ``refused`` or one of ``FAILURES``.
        detail: The message or the end of the traceback.
        seconds: Processor time of reading.
        megabytes: Memory that reading took, at its peak, over what the child held before.
    """

    index: int
    kind: str
    result: str
    detail: str
    seconds: float
    megabytes: float


def run(
    make: Make,
    read: Read,
    count: int,
    seed: int = 0,
    *,
    start: int = 0,
    workers: int = 1,
    seconds: float = SECONDS,
    megabytes: float = MEGABYTES,
    patience: float = 30.0,
    corpus: Path | None = None,
    keep: Path | None = None,
) -> Iterator[Outcome]:
    """Yields the outcome of inputs ``start`` … ``count - 1``, in the order in which they end.

    Many arguments, because each is one of a fuzzer's limits or options.

    Args:
        make: Writes an input.
        read: Reads an input.
        count: Number of inputs, counted from 0.
        seed: Seed of all randomness.
        start: First index.
        workers: Number of child processes.
        seconds: Longest processor time of reading.
        megabytes: Most memory of reading.
        patience: Longest wall-clock time of reading, for inputs that wait without an end; long, for busy machines.
        corpus: Folder of real inputs, passed to ``make``.
        keep: Folder that gets a copy of every input that fails.
    """
    batches = deque(range(first, min(first + BATCH, count)) for first in range(start, count, BATCH))
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=scratch()) as folder:
        settings = _Settings(make, read, seed, corpus, keep, seconds, megabytes)
        children = [
            _Child(settings, Path(folder) / str(number), patience) for number in range(min(workers, len(batches)))
        ]
        try:
            while True:
                for child in children:
                    if not child.batch and batches:
                        child.give(batches.popleft())
                if not (busy := [child for child in children if child.batch]):
                    return
                wait([child.connection for child in busy], timeout=0.2)
                for child in busy:
                    yield from child.outcomes()
        finally:
            for child in children:
                child.close()


def scratch() -> Path | None:
    """A folder in memory for short-lived files; None for the usual folder of temporary files."""
    return _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None


@dataclass(frozen=True)
class _Settings:
    make: Make
    read: Read
    seed: int
    corpus: Path | None
    keep: Path | None
    seconds: float
    megabytes: float


class _Child:
    """A child process with the rest of its batch; if it dies, another child goes on with the batch."""

    def __init__(self, settings: _Settings, folder: Path, patience: float) -> None:
        self._settings, self._folder, self._patience = settings, folder, patience
        self._generation = 0
        self.batch = range(0)
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, remote = context.Pipe()
        folder = self._folder.with_name(f"{self._folder.name}-{self._generation}")
        self._process = context.Process(target=_serve, args=(remote, self._settings, folder), daemon=True)
        self._process.start()
        remote.close()
        self._generation += 1
        self._made: Input | None = None

    def give(self, batch: range) -> None:
        self.batch = batch
        # The first input waits for the child's imports and its originals; reading is timed from when the input is made.
        self._since = time.monotonic() + 120
        self.connection.send((batch.start, batch.stop))

    def outcomes(self) -> Iterator[Outcome]:
        """Outcomes of the inputs that have ended since the last call."""
        try:
            while self.batch and self.connection.poll():
                message = self.connection.recv()
                self._since = time.monotonic()
                if isinstance(message, str):
                    raise RuntimeError(message)
                if isinstance(message, Input):
                    self._made = message
                    continue
                self.batch, self._made = self.batch[1:], None
                yield message
        except (EOFError, ConnectionResetError):
            self._process.join(5)
            code = self._process.exitcode
            name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
            yield self._lost("hang" if name == "SIGPROF" else "crash", name)
            return
        if self.batch and time.monotonic() - self._since > self._patience:
            yield self._lost("hang", f"killed after {self._patience:.0f} s on the clock")

    def _lost(self, result: str, detail: str) -> Outcome:
        index, made = self.batch[0], self._made
        kind = "?" if made is None else made.kind
        if made is not None and self._settings.keep is not None:
            copy(made.path, self._settings.keep / f"{index}-{result}{made.path.suffix}")
        self.close()
        rest = self.batch[1:]
        self._start()
        self.batch = range(0)
        if rest:
            self.give(rest)
        return Outcome(index, kind, result, detail, self._settings.seconds, 0.0)

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection, settings: _Settings, folder: Path) -> None:  # pragma: no cover - runs in a child
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    folder.mkdir(parents=True)
    while True:
        first, last = connection.recv()
        for index in range(first, last):
            try:
                made = settings.make(index, settings.seed, folder, settings.corpus)
            except Exception:
                connection.send(f"input {index} cannot be made: {last_line(traceback.format_exc())}")
                return
            connection.send(made)
            # The system kills a child that takes far too long.
            signal.setitimer(signal.ITIMER_PROF, 2 * settings.seconds)
            result, detail, seconds, peak = judge(settings.read, made.path, settings.seconds, settings.megabytes)
            signal.setitimer(signal.ITIMER_PROF, 0)
            if settings.keep is not None and result in FAILURES:
                copy(made.path, settings.keep / f"{index}-{result}{made.path.suffix}")
            connection.send(Outcome(index, made.kind, result, detail, seconds, peak))


def judge(
    read: Read, path: Path, seconds: float = SECONDS, megabytes: float = MEGABYTES
) -> tuple[str, str, float, float]:
    """Reads an input in this process; returns result, detail, seconds and MB as in :class:`Outcome`."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before, begin = _peak_megabytes(), time.process_time()
    try:
        read(path)
        result, detail = "accepted", ""
    except InputError as error:
        # The promise is a single line.
        detail = str(error)
        result = "refused" if "\n" not in detail.strip() else "traceback"
    except Exception:
        result, detail = "traceback", last_line(traceback.format_exc())
    spent, peak = time.process_time() - begin, _peak_megabytes() - before
    if peak > megabytes:
        result, detail = "memory", f"{peak:.0f} MB; {detail}"
    elif spent > seconds:
        result, detail = "hang", f"{spent:.1f} s; {detail}"
    return result, detail, spent, peak


def _peak_megabytes() -> float:
    with contextlib.suppress(OSError, TypeError):
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def last_line(text: str) -> str:
    """The last line of a traceback, and the innermost frame in it."""
    lines = text.strip().splitlines()
    frame = next((line.strip() for line in reversed(lines) if line.strip().startswith("File ")), "")
    return f"{lines[-1]} ({frame})"


def copy(path: Path, target: Path) -> None:
    """Copies a file or a folder, pipes and devices left out."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        for inner in path.rglob("*"):
            if stat.S_ISREG(inner.lstat().st_mode):
                copy(inner, target / inner.relative_to(path))
    elif path.is_file():
        shutil.copyfile(path, target)


def table(outcomes: list[Outcome]) -> str:
    """A line per kind of input: counts by result, longest time, largest memory."""
    rows: dict[str, Tally] = {}
    for outcome in outcomes:
        rows.setdefault(outcome.kind, Tally()).add(outcome.result, outcome.seconds, outcome.megabytes)
    return tally_table(rows)


class Tally:
    """Counts by result, the longest time and the largest memory of some inputs."""

    def __init__(self, counts: dict[str, int] | None = None, seconds: float = 0.0, megabytes: float = 0.0) -> None:
        self.counts, self.seconds, self.megabytes = Counter(counts), seconds, megabytes

    def add(self, result: str, seconds: float, megabytes: float) -> None:
        """Counts an input."""
        self.counts[result] += 1
        self.seconds, self.megabytes = max(self.seconds, seconds), max(self.megabytes, megabytes)

    def merge(self, given: Tally) -> None:
        """Adds the counts of another tally."""
        self.counts += given.counts
        self.seconds, self.megabytes = max(self.seconds, given.seconds), max(self.megabytes, given.megabytes)

    def primitives(self) -> tuple[dict[str, int], float, float]:
        """The constructor's arguments, as JSON has them."""
        return dict(self.counts), self.seconds, self.megabytes


def tally_table(rows: dict[str, Tally]) -> str:
    """A line for each row, and a line for all rows together."""
    columns = ("accepted", "refused", *FAILURES)
    total = Tally()
    for tally in rows.values():
        total.merge(tally)
    width = max(map(len, [*rows, "all"]))
    lines = [f"{'kind':<{width}}  inputs  " + "  ".join(columns) + "     max s  max MB"]
    for name, tally in [*sorted(rows.items()), ("all", total)]:
        cells = "  ".join(f"{tally.counts[column]:>{len(column)}}" for column in columns)
        size = sum(tally.counts.values())
        lines.append(f"{name:<{width}}  {size:>6}  {cells}  {tally.seconds:>8.2f}  {tally.megabytes:>6.0f}")
    return "\n".join(lines)
