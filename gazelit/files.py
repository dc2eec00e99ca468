"""Writing files so that an interruption never leaves half of one, and naming what they contain."""

from __future__ import annotations

import csv
import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
import stat
import tempfile
import threading
import time
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from gazelit.errors import InputError

#: What ``np.load`` raises on a file that is no array; of its header it makes Python.
ARRAY_ERRORS = (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError)
logger = logging.getLogger("gazelit")
_LockT = TypeVar("_LockT")

_UMASK = threading.Lock()
#: What a file system without locks answers: NFS without its daemon, Lustre without the mount option, some of FUSE.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
#: Seconds to wait for a folder: what a process killed a moment ago had started may still be going down.
LOCK_PATIENCE = 20.0


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` that takes its name when the block succeeds.

    The temporary name keeps the suffix of ``path``, because writers choose a format by it.

    Args:
        path: The file that is to exist, whole, afterwards. Missing parent folders are made.

    Raises:
        InputError: The folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _own(path.parent / f".{path.stem}-writing{path.suffix}", path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    with lock:
        try:
            yield temporary
            durable(temporary)
            # Made so that only its owner reads it; the finished file follows the umask.
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            durable(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _own(temporary: Path, path: Path) -> tuple[Path, IO[bytes]]:
    """A temporary file, empty and locked while it is written.

    Its name is always the same, so that what a killed process left is written over by the next that writes ``path``.
    Where a living one holds it, or locks are not known, it is a name of this one's own.
    """
    opened = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    lock = os.fdopen(opened, "r+b")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(opened), os.stat(temporary)):
            lock.truncate()
            return temporary, lock
    except OSError as error:
        if error.errno in _NO_LOCKS:
            # Nobody writes under this name there.
            temporary.unlink(missing_ok=True)
    lock.close()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    return Path(name), os.fdopen(handle, "r+b")


def _umask() -> int:
    # It can only be read by setting it; of two threads at once, one would see what the other has set.
    with _UMASK:
        umask = os.umask(0)
        os.umask(umask)
    return umask


@contextmanager
def building_folder(out: Path) -> Iterator[Path]:
    """Yields a temporary folder beside ``out`` that takes its name when the block succeeds.

    Args:
        out: The folder that is to exist, whole, afterwards; an empty one may be there.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    building = out.parent / f".{out.name}-building"
    with _locked_or_apart(building) as building:
        try:
            yield building
            building.chmod(0o755)
            durable_folder(building)
            if out.exists():
                out.rmdir()
            building.replace(out)
            durable(out.parent)
        finally:
            shutil.rmtree(building, ignore_errors=True)


@contextmanager
def _locked_or_apart(building: Path) -> Iterator[Path]:
    """An empty folder of that name, without what a killed process left in it; another where a living one is at work."""
    building.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(building, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in building.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        folder = building
    except OSError as error:
        if error.errno in _NO_LOCKS and not any(building.iterdir()):
            # Nobody builds under this name there.
            building.rmdir()
        folder = Path(tempfile.mkdtemp(dir=building.parent, prefix=f"{building.name}-"))
    try:
        yield folder
    finally:
        os.close(handle)


@contextmanager
def resumable_folder(out: Path) -> Iterator[Path]:
    """Yields ``.<name>-partial`` beside ``out``, which whatever ends the block leaves for the next run to go on with.

    The block makes ``out`` of it by renaming, or removes it if nothing in it is worth keeping.

    Args:
        out: The folder that is to exist, whole, in the end.

    Raises:
        InputError: The folder cannot be written, or another process is at work on it.
    """
    partial = out.parent / f".{out.name}-partial"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = _locked(out.parent / f".{out.name}-lock")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    if lock is None:
        raise InputError(f"{out}: another process is writing it; wait for it, or choose another folder")
    with lock:
        try:
            # Another process may have finished and renamed it since.
            partial.mkdir(exist_ok=True)
            yield partial
        finally:
            Path(lock.name).unlink(missing_ok=True)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keeps other processes of gazelit from a folder as long as the block runs; ``.<name>-lock`` beside it is the lock.

    Args:
        folder: The folder; it need not exist.

    Raises:
        InputError: Another process writes there, or the folder cannot be written.
    """
    path = folder.parent / f".{folder.name}-lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = patiently(lambda: _locked(path))
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    if lock is None:
        raise InputError(f"{folder}: another process is writing there; wait for it, or choose another folder")
    with lock:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path) -> IO[str] | None:
    """The lock file, open and locked; None if another process has the lock.

    A process that opened the file before its holder removed it would lock a file without a name, and the next one
    another. So the lock counts only if the name still leads to the locked file; removing it is then safe for all.
    """
    while True:
        lock = path.open("w")
        try:
            if not try_lock(lock):
                lock.close()
                return None
        except OSError:
            lock.close()
            raise
        try:
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
                return lock
        except FileNotFoundError:
            pass
        lock.close()


def patiently(attempt: Callable[[], _LockT]) -> _LockT:
    """What an attempt to lock gives, tried again while that is false, for at most ``LOCK_PATIENCE``."""
    deadline = time.monotonic() + LOCK_PATIENCE
    while not (found := attempt()) and time.monotonic() <= deadline:
        time.sleep(0.2)
    return found


def try_lock(file: IO[str]) -> bool:
    """Locks an open file until it is closed; false if another process has the lock.

    A file system without locks keeps no second process away: a line says so, and the work goes on.

    Raises:
        OSError: It cannot be locked for another reason.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning(
            "%s: this file system has no locks (%s); start nothing else that writes there", file.name, error.strerror
        )
    return True


def durable(path: Path) -> None:
    """Waits until a file's bytes, or the names in a folder, are on the disk, so that a power cut leaves no half."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def durable_folder(folder: Path) -> None:
    """Waits until a folder and the files in it and below are on the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            durable(Path(parent) / name)
        durable(Path(parent))


def is_free(out: Path) -> bool:
    """Whether ``out`` does not exist or is an empty folder."""
    return not out.exists() or (out.is_dir() and not any(out.iterdir()))


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes ``content`` as indented JSON, whole or not at all; NaN and infinity are written as null."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file.

    Raises:
        InputError: The file is missing, unreadable, no regular file or not JSON.
    """
    try:
        # A pipe would be waited for without an end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{path}: cannot be read as JSON (is not a regular file)")
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as JSON ({error.__class__.__name__})") from error


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by column; none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def publish_folder(built: Path, out: Path) -> None:
    """Gives a finished folder its name, in place of an empty folder of that name, once its files are on the disk."""
    durable_folder(built)
    if out.exists():
        out.rmdir()
    built.replace(out)
    durable(out.parent)


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have, such as one too long, is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed_files(folder: Path, recorded: Mapping[str, str]) -> list[str]:
    """Which files of a folder are not as they were recorded, a line each.

    Args:
        folder: The folder.
        recorded: SHA-256 by path within it.
    """
    found = []
    for name, digest in recorded.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{path}: is missing")
        elif sha256_file(path) != digest:
            found.append(f"{path}: differs from what was written")
    return found


def write_checksums(path: Path, names: Iterable[str]) -> None:
    """Writes the SHA-256 of files as ``sha256sum`` does, whose ``-c`` compares them.

    Args:
        path: The file to write.
        names: Files, relative to its folder.
    """
    lines = [f"{sha256_file(path.parent / name)}  {name}\n" for name in sorted(names)]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def read_checksums(path: Path) -> dict[str, str]:
    """What :func:`write_checksums` wrote: SHA-256 by path.

    Raises:
        InputError: The file is something else.
    """
    if not is_file(path):
        # A device would be read without an end.
        raise InputError(f"{path}: is missing, or no regular file")
    try:
        pairs = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, MemoryError) as error:
        raise InputError(f"{path}: cannot be read ({error.__class__.__name__})") from error
    is_ours = all(len(pair) == 2 and len(pair[0]) == 64 and Path(pair[1]).parts.count("..") == 0 for pair in pairs)
    if not pairs or not is_ours or any(Path(name).is_absolute() for _, name in pairs):
        raise InputError(f"{path}: is damaged, so that the files beside it cannot be compared")
    return {name: digest for digest, name in pairs}


def sha256_json(content: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
