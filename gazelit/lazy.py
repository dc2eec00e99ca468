"""Packages whose names are imported when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, names_of: Mapping[str, Sequence[str]], namespace: dict[str, Any]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: Its name.
        names_of: By module, the names that the package takes from it.
        namespace: The package's ``globals()``, into which names go once they are imported.
    """
    defined_in = {name: module for module, names in names_of.items() for name in names}

    def get(name: str) -> Any:
        if name not in defined_in:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = namespace[name] = getattr(importlib.import_module(defined_in[name]), name)
        return value

    def listed() -> list[str]:
        return sorted({*namespace, *defined_in})

    return get, listed
