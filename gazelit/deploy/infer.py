"""``gazelit infer``: reads any number of films with a trained model, and continues after an interruption."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gazelit import __version__
from gazelit.data.images.dicom import MAX_PIXELS
from gazelit.data.images.film_intake import FilmIntake
from gazelit.deploy.ahead import Behind, read_ahead
from gazelit.deploy.dicom.keys import folder_key
from gazelit.deploy.film_list import film_files
from gazelit.deploy.film_names import RUN_FILE, NamedFilm, named_films
from gazelit.deploy.inference import LoadedModel
from gazelit.deploy.objects import DEFAULT_KINDS, DicomOptions, Kind, objects_of
from gazelit.deploy.preparing import Preparation, Prepared
from gazelit.deploy.reading import Reading
from gazelit.deploy.region import SHARE
from gazelit.deploy.result_files import FAILED_FILE, TABLE_NAME, Failure, ResultFolder, ResultKinds, Saliency
from gazelit.deploy.scanpaths import readers_to_show
from gazelit.deploy.servers import Servers
from gazelit.deploy.together import load_together
from gazelit.errors import InputError
from gazelit.files import read_json, sha256_file, write_json

logger = logging.getLogger("gazelit")

#: Greatest number of films, or reasons, in the last line; the table of failures has all of them.
_NAMED = 5


def infer(
    files: list[str],
    ckpt: Path | list[Path],
    out: Path,
    overwrite: bool = False,
    max_pixels: int = MAX_PIXELS,
    device: str = "cpu",
    batch_size: int = 8,
    workers: int = 1,
    names: Literal["uid", "file"] = "uid",
    saliency: Saliency = "working",
    overlay: bool = True,
    table: Literal["csv", "parquet"] = "csv",
    mc_dropout: int = 0,
    guards: Path | None = None,
    reader: list[str] | None = None,
    dicom: bool | list[Kind] = False,
    share: float = SHARE,
    deidentify: bool = False,
    from_: str | None = None,
    study: str | None = None,
    to: str | None = None,
) -> None:
    """Reads DICOM, PNG or JPEG films with a trained model.

    Writes, per film, ``<name>.json`` (class probabilities, warnings and where the model comes from),
    ``<name>_saliency.npy`` (float32 density at working resolution, with its letterbox in the JSON),
    ``<name>_overlay.png`` and the DICOM results of ``dicom``; for all films together ``predictions.csv``, and
    ``failed.csv`` if a film could not be read. Films are decoded in other processes while the network runs. An
    interrupted run continues when the same command is given again. Many arguments, because each is an option of the
    command line.

    Args:
        files: DICOM, PNG or JPEG files, folders of them, patterns such as ``films/*.dcm``, or DICOMDIRs.
        ckpt: A checkpoint written by ``gazelit fit``; of several, their mean and spread are written.
        out: Folder for the results.
        overwrite: Replace results of the same names in ``out``, instead of continuing or refusing.
        max_pixels: Refuse films that claim more pixels.
        device: Where the network runs, such as ``cuda``.
        batch_size: Number of films that the network sees together.
        workers: Number of processes that decode films.
        names: Names of results: ``uid``, a hash of the film's SOPInstanceUID (of a picture's bytes), so that no
            file name gets into the results; or ``file``, the file's name. Of the same name, the second is ``<name>_2``.
        saliency: The map at ``working`` resolution, at the film's (``full``, up to 30 MB a film), or ``none``.
        overlay: Whether overlays are written.
        table: ``csv``, or ``parquet`` with the same columns.
        reader: For a model of scanpaths, readers (``reader_id``, or ``all``) whose expected scanpaths are written into
            the JSON. That of an unknown reader is always written, and drawn (``<name>_scanpath.png``); so are the
            regions of a model that learns them (``<name>_regions.png``).
        mc_dropout: Passes with dropout on; their mean and spread are written. 0 for one pass without.
        guards: A file of ``gazelit guard`` for several checkpoints or passes with dropout.
        dicom: Kinds of DICOM results that are written for DICOM films; without a list, sr and sc. Needs the extra
            ``dicom``.
        share: Share of the map's mass that the outline and the segmentation hold.
        deidentify: Remove the attributes of PS3.15's basic profile from DICOM results.
        from_: Root of a server's DICOMweb services, from which the study's films are fetched.
        study: StudyInstanceUID of these films.
        to: Root of a server's DICOMweb services, to which the DICOM results are sent (STOW-RS).

    Raises:
        InputError: A checkpoint cannot be used or predicts nothing of a film, results of another run are there, or a
            film could not be read (after the others were).
    """
    if batch_size < 1 or workers < 1:
        raise InputError(f"{'batch_size' if batch_size < 1 else 'workers'}: must be at least 1")
    if deidentify and names == "file":
        raise InputError("deidentify: file names may identify patients; leave --names file out")
    kinds = list(DEFAULT_KINDS) if dicom is True or (to and not dicom) else list(dict.fromkeys(dicom or ()))
    servers = Servers.of(from_, study, to)
    if bool(files) == (from_ is not None):
        raise InputError("files: name films, or a server with --from and --study; one of the two")
    model = load_together(ckpt if isinstance(ckpt, list) else [ckpt], device, max_pixels, mc_dropout, guards)
    model = replace(model, readers=readers_to_show(model.network, reader or ()))
    logger.info(model.notice)
    key = folder_key(out) if deidentify else b""
    folder = ResultFolder(out, ResultKinds(saliency, overlay, names == "file"))
    settings = {
        "checkpoint": model.sha256, "gazelit": __version__, "device": device, "batch_size": batch_size, "names": names,
        "saliency": saliency, "overlay": overlay, "mc_dropout": mc_dropout, "dicom": kinds, "share": share,
        "deidentify": deidentify, "guards": None if guards is None else sha256_file(guards),
        **({"readers": list(model.readers)} if model.readers else {}),
    }  # fmt: skip
    with servers.films(files) as given:
        films = named_films(film_files(given), names == "file", max_pixels, key)
        began = _begin(folder, films, settings, overwrite)
        options = DicomOptions(tuple(kinds), share, began, key) if kinds else None
        failures = _Run(model, folder, films, batch_size, workers, options)()
    folder.write_table(model, films, table)
    folder.write_failures(failures)
    logger.info("%d of %d films are read: %s", len(films) - len(failures), len(films), out / f"{TABLE_NAME}.{table}")
    servers.deliver([path for film in films if folder.is_done(film) for path in folder.objects(film)])
    if failures:
        raise InputError(f"{len(failures)} of {len(films)} files could not be read: {_summary(failures, out)}")


def _summary(failures: Sequence[Failure], out: Path) -> str:
    """The films that could not be read; if many, one for each reason, such as for the slices of a CT series."""
    if len(failures) <= _NAMED:
        return "; ".join(reason for _, reason in failures)
    by_reason: dict[str, list[str]] = {}
    for film, reason in failures:
        by_reason.setdefault(reason.removeprefix(film.path), []).append(reason)
    examples = [
        reasons[0] + (f" (and {len(reasons) - 1} more alike)" if len(reasons) > 1 else "")
        for reasons in list(by_reason.values())[:_NAMED]
    ]
    return f"{'; '.join(examples)}; all of them are in {out / FAILED_FILE}"


def _begin(folder: ResultFolder, films: Sequence[NamedFilm], settings: dict[str, Any], overwrite: bool) -> datetime:
    """Checks that the results in the folder are of this run; returns when the run began."""
    record = folder.out / RUN_FILE
    done = [film.name for film in films if folder.is_done(film)]
    earlier = read_json(record) if record.is_file() else None
    if isinstance(earlier, dict) and not overwrite:
        differing = [name for name, value in settings.items() if earlier.get(name) != value]
        if not differing:
            if done:
                logger.info("%d of %d films are done already", len(done), len(films))
            return datetime.fromisoformat(str(earlier["began"]))
        raise InputError(
            f"{folder.out}: holds results of another run (its {', '.join(differing)} differs); "
            "choose another --out, or replace them with --overwrite"
        )
    if done and not overwrite:
        raise InputError(
            f"{folder.out}: holds {len(done)} of the {len(films)} results already, but not how they were made; "
            "choose another --out, or replace them with --overwrite"
        )
    # Before the record changes, so that results of an interrupted run are never taken for those of the new run.
    folder.remove(done)
    began = datetime.now().replace(microsecond=0)
    write_json(record, {**settings, "began": began.isoformat()})
    return began


@dataclass(frozen=True)
class _Run:
    """One pass over the films that are not done."""

    model: LoadedModel
    folder: ResultFolder
    films: Sequence[NamedFilm]
    batch_size: int
    workers: int
    dicom: DicomOptions | None

    def __call__(self) -> list[Failure]:
        """Reads the films; returns those that could not be read, with the reason."""
        batches = self._batches()
        failures = [(film, film.fault) for film in self.films if film.fault]
        paths = (film.path for batch in batches for film in batch)
        preparation = Preparation(self.model.size, keeps_source=self.dicom is not None)
        intake = FilmIntake(preparation, self.model.max_pixels, self.workers)
        with (
            read_ahead(intake.read_each(paths), self.batch_size) as prepared,
            Behind(self.batch_size) as behind,
            _progress(len(self.films)) as say,
        ):
            for _, fault in failures:
                say.warn(fault)
            say.advance(len(self.films) - sum(len(batch) for batch in batches))
            for batch in batches:
                found: list[Prepared | InputError] = [next(prepared) for _ in batch]
                for film, reading in zip(batch, self.model.read(found), strict=True):
                    if isinstance(reading, InputError):
                        failures.append((film, str(reading)))
                        say.warn(str(reading))
                    elif not self.folder.is_done(film):
                        say.result(film.name, reading)
                        behind(partial(self._write, film, reading))
                say.advance(len(batch))
        return sorted(failures, key=lambda failure: failure[0].position)

    def _batches(self) -> list[list[NamedFilm]]:
        """Films that go through the network together, of the batches that are not done.

        The batches do not depend on which films are done, so that a resumed run gives the same bytes.
        """
        readable = [film for film in self.films if not film.fault]
        whole = [readable[first : first + self.batch_size] for first in range(0, len(readable), self.batch_size)]
        return [batch for batch in whole if not all(map(self.folder.is_done, batch))]

    def _write(self, film: NamedFilm, reading: Reading) -> None:
        objects: dict[str, bytes] = {}
        if self.dicom is not None:
            try:
                objects = objects_of(self.model, reading, self.dicom)
            except InputError as error:
                reading = replace(reading, warnings=(*reading.warnings, f"no DICOM result: {error}"))
                logger.warning("%s: %s", film.name, error)
        self.folder.write(self.model, film, reading, objects)


class _Say:
    """Shows messages of the run: above the progress bar on a terminal, otherwise as lines of the log."""

    def __init__(self, bar: Progress | None, total: int) -> None:
        self._bar = bar
        self._task = None if bar is None else bar.add_task("films", total=total)

    def advance(self, count: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, count)

    def result(self, name: str, reading: Reading) -> None:
        summary = ", ".join(f"{label} {value:.3f}" for label, value in reading.probabilities.items())
        if self._bar is None:
            logger.info("%s: %s", name, summary or "saliency map written")
        for warning in reading.warnings:
            self.warn(f"{name}: warning: {warning}")

    def warn(self, text: str) -> None:
        if self._bar is None:
            logger.warning("%s", text)
        else:
            self._bar.console.print(text, markup=False, highlight=False)


@contextmanager
def _progress(total: int) -> Iterator[_Say]:
    if not sys.stderr.isatty():
        yield _Say(None, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield _Say(bar, total)
