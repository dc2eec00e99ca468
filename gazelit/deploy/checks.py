"""Checks of a model's stamp and device before it reads a film."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from gazelit.errors import InputError

_LARGEST_SIDE = 16_384


def to_device(network: nn.Module, device: str | torch.device) -> torch.device:
    """Moves a network.

    Raises:
        InputError: There is no such device.
    """
    try:
        target = torch.device(device)
        network.to(target)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"device: '{device}' cannot be used here; give cpu, cuda or cuda:1") from error
    return target


def check_classes(data: dict[str, Any], classes: int, temperature: Tensor, ckpt: str | os.PathLike[str]) -> None:
    """Checks that a stamp names the classes of its network, and that there is a temperature for each.

    Raises:
        InputError: It does not.
    """
    names = data.get("class_names")
    if classes and (not isinstance(names, list) or len(names) != classes or temperature.shape != (classes,)):
        raise InputError(f"{ckpt}: its stamp does not name the {classes} classes of its network; train it anew")


def check_size(data: dict[str, Any], ckpt: str | os.PathLike[str]) -> None:
    """Checks that a stamp says at what size its network was trained.

    Raises:
        InputError: The stamp has no size, or an impossible one.
    """
    if "size" not in data:
        raise InputError(f"{ckpt}: does not record the size of its training images; train it with a GazeDataModule")
    size = data["size"]
    if (
        not isinstance(size, (list, tuple))
        or len(size) != 2
        or not all(isinstance(side, int) and 1 <= side <= _LARGEST_SIDE for side in size)
    ):
        raise InputError(f"{ckpt}: its stamp is malformed (the size of its training images)")
