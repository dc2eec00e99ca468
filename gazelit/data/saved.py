"""The data of a training, again: the data module that its saved configuration describes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import lightning as L
from jsonargparse import ArgumentError, ArgumentParser

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.renamed import check_arguments, check_config
from gazelit.errors import InputError
from gazelit.parsing import read_saved


def saved_datamodule(config: Path, overrides: Sequence[str] = ()) -> GazeDataModule:
    """The data module of a training's ``config.yaml``, set up.

    Args:
        config: The file.
        overrides: Options that win over the file's, such as ``--data.store=STORE``.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(L.LightningDataModule, "data")
    saved = read_saved(config)
    check_config(saved, str(config))
    check_arguments(overrides)
    data = saved["data"]
    try:
        parsed = parser.parse_args([f"--data={json.dumps(data)}", *overrides])
    except (ArgumentError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{config}: its data section does not describe a data module ({reason[:300]})") from error
    datamodule = parser.instantiate_classes(parsed).data
    datamodule.setup()
    return datamodule
