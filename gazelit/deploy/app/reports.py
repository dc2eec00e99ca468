"""Reports of finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

REPORT = "report.html"


class Reports:
    """Finds runs in folders at each call, so that new runs appear.

    Args:
        folders: Run folders, or folders with run folders in them.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)

    def listed(self) -> list[dict[str, Any]]:
        """The reports by name: that of a run's folder within the folder it was found in; no path of the machine."""
        found = self._found().items()
        return [{"name": name, "written": _written(path)} for name, path in found]

    def read(self, name: str) -> str | None:
        """A report's page; None if there is none of this name."""
        found = self._found().get(name)
        try:
            return None if found is None else found.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def _found(self) -> dict[str, Path]:
        reports: dict[str, Path] = {}
        for folder in self.folders:
            root = folder.resolve()
            for path in (root / REPORT, *sorted(root.glob(f"*/{REPORT}"))):
                if path.is_file():
                    name = root.name if path.parent == root else f"{root.name}/{path.parent.name}"
                    reports[_free(name, reports)] = path
        return reports


def _written(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")


def _free(name: str, taken: dict[str, Path]) -> str:
    number = 2
    free = name
    while free in taken:
        free, number = f"{name} ({number})", number + 1
    return free
