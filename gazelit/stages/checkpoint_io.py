"""Checkpoints that are whole or absent."""

from __future__ import annotations

import io
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from gazelit.errors import InputError
from gazelit.files import atomic_path


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the checkpoint and renames, so that a run killed while saving can still resume.

    Lightning's own transaction writes in ``$TMPDIR`` and copies, which fails where that is small and may be cut where
    it is another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Saves a checkpoint.

        Args:
            checkpoint: What to save.
            path: Where; a local path is written whole or not at all, a remote one as Lightning does it.
            storage_options: Passed on to Lightning.

        Raises:
            InputError: It cannot be written; what was there stays.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # In memory first: torch reports a full disk as an error of its own archive, and names it after the file.
        content = io.BytesIO()
        torch.save(_canonical(checkpoint), content)
        try:
            with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
                file.write(content.getbuffer())
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written ({error.strerror or error}); make room and resume, an earlier checkpoint "
                "of this name is untouched"
            ) from error


def _canonical(value: Any) -> Any:
    """The same content, so that equal contents give equal bytes.

    A pickle refers back to strings and containers that are one object; those of a resumed run are one or several
    otherwise than those of an undisturbed one.
    """
    if isinstance(value, str):
        return sys.intern(value) if type(value) is str else value
    if type(value) in (list, tuple):
        return type(value)(_canonical(item) for item in value)
    if type(value) in (dict, OrderedDict):
        copy = type(value)((_canonical(key), _canonical(item)) for key, item in value.items())
        if hasattr(value, "_metadata"):
            copy._metadata = _canonical(value._metadata)
        return copy
    return value
