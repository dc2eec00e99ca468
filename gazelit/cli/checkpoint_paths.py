"""Which checkpoint a command reads, if it is not named by its file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gazelit.cli.options import option_values
from gazelit.configs import config_files
from gazelit.errors import InputError

BEST, LAST = "best.ckpt", "last.ckpt"
#: Names that Lightning would resolve in its own way.
_NAMES = ("last", "best", "hpc")


def to_resume(named: str | None, dirpath: str | None, arguments: Sequence[str]) -> str | None:
    """The checkpoint of ``fit --ckpt_path``: a file, or the run's own ``last``.

    Args:
        named: What is given.
        dirpath: Folder of the run's checkpoints, if it is configured.
        arguments: Of the command line; a run's checkpoints lie beside its configuration.

    Raises:
        InputError: ``last`` is not there, or the name is none.
    """
    if named not in _NAMES:
        return named
    if named != "last":
        raise InputError("--ckpt_path: write the file, such as RUN/checkpoints/best.ckpt, or `last` for this run's own")
    folders = [Path(dirpath)] if dirpath else []
    folders += _beside_configurations(arguments)
    for folder in folders:
        if (folder / LAST).is_file():
            return str(folder / LAST)
    where = f"{folders[0]} holds no {LAST}" if dirpath else "this run has no folder yet"
    raise InputError(
        f"--ckpt_path last: {where}; name the folder with --checkpoint.dirpath, or the file itself, such as "
        f"RUN/checkpoints/{LAST}"
    )


def to_read(arguments: Sequence[str]) -> str:
    """The checkpoint of ``test`` and similar commands: the one on the command line, or the run's own best.

    Args:
        arguments: Of the command line.

    Raises:
        InputError: None is named and none is there.
    """
    named = option_values(arguments, "--ckpt_path")
    if named:
        if named[-1] in _NAMES:
            raise InputError(f"--ckpt_path: write the file, such as RUN/checkpoints/{BEST}, not '{named[-1]}'")
        return named[-1]
    beside = [folder / BEST for folder in _beside_configurations(arguments)]
    for path in reversed(beside):
        if path.is_file():
            return str(path)
    searched = f"; there is no {beside[-1]}" if beside else ""
    raise InputError("--ckpt_path is missing: without it the network would have untrained weights" + searched)


def _beside_configurations(arguments: Sequence[str]) -> list[Path]:
    return [path.resolve().parent / "checkpoints" for path in config_files(arguments)]
