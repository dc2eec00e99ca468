"""Checkpoints that are whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO

from gazelit.checkpoints import stamps


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a file beside the checkpoint and renames it, so that a run killed while saving can still resume.

    Lightning's own transaction writes in ``$TMPDIR`` and copies. This fails if ``$TMPDIR`` is small, and the copy may
    be cut short if it is on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Saves a checkpoint.

        Args:
            checkpoint: What to save.
            path: Where; a local path is written whole or not at all, a remote one as Lightning does it.
            storage_options: Passed on to Lightning.

        Raises:
            InputError: It cannot be written; an earlier file there stays.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            stamps.save_checkpoint(checkpoint, Path(path))
