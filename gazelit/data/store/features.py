"""Features of a store's films: what an encoder made of each, computed once, for stages to read instead of films.

A folder that ``gazelit embed`` writes: ``features.npy``, a row for each case of the store in its order, and
``features.json``, which says of which store, of which encoder with which weights, and what a row is. It holds no id.
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

from gazelit.data.store.films import HEADER_BYTES, write_header
from gazelit.errors import InputError
from gazelit.files import is_free, publish_folder, read_json, resumable_folder, sha256_file, write_json

FORMAT = 1
ABOUT_FILE, ROWS_FILE = "features.json", "features.npy"
#: ``map``: the encoder's coarsest map (C, h, w). ``pooled``: its embedding (C,).
Kind = Literal["map", "pooled"]


@dataclass(frozen=True)
class FeatureRequest:
    """What features are asked for; equal requests give equal features.

    Attributes:
        kind: What a row is.
        dtype: Of the numbers, ``float32`` or ``float16``.
        store: Fingerprint of the store.
        cases: Of the store.
        downscale: Factor between the store's resolution and the encoder's input.
        encoder: The encoder's specification, but for where its weights came from.
        encoder_sha256: Of its weights.
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
    """Writes features, whole or not at all; what an ended run has finished is taken over by the next one.

    Args:
        out: The folder.
        request: What they are.
        shape: Of a row.
        rows_from: Gives blocks of rows (n, ...) in the order of the store, from a row on.

    Returns:
        Whether anything was written; not where ``out`` has the same features already.

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
        about = {"format": FORMAT, **request.primitives(), "shape": list(shape), "sha256": sha256_file(path)}
        write_json(building / ABOUT_FILE, about)
        mark.unlink()
        publish_folder(building, out)
    return True


def read_about(folder: Path) -> dict[str, Any]:
    """What a folder of features says of itself.

    Raises:
        InputError: It is none, or was written by another version of the format.
    """
    if not (folder / ABOUT_FILE).is_file():
        raise InputError(f"{folder}: holds no features; write some with `gazelit embed STORE --out {folder}`")
    about = read_json(folder / ABOUT_FILE)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError(f"{folder / ABOUT_FILE}: not what this version of `gazelit embed` writes; write it anew")
    return about


def open_features(folder: Path, request: FeatureRequest) -> NDArray[np.floating]:
    """The features, memory-mapped, if they are what is asked for; the type of their numbers may be any.

    Raises:
        InputError: There are none, or they are of another store, encoder, weights or kind; or the file is damaged.
    """
    about = read_about(folder)
    for field, value in request.primitives().items():
        if field != "dtype" and about.get(field) != value:
            raise InputError(
                f"{folder}: its features are of another {_MEANING[field]} than this training's; write them anew with "
                "`gazelit embed`"
            )
    try:
        rows = np.load(folder / ROWS_FILE, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / ROWS_FILE}: cannot be read ({type(error).__name__}); write it anew") from error
    if list(rows.shape) != [request.cases, *about.get("shape", [])] or str(rows.dtype) != about.get("dtype"):
        raise InputError(f"{folder / ROWS_FILE}: not what {ABOUT_FILE} describes; write it anew")
    return rows


_MEANING = {
    "kind": "kind (pooled for a classifier, map for maps)",
    "store": "store",
    "cases": "store",
    "downscale": "data.downscale",
    "encoder": "encoder",
    "encoder_sha256": "encoder's weights",
}
