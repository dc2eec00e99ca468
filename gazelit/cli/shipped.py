"""`gazelit configs`: the configurations that come with gazelit."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from textwrap import shorten

from gazelit.cli.fit_help import WIDTH
from gazelit.configs import config_root, find_config, shipped_configs
from gazelit.errors import InputError
from gazelit.files import atomic_path

_ACTIONS = ("list", "show", "copy")


def configs(words: tuple[str, ...] = ("list",), out: Path | None = None) -> None:
    """Lists, shows or copies shipped configurations: of stages, presets, pipelines, sweeps and loggers.

    ``gazelit configs`` lists all, ``gazelit configs list sweeps`` those whose names contain a word, ``gazelit configs
    show stage1.yaml`` prints one, ``gazelit configs copy stage1.yaml`` writes it into the working folder.

    Args:
        words: ``list``, ``show`` or ``copy``, and names.
        out: The file to copy to; the same name in the working folder unless given.

    Raises:
        InputError: There is no such configuration, or the file is there already.
    """
    action, *names = words
    if action not in _ACTIONS:
        action, names = ("show" if _is_shipped(action) else "list"), list(words)
    if out is not None and (action != "copy" or len(names) > 1):
        raise InputError("--out: goes with `gazelit configs copy NAME`, of one name")
    if action == "list":
        _list(names)
        return
    if not names:
        raise InputError(f"configs {action}: names none; write one such as stage1.yaml (`gazelit configs` lists them)")
    for name in names:
        source = _source(name)
        if action == "show":
            sys.stdout.write(source.read_text(encoding="utf-8"))
        else:
            _copy(source, out or Path(source.name))


def _list(words: list[str]) -> None:
    names = [name for name in shipped_configs() if all(word in name for word in words)]
    if not names:
        raise InputError(f"no shipped configuration's name contains '{' '.join(words)}'; `gazelit configs` lists all")
    width = max(map(len, names))
    for name in names:
        sys.stdout.write(f"{name:<{width}}  {_title(config_root() / name, WIDTH - width - 2)}\n")


def _title(path: Path, width: int) -> str:
    """The first comment of a configuration, cut to a width."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return shorten(" ".join(line.lstrip("# ") for line in lines), width, placeholder=" …")


def _copy(source: Path, target: Path) -> None:
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise InputError(f"{target}: is there already; name another file with --out, or remove it")
    with atomic_path(target) as temporary:
        temporary.write_bytes(source.read_bytes())
    sys.stdout.write(f"{target}\n")


def _is_shipped(name: str) -> bool:
    return (config_root() / name).is_file()


def _source(name: str) -> Path:
    return config_root() / name if _is_shipped(name) else find_config(name)
