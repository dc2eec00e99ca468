"""A try: a command in its own process group, a signal at a random moment, and a check for processes that are left."""

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.clock import Clock

#: Seconds that children of a killed process may still live; workers look for their parent every 5 s.
ORPHAN_SECONDS = 20.0
#: Seconds after which a command counts as hung.
HANG_SECONDS = 180.0
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = ("parent", "group", "child")


@dataclass(frozen=True)
class Outcome:
    """The end of a process.

    Attributes:
        code: Exit code, or the negative number of a signal.
        seconds: Time from its start to its end.
        landed: The signal that was sent and its target; empty if the process had ended before.
        orphans: Processes of its session that lived on too long.
    """

    code: int
    seconds: float
    landed: str
    orphans: int


def start(
    arguments: Sequence[str],
    folder: Path,
    log: Path,
    temporary: Path,
    clock: Clock | None = None,
    arrange: Callable[[], None] | None = None,
) -> int:
    """Forks this process, which has imported everything, and runs a command there; returns its id.

    Signals should meet the command's work; a new interpreter would spend two thirds of its time on imports.

    Args:
        arguments: Arguments of ``gazelit``.
        folder: Folder in which it runs.
        log: File to which its output is added.
        temporary: Its ``TMPDIR``.
        clock: Its wall clock.
        arrange: Function that is called in the fork before the command.
    """
    # A signal that came before the handlers are set would be lost, or run the handlers of this process.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    process = os.fork()
    if process:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return process
    code = 1
    try:
        os.setsid()
        # A shell that starts a command in the background has SIGINT ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if clock is not None:
            clock.show()
        if arrange is not None:
            arrange()
        os.chdir(folder)
        os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(out, stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        sys.argv = ["gazelit", *arguments]
        from gazelit.cli.main import main

        try:
            code = main(list(arguments))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
        # As an interpreter does at its end: what was registered, such as joining threads, and open files.
        import atexit
        import threading

        with contextlib.suppress(BaseException):
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)


def session(leader: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader and fields[0] not in "ZX":
                    found.append(int(entry))
    return found


def disturb(process: int, delay: float, number: signal.Signals, target: str, draw: random.Random) -> str:
    """Waits and sends a signal; returns its name and target, or nothing if the process had ended."""
    end = time.monotonic() + delay
    while time.monotonic() < end:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return ""
        time.sleep(0.005)
    children = [one for one in session(process) if one != process]
    # If it has no child at that moment, the signal goes to the process itself.
    aim = draw.choice(children) if target == "child" and children else process
    target = target if target != "child" or children else "parent"
    try:
        os.killpg(process, number) if target == "group" else os.kill(aim, number)
    except ProcessLookupError:
        return ""
    return f"{number.name} to {target}"


def finish(process: int, began: float, landed: str, is_done: Callable[[], bool] | None = None) -> Outcome:
    """Waits for a process and its children; a service is asked to end when its work is done."""
    asked = False
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            break
        if is_done is not None and not asked and is_done():
            os.kill(process, signal.SIGTERM)
            asked = True
        if time.monotonic() - began > HANG_SECONDS:
            os.killpg(process, signal.SIGKILL)
        time.sleep(0.01)
    seconds = time.monotonic() - began
    limit = time.monotonic() + ORPHAN_SECONDS
    while (left := session(process)) and time.monotonic() < limit:
        time.sleep(0.05)
    for orphan in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)
    return Outcome(os.waitstatus_to_exitcode(status), seconds, landed, len(left))
