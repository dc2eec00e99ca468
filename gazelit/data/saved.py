"""The data of a training, again, as its saved configuration describes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser

from gazelit.data.gaze_data import GazeData
from gazelit.data.renamed import check_arguments, check_config
from gazelit.errors import InputError
from gazelit.parsing import read_saved

#: Module of the data module, which only trainers need: Lightning takes 300 MB.
_SHELL = "gazelit.data.datamodule"


def saved_data(config: Path, overrides: Sequence[str] = ()) -> GazeData:
    """The data of a training's ``config.yaml``, with the store opened and split.

    They are no data module, unless the configuration has one from outside the package.

    Args:
        config: The file.
        overrides: Options that win over the file's, such as ``--data.store=STORE``.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(GazeData, "data")
    saved = read_saved(config)
    check_config(saved, str(config))
    check_arguments(overrides)
    data = dict(saved["data"])
    if str(data.get("class_path")) == f"{_SHELL}.GazeDataModule":
        data["class_path"] = f"{GazeData.__module__}.{GazeData.__qualname__}"
    try:
        parsed = parser.parse_args([f"--data={json.dumps(data)}", *overrides])
    except (ArgumentError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{config}: its data section does not describe a data module ({reason[:300]})") from error
    found: GazeData = parser.instantiate_classes(parsed).data
    found.setup()
    return found
