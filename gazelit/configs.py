"""Configuration files: finding the shipped ones, and reading YAML that may come from anywhere."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gazelit.errors import InputError
from gazelit.files import is_file

_PACKAGE = Path(__file__).resolve().parent
#: What a training saves its configuration as.
CONFIG_FILE = "config.yaml"
#: What a training and its test leave beside it: a curve, and of the test metrics and a row for each case.
EPOCHS_FILE = "epochs.csv"
METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.parquet"
#: What was tested, by which a report finds the training that belongs to a test.
TEST_FILE = "test.json"
#: Key of a configuration that names the files it is laid over.
BASE = "base"
#: Settings that the shipped configurations come in; those of ``paper`` are in no folder of their own.
PRESETS = ("quick", "paper")
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


def find_config(name: str, preset: str = "paper") -> Path:
    """A configuration file by path or, where no such path exists, by its name among the shipped ones.

    Args:
        name: A path, or a name relative to the shipped folder such as ``stage1.yaml`` or ``presets/quick/stage1.yaml``.
        preset: Of :data:`PRESETS`. With ``quick`` a shipped name means the file below ``presets/quick`` if there is
            one.

    Raises:
        InputError: There is neither, or no such preset.
    """
    if preset not in PRESETS:
        raise InputError(f"--preset: '{preset}' is none of {', '.join(PRESETS)}")
    path, root = Path(name), config_root()
    is_own = is_file(path) and not path.resolve().is_relative_to(root.resolve())
    if is_file(path) and (is_own or preset == "paper"):
        return path
    # Whoever stands in the shipped folder, or names one of its files by its path, means the shipped file.
    inside = path.resolve().relative_to(root.resolve()) if is_file(path) else path
    for shipped in (root / "presets" / preset / inside, root / inside):
        if not inside.is_absolute() and is_file(shipped):
            return shipped
    suggestion = _closest(path)
    found = f"did you mean {suggestion}?" if suggestion else "`gazelit configs` lists those"
    # A name that a damaged file gives may have lines.
    shown = " ".join(str(name).split())[:200]
    raise InputError(f"{shown}: no such configuration file, nor one shipped with gazelit; {found}")


def shipped_configs() -> list[str]:
    """Names of the shipped configurations, sorted; those of a folder after those beside it."""
    names = [file.relative_to(config_root()) for file in config_root().rglob("*.yaml")]
    return [str(name) for name in sorted(names, key=lambda name: (len(name.parts), name))]


def _closest(path: Path) -> str:
    """The configuration whose name is most like a path: beside where it points, or a shipped one; empty if none is."""
    try:
        beside = [str(file) for file in sorted(path.parent.glob("*.y*ml"))] if path.parent.is_dir() else []
    except OSError:
        # A name that no folder can have, such as one too long.
        beside = []
    known = [*shipped_configs(), *beside]
    if close := difflib.get_close_matches(str(path), known, n=1, cutoff=0.75):
        return close[0]
    by_file = {Path(name).name: name for name in reversed(known)}
    close = difflib.get_close_matches(path.name, by_file, n=1, cutoff=0.75)
    return by_file[close[0]] if close else ""


def take_preset(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The last value of ``--preset`` (``paper`` without any), and the other arguments."""
    preset, rest = "paper", []
    expects_value = False
    for argument in arguments:
        flag, separator, value = argument.partition("=")
        if expects_value or (flag == "--preset" and separator):
            preset = argument if expects_value else value
            expects_value = False
        elif argument == "--preset":
            expects_value = True
        else:
            rest.append(argument)
    if expects_value:
        raise InputError(f"--preset: names none; write one of {', '.join(PRESETS)}")
    return preset, rest


def resolve_config_arguments(arguments: Sequence[str], preset: str = "paper") -> list[str]:
    """Replaces the value of each ``--config``/``-c`` by the path that :func:`find_config` gives."""
    resolved: list[str] = []
    expects_value = False
    for argument in arguments:
        flag, separator, value = argument.partition("=")
        if expects_value:
            resolved.append(str(find_config(argument, preset)))
            expects_value = False
        elif flag in ("--config", "-c") and separator:
            resolved.append(f"--config={find_config(value, preset)}")
        else:
            expects_value = argument in ("--config", "-c")
            resolved.append(argument)
    if expects_value:
        raise InputError("--config: has no value; write --config FILE.yaml, or the name of a shipped one")
    return resolved


def config_files(arguments: Sequence[str]) -> list[Path]:
    """The files that ``--config``/``-c`` name, in order."""
    files = []
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        flag, separator, value = argument.partition("=")
        if flag in ("--config", "-c"):
            files.append(Path(value if separator else following))
    return files


def read_config(path: Path, load: Callable[[str], Any] | None = None) -> Any:
    """Reads a configuration, laid over the files that its ``base`` names.

    ``base`` is a file's name or a list of names, looked for beside the configuration and then among the shipped ones;
    later ones win, and the configuration wins over all. Mappings are merged key by key; of two class paths that differ
    the later one comes with its own ``init_args`` alone; anything else replaces what was there.

    Args:
        path: The file.
        load: Turns its text into values; as YAML's safe loader does unless given.

    Raises:
        InputError: A file cannot be read, or is laid over itself.
    """
    merged: Any = {}
    for file in config_chain(path):
        content = read_yaml(file, load)
        if file == path and not isinstance(content, dict):
            return content
        merged = _merged(merged, {key: value for key, value in content.items() if key != BASE})
    return merged


def config_chain(path: Path, above: Sequence[Path] = ()) -> list[Path]:
    """The files that a configuration is made of: those it is laid over, each after its own, and itself.

    Args:
        path: The file.
        above: The files that lead to it.

    Raises:
        InputError: A file cannot be read, is no mapping, or is laid over itself.
    """
    # Not Path.resolve, to which a link to itself is an error of ours.
    resolved = Path(os.path.realpath(path))
    if resolved in above:
        raise InputError(f"{path}: its {BASE} leads back to it")
    content = read_yaml(path)
    if not isinstance(content, dict):
        if above:
            raise InputError(f"{path}: holds no options; {above[-1]} names it as its {BASE}")
        return [path]
    names = content.get(BASE, [])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: {BASE}: name a configuration file, or several in a list")
    chain: list[Path] = []
    for name in names:
        beside = path.parent / name
        chain += config_chain(beside if is_file(beside) else find_config(name), (*above, resolved))
    return [*chain, path]


def _merged(below: Any, over: Any) -> Any:
    if not (isinstance(below, Mapping) and isinstance(over, Mapping)):
        return over
    if "class_path" in below and below["class_path"] != over.get("class_path", below["class_path"]):
        return over
    return {**below, **{key: _merged(below.get(key), value) for key, value in over.items()}}


def read_yaml(path: Path, load: Callable[[str], Any] | None = None) -> Any:
    """Reads a YAML file of a bounded size.

    Args:
        path: The file.
        load: Turns its text into values; as YAML's safe loader does unless given.

    Raises:
        InputError: The file is missing, too large, no YAML, or grows without bound when its aliases are written out.
    """
    if not is_file(path):
        raise InputError(f"{path}: no such file")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: {size} bytes are no configuration (at most {MAX_BYTES})")
        text = path.read_text(encoding="utf-8")
        check_growth(text, str(path))
        return yaml.load(text, Loader=_LOADER) if load is None else load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        what = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputError(f"{path}: no readable YAML{where} ({what})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no readable YAML (not UTF-8)") from error
    except InputError:
        raise
    except (ValueError, ArithmeticError, LookupError, RecursionError) as error:
        # A day or a number that there is not, of a form that YAML knows; one without a digit is an IndexError.
        raise InputError(f"{path}: no readable YAML ({' '.join(str(error).split())})") from error


def check_growth(text: str, origin: str) -> None:
    """Checks that YAML stays small when its aliases are expanded, as happens when it is traversed.

    Args:
        text: The YAML.
        origin: Begins the message: the file.

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
                raise InputError(f"{origin}: nested more than {MAX_DEPTH} levels deep")
            continue
        if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            anchor, count = levels.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, count = event.anchor, 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise InputError(f"{origin}: the alias *{event.anchor} stands within what it names")
            anchor, count = None, sizes[event.anchor]
        else:
            continue
        if anchor is not None:
            sizes[anchor] = count
        parent, total = levels[-1]
        levels[-1] = (parent, total + count)
        if total + count > MAX_NODES:
            raise InputError(f"{origin}: has more than {MAX_NODES} values once its aliases are written out")
