"""Options of the data module that were flat once, and where they are now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gazelit.errors import InputError

#: By the flat name, the name within its group.
RENAMED = {
    "gaze_kind": "gaze.kind",
    "weight": "gaze.weight",
    "sigma": "gaze.sigma",
    "sigma_unit": "gaze.sigma_unit",
    "readings": "gaze.readings",
    "window": "gaze.window",
    "detection": "gaze.detection",
    "gaze_control": "gaze.control",
    "gaze_cases": "gaze.cases",
    "split_method": "split.method",
    "split_seed": "split.seed",
    "val_fraction": "split.val_fraction",
    "test_fraction": "split.test_fraction",
    "folds": "split.folds",
    "fold": "split.fold",
    "stratify": "split.stratify",
    "split_file": "split.file",
    "trained_on": "split.trained_on",
    "train_cases": "split.train_cases",
    "allow_empty": "split.allow_empty",
    "batch_size": "loader.batch_size",
    "num_workers": "loader.num_workers",
    "sampling": "loader.sampling",
    "predict_split": "loader.predict_split",
    "augment": "augmentation.enabled",
    "views": "augmentation.views",
}
#: Names that a message spells out.
MOST_NAMED = 4
_MODULE = "GazeDataModule"


def check_arguments(arguments: Sequence[str], where: str = "the command line") -> None:
    """Checks that command-line arguments name no option by its flat name.

    Args:
        arguments: Such as ``--data.gaze.sigma=1``.
        where: Begins the message.

    Raises:
        InputError: One does.
    """
    options = [argument.partition("=") for argument in arguments if argument.startswith("--data")]
    classes = [value for flag, _, value in options if flag in ("--data", "--data.class_path")]
    if any(not name.endswith(_MODULE) for name in classes):
        return
    names = [flag.removeprefix("--data.").removeprefix("init_args.").partition(".")[0] for flag, _, _ in options]
    _refuse([name for name in names if name in RENAMED], where)


def check_config(content: Any, where: str) -> None:
    """Checks that a configuration names no option of the data module by its flat name.

    Args:
        content: The configuration.
        where: Begins the message: the file.

    Raises:
        InputError: It does.
    """
    data = content.get("data") if isinstance(content, Mapping) else None
    if not isinstance(data, Mapping) or not str(data.get("class_path", _MODULE)).endswith(_MODULE):
        return
    options = data.get("init_args", data)
    _refuse([name for name in options if name in RENAMED] if isinstance(options, Mapping) else [], where)


def _refuse(names: Sequence[str], where: str) -> None:
    if names:
        moved = [f"data.{name} is now data.{RENAMED[name]}" for name in dict.fromkeys(names)]
        # A configuration that a training saved holds them all.
        rest = f", and so on for {len(moved) - MOST_NAMED} more" if len(moved) > MOST_NAMED else ""
        raise InputError(f"{where}: {', '.join(moved[:MOST_NAMED])}{rest}; docs/reference/configs.md has the groups")
