"""Keeps names of machines, people, files and programs from loggers that upload."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

#: What W&B gathers by itself, off unless the user's environment says otherwise: host, argv, paths, git remote, e-mail,
#: code, installed packages, console output, and reports of its own errors, whose stack traces hold paths.
WANDB_DEFAULTS = {
    "WANDB__DISABLE_META": "true",
    "WANDB__DISABLE_MACHINE_INFO": "true",
    "WANDB__SAVE_REQUIREMENTS": "false",
    "WANDB_CONSOLE": "off",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_HOST": "withheld",
    "WANDB_PROGRAM": "gazelit",
}
#: Options whose values are paths, whether or not they exist.
_PATHS = ("ckpt_path", "config", "default_root_dir", "dirpath", "features", "file", "save_dir", "store", "trained_on")
_WITHHELD = "(path)"


def withhold_from_wandb() -> None:
    """Sets :data:`WANDB_DEFAULTS` for this process and those it starts; variables that are set already stay."""
    for name, value in WANDB_DEFAULTS.items():
        os.environ.setdefault(name, value)


def without_paths(config: Any, name: str = "") -> Any:
    """A configuration with each path replaced, for loggers.

    Args:
        config: Primitives, as a YAML file holds them.
        name: Of the option.
    """
    if isinstance(config, dict):
        return {key: without_paths(value, str(key)) for key, value in config.items()}
    if isinstance(config, list):
        return [without_paths(value, name) for value in config]
    if isinstance(config, str) and (name in _PATHS or _looks_like_path(config)):
        return _WITHHELD
    return config


def _looks_like_path(text: str) -> bool:
    if text.startswith(("/", "~", "./", "../")) or "://" in text or (os.sep != "/" and os.sep in text):
        return True
    try:
        return Path(text).exists() and (os.sep in text or Path(text).suffix != "")
    except (OSError, ValueError):
        return False
