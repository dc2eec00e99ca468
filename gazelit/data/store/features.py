"""Features of a store's films: an encoder's output for each, computed once; stages read them instead of films.

A folder that ``gazelit embed`` writes: ``features.npy``, a row for each case of the store in its order, and
``features.json`` with the store, the encoder, its weights and the kind of a row. It holds no id.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gazelit.data.store.digests import sample_digest
from gazelit.data.store.films import HEADER_BYTES, write_header
from gazelit.errors import InputError
from gazelit.files import (
    ARRAY_ERRORS,
    changed_files,
    is_free,
    publish_folder,
    read_json,
    resumable_folder,
    sha256_file,
    write_json,
)

FORMAT = 1
ABOUT_FILE, ROWS_FILE = "features.json", "features.npy"
#: ``map``: the encoder's coarsest map (C, h, w). ``pooled``: its embedding (C,).
Kind = Literal["map", "pooled"]


@dataclass(frozen=True)
class FeatureRequest:
    """A request for features; equal requests give equal features.

    Attributes:
        kind: Kind of a row.
        dtype: Type of the numbers, ``float32`` or ``float16``.
        store: Fingerprint of the store.
        cases: Number of the store's cases.
        downscale: Factor between the store's resolution and the encoder's input.
        encoder: The encoder's specification, without the source of its weights.
        encoder_sha256: SHA-256 of its weights.
    """

    kind: Kind
    dtype: str
    store: str
    cases: int
    downscale: int
    encoder: dict[str, Any]
    encoder_sha256: str

    def primitives(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return fields


Rows = Callable[[int], Iterable[NDArray[np.floating]]]


def write_features(out: Path, request: FeatureRequest, shape: tuple[int, ...], rows_from: Rows) -> bool:
    """Writes features, whole or not at all; the next run continues from the rows that an interrupted one has finished.

    Args:
        out: The folder.
        request: The request for the features.
        shape: Shape of a row.
        rows_from: Gives blocks of rows (n, ...) in the order of the store, from a given row on.

    Returns:
        Whether anything was written; false if ``out`` has the same features already.

    Raises:
        InputError: ``out`` holds something else, or cannot be written.
    """
    if not is_free(out):
        about = read_about(out)
        fields = request.primitives()
        if {name: about.get(name) for name in fields} == fields:
            return False
        raise InputError(f"{out}: features of another encoder, store or kind; choose another --out, or remove it")
    row_bytes = int(np.prod(shape)) * np.dtype(request.dtype).itemsize
    with resumable_folder(out) as building:
        path, mark = building / ROWS_FILE, building / "request.json"
        if not (mark.is_file() and path.is_file() and read_json(mark) == request.primitives()):
            path.write_bytes(bytes(HEADER_BYTES))
            write_json(mark, request.primitives())
        done = max(0, (path.stat().st_size - HEADER_BYTES) // row_bytes)
        try:
            with path.open("r+b") as file:
                file.truncate(HEADER_BYTES + done * row_bytes)
                file.seek(0, os.SEEK_END)
                for block in rows_from(done):
                    file.write(np.ascontiguousarray(block, request.dtype).tobytes())
                    file.flush()
                    os.fsync(file.fileno())
                write_header(file, np.dtype(request.dtype), (request.cases, *shape))
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror or error}); make room and go on") from error
        about = {"format": FORMAT, **request.primitives(), "shape": list(shape)}
        digests = {"sha256": sha256_file(path), "samples": sample_digest(path)}
        write_json(building / ABOUT_FILE, about | digests)
        mark.unlink()
        publish_folder(building, out)
    return True


def read_about(folder: Path) -> dict[str, Any]:
    """The content of ``features.json`` in a folder of features.

    Raises:
        InputError: It is no folder of features, or was written by another version of the format.
    """
    if not (folder / ABOUT_FILE).is_file():
        raise InputError(f"{folder}: holds no features; write some with `gazelit embed STORE --out {folder}`")
    about = read_json(folder / ABOUT_FILE)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError(f"{folder / ABOUT_FILE}: not what this version of `gazelit embed` writes; write it anew")
    return about


def open_features(folder: Path, request: FeatureRequest) -> NDArray[np.floating]:
    """The features, memory-mapped, if they match the request; the type of their numbers may differ.

    Raises:
        InputError: There are none, or they are of another store, encoder, weights or kind; or samples of the file show
            that it is damaged.
    """
    about = read_about(folder)
    for field, value in request.primitives().items():
        if field != "dtype" and about.get(field) != value:
            raise InputError(
                f"{folder}: its features are of another {_MEANING[field]} than this training's; write them anew with "
                "`gazelit embed`"
            )
    if not (folder / ROWS_FILE).is_file():
        # Reading a pipe would wait.
        raise InputError(f"{folder / ROWS_FILE}: no such file; write it anew")
    try:
        rows = np.load(folder / ROWS_FILE, mmap_mode="r", allow_pickle=False)
    except ARRAY_ERRORS as error:
        raise InputError(f"{folder / ROWS_FILE}: cannot be read ({type(error).__name__}); write it anew") from error
    if list(rows.shape) != [request.cases, *about.get("shape", [])] or str(rows.dtype) != about.get("dtype"):
        raise InputError(f"{folder / ROWS_FILE}: not what {ABOUT_FILE} describes; write it anew")
    # Features of an earlier version have no samples.
    if "samples" in about and sample_digest(folder / ROWS_FILE) != about["samples"]:
        raise InputError(
            f"{folder / ROWS_FILE}: its content is not what was written; `gazelit verify {folder}` compares all of it, "
            "write it anew with `gazelit embed`"
        )
    return rows


def verify_features(folder: Path) -> tuple[list[str], str]:
    """Reads all features and compares them with their digest.

    Args:
        folder: Folder that ``gazelit embed`` wrote.

    Returns:
        The files that differ, a line each; and a description of what was compared.

    Raises:
        InputError: ``features.json`` is none of this version.
    """
    about = read_about(folder)
    written = about.get("sha256")
    if not isinstance(written, str):
        return [f"{folder / ABOUT_FILE}: has no digest of {ROWS_FILE}"], ""
    return changed_files(folder, {ROWS_FILE: written}), f"features of {about.get('cases')} films as they were written"


_MEANING = {
    "kind": "kind (pooled for a classifier, map for maps)",
    "store": "store",
    "cases": "store",
    "downscale": "data.downscale",
    "encoder": "encoder",
    "encoder_sha256": "encoder's weights",
}
