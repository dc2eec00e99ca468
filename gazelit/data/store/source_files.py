"""Where a source's files are: by these a store that is up to date is found without reading them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class SourceFiles(ABC):
    """Where a source's files are.

    Attributes:
        tables: Files, and folders of files, from which it reads everything except films.
    """

    tables: Sequence[Path]

    @abstractmethod
    def keys(self, films: Sequence[str]) -> list[Any] | None:
        """Primitives from which :meth:`paths` finds films again, for a store to keep; None if it would not find them.

        Raises:
            InputError: A table cannot be read.
        """

    @abstractmethod
    def paths(self, keys: Sequence[Any]) -> list[str]:
        """The films of some keys.

        Raises:
            LookupError: There is no such film.
            TypeError: A key has another form.
            InputError: A table cannot be read.
        """


class Folders(SourceFiles):
    """A folder with the tables and a folder with the films. Films are found by their names within them.

    Args:
        tables: The folder of the tables.
        films: The folder of the films.
    """

    def __init__(self, tables: Path, films: Path) -> None:
        self.tables, self._roots = [tables], (tables, films)

    def keys(self, films: Sequence[str]) -> list[Any] | None:
        """See :class:`SourceFiles`."""
        keys = []
        for film in films:
            inside = [number for number, root in enumerate(self._roots) if Path(film).is_relative_to(root)]
            if not inside:
                return None
            keys.append([inside[0], str(Path(film).relative_to(self._roots[inside[0]]))])
        return keys

    def paths(self, keys: Sequence[Any]) -> list[str]:
        """See :class:`SourceFiles`."""
        return [str(self._roots[root] / name) for root, name in keys]
