"""Reading tensors from files, and saying why they do not fit."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gazelit.errors import InputError

#: How many problems a message names.
_SHOWN = 6


def read_tensors(path: str | os.PathLike[str]) -> Any:
    """What a file of tensors holds (``.safetensors``, or anything ``torch.save`` wrote), on the CPU.

    Raises:
        InputError: The file is missing, damaged, or holds more than tensors and primitive values.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable checkpoint ({error.__class__.__name__}); is it truncated?") from error


def check_fit(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], what: str, unknown: Sequence[str] = ()) -> None:
    """Checks that a state dict can be loaded strictly.

    Args:
        theirs: The state dict to load.
        ours: The state dict of the module that is to take it.
        what: Begins the message, such as the file and component.
        unknown: Keys that have no place at all.

    Raises:
        InputError: Keys are unknown, missing or left over, or shapes differ; the message lists them.
    """
    problems = [f"{key} unknown" for key in unknown]
    problems += [f"{key} missing" for key in ours if key not in theirs]
    problems += [f"{key} left over" for key in theirs if key not in ours]
    problems += [
        f"{key} is {tuple(theirs[key].shape)}, not {tuple(ours[key].shape)}"
        for key in ours
        if key in theirs and theirs[key].shape != ours[key].shape
    ]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(f"{what} does not fit: {'; '.join(problems[:_SHOWN])}{more}")
