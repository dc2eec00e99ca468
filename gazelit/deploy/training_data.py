"""The data that checkpoints were trained on, from the configuration of the first of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gazelit.checkpoints import split_guard
from gazelit.data.gaze_data import GazeData
from gazelit.data.saved import config_of, saved_data
from gazelit.errors import InputError

logger = logging.getLogger("gazelit")


def training_data(stamps: Mapping[str, Mapping[str, Any]], stage_config: Path | None = None) -> GazeData:
    """The data of a training, in its split.

    Args:
        stamps: By file, the stamps of the checkpoints that it made.
        stage_config: The ``config.yaml`` of the training; the one beside the first checkpoint's folder unless given.

    Raises:
        InputError: There is no configuration, the images have another size than those of the training, or a checkpoint
            may have seen patients that the split holds back.
    """
    first = next(iter(stamps))
    found = config_of(first, stage_config)
    data = saved_data(found)
    size = tuple(stamps[first]["data"]["size"])
    if tuple(data.size) != size:
        raise InputError(f"{found}: its images are {data.size}, the model's {size}; name its own training")
    for path, stamp in stamps.items():
        if note := split_guard.check_split(path, stamp, data.provenance):
            logger.info("%s", note)
    return data
