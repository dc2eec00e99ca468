"""Checks whether a store is as it was written."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from gazelit.data.store.digests import DIGESTS_FILE, changed_items
from gazelit.data.store.store import STORE_FILE, Store
from gazelit.errors import InputError
from gazelit.files import sha256_file, sha256_json

#: Greatest number of stretches of rows that a line names.
SHOWN_STRETCHES = 40


def verify_store(path: Path) -> tuple[list[str], str]:
    """Reads a whole store and compares every file, film and mask with its digest.

    Args:
        path: The prepared store.

    Returns:
        The files that differ, a line each, with the rows of films and masks; and a description of what was compared.

    Raises:
        InputError: There is no store, or it was prepared by a version that recorded no digests.
    """
    opened = Store.open(path, check=False)
    about = opened.about
    if not {"sha256", "digests"} <= set(about):
        raise InputError(
            f"{opened.path}: was prepared before digests were recorded, so it cannot be verified; prepare it anew"
        )
    if not _is_sound(about):
        raise InputError(f"{opened.path / STORE_FILE}: not what `gazelit prepare` writes; prepare it anew")
    found = [fault for name in about["sha256"] for fault in _faults(opened, name)]
    digests = opened.path / DIGESTS_FILE
    if not digests.is_file() or sha256_file(digests) != about["digests"]:
        found.append(f"{digests}: is missing or differs, so that the films that differ cannot be named")
    if sha256_json(about["sha256"]) != about["fingerprint"]:
        found.append(f"{opened.path / STORE_FILE}: its digests are not those of its fingerprint")
    return found, f"{len(about['sha256'])} files as they were written, {about['counts']['cases']} cases"


def _is_sound(about: dict[str, Any]) -> bool:
    """Whether the digests of ``store.json`` and the count of cases are in their form."""
    digests = about["sha256"]
    is_digests = isinstance(digests, dict) and all(isinstance(digest, str) for digest in digests.values())
    return is_digests and "fingerprint" in about and type(about["counts"].get("cases")) is int


def _faults(store: Store, name: str) -> list[str]:
    """The fault of one file; at most one line."""
    path = store.path / name
    if not path.is_file():
        return [f"{path}: is missing"]
    length, written = path.stat().st_size, store.about["bytes"].get(name)
    if written is not None and length < written:
        return [f"{path}: is cut: {length:,} of {written:,} bytes"]
    if sha256_file(path) == store.about["sha256"][name]:
        return []
    items = changed_items(store.path, name, store.about["digests"]) if path.suffix == ".npy" else None
    if items is None:
        return [f"{path}: differs"]
    if not items:
        return [f"{path}: differs, but no {'film' if name == 'images.npy' else 'item'} of it does"]
    if name == "masks.npy":
        try:
            rows = sorted({int(row) for row in pd.read_parquet(store.path / "masks.parquet")["row"].iloc[items]})
        except (OSError, ValueError, LookupError):
            return [f"{path}: {len(items)} masks differ"]
        return [f"{path}: {len(items)} masks differ, of the cases in rows {_stretches(rows)}"]
    return [f"{path}: {len(items)} of {store.about['counts']['cases']} films differ: rows {_stretches(items)}"]


def _stretches(rows: list[int]) -> str:
    """``3, 17–25``."""
    texts = []
    for _, group in groupby(enumerate(rows), lambda pair: pair[1] - pair[0]):
        stretch = [row for _, row in group]
        texts.append(str(stretch[0]) if len(stretch) == 1 else f"{stretch[0]}–{stretch[-1]}")
    more = len(texts) - SHOWN_STRETCHES
    return ", ".join(texts[:SHOWN_STRETCHES]) + (f" and {more} stretches more" if more > 0 else "")
