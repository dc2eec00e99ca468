"""The inputs of a store, by names, sizes and times: a store that is up to date is found without reading them.

Raw gaze of 1 kHz takes as long to read as films take to decode. ``inputs.json`` of a store has a hash over the names,
sizes and times of all files but the films, and where in the source the films are. The films' sizes and times are in
``films.csv``. If anything differs, or a source does not say where its files are, the source is read.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from gazelit import __version__
from gazelit.data.store.films import changed_files
from gazelit.data.store.schema import Source
from gazelit.data.store.source_files import SourceFiles
from gazelit.errors import InputError
from gazelit.files import read_json, sha256_json, write_json

INPUTS_FILE = "inputs.json"
#: A folder with more files, such as one that also holds all of MIMIC-CXR, is not searched.
MOST_FILES = 200_000


@dataclass(frozen=True)
class Inputs:
    """The files of a source before it was read.

    Attributes:
        files: Where they are.
        key: SHA-256 of the options, of the code that reads, and of the files except films.
    """

    files: SourceFiles
    key: str

    @classmethod
    def of(cls, source: Source, content: dict[str, Any]) -> Inputs | None:
        """Looks at a source's files except films; None if it has no such files, or too many.

        Args:
            source: What will be read.
            content: Further values that the store depends on, in primitives.
        """
        files = source.files()
        if files is None:
            return None
        digest = hashlib.sha256()
        try:
            for count, (name, status) in enumerate(chain.from_iterable(map(_files, files.tables))):
                if count >= MOST_FILES:
                    return None
                line = f"{name}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n"
                digest.update(line.encode(errors="surrogateescape"))
        except OSError:
            return None
        about = {"version": __version__, "code": _code_of(source), "source": source.options(), **content}
        return cls(files, sha256_json({**about, "name": source.name, "tables": digest.hexdigest()}))

    def unchanged(self, out: Path) -> bool:
        """Whether a finished store was made of exactly these inputs, and its films are unchanged."""
        file = out / INPUTS_FILE
        if not file.is_file():
            return False
        try:
            known = read_json(file)
            if known["key"] != self.key:
                return False
            films = self.files.paths(known["films"])
        except (InputError, LookupError, TypeError, ValueError):
            return False
        return changed_files(out, films) == 0

    def record(self, folder: Path, films: list[str]) -> None:
        """Records them in a store.

        Args:
            folder: Folder of the store.
            films: Its films, then its masks, as in ``films.csv``.
        """
        # A store that cannot be written to can still be used; its source is read again next time.
        with suppress(InputError):
            keys = self.files.keys(films)
            if keys is not None:
                write_json(folder / INPUTS_FILE, {"key": self.key, "films": keys})


def _files(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """A file, or every file below a folder, links followed, in the order of their names; broken links are left out."""
    if root.is_file():
        yield root.name, root.stat()
        return
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(root, followlinks=True, onerror=_raise):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            if os.path.exists(path):
                yield os.path.relpath(path, root), os.stat(path)


def _raise(error: OSError) -> None:
    raise error


def _code_of(source: Source) -> list[list[Any]]:
    """Files of the code that reads a source, with their sizes and times, because it may change between two runs."""
    own = getattr(sys.modules[type(source).__module__], "__file__", None)
    files = [*sorted(Path(__file__).parent.parent.rglob("*.py")), *([Path(own)] if own else [])]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
