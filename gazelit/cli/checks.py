"""Cheap checks before weights are fetched or a store is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gazelit.data.store.store import Store
from gazelit.models.weights import check_is_file

#: Options that name a file: those of the data module always, others if training needs them.
_FILES = ("ckpt_path", "start_from", "file", "checkpoint")


def check_before_work(chosen: Mapping[str, Any], trains: bool) -> None:
    """Checks the paths of a parsed configuration.

    Args:
        chosen: Options of the command, as nested mappings.
        trains: Whether the command is ``fit``; others read only one checkpoint, not the files it was trained with.

    Raises:
        InputError: A file or store is missing.
    """
    for option, value in _leaves(chosen):
        name = option.rpartition(".")[2]
        if option in ("data.store", "data.split.trained_on") and value is not None:
            Store.open(value, check=False)
        # A checkpoint that is resumed fills every component, so that no weights are read.
        is_file = name in _FILES or (name == "weights" and chosen.get("ckpt_path") is None and _is_path(value))
        if is_file and (trains or option.startswith("data.")) and isinstance(value, (str, Path)):
            check_is_file(Path(value))


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and ("/" in value or Path(value).suffix != "")


def _leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its option as on the command line: without ``init_args``."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _leaves(value, name if key == "init_args" else f"{name}.{key}".lstrip("."))
    elif isinstance(content, list):
        for value in content:
            yield from _leaves(value, name)
    else:
        yield name, content
