"""`gazelit completion`: a script with which a shell completes commands, options, configurations and files."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from gazelit.cli.fit_help import option_names
from gazelit.cli.main import COMMANDS, TRAINER_COMMANDS
from gazelit.cli.options import spelled
from gazelit.configs import shipped_configs
from gazelit.errors import InputError

if TYPE_CHECKING:
    from gazelit.cli.main import Command

#: Completes a configuration by a shipped name or a user's file.
_CONFIG = {"bash": "_gazelit_configs", "zsh": "_gazelit_configs"}
#: Actions of `gazelit configs`.
_WORDS = ("list", "show", "copy", *shipped_configs())
#: Values of options of `fit` that are no files.
_CHOICES = {
    "--preset": ("quick", "paper"),
    "--checkpoint.mode": ("min", "max"),
    "--trainer.accelerator": ("auto", "cpu", "gpu"),
    "--trainer.precision": ("auto", "32-true", "bf16-mixed", "16-mixed"),
    "--model.on_nonfinite": ("stop", "skip"),
}


def completion(shell: str) -> None:
    """Prints a completion script.

    For bash ``gazelit completion bash > ~/.local/share/bash-completion/completions/gazelit``, for zsh ``gazelit
    completion zsh > DIR/_gazelit`` with a ``DIR`` of ``$fpath``.

    Args:
        shell: ``bash`` or ``zsh``.

    Raises:
        InputError: It is another one, or shtab is not installed.
    """
    if shell not in _CONFIG:
        raise InputError(f"completion: '{shell}' is none of {', '.join(_CONFIG)}")
    try:
        import shtab
    except ImportError as error:
        raise InputError("completion: needs shtab; `pip install gazelit[completion]` installs it") from error
    sys.stdout.write(shtab.complete(command_line(), shell, preamble=_preamble()[shell], root_prefix="gazelit"))


def command_line() -> argparse.ArgumentParser:
    """Every command with its options, as a parser of the standard library, which shtab reads."""
    parser = argparse.ArgumentParser(prog="gazelit")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for name, help_text in TRAINER_COMMANDS.items():
        of_command = commands.add_parser(name, help=help_text)
        for option in option_names():
            added = of_command.add_argument(option, choices=_CHOICES.get(option))
            _complete(added, option)
    for name, command in COMMANDS.items():
        _add_options(commands.add_parser(name, help=command.help), command)
    return parser


def _add_options(parser: argparse.ArgumentParser, command: Command) -> None:
    function = command.function()
    hints = get_type_hints(function)
    _complete(parser.add_argument("--config", "-c"), "--config")
    for name in inspect.signature(function).parameters:
        hint = hints.get(name, str)
        choices = get_args(hint) if str(hint).startswith("typing.Literal") else None
        if name == command.positional:
            given = tuple(_CONFIG) if name == "shell" else _WORDS if name == "words" else None
            _complete(parser.add_argument(name, nargs="*", choices=given), "FILE")
        elif hint is bool:
            parser.add_argument(f"--{name}", action="store_true")
        else:
            _complete(parser.add_argument(f"--{spelled(name)}", choices=choices), "FILE" if _is_path(hint) else "")
    if command.config_first:
        _complete(parser.add_argument("configuration"), "--config")


def _is_path(hint: Any) -> bool:
    return Path in (hint, *get_args(hint)) or any(_is_path(part) for part in get_args(hint))


def _complete(action: argparse.Action, option: str) -> None:
    import shtab

    known: Mapping[str, Mapping[str, Any]] = {
        "--config": _CONFIG,
        "FILE": shtab.FILE,
        "--ckpt_path": shtab.FILE,
        "--start_from": shtab.FILE,
        "--data.store": shtab.DIRECTORY,
        "--data.split.file": shtab.FILE,
        "--checkpoint.dirpath": shtab.DIRECTORY,
    }
    if option in known and not action.choices:
        action.complete = known[option]  # type: ignore[attr-defined]


def _preamble() -> dict[str, str]:
    names = " ".join(shipped_configs())
    return {
        "bash": f'_gazelit_configs() {{ compgen -W "{names}" -- "$1"; compgen -f -- "$1"; }}\n',
        "zsh": f"_gazelit_configs() {{ compadd {names}; _files }}\n",
    }
