"""Packages whose names are imported when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(
    package: str, defined_in: Mapping[str, str], namespace: dict[str, Any]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: Its name.
        defined_in: By name, the module that defines it, and after a colon what it is called there.
        namespace: The package's ``globals()``, into which names go once they are imported.
    """

    def get(name: str) -> Any:
        if name not in defined_in:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module, _, attribute = defined_in[name].partition(":")
        value = namespace[name] = getattr(importlib.import_module(module), attribute)
        return value

    def names() -> list[str]:
        return sorted({*namespace, *defined_in})

    return get, names
