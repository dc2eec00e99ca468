"""What is cheap to check is checked before weights are fetched or a store is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gazelit.data.store.store import Store
from gazelit.errors import InputError
from gazelit.models.weights import check_is_file

#: Numbers of the data module, with the smallest that each may be.
_AT_LEAST = {"batch_size": 1, "num_workers": 0}
#: Options that name a file: of the data module always, others where training needs them.
_FILES = ("ckpt_path", "start_from", "split_file", "file", "checkpoint")


def check_before_work(chosen: Mapping[str, Any], trains: bool) -> None:
    """Checks numbers and paths of a parsed configuration.

    Args:
        chosen: Options of the command, as nested mappings.
        trains: Whether the command is ``fit``; others read one checkpoint, not what it was trained with.

    Raises:
        InputError: A number is too small, or a file or store is missing.
    """
    for option, value in _leaves(chosen):
        name = option.rpartition(".")[2]
        if option.startswith("data.") and name in _AT_LEAST and isinstance(value, int) and value < _AT_LEAST[name]:
            raise InputError(f"--{option}: must be at least {_AT_LEAST[name]}, not {value}")
        if option in ("data.store", "data.trained_on") and value is not None:
            Store.open(value, check=False)
        # A checkpoint that is gone on with fills every component, so that no weights are read.
        is_file = name in _FILES or (name == "weights" and chosen.get("ckpt_path") is None and _is_path(value))
        if is_file and (trains or option.startswith("data.")) and isinstance(value, (str, Path)):
            check_is_file(Path(value))


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and ("/" in value or Path(value).suffix != "")


def _leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its option, as it is written on the command line: without ``init_args``."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _leaves(value, name if key == "init_args" else f"{name}.{key}".lstrip("."))
    elif isinstance(content, list):
        for value in content:
            yield from _leaves(value, name)
    else:
        yield name, content
