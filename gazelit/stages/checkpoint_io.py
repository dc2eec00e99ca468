"""Checkpoints that are whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO

from gazelit.files import atomic_path


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary name and renames, so that a run killed while saving can still resume."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Saves a checkpoint.

        Args:
            checkpoint: What to save.
            path: Where; a local path is written whole or not at all, a remote one as Lightning does it.
            storage_options: Passed on to Lightning.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with atomic_path(Path(path)) as temporary:
            super().save_checkpoint(checkpoint, temporary, storage_options)
