"""A store in shards: each decodes its share of the films, on any machine; merged they are the store of one process.

Shards are in ``.<name>-shards`` beside the store. Each is a folder that appears when it is complete, with the films,
their journal and ``shard.json``. An interrupted shard continues where it stopped, like a store.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gazelit.data.store.films import (
    HEADER_BYTES,
    any_decoded,
    continue_or_set_aside,
    journalled,
    write_images,
)
from gazelit.data.store.prepare import Options, existing, prepare_by, read_source, request_of
from gazelit.data.store.schema import Source
from gazelit.data.store.store import Store
from gazelit.errors import InputError
from gazelit.files import durable_folder, is_free, read_json, resumable_folder, sha256_file, write_json

logger = logging.getLogger("gazelit")

SHARD_FILE = "shard.json"
_FILES = ("images.npy", "work/images.journal")
_BLOCK = 2**24


@dataclass(frozen=True)
class Shard:
    """One of several shares of a source's films, in their order.

    Attributes:
        number: Number of the shard, from 1.
        count: Number of all shards.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads ``3/16``.

        Raises:
            InputError: It is no shard.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"shard: '{text}' is none; write number/count, such as 3/16, from 1/16 to 16/16")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def share(self, films: int) -> slice:
        """The numbers of this shard's films, of so many; shares differ by at most one film."""
        return slice(films * (self.number - 1) // self.count, films * self.number // self.count)

    def folder(self, out: Path) -> Path:
        """Its folder."""
        return folder_of_shards(out) / f"{self.number:05d}-of-{self.count:05d}"


def folder_of_shards(out: Path) -> Path:
    """The folder of a store's shards until they are merged."""
    return out.parent / f".{out.name}-shards"


def prepare_shard(source: Source, out: Path, shard: Shard, options: Options) -> Path:
    """Decodes the films of a shard, or continues with it, or finds that it is done.

    Args:
        source: What to read; the same for all shards.
        out: Folder of the store that they will become.
        shard: The shard.
        options: The options; equal for all shards, except the number of workers.

    Returns:
        The shard's folder.

    Raises:
        InputError: The source cannot be used, or the store exists with other data or options.
    """
    out = Path(out)
    try:
        return _decode(source, out, shard, options)
    finally:
        # Removes the folder if it is empty: a run that finds the store finished leaves nothing. Otherwise it holds
        # shards.
        with suppress(OSError):
            folder_of_shards(out).rmdir()


def _decode(source: Source, out: Path, shard: Shard, options: Options) -> Path:
    recording = read_source(source)
    folder = shard.folder(out)
    with resumable_folder(folder) as building:
        # Films of an earlier request are taken over if they are unchanged.
        if (folder / SHARD_FILE).is_file() and not any_decoded(building):
            shutil.rmtree(building)
            folder.replace(building)
        gaze, request, chosen = request_of(recording, options, building)
        gaze.discard()
        if not is_free(out):
            shutil.rmtree(building)
            existing(out, request, [*recording.images["path"].iloc[chosen], *recording.masks["path"]])
            return out
        was_done = (building / SHARD_FILE).is_file() and read_json(building / SHARD_FILE).get("request") == request
        (building / SHARD_FILE).unlink(missing_ok=True)
        continue_or_set_aside(building, request, options.size, options.bits)
        rows = chosen[shard.share(len(chosen))]
        outcomes = write_images(
            recording.images, rows, building, options.size, options.bits, options.workers, options.max_pixels
        )
        decoded = sum(outcome.reason is None for outcome in outcomes)
        about = {"shard": str(shard), "request": request, "films": len(rows), "decoded": decoded}
        write_json(building / SHARD_FILE, {**about, "sha256": {name: sha256_file(building / name) for name in _FILES}})
        durable_folder(building)
        if folder.exists():
            shutil.rmtree(folder)
        building.replace(folder)
    logger.info("%s: shard %s %s, %d films", out, shard, "is up to date" if was_done else "is done", len(rows))
    return folder


def merge_shards(source: Source, out: Path, options: Options) -> Store:
    """Makes the store of its shards: the same bytes as without them.

    Args:
        source: The source of the shards.
        out: Folder of the store; the shards are removed once it exists.
        options: The options of the shards.

    Raises:
        InputError: Shards are missing, damaged, or of other data or options.
    """
    out = Path(out)

    def assemble(building: Path, request: str, films: int) -> None:
        _assemble(_complete(out), building, request, films)

    store = prepare_by(source, out, options, assemble)
    shutil.rmtree(folder_of_shards(out), ignore_errors=True)
    return store


def _complete(out: Path) -> list[Shard]:
    """The shards of a store, all of them.

    Raises:
        InputError: There are none, or some are missing.
    """
    present: dict[int, set[int]] = {}
    for path in folder_of_shards(out).glob(f"*-of-*/{SHARD_FILE}"):
        shard_number, _, shard_count = path.parent.name.partition("-of-")
        present.setdefault(int(shard_count), set()).add(int(shard_number))
    if not present:
        raise InputError(f"{out}: has no shards to merge; make them with --shard 1/N to N/N")
    missing = {count: sorted(set(range(1, count + 1)) - numbers) for count, numbers in present.items()}
    count = min(missing, key=lambda count: len(missing[count]))
    if missing[count]:
        names = ", ".join(f"{number}/{count}" for number in missing[count][:8])
        more = f" and {len(missing[count]) - 8} more" if len(missing[count]) > 8 else ""
        raise InputError(f"{out}: shards {names}{more} are missing; make them with --shard")
    return [Shard(number, count) for number in range(1, count + 1)]


def _assemble(shards: list[Shard], building: Path, request: str, films: int) -> None:
    """Concatenates the shards' films and journals, as if one process had decoded them.

    Raises:
        InputError: A shard is damaged, or of other data or options.
    """
    images, journal = building / "images.npy", building / "work" / "images.journal"
    out = building.parent / building.name.removeprefix(".").removesuffix("-partial")
    with images.open("wb") as all_films, journal.open("wb") as all_lines:
        all_films.write(bytes(HEADER_BYTES))
        for shard in shards:
            folder = shard.folder(out)
            about = read_json(folder / SHARD_FILE)
            if about.get("request") != request:
                raise InputError(f"{out}: shard {shard} is of other data or options; run it again with --shard {shard}")
            for name, target in zip(_FILES, (all_films, all_lines), strict=True):
                digest = hashlib.sha256()
                with (folder / name).open("rb") as file:
                    if name == _FILES[0]:
                        digest.update(file.read(HEADER_BYTES))
                    while block := file.read(_BLOCK):
                        digest.update(block)
                        target.write(block)
                if digest.hexdigest() != about["sha256"][name]:
                    raise InputError(
                        f"{folder / name}: is not what was written; remove {folder} and run --shard {shard} again"
                    )
    found = len(journalled(journal))
    if found != films:
        raise InputError(f"{out}: its shards have {found} films, the source {films}; run them again with --shard")
