"""Decodes the films of a store, in other processes, with a journal, so that no film is decoded twice.

While a store is built, ``images.npy`` grows by the films that could be decoded, and ``work/images.journal`` has a line
for each film that is done. Results of an earlier request (other tables, a film that was repaired) are moved to
``work/earlier.*``; its films are taken over if their files are still the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from gazelit import processors
from gazelit.data.images.decoding import Decoded, Identity, Job, Outcome, decode, memory_for, read_mask
from gazelit.data.images.guard import Lost, Workers
from gazelit.files import atomic_path, read_json, sha256_json, write_json

logger = logging.getLogger("gazelit")

#: Every ``.npy`` of a store begins with this many bytes of header, so that it can be written last.
HEADER_BYTES = 128
FILMS_FILE = "films.csv"
_FILMS_COLUMNS = {"size": "bytes", "modified": "modified_ns", "changed": "changed_ns", "content": "xxh3"}


def continue_or_set_aside(building: Path, request: str, size: tuple[int, int], bits: int) -> None:
    """Keeps the films of an interrupted run with the same request; sets those of another request aside."""
    mark = building / "work" / "request.json"
    mark_now = {"request": request, "decoding": sha256_json({"size": list(size), "bits": bits})}
    found = read_json(mark) if mark.is_file() else None
    if found == mark_now:
        return
    if isinstance(found, dict) and found.get("decoding") == mark_now["decoding"]:
        _set_aside(building)
    else:
        for name in ("images.npy", "work/images.journal", "work/earlier.npy", "work/earlier.journal"):
            (building / name).unlink(missing_ok=True)
    write_json(mark, mark_now)


def any_decoded(building: Path) -> bool:
    """Whether a partial store holds a decoded film."""
    names = ("images", "earlier")
    return any(
        outcome.reason is None for name in names for _, outcome in journalled(building / "work" / f"{name}.journal")
    )


def write_images(
    images: pd.DataFrame,
    chosen: NDArray[np.int64],
    folder: Path,
    size: tuple[int, int],
    bits: int,
    workers: int | None,
    max_pixels: int,
) -> list[Outcome]:
    """Writes ``images.npy`` with the films that can be decoded; returns the outcome of every wanted row."""
    dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
    film_bytes = size[0] * size[1] * dtype.itemsize
    path, journal = folder / "images.npy", folder / "work" / "images.journal"
    rows = images.iloc[chosen]
    jobs: list[Job] = [
        (path, (height, width))
        for path, height, width in zip(rows["path"], rows["height"].tolist(), rows["width"].tolist(), strict=True)
    ]
    done = journalled(journal)
    end = HEADER_BYTES + sum(outcome.reason is None for _, outcome in done) * film_bytes
    if done and not (path.is_file() and path.stat().st_size >= end):
        done = []
    if not all(outcome.file.still(film) for (film, _), (_, outcome) in zip(jobs, done, strict=False)):
        _set_aside(folder)
        done = []
    if not done:
        end = HEADER_BYTES
        path.write_bytes(bytes(HEADER_BYTES))
    else:
        logger.info("going on after %d of %d cases", len(done), len(jobs))
    rest = jobs[len(done) :]
    earlier = _earlier(folder, rest, film_bytes)
    if earlier:
        logger.info("%d films are taken over from an earlier run", len(earlier))
    fresh = [job for job in rest if _key(job) not in earlier]
    outcomes = [outcome for _, outcome in done]
    written = sum(outcome.reason is None for outcome in outcomes)
    with atomic_path(journal) as rewritten:
        # The file is not cut and rewritten: a process killed in between would lose the decoded films.
        rewritten.write_text("".join(_line(key, outcome) for key, outcome in done))
    with (
        journal.open("a") as log,
        path.open("r+b") as file,
        closing(_decoded(fresh, size, bits, workers, max_pixels)) as decoded,
    ):
        file.truncate(end)
        file.seek(end)
        for job in track(rest, "preparing", len(rest), console=Console(stderr=True)):
            key = _key(job)
            pixels: bytes | None
            if key in earlier:
                slot, outcome = earlier[key]
                pixels = _film(folder / "work" / "earlier.npy", slot, film_bytes)
            else:
                array, outcome = next(decoded)
                pixels = None if array is None else array.tobytes()
            if pixels is not None:
                file.write(pixels)
                # The journal must never be ahead of the images.
                file.flush()
                written += 1
            outcomes.append(outcome)
            log.write(_line(key, outcome))
            log.flush()
        write_header(file, dtype, (written, *size))
    return outcomes


def write_masks(
    jobs: list[Job], folder: Path, size: tuple[int, int], workers: int | None, max_pixels: int
) -> list[Outcome]:
    """Writes ``masks.npy`` of the masks that can be read; returns the outcome of each."""
    outcomes = []
    work = partial(read_mask, size=size, max_pixels=max_pixels)
    with (
        Workers(work, _count(jobs, workers), memory_for(max_pixels)) as pool,
        (folder / "masks.npy").open("w+b") as file,
    ):
        file.write(bytes(HEADER_BYTES))
        for job, result in zip(jobs, pool.map(jobs), strict=True):
            planes, outcome = _or_reason(job, result)
            if planes is not None:
                file.write(planes.tobytes())
            outcomes.append(outcome)
        written = sum(outcome.reason is None for outcome in outcomes)
        write_header(file, np.dtype(np.uint8), (written, size[0], size[1] // 8))
    return outcomes


def write_header(file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Writes the ``.npy`` header over the reserved bytes (NEP 1, version 1.0: padded with spaces to a line's end)."""
    content = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    text = repr(content).ljust(HEADER_BYTES - 11) + "\n"
    file.seek(0)
    file.write(b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little") + text.encode("latin1"))


def write_identities(folder: Path, outcomes: list[Outcome]) -> None:
    """Writes ``films.csv``: the identity of each film's and mask's file, without names."""
    table = pd.DataFrame([asdict(outcome.file) for outcome in outcomes], columns=list(_FILMS_COLUMNS))
    table.rename(columns=_FILMS_COLUMNS).to_csv(folder / FILMS_FILE, index=False)


def changed_files(store: Path, paths: list[str]) -> int:
    """Number of the films and masks that have changed since a store was made of them.

    A file is unchanged if its size and times are equal, or, if only the times differ, its content is.

    Args:
        store: A finished store.
        paths: Its films, then its masks, in the order of the request.
    """
    if not (store / FILMS_FILE).is_file():
        return len(paths)
    table = pd.read_csv(store / FILMS_FILE, keep_default_na=False, dtype={"xxh3": str})
    if len(table) != len(paths):
        return len(paths)
    columns = [table[name].tolist() for name in _FILMS_COLUMNS.values()]
    return sum(not Identity(*values).still(path) for path, *values in zip(paths, *columns, strict=True))


def _count(jobs: list[Job], workers: int | None) -> int:
    return max(1, min(workers or processors.usable(), len(jobs)))


def _decoded(
    jobs: list[Job], size: tuple[int, int], bits: int, workers: int | None, max_pixels: int
) -> Generator[Decoded, None, None]:
    work = partial(decode, size=size, bits=bits, max_pixels=max_pixels)
    with Workers(work, _count(jobs, workers), memory_for(max_pixels)) as pool:
        for job, result in zip(jobs, pool.map(jobs), strict=True):
            yield _or_reason(job, result)


def _or_reason(job: Job, result: Decoded | Lost) -> Decoded:
    if isinstance(result, Lost):
        return None, Outcome(reason=f"{job[0]}: {result.reason}", file=Identity.of(job[0]))
    return result


def _key(job: Job) -> str:
    """Names a film and its announced size, without telling which."""
    return hashlib.sha256(repr(job).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _line(key: str, outcome: Outcome) -> str:
    return json.dumps({"film": key, **asdict(outcome)}) + "\n"


def journalled(path: Path) -> list[tuple[str, Outcome]]:
    """Key and outcome of every film with a whole line in the journal."""
    if not path.is_file():
        return []
    lines = path.read_text().splitlines(keepends=True)
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return [
        (entry.pop("film"), Outcome(**{**entry, "file": Identity(**entry["file"])}))
        for entry in entries
        if {"film", "file"} <= entry.keys()
    ]


def _set_aside(building: Path) -> None:
    """Sets the present films aside as the earlier ones, unless there are more earlier ones."""
    journal, earlier = (building / "work" / f"{name}.journal" for name in ("images", "earlier"))
    if len(journalled(journal)) >= len(journalled(earlier)) and (building / "images.npy").is_file():
        journal.replace(earlier)
        (building / "images.npy").replace(building / "work" / "earlier.npy")
    for path in (journal, building / "images.npy"):
        path.unlink(missing_ok=True)


def _earlier(building: Path, jobs: list[Job], film_bytes: int) -> dict[str, tuple[int, Outcome]]:
    """By key, slot and outcome of the earlier films that are wanted and whose files are still the same."""
    path = building / "work" / "earlier.npy"
    if not path.is_file():
        return {}
    slots = (path.stat().st_size - HEADER_BYTES) // film_bytes
    decoded = [entry for entry in journalled(building / "work" / "earlier.journal") if entry[1].reason is None]
    by_key = {key: (slot, outcome) for slot, (key, outcome) in enumerate(decoded[: max(0, slots)])}
    keyed = ((_key(job), job[0]) for job in jobs)
    return {key: by_key[key] for key, film in keyed if key in by_key and by_key[key][1].file.still(film)}


def _film(path: Path, slot: int, film_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(HEADER_BYTES + slot * film_bytes)
        return file.read(film_bytes)
