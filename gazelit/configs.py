"""Finding the configuration files that ship with gazelit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gazelit.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


def config_root() -> Path:
    """Folder of the shipped configurations: inside an installed package, beside it in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def find_config(name: str) -> Path:
    """A configuration file by path or, where no such path exists, by its name among the shipped ones.

    Args:
        name: A path, or a name relative to the shipped folder such as ``stage1.yaml`` or ``presets/quick/stage1.yaml``.

    Raises:
        InputError: There is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = config_root() / name
    if not path.is_absolute() and shipped.is_file():
        return shipped
    known = ", ".join(sorted(str(file.relative_to(config_root())) for file in config_root().rglob("*.yaml")))
    raise InputError(f"{name}: no such configuration file, nor one shipped with gazelit ({known})")


def resolve_config_arguments(arguments: Sequence[str]) -> list[str]:
    """Replaces the value of each ``--config``/``-c`` by the path that :func:`find_config` gives."""
    resolved: list[str] = []
    expects_value = False
    for argument in arguments:
        flag, separator, value = argument.partition("=")
        if expects_value:
            resolved.append(str(find_config(argument)))
            expects_value = False
        elif flag in ("--config", "-c") and separator:
            resolved.append(f"--config={find_config(value)}")
        else:
            expects_value = argument in ("--config", "-c")
            resolved.append(argument)
    return resolved
