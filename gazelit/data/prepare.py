"""From a source to a prepared store: in parallel, resumable, and the same bytes whatever happened on the way."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from gazelit import __version__
from gazelit.data.decoding import Decoded, Job, Outcome, decode
from gazelit.data.digests import record_digests
from gazelit.data.geometry import Letterbox
from gazelit.data.schema import GAZE_COLUMNS, GAZE_KINDS, GAZE_TEXT, Recording, Source
from gazelit.data.store import FORMAT, LETTERBOX_COLUMNS, STORE_FILE, Store
from gazelit.errors import InputError
from gazelit.files import is_free, read_json, resumable_folder, sha256_json, write_json

logger = logging.getLogger("gazelit")

#: Every ``.npy`` of a store begins with this many bytes of header, so that it can be written last.
HEADER_BYTES = 128
_CASE_TABLES = ("regions", "phrases", "readings")
_GAZE_SCHEMA = pa.schema(
    [("row", pa.int32())]
    + [
        (name, pa.string() if name in GAZE_TEXT else pa.bool_() if name == "valid" else pa.float64())
        for name in GAZE_COLUMNS
        if name != "image_id"
    ]
)


def prepare(
    source: Source,
    out: Path,
    size: tuple[int, int] = (640, 512),
    bits: int = 8,
    require_gaze: bool | None = None,
    strict: bool = False,
    workers: int | None = None,
) -> Store:
    """Reads a source into a prepared store.

    The same source and options give the same bytes, whatever the number of workers and interruptions. What an
    interruption leaves lies in ``.<name>-partial`` beside the store, and the next run with the same request goes on
    from there. A finished store with the same request is left as it is.

    Args:
        source: What to read, such as ``EGDCXR``.
        out: Folder of the store; it appears when it is complete.
        size: Working resolution as height and width, multiples of 32; the aspect ratio is kept, the rest padded.
        bits: Depth of the stored images, 8 or 16.
        require_gaze: Leave out images without valid gaze; unless given, if the source has any gaze.
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
    if workers is not None and workers < 1:
        raise InputError(f"workers: must be at least 1, not {workers}")
    size = (size[0], size[1])
    recording = source.read()
    recording.check()
    if recording.images.empty:
        reason = recording.skipped[0][1] if recording.skipped else "the source lists none"
        raise InputError(f"no case is left; first reason: {reason}")
    if not is_free(out) and not (out / STORE_FILE).is_file():
        raise InputError(f"{out}: exists and is no store; choose another --out")
    with resumable_folder(out) as building:
        gaze = _Gaze.spool(recording, building)
        options = {"size": list(size), "bits": bits, "require_gaze": require_gaze}
        request = sha256_json({"format": FORMAT, "options": options, "tables": _digest(recording), "gaze": gaze.digest})
        if not is_free(out):
            shutil.rmtree(building)
            return _existing(out, request)
        _continue_or_start_over(building, request)
        if gaze.seen.any() if require_gaze is None else require_gaze:
            recording.skipped += [(image, "no valid gaze") for image in recording.images.loc[~gaze.seen, "image_id"]]
            wanted = np.flatnonzero(gaze.seen)
        else:
            wanted = np.arange(len(recording.images))
        _report_skipped(recording.skipped, strict)
        if not len(wanted):
            raise InputError(f"no case is left of {len(recording.images)}; first reason: {recording.skipped[0][1]}")
        outcomes = _write_images(recording.images, wanted, building, size, bits, workers)
        done = np.array([outcome.reason is None for outcome in outcomes])
        kept = wanted[done]
        failed = [
            (recording.images["image_id"].iloc[row], outcome.reason)
            for row, outcome in zip(wanted, outcomes, strict=True)
            if outcome.reason is not None
        ]
        _report_skipped(failed, strict)
        skipped = [*recording.skipped, *failed]
        if not len(kept):
            raise InputError(f"no case is left of {len(recording.images)}; first reason: {failed[0][1]}")
        counts, ppd = gaze.write(kept, building)
        photometric = [outcome.photometric for outcome in outcomes if outcome.reason is None]
        cases = _write_tables(recording, kept, photometric, size, building)
        masks = _write_masks(recording, kept, size, building, skipped)
        pd.DataFrame(skipped, columns=["image_id", "reason"]).to_csv(building / "skipped.csv", index=False)
        shutil.rmtree(building / "work")
        names = sorted(path.name for path in building.iterdir() if path.suffix in (".npy", ".parquet"))
        about = {
            "format": FORMAT,
            "version": __version__,
            "source": source.name,
            "source_options": source.options(),
            "synthetic": recording.synthetic,
            **options,
            "label_columns": recording.label_columns,
            "counts": {
                "cases": len(cases),
                "patients": int(cases["patient_id"].nunique()),
                "skipped": len(skipped),
                **counts,
                "masks": masks,
                **{
                    name: int(getattr(recording, name)["image_id"].isin(cases["image_id"]).sum())
                    for name in _CASE_TABLES
                },
            },
            "notes": recording.notes,
            # σ of one degree on an average image of the store (x, y); null if the source gives no visual angle.
            "pixels_per_degree": ppd,
            "bytes": {name: (building / name).stat().st_size for name in names},
            "request": request,
            **record_digests(building, names),
        }
        write_json(building / STORE_FILE, about)
        if out.exists():
            out.rmdir()
        building.replace(out)
    logger.info("%s: %d cases, %d left out", out, len(cases), len(skipped))
    return Store.open(out)


def _existing(out: Path, request: str) -> Store:
    store = Store.open(out)
    if store.about["request"] != request:
        raise InputError(f"{out}: a store of other data or options; choose another --out, or remove it")
    logger.info("%s: is up to date", out)
    return store


def _continue_or_start_over(building: Path, request: str) -> None:
    """Keeps the images of an interrupted run with the same request, and nothing of another's."""
    mark = building / "work" / "request.json"
    if mark.is_file() and read_json(mark) == request:
        return
    for name in ("images.npy", "work/images.journal"):
        (building / name).unlink(missing_ok=True)
    write_json(mark, request)


def _report_skipped(skipped: list[tuple[str, str]], strict: bool) -> None:
    if not skipped:
        return
    reason = skipped[0][1]
    if strict:
        raise InputError(f"{len(skipped)} cases cannot be used; the first: {reason}")
    logger.warning("left out %d; the first: %s (all are listed in skipped.csv)", len(skipped), reason)


def _digest(recording: Recording) -> str:
    """Of everything the store is made of, but for the gaze; pixels count by their file's size."""
    digest = hashlib.sha256()
    for table in (
        _with_file_sizes(recording.images),
        recording.regions,
        recording.phrases,
        _with_file_sizes(recording.masks),
        recording.readings,
        recording.recordings,
    ):
        digest.update(",".join(table.columns).encode())
        digest.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def _with_file_sizes(table: pd.DataFrame) -> pd.DataFrame:
    sizes = [os.path.getsize(path) if os.path.exists(path) else -1 for path in table["path"]]
    return table.drop(columns="path").assign(bytes=np.array(sizes, np.int64))


class _Gaze:
    """The gaze on its way into the store: read once, kept on disk, never whole in memory.

    Attributes:
        digest: SHA-256 of all rows.
        seen: (images,) bool, whether an image has valid gaze.
    """

    def __init__(self, spool: Path, digest: str, seen: NDArray[np.bool_]) -> None:
        self._spool = spool
        self.digest = digest
        self.seen = seen

    @classmethod
    def spool(cls, recording: Recording, building: Path) -> _Gaze:
        """Passes the source's gaze into a file beside, with rows of the table of images for ids."""
        path = building / "work" / "gaze.parquet"
        path.parent.mkdir(exist_ok=True)
        rows = pd.Index(recording.images["image_id"])
        seen = np.zeros(len(rows), bool)
        digest = hashlib.sha256()
        with pq.ParquetWriter(path, _GAZE_SCHEMA, compression="lz4") as writer:
            for part in recording.gaze_parts():
                part.insert(0, "row", rows.get_indexer(part["image_id"]).astype(np.int32))
                part = part.drop(columns="image_id")
                seen[part.loc[part["valid"], "row"]] = True
                digest.update(pd.util.hash_pandas_object(part, index=False).to_numpy().tobytes())
                writer.write_table(pa.Table.from_pandas(part, _GAZE_SCHEMA, preserve_index=False))
        return cls(path, digest.hexdigest(), seen)

    def write(self, kept: NDArray[np.int64], building: Path) -> tuple[dict[str, int], list[float] | None]:
        """Writes ``gaze.parquet`` of the images in the store; returns counts by kind, and pixels per degree."""
        place = np.full(len(self.seen), -1, np.int32)
        place[kept] = np.arange(len(kept), dtype=np.int32)
        counts = dict.fromkeys(GAZE_KINDS, 0)
        valid = 0
        total, known = np.zeros(2), 0
        with (
            pq.ParquetFile(self._spool) as spool,
            pq.ParquetWriter(building / "gaze.parquet", _GAZE_SCHEMA, compression="zstd") as writer,
        ):
            for group in range(spool.num_row_groups):
                part = spool.read_row_group(group).to_pandas()
                part["row"] = place[part["row"]]
                part = part[part["row"] >= 0]
                for kind in GAZE_KINDS:
                    counts[kind] += int((part["kind"] == kind).sum())
                valid += int(part["valid"].sum())
                angles = part[["ppd_x", "ppd_y"]].dropna().to_numpy()
                total, known = total + angles.sum(axis=0), known + len(angles)
                writer.write_table(pa.Table.from_pandas(part, _GAZE_SCHEMA, preserve_index=False))
        ppd = [round(float(value), 3) for value in total / known] if known else None
        return {**{f"{kind}s": count for kind, count in counts.items()}, "valid": valid}, ppd


def _write_images(
    images: pd.DataFrame,
    wanted: NDArray[np.int64],
    folder: Path,
    size: tuple[int, int],
    bits: int,
    workers: int | None,
) -> list[Outcome]:
    """Writes ``images.npy`` of those that can be decoded; returns the outcome of every wanted row of the table.

    A journal beside it has a line for every case that is done.
    """
    dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
    path, journal = folder / "images.npy", folder / "work" / "images.journal"
    outcomes = _done(journal)
    written = sum(outcome.reason is None for outcome in outcomes)
    end = HEADER_BYTES + written * size[0] * size[1] * dtype.itemsize
    if path.is_file() and path.stat().st_size >= end:
        if outcomes:
            logger.info("going on after %d of %d cases", len(outcomes), len(wanted))
    else:
        outcomes, written, end = [], 0, HEADER_BYTES
        path.write_bytes(bytes(HEADER_BYTES))
    with journal.open("w") as log, path.open("r+b") as file:
        log.writelines(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes)
        file.truncate(end)
        file.seek(end)
        rest = images.iloc[wanted[len(outcomes) :]]
        jobs = [
            (path, (height, width))
            for path, height, width in zip(rest["path"], rest["height"].tolist(), rest["width"].tolist(), strict=True)
        ]
        console = Console(stderr=True)
        for pixels, outcome in track(_decoded(jobs, size, bits, workers), "preparing", len(jobs), console=console):
            if pixels is not None:
                file.write(pixels.tobytes())
                # The journal must never be ahead of the images.
                file.flush()
                written += 1
            outcomes.append(outcome)
            log.write(json.dumps(asdict(outcome)) + "\n")
            log.flush()
        _write_header(file, dtype, (written, *size))
    return outcomes


def _done(journal: Path) -> list[Outcome]:
    """Outcome of every case that the journal has a whole line of."""
    if not journal.is_file():
        return []
    lines = journal.read_text().splitlines(keepends=True)
    return [Outcome(**json.loads(line)) for line in lines if line.endswith("\n")]


def _write_header(file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Writes the ``.npy`` header over the reserved bytes (NEP 1, version 1.0: padded with spaces to a line's end)."""
    content = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    text = repr(content).ljust(HEADER_BYTES - 11) + "\n"
    file.seek(0)
    file.write(b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little") + text.encode("latin1"))


def _decoded(jobs: list[Job], size: tuple[int, int], bits: int, workers: int | None) -> Iterator[Decoded]:
    work = partial(decode, size=size, bits=bits)
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers <= 1:
        yield from map(work, jobs)
        return
    # spawn: forking a process whose libraries run threads can deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        # A window of tasks, because map would hold every result that is ready before it is asked for.
        waiting: deque[Future[Decoded]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(work, job))
                if len(waiting) >= 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _write_tables(
    recording: Recording, kept: NDArray[np.int64], photometric: list[str], size: tuple[int, int], folder: Path
) -> pd.DataFrame:
    cases = recording.images.iloc[kept].drop(columns="path").reset_index(drop=True).assign(photometric=photometric)
    boxes = [Letterbox.fit(int(case.height), int(case.width), size) for case in cases.itertuples()]
    for column, values in zip(
        LETTERBOX_COLUMNS, zip(*((*box.inner, box.top, box.left) for box in boxes), strict=True), strict=True
    ):
        cases[column] = values
    cases.to_parquet(folder / "cases.parquet", index=False)
    for name in _CASE_TABLES:
        _by_row(getattr(recording, name), cases).to_parquet(folder / f"{name}.parquet", index=False)
    recording.recordings.to_parquet(folder / "recordings.parquet", index=False)
    return cases


def _by_row(table: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """A table of things that belong to images, with the case's row for the id."""
    row = pd.Index(cases["image_id"]).get_indexer(table["image_id"])
    numbered = table.drop(columns="image_id")
    numbered.insert(0, "row", row.astype(np.int32))
    return numbered[row >= 0].sort_values("row", kind="stable", ignore_index=True)


def _write_masks(
    recording: Recording, kept: NDArray[np.int64], size: tuple[int, int], folder: Path, skipped: list[tuple[str, str]]
) -> int:
    """Writes ``masks.npy`` and ``masks.parquet``; a mask that cannot be read is left out and listed."""
    images = recording.images.iloc[kept].reset_index(drop=True)
    table = _by_row(recording.masks, images)
    written = []
    with (folder / "masks.npy").open("w+b") as file:
        file.write(bytes(HEADER_BYTES))
        for row, path in zip(table["row"], table["path"], strict=True):
            image = images.iloc[row]
            try:
                mask = _mask(path, int(image["height"]), int(image["width"]), size)
            except InputError as error:
                skipped.append((image["image_id"], str(error)))
                written.append(False)
            else:
                file.write(np.packbits(mask, axis=-1).tobytes())
                written.append(True)
        _write_header(file, np.dtype(np.uint8), (sum(written), size[0], size[1] // 8))
    table[np.array(written, bool)].drop(columns="path").to_parquet(folder / "masks.parquet", index=False)
    return sum(written)


def _mask(path: str, height: int, width: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        with Image.open(path) as picture:
            values = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: a mask that cannot be read ({error.__class__.__name__})") from error
    if values.shape != (height, width):
        raise InputError(f"{path}: a mask of another size than its image, or not single-channel")
    return Letterbox.fit(height, width, size).apply((values > 0).astype(np.float32)) >= 0.5
