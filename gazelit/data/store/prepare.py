"""From a source to a prepared store: in parallel, resumable, and with the same bytes after any interruption."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit import __version__
from gazelit.data.images.decoding import Identity, Job, Outcome
from gazelit.data.images.dicom import MAX_PIXELS
from gazelit.data.images.geometry import Letterbox
from gazelit.data.store.digests import record_digests
from gazelit.data.store.films import (
    any_decoded,
    changed_files,
    continue_or_set_aside,
    write_identities,
    write_images,
    write_masks,
)
from gazelit.data.store.gaze_rows import GazeRows
from gazelit.data.store.inputs import Inputs
from gazelit.data.store.schema import Recording, Source
from gazelit.data.store.store import FORMAT, LETTERBOX_COLUMNS, STORE_FILE, Store
from gazelit.errors import InputError
from gazelit.files import is_free, publish_folder, resumable_folder, sha256_json, write_json

logger = logging.getLogger("gazelit")

_CASE_TABLES = ("regions", "phrases", "readings")


def prepare(
    source: Source,
    out: Path,
    size: tuple[int, int] = (640, 512),
    bits: int = 8,
    require_gaze: bool | None = None,
    strict: bool = False,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Store:
    """Reads a source into a prepared store.

    The same source and options give the same bytes, whatever the number of workers and interruptions. After an
    interruption the finished part is in ``.<name>-partial`` beside the store, and the next run continues from there.
    Films whose files are unchanged are not decoded again, even if the request has changed. A finished store with the
    same request is left as it is. Films are decoded in processes of their own: one that crashes, hangs or takes too
    much memory is left out and listed.

    Args:
        source: What to read, such as ``EGDCXR``.
        out: Folder of the store; it appears when it is complete.
        size: Working resolution as height and width, multiples of 32; the aspect ratio is kept, the rest padded.
        bits: Depth of the stored images, 8 or 16.
        require_gaze: Leave out images without valid gaze; unless given, it is done if the source has any gaze.
        strict: Stop with an error if a case has to be left out; decoded films are kept for the next run.
        workers: Processes that decode; as many as cores unless given.
        max_pixels: Leave out films that claim more pixels; memory for one film is bounded in proportion.

    Returns:
        The store.

    Raises:
        InputError: The source or an option cannot be used, ``out`` holds something else, or no case is left.
    """
    return prepare_by(source, Path(out), Options(size, bits, require_gaze, strict, workers, max_pixels))


@dataclass(frozen=True)
class Options:
    """Options of :func:`prepare`.

    Raises:
        InputError: One is impossible.
    """

    size: tuple[int, int]
    bits: int
    require_gaze: bool | None
    strict: bool
    workers: int | None
    max_pixels: int

    def __post_init__(self) -> None:
        if len(self.size) != 2 or any(side < 32 or side % 32 for side in self.size):
            raise InputError(f"size: {list(self.size)} must be a height and a width, each a multiple of 32")
        if self.bits not in (8, 16):
            raise InputError(f"bits: must be 8 or 16, not {self.bits}")
        for name, value in (("workers", self.workers), ("max_pixels", self.max_pixels)):
            if value is not None and value < 1:
                raise InputError(f"{name}: must be at least 1, not {value}")

    def of_content(self) -> dict[str, Any]:
        """The options that the store's content depends on."""
        return {
            "size": list(self.size),
            "bits": self.bits,
            "require_gaze": self.require_gaze,
            "max_pixels": self.max_pixels,
        }


def prepare_by(
    source: Source, out: Path, options: Options, assemble: Callable[[Path, str, int], None] | None = None
) -> Store:
    """Reads a source into a prepared store; see :func:`prepare`.

    Args:
        source: What to read.
        out: Folder of the store.
        options: The options.
        assemble: Puts films that were decoded elsewhere into the folder that becomes the store, given that folder, the
            request and the number of films.

    Raises:
        InputError: As :func:`prepare`, and those of ``assemble``.
    """
    # Before anything is read, so that changes during the run count as another input.
    inputs = Inputs.of(source, {"format": FORMAT, **options.of_content()})
    if inputs is not None and (out / STORE_FILE).is_file() and inputs.unchanged(out):
        store = Store.open(out)
        logger.info("%s: is up to date", out)
        return store
    recording = read_source(source)
    if recording.skipped:
        # A film that was missing may exist now; only reading the source finds it.
        inputs = None
    if not is_free(out) and not (out / STORE_FILE).is_file():
        raise InputError(f"{out}: exists and is no store; choose another --out")
    with resumable_folder(out) as building:
        try:
            return _build(recording, source, out, building, options, assemble, inputs)
        except InputError:
            if not any_decoded(building):
                shutil.rmtree(building, ignore_errors=True)
            raise


def read_source(source: Source) -> Recording:
    """Reads a source and checks its tables.

    Raises:
        InputError: It cannot be used, or lists nothing.
    """
    recording = source.read()
    recording.check()
    if recording.images.empty:
        reason = recording.skipped[0][1] if recording.skipped else "the source lists none"
        raise InputError(f"no case is left; first reason: {reason}")
    return recording


def request_of(recording: Recording, options: Options, building: Path) -> tuple[GazeRows, str, NDArray[np.int64]]:
    """The spooled gaze, the hash of all that the store depends on, and the images that are wanted.

    Args:
        recording: The content of the source; images that are left out without gaze are added to those skipped.
        options: The options.
        building: The folder in which the gaze is kept until it is written.
    """
    gaze = GazeRows.spool(recording, building)
    content = {"format": FORMAT, "options": options.of_content(), "tables": _digest(recording), "gaze": gaze.digest}
    if gaze.seen.any() if options.require_gaze is None else options.require_gaze:
        recording.skipped += [(image, "no valid gaze") for image in recording.images.loc[~gaze.seen, "image_id"]]
        return gaze, sha256_json(content), np.flatnonzero(gaze.seen)
    return gaze, sha256_json(content), np.arange(len(recording.images))


def _build(
    recording: Recording,
    source: Source,
    out: Path,
    building: Path,
    options: Options,
    assemble: Callable[[Path, str, int], None] | None,
    inputs: Inputs | None,
) -> Store:
    """Makes the store in ``building`` and renames it, or finds that it exists already."""
    gaze, request, chosen = request_of(recording, options, building)
    films = [*recording.images["path"].iloc[chosen], *recording.masks["path"]]
    if not is_free(out):
        shutil.rmtree(building)
        store = existing(out, request, films)
        if inputs is not None:
            inputs.record(out, films)
        return store
    _report_skipped(recording.skipped, building, options.strict)
    if not len(chosen):
        raise InputError(f"no case is left of {len(recording.images)}; first reason: {recording.skipped[0][1]}")
    continue_or_set_aside(building, request, options.size, options.bits)
    if assemble is not None:
        assemble(building, request, len(chosen))
    outcomes = write_images(
        recording.images, chosen, building, options.size, options.bits, options.workers, options.max_pixels
    )
    done = np.array([outcome.reason is None for outcome in outcomes])
    kept = chosen[done]
    failed = [
        (recording.images["image_id"].iloc[row], outcome.reason)
        for row, outcome in zip(chosen, outcomes, strict=True)
        if outcome.reason is not None
    ]
    skipped = [*recording.skipped, *failed]
    if not len(kept):
        raise InputError(f"no case is left of {len(recording.images)}; first reason: {failed[0][1]}")
    _report_skipped(failed, building, options.strict, chosen[~done])
    counts, ppd = gaze.write(kept, building)
    photometric = [outcome.photometric for outcome in outcomes if outcome.reason is None]
    cases = _write_tables(recording, kept, photometric, options.size, building)
    mask_outcomes, lost = _write_masks(recording, kept, options, building)
    skipped += lost
    pd.DataFrame(skipped, columns=["image_id", "reason"]).to_csv(building / "skipped.csv", index=False)
    write_identities(building, [*outcomes, *mask_outcomes])
    if inputs is not None:
        inputs.record(building, films)
    shutil.rmtree(building / "work")
    names = sorted(path.name for path in building.iterdir() if path.suffix in (".npy", ".parquet"))
    about = {
        "format": FORMAT,
        "version": __version__,
        "source": source.name,
        "source_options": source.options(),
        "synthetic": recording.synthetic,
        **options.of_content(),
        "label_columns": recording.label_columns,
        "counts": {
            "cases": len(cases),
            "patients": int(cases["patient_id"].nunique()),
            "skipped": len(skipped),
            **counts,
            "masks": sum(outcome.reason is None for outcome in mask_outcomes),
            **{name: int(getattr(recording, name)["image_id"].isin(cases["image_id"]).sum()) for name in _CASE_TABLES},
        },
        "notes": recording.notes,
        # σ of one degree on an average image of the store (x, y); null if the source gives no visual angle.
        "pixels_per_degree": ppd,
        "bytes": {name: (building / name).stat().st_size for name in names},
        "request": request,
        **record_digests(building, names),
    }
    write_json(building / STORE_FILE, about)
    publish_folder(building, out)
    logger.info("%s: %d cases, %d left out", out, len(cases), len(skipped))
    return Store.open(out)


def existing(out: Path, request: str, paths: list[str]) -> Store:
    """A finished store, if it is of this request and its films are unchanged.

    Raises:
        InputError: It is of another request, or films have changed.
    """
    store = Store.open(out)
    if store.about["request"] != request:
        raise InputError(f"{out}: a store of other data or options; choose another --out, or remove it")
    if changed := changed_files(out, paths):
        raise InputError(
            f"{out}: a store of other data or options: the content of {changed} of its {len(paths)} films and masks "
            "has changed since; choose another --out, or remove it"
        )
    logger.info("%s: is up to date", out)
    return store


def _report_skipped(
    skipped: list[tuple[str, str]], building: Path, strict: bool, rows: NDArray[np.int64] | None = None
) -> None:
    """Logs how many were left out, and in which rows; ids and paths are only in ``skipped.csv``."""
    if not skipped:
        return
    path = building / "skipped.csv"
    pd.DataFrame(skipped, columns=["image_id", "reason"]).to_csv(path, index=False)
    if strict:
        raise InputError(
            f"{len(skipped)} cases cannot be used; the first: {skipped[0][1]}; all are listed in {path}; "
            "mend them, or leave out --strict; what was decoded is kept"
        )
    where = "" if rows is None else f" (rows {', '.join(map(str, rows[:5]))}{', …' if len(rows) > 5 else ''} of images)"
    logger.warning("left out %d%s: see skipped.csv in the store for the reasons", len(skipped), where)


def _digest(recording: Recording) -> str:
    """Hash of everything that the store is made of, without the gaze, and with the sizes of files instead of pixels."""
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
    sizes = [Identity.of(path).size for path in table["path"]]
    return table.drop(columns="path").assign(bytes=np.array(sizes, np.int64))


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
    """A table of items that belong to images, with the case's row instead of the id."""
    row = pd.Index(cases["image_id"]).get_indexer(table["image_id"])
    numbered = table.drop(columns="image_id")
    numbered.insert(0, "row", row.astype(np.int32))
    return numbered[row >= 0].sort_values("row", kind="stable", ignore_index=True)


def _write_masks(
    recording: Recording, kept: NDArray[np.int64], options: Options, folder: Path
) -> tuple[list[Outcome], list[tuple[str, str]]]:
    """Writes ``masks.npy`` and ``masks.parquet``.

    Returns:
        The outcome of every mask of the recording, in its order, and the masks that cannot be read.
    """
    images = recording.images.iloc[kept].reset_index(drop=True)
    table = _by_row(recording.masks, images)
    sizes = images[["height", "width"]].astype(int).to_numpy().tolist()
    jobs: list[Job] = [(path, (sizes[row][0], sizes[row][1])) for row, path in table[["row", "path"]].to_numpy()]
    outcomes = write_masks(jobs, folder, options.size, options.workers, options.max_pixels)
    written = np.array([outcome.reason is None for outcome in outcomes], bool)
    lost = [
        (images["image_id"].iloc[row], outcome.reason)
        for row, outcome in zip(table["row"], outcomes, strict=True)
        if outcome.reason is not None
    ]
    table[written].drop(columns="path").to_parquet(folder / "masks.parquet", index=False)
    by_path = {path: outcome for (path, _), outcome in zip(jobs, outcomes, strict=True)}
    return [by_path.get(path) or Outcome(file=Identity.of(path)) for path in recording.masks["path"]], lost
