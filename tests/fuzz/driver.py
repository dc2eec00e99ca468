"""Runs a reader over many mutated inputs, each in a child process that may die, hang or eat memory.

A fuzzer gives two functions at module level (children import them by name):

- ``make(index, seed, folder, corpus) -> Input`` writes input number ``index`` into ``folder``; the same numbers give
  the same input, so that one input can be made again and a run can go on from any index;
- ``read(path)`` reads it, and returns or raises :class:`gazelit.errors.InputError`.

Anything else is a failure: a crash of the child, over ``seconds`` of reading, another exception, over ``megabytes``
of memory. ``main`` is the command line, ``run`` the same from Python.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from gazelit.errors import InputError

FAILURES = ("crash", "hang", "traceback", "memory", "unmade")
#: Address space of a child: what would take the machine down ends in a MemoryError.
ADDRESS_SPACE = 8 * 2**30


@dataclass(frozen=True)
class Input:
    """A mutated input.

    Attributes:
        path: File or folder that the reader is given.
        kind: Row of the table it counts in, such as ``jpeg-ls: byte flips``.
    """

    path: Path
    kind: str


Make = Callable[[int, int, Path, "Path | None"], Input]
Read = Callable[[Path], object]


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
        index: Its number.
        kind: See :class:`Input`.
        result: ``accepted``, ``refused`` or one of ``FAILURES``.
        detail: The message or the end of the traceback.
        seconds: Time of reading.
        megabytes: Peak memory of the child while it read.
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
    seconds: float = 5.0,
    megabytes: float = 1024.0,
    corpus: Path | None = None,
    keep: Path | None = None,
) -> Iterator[Outcome]:
    """Yields the outcome of inputs ``start`` … ``count - 1``, in the order in which they end.

    Args:
        make: Writes an input.
        read: Reads it.
        count: Number of inputs, counted from 0.
        seed: Of all randomness.
        start: First index.
        workers: Number of child processes.
        seconds: Longest time of reading.
        megabytes: Largest peak memory of a child.
        corpus: Folder of real inputs, passed to ``make``.
        keep: Folder that gets a copy of every input that fails.
    """
    indices = iter(range(start, count))
    children: list[_Child] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:

        def start_child(number: int) -> _Child:
            return _Child(make, read, seed, Path(folder) / f"{number}-{time.monotonic_ns()}", corpus)

        try:
            for number in range(min(workers, max(0, count - start))):
                child = start_child(number)
                child.give(next(indices))
                children.append(child)
            while any(child.index is not None for child in children):
                busy = [child for child in children if child.index is not None]
                wait([child.connection for child in busy], timeout=0.2)
                for child in busy:
                    outcome = child.poll(seconds, megabytes)
                    if outcome is None:
                        continue
                    if keep is not None and outcome.result in FAILURES and child.path is not None:
                        _copy(child.path, keep / f"{outcome.index}-{outcome.result}{child.path.suffix}")
                    if child.dead:
                        position = children.index(child)
                        child.close()
                        child = children[position] = start_child(position)
                    if (index := next(indices, None)) is not None:
                        child.give(index)
                    else:
                        child.index = None
                    yield outcome
        finally:
            for child in children:
                child.close()


class _Child:
    """A child process, what it is at, and its death."""

    def __init__(self, make: Make, read: Read, seed: int, folder: Path, corpus: Path | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, remote = context.Pipe()
        self._process = context.Process(target=_serve, args=(remote, make, read, seed, folder, corpus), daemon=True)
        self._process.start()
        remote.close()
        self.dead = False
        self.index: int | None = None
        self.path: Path | None = None
        self._kind = "?"
        self._since = 0.0

    def give(self, index: int) -> None:
        self.index, self.path, self._kind = index, None, "?"
        # The first input waits for the child's imports; reading is timed from the moment the input is made.
        self._since = time.monotonic() + 60
        self.connection.send(index)

    def poll(self, seconds: float, megabytes: float) -> Outcome | None:
        """The outcome of the input under way, if it has ended."""
        assert self.index is not None
        try:
            while self.connection.poll():
                message = self.connection.recv()
                if message[0] == "made":
                    _, self.path, self._kind = message
                    self._since = time.monotonic()
                    continue
                _, result, detail, spent, peak = message
                if peak > megabytes:
                    result, detail = "memory", f"{peak:.0f} MB; {detail}"
                elif spent > seconds:
                    result, detail = "hang", f"{spent:.1f} s; {detail}"
                return Outcome(self.index, self._kind, result, detail, spent, peak)
        except (EOFError, ConnectionResetError):
            self._process.join(5)
            code = self._process.exitcode
            detail = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
            return self._ended("crash", detail)
        if time.monotonic() - self._since > seconds:
            return self._ended("hang", "killed")
        return None

    def _ended(self, result: str, detail: str) -> Outcome:
        assert self.index is not None
        self.dead = True
        peak = _peak_megabytes(self._process.pid)
        return Outcome(self.index, self._kind, result, detail, max(0.0, time.monotonic() - self._since), peak)

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(
    connection: Connection, make: Make, read: Read, seed: int, folder: Path, corpus: Path | None
) -> None:  # pragma: no cover - runs in a child
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        index = connection.recv()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            made = make(index, seed, folder, corpus)
        except Exception:
            connection.send(("read", "unmade", _last(traceback.format_exc()), 0.0, 0.0))
            continue
        connection.send(("made", made.path, made.kind))
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        begin = time.perf_counter()
        try:
            read(made.path)
            result, detail = "accepted", ""
        except InputError as error:
            # One line that names the file is what was promised.
            message = str(error)
            whole = "\n" not in message.strip()
            result, detail = ("refused", message) if whole else ("traceback", f"message of several lines: {message}")
        except Exception:
            result, detail = "traceback", _last(traceback.format_exc())
        connection.send(("read", result, detail, time.perf_counter() - begin, _peak_megabytes(None)))


def _peak_megabytes(pid: int | None) -> float:
    with contextlib.suppress(OSError, AttributeError):
        status = Path(f"/proc/{pid or 'self'}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if pid is None else 0.0


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    place = next((line.strip() for line in reversed(lines) if line.strip().startswith("File ")), "")
    return f"{lines[-1]} ({place})"


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True)
    elif path.is_file():
        shutil.copyfile(path, target)


def table(outcomes: list[Outcome]) -> str:
    """A line per kind of input: counts by result, longest time, largest memory."""
    kinds = sorted({outcome.kind for outcome in outcomes})
    columns = ("accepted", "refused", *FAILURES)
    width = max(map(len, [*kinds, "all"]))
    lines = [f"{'kind':<{width}}  inputs  " + "  ".join(columns) + "     max s  max MB"]
    for kind in [*kinds, "all"]:
        chosen = [outcome for outcome in outcomes if kind in ("all", outcome.kind)]
        counts = Counter(outcome.result for outcome in chosen)
        cells = "  ".join(f"{counts[name]:>{len(name)}}" for name in columns)
        slowest, largest = (
            max((getattr(outcome, name) for outcome in chosen), default=0.0) for name in ("seconds", "megabytes")
        )
        lines.append(f"{kind:<{width}}  {len(chosen):>6}  {cells}  {slowest:>8.2f}  {largest:>6.0f}")
    return "\n".join(lines)


def main(make: Make, read: Read, description: str, arguments: list[str] | None = None, **defaults: Any) -> int:
    """The command line of a fuzzer; returns the exit code: 1 if any input failed.

    Args:
        make: Writes an input.
        read: Reads it.
        description: For ``--help``.
        arguments: The process's own unless given.
        **defaults: Of :func:`run`, such as ``seconds``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--count", type=int, default=1000, help="inputs, counted from 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="first index, to go on or to look at one input")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="folder of real inputs to mutate besides those made")
    parser.add_argument("--keep", type=Path, help="folder that gets a copy of every input that fails")
    options = parser.parse_args(arguments)
    outcomes = []
    for outcome in run(make, read, **vars(options), **defaults):
        outcomes.append(outcome)
        if outcome.result in FAILURES:
            sys.stdout.write(f"{outcome.index} {outcome.kind}: {outcome.result}: {outcome.detail}\n")
            sys.stdout.flush()
        if len(outcomes) % 250 == 0:
            sys.stderr.write(f"{len(outcomes)} of {options.count - options.start}\n")
    sys.stdout.write(table(outcomes) + "\n")
    return int(any(outcome.result in FAILURES for outcome in outcomes))
