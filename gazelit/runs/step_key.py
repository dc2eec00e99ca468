"""The inputs of a step's result: its command, the contents of the files it reads, and the versions it runs with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from gazelit import __version__
from gazelit.configs import config_root, read_config
from gazelit.errors import InputError
from gazelit.files import is_file, sha256_file, sha256_json

#: Options whose files count only by their content, through the step's own inputs.
_BY_INPUT = ("--config=", "--data.store=", "--data.split.trained_on=")


def step_key(arguments: Sequence[str], inputs: Mapping[str, str], out: Path) -> str:
    """The key that a later run of the step must match.

    Args:
        arguments: The command line after ``gazelit``.
        inputs: Hashes of the step's other inputs: configuration, data, parent checkpoint.
        out: The run folder.
    """
    counted = portable([argument for argument in arguments if not argument.startswith(_BY_INPUT)], out)
    files = file_hashes(arguments, out)
    # Without such files the key is the same as in earlier versions, so that older run folders can be continued.
    return sha256_json({"arguments": counted, "inputs": dict(inputs), **({"files": files} if files else {})})


def file_hashes(arguments: Sequence[str], out: Path) -> dict[str, str]:
    """SHA-256 of every file that an option, or a named configuration, names; by option.

    Changed split files, weights and tables change a step's result although its command stays the same.

    Args:
        arguments: The command line after ``gazelit``.
        out: The run folder; files in it were made by steps, and count through the steps' inputs.
    """
    hashes: dict[str, str] = {}
    for argument in arguments:
        option, separator, text = argument.partition("=")
        # Files that a step writes are no inputs of it.
        if not separator or option == "--out" or argument.startswith(_BY_INPUT[1:]):
            continue
        if option == "--config":
            found = [(name, path) for name, path in _files(read_config(Path(text))) if not _is_counted_apart(name)]
        else:
            found = list(_files(_load(text), option))
        hashes |= {name: _digest(path) for name, path in found if not path.resolve().is_relative_to(out.resolve())}
    return hashes


def versions() -> dict[str, str]:
    """The versions on which the result of a training depends."""
    return {"gazelit": __version__, "torch": version("torch")}


def check_versions(where: Path, made_with: Mapping[str, str] | None, accepted: bool) -> str | None:
    """Compares the versions a step was made with to those at hand.

    Args:
        where: The step's folder, for the message.
        made_with: Result of :func:`versions` when the step was made; unknown for older folders.
        accepted: Whether other versions are accepted.

    Returns:
        A note on accepted differences.

    Raises:
        InputError: They differ.
    """
    changed = [
        f"{name} {made_with[name]}, now {now}"
        for name, now in versions().items()
        if made_with is not None and made_with.get(name, now) != now
    ]
    if not changed:
        return None
    text = f"{where}: made with {'; '.join(changed)}"
    if not accepted:
        raise InputError(
            f"{text}; results may differ: choose another --out, or go on in this one with --accept_versions=true"
        )
    return f"{text}, which is accepted"


def portable(arguments: Sequence[str], out: Path) -> list[str]:
    """Arguments relative to the run folder: shipped configurations by name, other paths relative to it."""
    seen = []
    for argument in arguments:
        flag, separator, value = argument.rpartition("=")
        path = Path(value)
        if path.is_absolute() and path.is_relative_to(config_root()):
            value = str(path.relative_to(config_root()))
        elif path.is_absolute():
            value = os.path.relpath(path, out)
        seen.append(f"{flag}{separator}{value}")
    return seen


def _load(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _files(content: Any, name: str = "") -> Iterator[tuple[str, Path]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _files(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list):
        for position, value in enumerate(content):
            yield from _files(value, f"{name}.{position}")
    # A word without a suffix or a folder is a name, even if a file of the working folder is called so.
    elif isinstance(content, str) and (os.sep in content or Path(content).suffix) and is_file(Path(content)):
        yield name, Path(content)
    elif isinstance(content, str) and name.endswith("features"):
        # It imports the decoders of films, which reports of runs do not need in memory.
        from gazelit.data.store.features import ABOUT_FILE

        # The description of a folder of features has the hash of the rest.
        if is_file(Path(content) / ABOUT_FILE):
            yield name, Path(content) / ABOUT_FILE


def _is_counted_apart(name: str) -> bool:
    # A run's own config.yaml also records the files it was made from.
    first, last = name.split(".")[0], name.split(".")[-1]
    return first == "config" or last in ("store", "trained_on", "ckpt_path", "start_from")


def _digest(path: Path) -> str:
    about = path.stat()
    return _digest_of(str(path.resolve()), about.st_size, about.st_mtime_ns)


@cache
def _digest_of(path: str, size: int, modified: int) -> str:
    return sha256_file(path)
