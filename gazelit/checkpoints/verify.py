"""Checks whether a checkpoint is as it was written."""

from __future__ import annotations

import zipfile
from pathlib import Path

from gazelit.checkpoints.seal import check_seal
from gazelit.checkpoints.stamps import STAMP_KEY, WEIGHTS_SUFFIX, read_checkpoint
from gazelit.errors import InputError


def verify_checkpoint(path: Path) -> tuple[list[str], str]:
    """Compares a checkpoint's bytes with its seal, or with its archive's checksums if it has none, and reads it.

    Args:
        path: A ``.ckpt``, or exported weights with their description beside them, which has their SHA-256.

    Returns:
        The fault, at most a line, and a description of what was compared.
    """
    try:
        checkpoint = read_checkpoint(path)
        if path.suffix == WEIGHTS_SUFFIX or check_seal(path):
            compared = "every byte as it was written"
        else:
            _check_archive(path)
            compared = "written before checkpoints were sealed; every part agrees with its CRC-32"
    except InputError as error:
        return [str(error)], ""
    return [], f"stage '{checkpoint[STAMP_KEY]['stage']}', {len(checkpoint['state_dict'])} tensors: {compared}"


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: is damaged: no archive that torch writes ({type(error).__name__})") from error
    if damaged is not None:
        raise InputError(f"{path}: is damaged: {damaged} in it differs from what was written")
