"""The readers that a network has learned, among those of the data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gazelit.errors import InputError

logger = logging.getLogger("gazelit")


def numbers_of(data: Sequence[str], network: Sequence[str]) -> Tensor:
    """The network's number, from 1 on, of each name of the data; 0 for unknown names and as the last entry.

    Args:
        data: R names.
        network: The names that the network has learned, in the order of its table.

    Returns:
        (R + 1,) int64.
    """
    known = {name: number for number, name in enumerate(network, start=1)}
    return torch.tensor([*(known.get(name, 0) for name in data), 0])


def check_readers(network: Sequence[str], data: Any) -> None:
    """Checks before a training that the network's readers have readings to learn from; warns of some without.

    A reader without any would be scored with the vector that the network began with.

    Args:
        network: The names that the network is to learn.
        data: The data module; others than gazelit's are not checked.

    Raises:
        InputError: None of them has a training reading, or it is the reader that is left out.
    """
    cohort = getattr(data, "cohort", None)
    if not network or cohort is None:
        return
    field = "model.network.readers"
    left_out = cohort.gaze_options.leave_out
    if left_out in network:
        raise InputError(
            f"{field}: has {left_out}, whom data.gaze.leave_out leaves out; leave {left_out} out of it, too"
        )
    events = cohort.events("train")
    reads = {events.reader_names[number] for number in np.unique(events.reader) if number >= 0}
    missing = [name for name in network if name not in reads]
    if len(missing) == len(network):
        known = f"name some of {', '.join(sorted(reads))}" if reads else "the training films name no reader"
        raise InputError(f"{field}: no training film was read by {', '.join(missing)}; {known}")
    if missing:
        logger.warning("%s: no training film was read by %s, so nothing is learned of them", field, ", ".join(missing))
