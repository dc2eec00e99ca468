"""The prepared store: every film decoded once, at the working resolution, with its gaze beside it.

A store is a folder: ``store.json`` (what it is), ``images.npy`` (N, H, W unsigned integers, memory-mapped),
``cases.parquet`` (the table of images with their letterbox), ``gaze.parquet`` (gaze in original pixels, ``row``
naming the case) and ``skipped.csv`` (cases left out, with the reason).
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from gazelit.data.dicom import read_radiograph
from gazelit.data.geometry import Letterbox
from gazelit.data.schema import Recording, Source
from gazelit.errors import InputError
from gazelit.files import building_folder, is_free, read_json, sha256_file, sha256_json, write_json

logger = logging.getLogger("gazelit")

FORMAT = 1
STORE_FILE = "store.json"
_LETTERBOX_COLUMNS = ("inner_height", "inner_width", "top", "left")


@dataclass(frozen=True)
class Store:
    """A prepared store.

    Attributes:
        path: Its folder.
        about: The content of ``store.json``.
    """

    path: Path
    about: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Opens a store.

        Raises:
            InputError: There is none, or it was written by another version of the format.
        """
        path = Path(path)
        if not (path / STORE_FILE).is_file():
            raise InputError(f"no prepared store at {path}; make one with `gazelit prepare`")
        about = read_json(path / STORE_FILE)
        if about.get("format") != FORMAT:
            raise InputError(
                f"{path}: store format {about.get('format')}, but this version reads {FORMAT}; prepare it anew"
            )
        return cls(path, about)

    @property
    def size(self) -> tuple[int, int]:
        """Working resolution (H, W)."""
        height, width = self.about["size"]
        return height, width

    @property
    def largest(self) -> int:
        """The integer that stands for 1.0."""
        return 2 ** int(self.about["bits"]) - 1

    @cached_property
    def cases(self) -> pd.DataFrame:
        """One row a case: the images' columns, without ``path``."""
        return pd.read_parquet(self.path / "cases.parquet")

    def gaze(self, kind: str) -> pd.DataFrame:
        """Valid gaze of a kind (``sample`` or ``fixation``), ordered by case and time."""
        return pd.read_parquet(self.path / "gaze.parquet", filters=[("kind", "==", kind), ("valid", "==", True)])

    def images(self) -> NDArray[np.unsignedinteger]:
        """(N, H, W) memory map."""
        return np.load(self.path / "images.npy", mmap_mode="r")

    @cached_property
    def letterboxes(self) -> list[Letterbox]:
        """How each case was fitted into the working resolution."""
        table = self.cases[["height", "width", *_LETTERBOX_COLUMNS]].astype(int)
        return [
            Letterbox(height, width, self.size, (inner_height, inner_width), top, left)
            for height, width, inner_height, inner_width, top, left in table.itertuples(index=False)
        ]


def prepare(
    source: Source,
    out: Path,
    size: tuple[int, int] = (640, 512),
    bits: int = 8,
    require_gaze: bool = True,
    strict: bool = False,
    workers: int | None = None,
) -> Store:
    """Reads a source into a prepared store.

    The same source and options give the same bytes, whatever the number of workers. A finished store with the same
    request is left as it is.

    Args:
        source: What to read, such as ``EGDCXR``.
        out: Folder of the store; it appears when it is complete.
        size: Working resolution as height and width, multiples of 32; the aspect ratio is kept, the rest padded.
        bits: Depth of the stored images, 8 or 16.
        require_gaze: Leave out images without valid gaze.
        strict: Make a case that has to be left out an error.
        workers: Processes that decode; as many as cores unless given.

    Returns:
        The store.

    Raises:
        InputError: The source or an option cannot be used, ``out`` holds something else, or no case is left.
    """
    out = Path(out)
    if len(size) != 2 or any(side < 32 or side % 32 for side in size):
        raise InputError(f"size: {list(size)} must be a height and a width, each a multiple of 32")
    if bits not in (8, 16):
        raise InputError(f"bits: must be 8 or 16, not {bits}")
    size = (size[0], size[1])
    recording = source.read()
    recording.check()
    options = {"size": list(size), "bits": bits, "require_gaze": require_gaze}
    request = sha256_json({"format": FORMAT, "options": options, "tables": _tables_hash(recording)})
    if not is_free(out):
        return _existing(out, request)
    if require_gaze:
        recording = _with_gaze(recording)
    _report_skipped(recording.skipped, strict)

    with building_folder(out) as building:
        kept, failed = _write_images(recording.images, building, size, bits, workers)
        _report_skipped(failed, strict)
        skipped = [*recording.skipped, *failed]
        if not kept:
            raise InputError(f"no case is left of {len(recording.images)}; first reason: {failed[0][1]}")
        counts = _write_tables(recording, kept, skipped, size, building)
        content = {name: sha256_file(building / name) for name in ("images.npy", "cases.parquet", "gaze.parquet")}
        about = {
            "format": FORMAT,
            "source": source.name,
            "synthetic": recording.synthetic,
            **options,
            "label_columns": recording.label_columns,
            "counts": counts,
            "request": request,
            "fingerprint": sha256_json(content),
        }
        write_json(building / STORE_FILE, about)
    logger.info("%s: %d cases, %d left out", out, counts["cases"], counts["skipped"])
    return Store.open(out)


def _existing(out: Path, request: str) -> Store:
    if not (out / STORE_FILE).is_file():
        raise InputError(f"{out}: exists and is no store; choose another --out")
    store = Store.open(out)
    if store.about["request"] != request:
        raise InputError(f"{out}: a store of other data or options; choose another --out, or remove it")
    logger.info("%s: is up to date", out)
    return store


def _with_gaze(recording: Recording) -> Recording:
    valid = recording.gaze.loc[recording.gaze["valid"], "image_id"].unique()
    seen = recording.images["image_id"].isin(valid)
    skipped = [
        *recording.skipped,
        *((image, "no valid gaze") for image in recording.images.loc[~seen, "image_id"]),
    ]
    gaze = recording.gaze[recording.gaze["image_id"].isin(recording.images.loc[seen, "image_id"])]
    images = recording.images[seen].reset_index(drop=True)
    if images.empty:
        reason = skipped[0][1] if skipped else "the source has no images"
        raise InputError(f"no case is left of {len(recording.images)}; first reason: {reason}")
    return Recording(images, gaze, recording.label_columns, recording.synthetic, skipped)


def _report_skipped(skipped: list[tuple[str, str]], strict: bool) -> None:
    if not skipped:
        return
    reasons = pd.Series([reason for _, reason in skipped])
    if strict:
        raise InputError(f"{len(skipped)} cases cannot be used; the first: {reasons.iloc[0]}")
    logger.warning("left out %d cases; the first: %s (all in skipped.csv)", len(skipped), reasons.iloc[0])


def _tables_hash(recording: Recording) -> str:
    digest = hashlib.sha256()
    files = recording.images["path"].map(lambda path: os.path.getsize(path) if os.path.exists(path) else -1)
    for table in (recording.images.drop(columns="path").assign(bytes=files), recording.gaze):
        digest.update(",".join(table.columns).encode())
        digest.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def _write_images(
    images: pd.DataFrame, folder: Path, size: tuple[int, int], bits: int, workers: int | None
) -> tuple[list[int], list[tuple[str, str]]]:
    """Writes ``images.npy``; returns the rows of the table that are in it, and the cases that are not."""
    dtype = np.uint8 if bits == 8 else np.uint16
    jobs = [(row.path, (int(row.height), int(row.width))) for row in images.itertuples()]
    kept: list[int] = []
    failed: list[tuple[str, str]] = []
    # Written as the cases come, so that memory does not grow with their number; the header follows with their count.
    raw = folder / "images.raw"
    with raw.open("wb") as file:
        for row, result in enumerate(
            track(_decoded(jobs, size, bits, workers), "preparing", total=len(jobs), console=Console(stderr=True))
        ):
            if isinstance(result, str):
                failed.append((images["image_id"].iloc[row], result))
            else:
                file.write(result.tobytes())
                kept.append(row)
    with raw.open("rb") as file, (folder / "images.npy").open("wb") as target:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": (len(kept), *size),
        }
        np.lib.format.write_array_header_1_0(target, header)
        shutil.copyfileobj(file, target, 1 << 24)
    raw.unlink()
    return kept, failed


def _decoded(
    jobs: list[tuple[str, tuple[int, int]]], size: tuple[int, int], bits: int, workers: int | None
) -> Iterator[NDArray[np.unsignedinteger] | str]:
    decode = partial(_decode, size=size, bits=bits)
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers <= 1:
        yield from map(decode, jobs)
        return
    # spawn: forking a process whose libraries run threads can deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        # In bites, because map would otherwise hold every result that is ready before it is asked for.
        bite = 16 * workers
        for start in range(0, len(jobs), bite):
            yield from pool.map(decode, jobs[start : start + bite])


def _decode(job: tuple[str, tuple[int, int]], size: tuple[int, int], bits: int) -> NDArray[np.unsignedinteger] | str:
    path, expected = job
    try:
        pixels = read_radiograph(path).pixels
    except InputError as error:
        return str(error)
    if pixels.shape != expected:
        sizes = [f"{height} × {width}" for height, width in (pixels.shape, expected)]
        return f"{path}: has {sizes[0]} pixels, but its header says {sizes[1]}"
    working = Letterbox.fit(*pixels.shape, size).apply(pixels)
    largest = 2**bits - 1
    return np.round(working * largest).clip(0, largest).astype(np.uint8 if bits == 8 else np.uint16)


def _write_tables(
    recording: Recording, kept: list[int], skipped: list[tuple[str, str]], size: tuple[int, int], folder: Path
) -> dict[str, int]:
    cases = recording.images.iloc[kept].drop(columns="path").reset_index(drop=True)
    boxes = [Letterbox.fit(int(case.height), int(case.width), size) for case in cases.itertuples()]
    for column, values in zip(
        _LETTERBOX_COLUMNS, zip(*((*box.inner, box.top, box.left) for box in boxes), strict=True), strict=True
    ):
        cases[column] = values
    rows = pd.Series(np.arange(len(cases), dtype=np.int32), index=cases["image_id"])
    gaze = recording.gaze[recording.gaze["image_id"].isin(rows.index)]
    gaze = gaze.assign(row=gaze["image_id"].map(rows).astype(np.int32)).drop(columns="image_id")
    gaze = gaze.sort_values(["row", "reading_id", "kind", "t"], kind="stable", ignore_index=True)
    for column in ("reading_id", "reader_id", "kind"):
        gaze[column] = gaze[column].astype("category")
    cases.to_parquet(folder / "cases.parquet", index=False)
    gaze.to_parquet(folder / "gaze.parquet", index=False)
    pd.DataFrame(skipped, columns=["image_id", "reason"]).to_csv(folder / "skipped.csv", index=False)
    return {
        "cases": len(cases),
        "patients": int(cases["patient_id"].nunique()),
        "skipped": len(skipped),
        **{f"{kind}s": int((gaze["kind"] == kind).sum()) for kind in ("sample", "fixation")},
    }
