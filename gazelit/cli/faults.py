"""One line on the fault, for errors that are not our code's."""

from __future__ import annotations

import errno
import re

from gazelit.errors import NO_SHARED_MEMORY, InputError

#: Text that torch adds to an error of a loader's process.
_RAISED_BY_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\n.*^[\w.]+: ", re.DOTALL | re.MULTILINE)
#: torch's message about a loader's process that has died.
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is killed by signal: (?P<signal>[^.]+)|exited)")

#: torch's messages if it cannot pass a batch to another process.
_SHARED_MEMORY = re.compile(r"unable to (allocate shared memory|open shared memory object)")
#: pathlib's message about a link to itself before Python 3.13.
_LOOP = re.compile(r"Symlink loop from '(?P<path>.*)'")


def mistake_behind(error: BaseException | None) -> str | None:
    """The user's mistake, or the machine's fault, that caused an error; None if it is our own.

    Args:
        error: The error; jsonargparse wraps the errors of constructors.
    """
    while error is not None:
        if isinstance(error, InputError):
            return _RAISED_BY_WORKER.sub("", str(error)).strip()
        if isinstance(error, OSError) and _was_raised_in(error, "__init__", "synchronize.py"):
            return NO_SHARED_MEMORY
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            where = f"{error.filename}: " if error.filename else ""
            return (
                f"{where}the disk is full or a file may not grow ({error.strerror}); make room, then the same command"
            )
        if isinstance(error, OSError) and error.filename:
            # A folder without permission: not our code's fault either.
            return f"{error.filename}: {error.strerror}"
        if isinstance(error, RuntimeError) and (found := _LOOP.fullmatch(str(error))):
            return f"{found['path']}: is a link to itself; remove it, or name another path"
        if isinstance(error, RuntimeError) and _SHARED_MEMORY.search(str(error)):
            return NO_SHARED_MEMORY
        if isinstance(error, RuntimeError) and (found := _WORKER.search(str(error))):
            return _of_worker(found["signal"] or "")
        if isinstance(error, (OSError, EOFError)) and _was_raised_in(error, "_try_get_data", "dataloader.py"):
            # Its memory was freed with the process that had sent it.
            return _of_worker("")
        # An error raised "from" another is explained by it; an error raised while handling another is our own fault.
        error = error.__cause__
    return None


def _was_raised_in(error: BaseException, function: str, file: str) -> bool:
    """Whether it was raised in, or below, a function of another library.

    ``_try_get_data`` receives a loader's batch, and ``SemLock`` of ``synchronize.py`` makes a lock in shared memory.
    """
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        # By name: torch takes seconds to import.
        if code.co_name == function and code.co_filename.endswith(file):
            return True
        trace = trace.tb_next
    return False


def _of_worker(killed_by: str) -> str:
    if "Bus error" in killed_by:
        return NO_SHARED_MEMORY
    return (
        f"a loader's process was killed ({killed_by.strip() or 'it exited'}), by the kernel where memory is short; run "
        "the command again (a training resumes from its last.ckpt), with fewer --data.loader.num_workers if it happens "
        "again"
    )
