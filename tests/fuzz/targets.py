"""Whole inputs of each kind, their mutations, and how a changed input is put where its reader finds it."""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.driver import Input, Read

Mutation = Callable[[bytes, random.Random], bytes]
#: How often a file is replaced by something that is not a file.
ODD_FILES = 0.01
#: Replacements of a file.
STAND_INS = ("nothing", "folder", "loop", "pipe", "zeros", "socket", "outside", "dangling")


@dataclass(frozen=True)
class Target:
    """One file of a whole input.

    Attributes:
        name: Row of the table.
        content: Its bytes.
        put: Writes changed bytes in their place, with all else whole, and returns the reader's input; raises
            :class:`UnfitError` for bytes of which no input can be made.
        mutations: Mutations of the content.
        file: Its path, if it may be replaced by something else.
    """

    name: str
    content: bytes
    put: Callable[[bytes], Path]
    mutations: Sequence[Mutation]
    file: Path | None = None


class UnfitError(ValueError):
    """No input can be made of these bytes."""


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        targets: Makes the whole inputs in a folder, once for each.
        read: The reader.
    """

    targets: Callable[[Path], list[Target]]
    read: Read


_made: dict[tuple[str, Path], list[Target]] = {}


def targets_of(name: str, kind: Kind, folder: Path) -> list[Target]:
    """A kind's targets in a folder, made once in each process."""
    if (name, folder) not in _made:
        _made[name, folder] = kind.targets(folder)
    return _made[name, folder]


def make(name: str, kind: Kind, index: int, seed: int, folder: Path, corpus: Path | None) -> Input:
    """Input number ``index``: a target with one mutation."""
    rng = random.Random(f"{name} {seed} {index}")
    if corpus is not None and rng.random() < 0.2:
        return _of_corpus(corpus, folder, rng)
    target = rng.choice(targets_of(name, kind, folder))
    if target.file is not None and rng.random() < ODD_FILES:
        path = target.put(target.content)
        stand_in(target.file, rng.choice(STAND_INS))
        return Input(path, target.name)
    while True:
        try:
            return Input(target.put(rng.choice(target.mutations)(target.content, rng)), target.name)
        except UnfitError:
            continue


def _of_corpus(corpus: Path, folder: Path, rng: random.Random) -> Input:
    from tests.fuzz.films import MUTATIONS

    source = rng.choice(sorted(corpus.rglob("*.dcm")) + sorted(corpus.rglob("*.png")))
    path = folder / "corpus.dcm"
    path.write_bytes(rng.choice(MUTATIONS)(source.read_bytes(), rng))
    return Input(path, f"corpus: {source.suffix[1:]}")


def remove(path: Path) -> None:
    """Removes whatever is at a path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def stand_in(path: Path, what: str) -> None:
    """Replaces a file by one of :data:`STAND_INS`."""
    remove(path)
    if what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path)
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "zeros":
        path.symlink_to("/dev/zero")
    elif what == "outside":
        path.symlink_to("/etc/passwd")
    elif what == "dangling":
        path.symlink_to(path.with_name("is-not-there"))
    elif what == "socket":
        # The name of a socket has at most 108 bytes.
        there = os.getcwd()
        os.chdir(path.parent)
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path.name)
        finally:
            os.chdir(there)


class Workspace:
    """A copy of a folder of files, in which one file at a time is changed.

    Args:
        original: The folder, whole.
        root: Where the copy is made, on the same file system: files are links until they are changed.
    """

    def __init__(self, original: Path, root: Path) -> None:
        self.original, self.root = original, root
        shutil.copytree(original, root, copy_function=os.link)
        self._changed: list[Path] = []

    def put(self, name: str, content: bytes) -> Path:
        """Restores the files that were changed before, writes a file of the copy, and returns the copy."""
        for path in self._changed:
            remove(path)
            source = self.original / path.relative_to(self.root)
            if source.is_file():
                os.link(source, path)
        self._changed = []
        self.replace(name, content)
        return self.root

    def replace(self, name: str, content: bytes) -> None:
        """Writes a further file of the copy."""
        path = self.root / name
        remove(path)
        path.write_bytes(content)
        self._changed.append(path)
