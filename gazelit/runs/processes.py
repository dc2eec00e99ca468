"""The processes of steps: a fresh one, or a fork of a process that has the imports already.

Importing torch and Lightning takes some seconds. Steps are forked from a process that has done so once and uses no GPU.
"""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, Protocol

#: The imports of the process from which others are forked.
_PRELOADED = ["gazelit.cli.preload"]
# Loaded now: after a fork, the lock of a module that another thread was importing would stay locked for ever.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def can_fork() -> bool:
    """Whether this process is gazelit's command: a user's own program would be run again by the fork server."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", None)
    return name == "gazelit.__main__" or Path(getattr(main, "__file__", None) or "").name == "gazelit"


class StepProcess(Protocol):
    """A running command, which ends if this process does.

    Attributes:
        cpu_seconds: CPU seconds of it and its finished children, once it has ended; 0 if it was killed.
    """

    cpu_seconds: float

    def poll(self) -> int | None:
        """Its exit code, below 0 for a signal; None while it runs."""

    def terminate(self) -> None:
        """Ends it, and waits until it has ended."""


class OwnProcess:
    """A command in a fresh process.

    Args:
        arguments: Arguments of ``gazelit``.
        log: File to which its output is added.
        environment: All its environment variables.
        lock: Descriptor that it keeps open while it lives.
    """

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str], lock: int) -> None:
        self.cpu_seconds = 0.0
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gazelit", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=dict(environment),
                pass_fds=(lock,),
                preexec_fn=_die_with_parent,
            )

    def poll(self) -> int | None:
        """See :class:`StepProcess`."""
        if self._process.returncode is None:
            # Not Popen's own, which gives no CPU time of a single process.
            ended, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if ended:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self.cpu_seconds = usage.ru_utime + usage.ru_stime
        return self._process.returncode

    def terminate(self) -> None:
        """See :class:`StepProcess`."""
        if self.poll() is None:
            self._process.terminate()
            self._process.wait()


class ForkedProcess:
    """A command in a process that is forked from one with the imports; arguments as of :class:`OwnProcess`."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str], lock: int) -> None:
        self.cpu_seconds = 0.0
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self._costs, costs = context.Pipe(duplex=False)
        given = (list(arguments), str(log.resolve()), dict(environment), os.getcwd(), _Descriptor(lock), costs)
        self._process = context.Process(target=_run_forked, args=given)
        self._process.start()
        costs.close()

    def poll(self) -> int | None:
        """See :class:`StepProcess`."""
        code = self._process.exitcode
        if code is not None and not self._costs.closed:
            if self._costs.poll():
                self.cpu_seconds = _received(self._costs)
            self._costs.close()
        return code

    def terminate(self) -> None:
        """See :class:`StepProcess`."""
        self._process.terminate()
        self._process.join()


class _Descriptor:
    """A descriptor that is passed to a process: the same open file, not the file opened again."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Callable[[Any], _Descriptor], tuple[Any]]:
        return _taken_over, (DupFd(self.number),)


def _taken_over(duplicate: Any) -> _Descriptor:
    return _Descriptor(duplicate.detach())


def _received(costs: Connection) -> float:
    try:
        return float(costs.recv())
    except EOFError:
        return 0.0


def _run_forked(
    arguments: list[str], log: str, environment: dict[str, str], folder: str, lock: _Descriptor, costs: Connection
) -> None:
    """Runs a command as a fresh process would; the lock is held by having its descriptor."""
    _die_with_parent()
    with open(os.devnull, "rb") as nothing, open(log, "ab") as file:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # A fork server's children would start loaders' workers by further fork servers, which import all anew.
    multiprocessing.set_start_method(None, force=True)
    # By name, as in a fresh process: libraries that start further processes look here for the command.
    entry = importlib.import_module("gazelit.__main__")
    sys.modules["__main__"], sys.argv = entry, ["gazelit", *arguments]
    try:
        sys.exit(entry.main(arguments))
    finally:
        usage = [resource.getrusage(kind) for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        costs.send(sum(each.ru_utime + each.ru_stime for each in usage))


def _die_with_parent() -> None:
    """Has the kernel end this process (SIGTERM) with its parent, so that no stage trains on unnoticed."""
    if _LIBC is not None:
        # PR_SET_PDEATHSIG
        _LIBC.prctl(1, signal.SIGTERM)
