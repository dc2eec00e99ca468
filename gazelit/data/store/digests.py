"""Digests of a store's files, by which damage and changes are found.

``store.json`` has the SHA-256 of every file, and one of samples of each file, which is compared whenever a store is
opened. ``digests.json`` has a digest of every film and mask, so that ``gazelit verify`` names those that differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gazelit.errors import InputError
from gazelit.files import ARRAY_ERRORS, read_json, sha256_file, sha256_json, write_json

DIGESTS_FILE = "digests.json"
#: Hexadecimal digits of an item's digest: 64 bits are enough to find damage; they do not protect against forgery.
ITEM_DIGITS = 16
#: A file's samples: so many blocks of so many bytes, from its beginning to its end.
SAMPLES, SAMPLE_BYTES = 16, 4096


def record_digests(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Writes ``digests.json`` of a store that is being built.

    Args:
        folder: Of the store.
        names: Its files.

    Returns:
        Entries of ``store.json``: ``sha256`` and ``samples`` by file, ``digests`` (of ``digests.json``), and
        ``fingerprint``, one for all files.
    """
    items = {name: item_digests(folder / name) for name in names if name.endswith(".npy")}
    write_json(folder / DIGESTS_FILE, items)
    whole = {name: sha256_file(folder / name) for name in names}
    return {
        "sha256": whole,
        "samples": {name: sample_digest(folder / name) for name in names},
        "digests": sha256_file(folder / DIGESTS_FILE),
        "fingerprint": sha256_json(whole),
    }


def item_digests(path: Path) -> list[str]:
    """A digest of each item along the first axis of a ``.npy`` file.

    Raises:
        InputError: The file cannot be read.
    """
    if not path.stat().st_size:
        return []
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ARRAY_ERRORS as error:
        raise InputError(f"{path}: cannot be read as an array ({error.__class__.__name__})") from error
    count, item_bytes = len(array), array[:1].nbytes
    # Read, not mapped: what was looked at would stay in memory.
    with path.open("rb") as file:
        file.seek(array.offset)
        del array
        return [hashlib.sha256(file.read(item_bytes)).hexdigest()[:ITEM_DIGITS] for _ in range(count)]


def sample_digest(path: Path) -> str:
    """SHA-256 of blocks of a file, spaced evenly from its beginning to its end; of the whole of a small file."""
    length = path.stat().st_size
    starts = np.linspace(0, max(0, length - SAMPLE_BYTES), SAMPLES).astype(np.int64)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in starts.tolist():
            file.seek(start)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def changed_items(folder: Path, name: str, expected_digests: str) -> list[int] | None:
    """The items of a ``.npy`` file that differ from their digests; None if they cannot be found.

    Args:
        folder: Of the store.
        name: The file.
        expected_digests: The SHA-256 that ``digests.json`` should have.
    """
    path = folder / DIGESTS_FILE
    if not path.is_file() or sha256_file(path) != expected_digests:
        return None
    expected = read_json(path)[name]
    try:
        found = item_digests(folder / name)
    except InputError:
        return None
    if len(found) != len(expected):
        return None
    return [row for row, (now, then) in enumerate(zip(found, expected, strict=True)) if now != then]
