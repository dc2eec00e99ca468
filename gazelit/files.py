"""Writing files so that an interruption never leaves half of one, and naming what they contain."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gazelit.errors import InputError


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
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only their owner reads; the finished file follows the umask.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def building_folder(out: Path) -> Iterator[Path]:
    """Yields a temporary folder beside ``out`` that takes its name when the block succeeds.

    Args:
        out: The folder that is to exist, whole, afterwards; an empty one may be there.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        yield building
        building.chmod(0o755)
        if out.exists():
            out.rmdir()
        building.replace(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)


@contextmanager
def resumable_folder(out: Path) -> Iterator[Path]:
    """Yields ``.<name>-partial`` beside ``out``, which an interruption leaves for the next run to go on with.

    The block makes ``out`` of it by renaming. Bad input (:class:`InputError`) removes it, anything else keeps it.

    Args:
        out: The folder that is to exist, whole, in the end.

    Raises:
        InputError: The folder cannot be written, or another process is at work on it.
    """
    partial = out.parent / f".{out.name}-partial"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = (out.parent / f".{out.name}-lock").open("w")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{out}: another process is writing it; wait for it, or choose another folder") from error
        try:
            yield partial
        except InputError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            Path(lock.name).unlink(missing_ok=True)


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
        InputError: The file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error.__class__.__name__})") from error


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
