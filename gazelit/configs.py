"""Configuration files: finding the shipped ones, and reading YAML that may come from anywhere."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from gazelit.errors import InputError

_PACKAGE = Path(__file__).resolve().parent
#: What a training saves its configuration as.
CONFIG_FILE = "config.yaml"
#: Nodes that a configuration may have once its aliases are written out; the shipped ones have under 200.
MAX_NODES = 100_000
#: Levels of nesting, which readers of YAML follow by recursion.
MAX_DEPTH = 100
#: Bytes of a configuration file.
MAX_BYTES = 4_000_000
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
    meant = _closest(path)
    found = f"did you mean {meant}?" if meant else "`gazelit configs` lists those"
    raise InputError(f"{name}: no such configuration file, nor one shipped with gazelit; {found}")


def shipped_configs() -> list[str]:
    """Names of the shipped configurations, sorted; those of a folder after those beside it."""
    names = [file.relative_to(config_root()) for file in config_root().rglob("*.yaml")]
    return [str(name) for name in sorted(names, key=lambda name: (len(name.parts), name))]


def _closest(path: Path) -> str:
    """The configuration whose name is most like a path: beside where it points, or a shipped one; empty if none is."""
    beside = [str(file) for file in sorted(path.parent.glob("*.y*ml"))] if path.parent.is_dir() else []
    known = [*shipped_configs(), *beside]
    if close := difflib.get_close_matches(str(path), known, n=1, cutoff=0.75):
        return close[0]
    by_file = {Path(name).name: name for name in reversed(known)}
    close = difflib.get_close_matches(path.name, by_file, n=1, cutoff=0.75)
    return by_file[close[0]] if close else ""


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
    if expects_value:
        raise InputError("--config: has no value; write --config FILE.yaml, or the name of a shipped one")
    return resolved


def config_files(arguments: Sequence[str]) -> list[Path]:
    """The files that ``--config``/``-c`` name, in order."""
    files = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        flag, separator, value = argument.partition("=")
        if flag in ("--config", "-c"):
            files.append(Path(value if separator else following))
    return files


def read_yaml(path: Path) -> Any:
    """Reads a YAML file of a bounded size.

    Raises:
        InputError: The file is missing, too large, no YAML, or grows without bound when its aliases are written out.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: {size} bytes are no configuration (at most {MAX_BYTES})")
        text = path.read_text(encoding="utf-8")
        check_growth(text, str(path))
        return yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"{path}: no readable YAML{where} ({getattr(error, 'problem', None) or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no readable YAML (not UTF-8)") from error


def check_growth(text: str, what: str) -> None:
    """Checks that YAML stays small when its aliases are written out, as whoever walks through it does.

    Args:
        text: The YAML.
        what: Begins the message: the file.

    Raises:
        InputError: It has more than :data:`MAX_NODES` nodes or :data:`MAX_DEPTH` levels, or contains itself.
        yaml.YAMLError: It is no YAML.
    """
    sizes: dict[str, int] = {}
    # Of each open list or mapping its anchor and the nodes counted so far; the document is the first.
    levels: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            levels.append((event.anchor, 1))
            if len(levels) > MAX_DEPTH:
                raise InputError(f"{what}: nested more than {MAX_DEPTH} levels deep")
            continue
        if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            anchor, count = levels.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, count = event.anchor, 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise InputError(f"{what}: the alias *{event.anchor} stands within what it names")
            anchor, count = None, sizes[event.anchor]
        else:
            continue
        if anchor is not None:
            sizes[anchor] = count
        parent, total = levels[-1]
        levels[-1] = (parent, total + count)
        if total + count > MAX_NODES:
            raise InputError(f"{what}: has more than {MAX_NODES} values once its aliases are written out")
