"""The format of a stamp, and how an older one becomes one of today.

Whatever changes in what a stamp holds, or in where a class lies that it names, raises :data:`FORMAT` by one and adds a
step to :data:`_STEPS`. So every checkpoint that gazelit wrote can be read, and the rest of the code knows one format.

========  ============================================================================================================
format    what is new
========  ============================================================================================================
1         has no number
2         ``format``; ``teachers`` is always there; networks are named by the package that exports them, not by the
          module that happens to hold them
3         ``untrained``: parameters that are random still, in components that are otherwise trained
========  ============================================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from gazelit import __version__
from gazelit.errors import InputError

#: Of the stamps that are written.
FORMAT = 3
#: Checkpoints that a stamp may name, ancestors and teachers.
MAX_GENERATIONS = 64
#: Class paths of format 1, and what they are now.
_MOVED = {
    "gazelit.models.classification_net.ClassificationNetwork": "gazelit.models.ClassificationNetwork",
    "gazelit.models.contrastive_net.ContrastiveNetwork": "gazelit.models.ContrastiveNetwork",
    "gazelit.models.dual_unet.DualEncoderUNet": "gazelit.models.DualEncoderUNet",
}


def migrate(stamp: Any, path: str | os.PathLike[str]) -> None:
    """Brings a stamp, and those of all that it learned from, into today's format, in place.

    Args:
        stamp: As read; what is malformed in it stays so.
        path: The file, for messages.

    Raises:
        InputError: A stamp is of a later format, or of none.
    """
    pending, generations = [stamp], 0
    while pending and generations <= MAX_GENERATIONS:
        current = pending.pop()
        generations += 1
        if not isinstance(current, dict):
            continue
        for step in _STEPS[_number(current, path) - 1 :]:
            step(current)
        current["format"] = FORMAT
        pending.append(current.get("parent"))
        pending += current["teachers"] if isinstance(current.get("teachers"), list) else []


def _number(stamp: dict[str, Any], path: str | os.PathLike[str]) -> int:
    number = stamp.get("format", 1)
    if type(number) is not int or number < 1:
        raise InputError(f"{path}: its stamp is malformed (field 'format'); it was not written by gazelit")
    if number > FORMAT:
        raise InputError(
            f"{path}: written by gazelit {stamp.get('version')} in format {number}, but gazelit {__version__} reads "
            f"formats up to {FORMAT}; install the later version"
        )
    return number


def _from_1_to_2(stamp: dict[str, Any]) -> None:
    stamp.setdefault("teachers", [])
    network = stamp.get("network")
    if isinstance(network, dict) and isinstance(network.get("class_path"), str):
        network["class_path"] = _MOVED.get(network["class_path"], network["class_path"])


def _from_2_to_3(stamp: dict[str, Any]) -> None:
    # Nothing is known of them; what cannot be known is not refused.
    stamp.setdefault("untrained", {})


#: The step from each format to the next.
_STEPS: tuple[Callable[[dict[str, Any]], None], ...] = (_from_1_to_2, _from_2_to_3)
