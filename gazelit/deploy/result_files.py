"""The files of results: for each film JSON, map, overlay and DICOM objects; for all of them one table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gazelit import __version__
from gazelit.deploy.film_names import NamedFilm
from gazelit.deploy.inference import LoadedModel
from gazelit.deploy.reading import Reading
from gazelit.files import atomic_path, read_json, write_json
from gazelit.spreadsheet import harmless

FAILED_FILE = "failed.csv"
TABLE_NAME = "predictions"
#: Rows of the table that are in memory at a time.
_ROWS = 4096
#: Ends the name of a column of standard deviations.
_DEVIATION = " SD"

Saliency = Literal["working", "full", "none"]
#: A film that could not be read, and the reason, which begins with its path.
Failure = tuple[NamedFilm, str]


@dataclass(frozen=True)
class ResultKinds:
    """Which files are written for each film.

    Attributes:
        saliency: The map at ``working`` resolution, at the film's (``full``), or ``none``.
        overlay: Whether the overlay is written.
        by_file: Whether results name the film's file.
    """

    saliency: Saliency = "working"
    overlay: bool = True
    by_file: bool = False


class ResultFolder:
    """A folder of results.

    Args:
        out: The folder.
        kinds: Which files are written.
    """

    def __init__(self, out: Path, kinds: ResultKinds) -> None:
        self.out, self.kinds = out, kinds

    def json_path(self, name: str) -> Path:
        """The file that is written last; if it exists, a film is done."""
        return self.out / f"{name}.json"

    def is_done(self, film: NamedFilm) -> bool:
        """Whether a film's results are all there."""
        return bool(film.name) and self.json_path(film.name).is_file()

    def objects(self, film: NamedFilm) -> list[Path]:
        """The DICOM files of a film's results."""
        names = read_json(self.json_path(film.name)).get("dicom", {})
        return [self.out / name for name in names.values()]

    def write(self, model: LoadedModel, film: NamedFilm, reading: Reading, objects: dict[str, bytes]) -> None:
        """Writes the files of one film, the JSON file that names the others last.

        Args:
            model: The model that reads.
            film: The film.
            reading: The reading of the film.
            objects: DICOM files by kind.
        """
        result: dict[str, Any] = {"film": film.name}
        if self.kinds.by_file:
            result["file"] = Path(film.path).name
        result |= described(model, reading)
        map_ = self._map(reading)
        if map_ is not None:
            path = self.out / f"{film.name}_saliency.npy"
            array = io.BytesIO()
            np.save(array, map_)
            with atomic_path(path) as temporary:
                # Not by NumPy, whose error does not show that a disk is full.
                temporary.write_bytes(array.getbuffer())
            result["saliency"] = path.name
            if self.kinds.saliency == "working":
                box = reading.letterbox
                result["letterbox"] = {
                    "height": box.inner[0], "width": box.inner[1], "top": box.top, "left": box.left,
                }  # fmt: skip
        if self.kinds.overlay and reading.working_saliency is not None:
            path = self.out / f"{film.name}_overlay.png"
            with atomic_path(path) as temporary:
                # Three times as fast as Pillow's, and the pixels are the same.
                picture = np.asarray(reading.overlay())[..., ::-1]
                temporary.write_bytes(cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())
            result["overlay"] = path.name
        pictures = [
            ("scanpath", "scanpath", bool(reading.scanpaths), reading.scanpath_picture),
            ("regions_picture", "regions", reading.regions is not None, reading.regions_picture),
        ]
        for key, suffix, is_there, picture_of in pictures:
            if self.kinds.overlay and is_there:
                path = self.out / f"{film.name}_{suffix}.png"
                with atomic_path(path) as temporary:
                    picture_of().save(temporary, "PNG")
                result[key] = path.name
        for kind, content in objects.items():
            path = self.out / f"{film.name}_{kind}.dcm"
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
            result.setdefault("dicom", {})[kind] = path.name
        write_json(self.json_path(film.name), result)

    def _map(self, reading: Reading) -> NDArray[np.float32] | None:
        # Made only if needed: at the film's size it takes as long as all the rest.
        if self.kinds.saliency == "none":
            return None
        return reading.saliency if self.kinds.saliency == "full" else reading.working_saliency

    def remove(self, names: Iterable[str]) -> None:
        """Removes the results of films, first the file that marks them as done."""
        for name in names:
            self.json_path(name).unlink(missing_ok=True)

    def write_table(self, model: LoadedModel, films: Sequence[NamedFilm], suffix: Literal["csv", "parquet"]) -> None:
        """Writes ``predictions.csv`` or ``.parquet``: one row a film that was read, in the order of the films.

        Args:
            model: Its classes are the columns of probabilities.
            films: All films.
            suffix: ``.csv`` or ``.parquet``.
        """
        path = self.out / f"{TABLE_NAME}.{suffix}"
        columns = self._columns(model)
        rows = (self._row(film, columns) for film in films if self.is_done(film))
        with atomic_path(path) as temporary:
            if suffix == "csv":
                with temporary.open("w", newline="", encoding="utf-8") as file:
                    table = csv.DictWriter(file, list(columns), restval="")
                    table.writeheader()
                    for row in rows:
                        table.writerow({key: harmless(value) for key, value in row.items()})
            else:
                schema = pa.schema(columns)
                with pq.ParquetWriter(temporary, schema) as writer:
                    for block in _blocks(rows, _ROWS):
                        writer.write_table(pa.Table.from_pylist(block, schema=schema))

    def write_failures(self, failures: Sequence[Failure]) -> None:
        """Writes ``failed.csv``, a row a film that was not read; without one, removes that of an earlier run."""
        path = self.out / FAILED_FILE
        if not failures:
            path.unlink(missing_ok=True)
            return
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["position", *(["file"] if self.kinds.by_file else []), "reason"])
            for film, reason in failures:
                # The reason begins with the file's path, which may hold what identifies a patient.
                bare = reason.removeprefix(f"{film.path}: ")
                names = [harmless(Path(film.path).name)] if self.kinds.by_file else []
                table.writerow([film.position, *names, bare])

    def _columns(self, model: LoadedModel) -> dict[str, pa.DataType]:
        text, number = pa.string(), pa.float64()
        columns = {"film": text, "position": pa.int64()}
        if self.kinds.by_file:
            columns["file"] = text
        columns |= dict.fromkeys(model.class_names, number)
        if model.members or model.dropout_passes:
            columns |= {f"{name}{_DEVIATION}": number for name in model.class_names}
        if model.guards is not None and model.guards.conformal is not None:
            columns["prediction_set"] = text
        return columns | {"warnings": text, "height": pa.int64(), "width": pa.int64()}

    def _row(self, film: NamedFilm, columns: Iterable[str]) -> dict[str, Any]:
        result = read_json(self.json_path(film.name))
        prediction_set = result.get("prediction_set", [])
        if isinstance(prediction_set, dict):
            prediction_set = [f"{name} {state}" for name, state in prediction_set.items()]
        deviations = result.get("spread", {}).get("deviations", {})
        values = {
            **result["probabilities"],
            **{f"{name}{_DEVIATION}": value for name, value in deviations.items()},
            **{name: result.get(name) for name in ("file", "height", "width")},
            "film": film.name,
            "position": film.position,
            "prediction_set": "; ".join(prediction_set),
            "warnings": "; ".join(result["warnings"]),
        }
        return {name: values.get(name) for name in columns}


def described(model: LoadedModel, reading: Reading) -> dict[str, Any]:
    """A reading as JSON: the results and the model; of the film only its size."""
    result: dict[str, Any] = {
        "height": reading.shape[0],
        "width": reading.shape[1],
        "probabilities": reading.probabilities,
    }
    if reading.prediction_set is not None and model.guards is not None and model.guards.conformal is not None:
        result |= {"prediction_set": reading.prediction_set, "coverage": model.guards.conformal.coverage}
    if reading.spread is not None:
        result["spread"] = vars(reading.spread)
    if reading.scanpaths:
        result["scanpaths"] = [scanpath.primitives() for scanpath in reading.scanpaths]
    if reading.regions is not None:
        result["regions"] = reading.regions.primitives()
    return result | {
        "warnings": list(reading.warnings),
        "notice": reading.notice,
        "model": {
            "checkpoint_sha256": model.sha256,
            "stage": model.stamp["stage"],
            "trained_on_synthetic_data": model.is_of_simulated_films,
            "gazelit": __version__,
        },
    }


def _blocks(rows: Iterable[dict[str, Any]], length: int) -> Iterator[list[dict[str, Any]]]:
    block: list[dict[str, Any]] = []
    for row in rows:
        block.append(row)
        if len(block) == length:
            yield block
            block = []
    if block:
        yield block
