"""The secret from which new names and UIDs of de-identified films are made."""

from __future__ import annotations

import os
from pathlib import Path

from gazelit.errors import InputError

KEY_FILE = "deidentify.key"
_KEY_BYTES = 32


def folder_key(folder: Path) -> bytes:
    """The secret from which a folder's new UIDs are made; an interrupted run continues with the same one.

    With the secret a result can be traced to its film; without it this is impossible. It is made if it is missing.

    Args:
        folder: Where ``deidentify.key`` lies.
    """
    path = folder / KEY_FILE
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        # Readable only by its owner, from the first byte on.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(os.urandom(_KEY_BYTES))
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise InputError(f"{path}: is no key of {_KEY_BYTES} bytes; remove it, and results get new UIDs")
    return key
