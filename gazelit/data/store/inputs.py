"""The inputs of a store, by names, sizes and times: a store that is up to date is found without reading them.

Raw gaze of 1 kHz takes as long to read as films take to decode. ``inputs.json`` of a store has a hash over the names,
sizes and times of all files but the films, and over the films' names within the source. The films' sizes and times are
in ``films.csv``. If anything differs, or a source does not give its folders, the source is read.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gazelit import __version__
from gazelit.data.store.films import changed_files
from gazelit.data.store.schema import Source
from gazelit.errors import InputError
from gazelit.files import read_json, sha256_json, write_json

INPUTS_FILE = "inputs.json"
#: A folder with more files, such as one that also holds all of MIMIC-CXR, is not searched.
MOST_FILES = 200_000


@dataclass(frozen=True)
class Inputs:
    """The folders of a source and their content before it was read.

    Attributes:
        roots: The folder of the tables and that of the films.
        key: SHA-256 of the options, of the code that reads, and of the files in the folder of the tables.
    """

    roots: tuple[Path, Path]
    key: str

    @classmethod
    def of(cls, source: Source, content: dict[str, Any]) -> Inputs | None:
        """Searches a source's folder of tables; None if there is no such folder or it has too many files.

        Args:
            source: What will be read.
            content: Further values that the store depends on, in primitives.
        """
        roots = source.folders()
        if roots is None:
            return None
        digest = hashlib.sha256()
        try:
            for count, (name, status) in enumerate(_files(roots[0])):
                if count >= MOST_FILES:
                    return None
                line = f"{name}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n"
                digest.update(line.encode(errors="surrogateescape"))
        except OSError:
            return None
        about = {"version": __version__, "code": _code_of(source), "source": source.options(), **content}
        return cls(roots, sha256_json({**about, "name": source.name, "tables": digest.hexdigest()}))

    def unchanged(self, out: Path) -> bool:
        """Whether a finished store was made of exactly these inputs, and its films are unchanged."""
        file = out / INPUTS_FILE
        if not file.is_file():
            return False
        try:
            known = read_json(file)
            if known["key"] != self.key:
                return False
            films = [str(self.roots[root] / name) for root, name in known["films"]]
        except (InputError, LookupError, TypeError):
            return False
        return changed_files(out, films) == 0

    def record(self, folder: Path, films: list[str]) -> None:
        """Records them in a store.

        Args:
            folder: Folder of the store.
            films: Its films, then its masks, as in ``films.csv``.
        """
        named = []
        for film in films:
            inside = [number for number, root in enumerate(self.roots) if Path(film).is_relative_to(root)]
            if not inside:
                return
            named.append([inside[0], str(Path(film).relative_to(self.roots[inside[0]]))])
        # A store that cannot be written to can still be used; its source is read again next time.
        with suppress(InputError):
            write_json(folder / INPUTS_FILE, {"key": self.key, "films": named})


def _files(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder, links followed, in the order of their names; broken links are left out."""
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
