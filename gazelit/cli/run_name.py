"""Runs with names: the folder of ``fit --name NAME``, and the folders of its later results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gazelit.cli.options import option_values
from gazelit.configs import CONFIG_FILE, config_files
from gazelit.errors import InputError

#: Folder of named runs.
RUNS = Path("runs")
CHECKPOINTS = "checkpoints"
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")
_FOLDERS = ("--checkpoint.dirpath", "--trainer.default_root_dir")


def run_of(name: str) -> Path:
    """The folder of a named run.

    Raises:
        InputError: The text is no valid name.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"--name: '{name}' is no name; use letters, digits, '-', '_' and '.', and '/' for a group")
    return RUNS / name


def with_named_config(arguments: Sequence[str]) -> list[str]:
    """For ``test`` and similar commands: ``--name NAME`` alone stands for that run's saved configuration.

    Raises:
        InputError: There is no such run.
    """
    names = option_values(arguments, "--name")
    if not names or config_files(arguments):
        return list(arguments)
    config = run_of(names[-1]) / CONFIG_FILE
    if not config.is_file():
        raise InputError(f"--name {names[-1]}: there is no run {config.parent} here; `gazelit fit --name` makes one")
    return [f"--config={config}", *arguments]


def keep_in_folder(chosen: Any, arguments: Sequence[str]) -> None:
    """For ``fit``: puts all files of a named run into its folder.

    Args:
        chosen: The parsed options of the command.
        arguments: The command line.

    Raises:
        InputError: The name is invalid, or a folder is given as well.
    """
    if chosen.name is None:
        return
    given = [option for option in _FOLDERS if option_values(arguments, option)]
    if given and option_values(arguments, "--name"):
        raise InputError(f"--name and {given[0]}: give one of them; a named run is kept in {RUNS}/NAME")
    if given:
        # A saved configuration that is used for a run in another folder.
        chosen.name = None
        return
    folder = run_of(chosen.name)
    chosen.trainer.default_root_dir = str(folder)
    chosen.checkpoint.dirpath = str(folder / CHECKPOINTS)


def keep_results_apart(chosen: Any, arguments: Sequence[str], command: str) -> None:
    """For ``test`` and similar commands: puts the results of a named run, or of a run in W&B, into a folder of the run.

    W&B's logger has one folder for all runs, in which the results of one would replace those of another.

    Args:
        chosen: The parsed options of the command.
        arguments: The command line.
        command: Name of the command and of the folder.
    """
    loggers = chosen.trainer.logger if isinstance(chosen.trainer.logger, list) else [chosen.trainer.logger]
    is_shared = any(str(getattr(logger, "class_path", "")).endswith(".WandbLogger") for logger in loggers)
    if (chosen.name is None and not is_shared) or option_values(arguments, "--trainer.default_root_dir"):
        return
    beside = [path.parent for path in config_files(arguments) if (path.parent / CHECKPOINTS).is_dir()]
    if not beside and chosen.name is None:
        return
    folder = beside[-1] if beside else run_of(chosen.name)
    chosen.trainer.default_root_dir = str(folder / command)
    if chosen.trainer.logger is None:
        chosen.trainer.logger = False


def check_unused(name: str, resumes: bool) -> None:
    """Refuses a name that another run has.

    Args:
        name: Name of the run.
        resumes: Whether the training resumes from a checkpoint of this run.

    Raises:
        InputError: The run's folder holds one.
    """
    folder = run_of(name)
    if not resumes and ((folder / CONFIG_FILE).exists() or (folder / CHECKPOINTS).is_dir()):
        raise InputError(
            f"--name {name}: {folder} holds a run; go on with it by --ckpt_path=last, choose another name, or remove it"
        )


def is_of(name: str, ckpt_path: str) -> bool:
    """Whether a checkpoint lies in the folder of a named run."""
    return Path(ckpt_path).resolve().is_relative_to(run_of(name).resolve())
