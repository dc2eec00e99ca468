"""What the command line's parser may read and import.

jsonargparse imports whatever a ``class_path`` names. Here it gets a list of the modules that may be named: the known
libraries and those that the user trusts (:mod:`gazelit.trust`), and to read YAML within bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings

from gazelit import trust
from gazelit.configs import check_growth, config_chain, config_files, read_config, read_yaml
from gazelit.errors import InputError

_read_value = get_loader("yaml")
#: Entries that an earlier command of this process allowed.
_allowed: set[str] = set()


def guard_parser(arguments: Sequence[str], saved: bool) -> None:
    """Bounds what the parser may read and import while it parses these arguments.

    Args:
        arguments: Command-line arguments, with the configuration files' paths.
        saved: Whether configurations are what a training saved, which may come with a stranger's checkpoint: they may
            name trusted modules only. Otherwise they are the user's own and count as naming. What stands on the
            command line itself is always the user's.

    Raises:
        InputError: A configuration cannot be read or names what it may not.
    """
    trust.trust_names([_value(argument) for argument in arguments], "the command line")
    for path in config_files(arguments):
        content = read_config(path)
        if saved:
            trust.check_names(content, str(path))
        else:
            trust.trust_names(content, str(path))

    def load(text: str) -> Any:
        if len(text) > 1000 or "&" in text or "[[" in text:
            check_growth(text, "a configuration")
        content = _read_value(text)
        if isinstance(content, (dict, list)):
            # A configuration may name another file that holds a part of it.
            if saved:
                trust.check_names(content, "a configuration")
            else:
                trust.trust_names(content, "a configuration")
                _allow()
        return content

    set_loader("yaml", load, exceptions=(yaml.YAMLError,))
    _allow()


def with_bases(arguments: Sequence[str]) -> list[str]:
    """Gives configurations that are laid over others (``base``) to the parser as text, merged.

    Args:
        arguments: Command-line arguments, with the configuration files' paths.
    """
    completed: list[str] = []
    expects_file = False
    for argument in arguments:
        flag, separator, value = argument.partition("=")
        path = argument if expects_file else value if flag in ("--config", "-c") and separator else None
        expects_file = argument in ("--config", "-c")
        if path is None or len(config_chain(Path(path))) == 1:
            completed.append(argument)
            continue
        # With the parser's own reading of numbers, in which 1e-4 is one.
        text = yaml.safe_dump(read_config(Path(path), _read_value), sort_keys=False)
        completed.append(f"{flag}={text}" if separator and path is value else text)
    return completed


def read_saved(path: Path) -> dict[str, Any]:
    """The configuration that a training saved, which may have come with a stranger's checkpoint.

    Raises:
        InputError: It cannot be read, or names something that is neither gazelit's own nor trusted.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("data"), dict):
        raise InputError(f"{path}: no configuration of a training; give the config.yaml of a run's folder")
    trust.check_names(content, str(path))
    return content


def _allow() -> None:
    """Lets the parser import from the known libraries and trusted modules, and from nothing else."""
    allow = {*trust.LIBRARIES, *trust.trusted()}
    set_parsing_settings(import_path_denylist=["*", *(_allowed - allow)], import_path_allowlist=sorted(allow))
    _allowed.update(allow)


def _value(argument: str) -> Any:
    """The value of an argument, with what stands in it as YAML."""
    text = argument.partition("=")[2] if argument.startswith("-") else argument
    try:
        check_growth(text, "the command line")
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
