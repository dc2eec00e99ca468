"""The data of a training, made again from its saved configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from gazelit.data.gaze_data import GazeData
from gazelit.errors import InputError
from gazelit.memory import give_back
from gazelit.parsing import read_saved


def config_of(checkpoint: str | Path, given: Path | None = None) -> Path:
    """The ``config.yaml`` of the training that made a checkpoint: the one beside its folder unless given.

    Raises:
        InputError: There is none.
    """
    config = given or Path(checkpoint).resolve().parent.parent / "config.yaml"
    if not config.is_file():
        raise InputError(f"{config}: no configuration; name the config.yaml of the training with --stage_config")
    return config


def saved_data(config: Path, overrides: Sequence[str] = (), gaze: Mapping[str, Any] | None = None) -> GazeData:
    """The data of a training's ``config.yaml``, with the store opened and split.

    The result is no data module, which only trainers need (Lightning takes 300 MB), unless its class is from outside
    the package.

    Args:
        config: The file.
        overrides: Options that replace the file's, such as ``--data.store=STORE``.
        gaze: Of :class:`gazelit.data.options.GazeOptions`, what replaces the file's; an override cannot give None.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(GazeData, "data")
    saved = read_saved(config)
    data = dict(saved["data"])
    if gaze:
        arguments = data.get("init_args", {})
        data["init_args"] = {**arguments, "gaze": {**arguments.get("gaze", {}), **gaze}}
    if data.get("class_path") == "gazelit.data.datamodule.GazeDataModule":
        data["class_path"] = f"{GazeData.__module__}.{GazeData.__qualname__}"
    try:
        parsed = parser.parse_args([f"--data={json.dumps(data)}", *overrides])
    except (ArgumentError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{config}: its data section does not describe a data module ({reason[:300]})") from error
    found: GazeData = parser.instantiate_classes(parsed).data
    found.setup()
    # Finding which patients are the same leaves large tables, which are not needed now.
    give_back()
    return found
