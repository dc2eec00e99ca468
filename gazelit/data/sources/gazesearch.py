"""GazeSearch: the fixations that a reader spent on one finding of a film, with the pixels of MIMIC-CXR."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.images.geometry import on_image
from gazelit.data.sources.canvas import begin_times
from gazelit.data.sources.mimic import MIMICCXR
from gazelit.data.sources.plausible import require_seconds
from gazelit.data.store.schema import Recording, Source, is_synthetic
from gazelit.data.tables import is_text
from gazelit.errors import InputError
from gazelit.files import read_json

logger = logging.getLogger("gazelit")

Read = TypeVar("Read")

#: Positions are pixels of the film resized to this side, whatever its shape.
SIDE = 224
KEYS = ("name", "task", "X", "Y", "T", "split")
#: GazeSearch's names of the splits, and ours.
OFFICIAL_SPLITS = {"train": "train", "valid": "val", "test": "test"}
#: From the strictest: a film that is in several belongs to the first.
STRICTNESS = ("test", "val", "train")


@dataclass(frozen=True)
class GazeSearchRows:
    """The rows of a GazeSearch file.

    Attributes:
        table: ``image_id`` (MIMIC's dicom id), ``finding`` and ``official_split``; one row a scanpath.
        paths: (n, 3) float64 each: x, y in pixels of the film resized to 224 × 224, duration in seconds.
    """

    table: pd.DataFrame
    paths: list[NDArray[np.float64]]

    @property
    def shared(self) -> int:
        """Number of films that are in several parts of the official split."""
        return int((self.table.groupby("image_id")["official_split"].nunique() > 1).sum())

    @property
    def leak(self) -> str:
        """The overlap of the official split's parts, in words and counts."""
        table = self.table
        test, train = (table[table["official_split"] == name] for name in ("test", "train"))
        known = test["image_id"].isin(train["image_id"])
        return (
            f"the official split has {self.shared} of {table['image_id'].nunique()} films in several of its parts: "
            f"{test.loc[known, 'image_id'].nunique()} of {test['image_id'].nunique()} test films "
            f"({int(known.sum())} of {len(test)} test scanpaths) are in train under another finding"
        )


def read_gazesearch(path: str | Path, needs_split: bool = True) -> GazeSearchRows:
    """Reads a GazeSearch file.

    Args:
        path: The JSON file.
        needs_split: Whether every record must have a split; predictions of a model have none.

    Raises:
        InputError: The file is no list of records with ``name``, ``task``, ``X``, ``Y``, ``T`` and ``split``; a
            record's lists differ in length or hold what cannot be; a film's finding is listed twice; or the times
            cannot be seconds.
    """
    records = read_records(path, KEYS, "GazeSearch", lambda record: (_row(record, needs_split), path_of(record)))
    table = pd.DataFrame([row for row, _ in records], columns=["image_id", "finding", "official_split"])
    twice = np.flatnonzero(table.duplicated(["image_id", "finding"]))
    if len(twice):
        raise InputError(f"{path}: record {twice[0] + 1}: the same film and task as in an earlier record")
    paths = [fixations for _, fixations in records]
    require_seconds(Path(path), np.concatenate(paths)[:, 2], "T")
    return GazeSearchRows(table, paths)


def read_records(path: str | Path, keys: Sequence[str], dataset: str, read: Callable[[Any], Read]) -> list[Read]:
    """Reads the records of a JSON file.

    Args:
        path: The file.
        keys: Keys of a record, for messages.
        dataset: Name of the dataset, for messages.
        read: Converts a record; raises InputError.

    Raises:
        InputError: The file is no list of records, or one of them cannot be read.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise InputError(f"{path}: must hold a list of records with {', '.join(keys)}; is this {dataset}?")
    found = []
    for number, record in enumerate(content, start=1):
        try:
            found.append(read(record))
        except InputError as error:
            raise InputError(f"{path}: record {number}: {error}") from error
    return found


def _row(record: Any, needs_split: bool) -> tuple[str, str, str]:
    keys = KEYS if needs_split else KEYS[:-1]
    if not isinstance(record, dict) or any(key not in record for key in keys):
        raise InputError(f"must have {', '.join(keys)}")
    if not is_text(record["name"]) or not is_text(record["task"]):
        raise InputError("name or task is not text")
    split = record["split"] if needs_split else "test"
    if not isinstance(split, str) or split not in OFFICIAL_SPLITS:
        raise InputError(f"split is none of {', '.join(OFFICIAL_SPLITS)}")
    return record["name"].removesuffix(".jpg"), record["task"], OFFICIAL_SPLITS[split]


def path_of(record: dict[str, Any]) -> NDArray[np.float64]:
    """The fixations of a record with ``X``, ``Y`` and ``T``, (n, 3) as x, y and seconds.

    Raises:
        InputError: The lists differ in length or hold what cannot be.
    """
    lists = [record[key] for key in ("X", "Y", "T")]
    if not all(isinstance(values, list) for values in lists) or len({len(values) for values in lists}) != 1:
        raise InputError("X, Y and T must be lists of one length")
    try:
        path = np.array(lists, np.float64).T
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("X, Y or T holds a value that is not a number") from error
    if path.ndim != 2 or not np.isfinite(path).all() or (path[:, 2] < 0).any():
        raise InputError("X, Y or T holds what is no finite number, or a negative time")
    if (path[:, :2] < 0).any() or (path[:, :2] > SIDE).any():
        raise InputError(f"X or Y is off the {SIDE} × {SIDE} pixels")
    return path


def leak_free(table: pd.DataFrame, patients: pd.Series | None = None) -> pd.Series:
    """The official split without its leak: each scanpath's split, NaN where it has to be left out.

    A film in several parts belongs to the strictest of them (test, then val, then train), with all films of its
    patient; its scanpaths in the other parts are left out. So the test scanpaths stay the official ones, and figures on
    both splits are of the same scanpaths; only scanpaths of a test film that the official split has in other parts are
    left out.

    Args:
        table: ``image_id`` and ``official_split``, one row a scanpath.
        patients: The patient of each row, if known; otherwise only films are kept apart.

    Returns:
        ``train``, ``val``, ``test`` or NaN, indexed as ``table``.
    """
    strictest = strictest_split(table["official_split"], table["image_id"] if patients is None else patients)
    return table["official_split"].where(table["official_split"] == strictest).rename("split")


def strictest_split(split: pd.Series, groups: pd.Series) -> pd.Series:
    """The strictest split that any row of a row's group is in."""
    rank = split.map({name: number for number, name in enumerate(STRICTNESS)})
    return rank.groupby(groups).transform("min").map(dict(enumerate(STRICTNESS)))


class GazeSearch(Source):
    """GazeSearch: 4,875 scanpaths over 2,328 chest X-rays of MIMIC-CXR, each of the search for one finding.

    Format: a JSON list of records ``name`` (``<dicom_id>.jpg``), ``task`` (the finding), ``X``, ``Y`` (pixels of the
    film resized to 224 × 224) and ``T`` (s). They are cut from the readings of EGD-CXR and REFLACX. Readers are not
    given (``subject`` is always 1). Nor are the beginnings of fixations: fixations are put end to end. The findings of
    a film are readings of one image; its labels are 1 for the findings that were searched for and unknown for others.

    The official split has films in several of its parts, so that a model would be tested on films that it was trained
    on. ``split: film`` puts each film, with all its scanpaths and all films of its patient, into the strictest of its
    parts: the test has more scanpaths than the official one. ``official`` needs ``insist``; then every scanpath is a
    separate case, and ``split_method: official_shared`` uses the split.

    Access: the JSON is open (MIT), the films are PhysioNet's, credentialed. Citation: Pham et al., GazeSearch:
    Radiology Findings Search Benchmark, WACV 2025.

    Args:
        gaze: The JSON file.
        images: The MIMIC-CXR (DICOM) or MIMIC-CXR-JPG folder.
        tables: Folder of MIMIC-CXR's tables, if they lie elsewhere.
        split: Content of ``official_split``: ``film``, without the leak, or ``official``.
        insist: Accept the official split although its parts share films.
    """

    name = "gazesearch"

    def __init__(
        self,
        gaze: str,
        images: str,
        tables: str | None = None,
        split: Literal["film", "official"] = "film",
        insist: bool = False,
    ) -> None:
        if split not in ("film", "official"):
            raise InputError(f"split: must be film or official, not {split}")
        self.gaze = Path(gaze)
        self.split = split
        self.insist = insist
        self._mimic = MIMICCXR(images, tables, labels="none", views=())

    def options(self) -> dict[str, Any]:
        """See :class:`gazelit.data.store.schema.Source`."""
        return {"split": self.split, "insist": self.insist}

    def read(self) -> Recording:
        """See :class:`gazelit.data.store.schema.Source`."""
        rows = read_gazesearch(self.gaze)
        if self.split == "official" and rows.shared:
            if not self.insist:
                raise InputError(
                    f"{self.gaze}: {rows.leak}; take split: film, or insist: true for comparison with published figures"
                )
            logger.warning("%s; figures on it are too good", rows.leak)
        films, skipped = films_read(self._mimic, rows.table["image_id"], self.gaze)
        has_film = rows.table["image_id"].isin(films["image_id"])
        table, numbers = rows.table[has_film].reset_index(drop=True), np.flatnonzero(has_film)
        findings = sorted(table["finding"].unique())
        films = films.assign(source=self.name)
        films = films.merge(_searched(table, findings), on="image_id")
        table = table.merge(films[["image_id", "patient_id", "height", "width"]], on="image_id")
        table["reading_id"] = table["image_id"] + ":" + table["finding"]
        if self.split == "film":
            table["split"] = strictest_split(table["official_split"], table["patient_id"])
            films["official_split"] = films["image_id"].map(table.groupby("image_id")["split"].first())
        else:
            films = table[["image_id", "finding", "official_split", "reading_id"]].merge(films, on="image_id")
            for name in findings:
                films[name] = np.where(films["finding"] == name, 1.0, np.nan)
            films = films.drop(columns=["image_id", "finding"]).rename(columns={"reading_id": "image_id"})
            table["image_id"] = table["reading_id"]
        return Recording(
            films,
            findings,
            partial(end_to_end, table, [rows.paths[number] for number in numbers]),
            is_synthetic(self._mimic.root),
            skipped,
            {"scanpaths": len(table), "films_in_several_official_splits": rows.shared},
            readings=table[["image_id", "reading_id", "finding"]].assign(reader_id=""),
        )


def _searched(table: pd.DataFrame, findings: list[str]) -> pd.DataFrame:
    """A column for each finding: 1 where it was searched for, else unknown."""
    searched = pd.crosstab(table["image_id"], table["finding"]).reindex(columns=findings) > 0
    return searched.astype("float64").where(searched).rename_axis(columns=None).reset_index()


def films_read(mimic: MIMICCXR, images: pd.Series, gaze: Path) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """The films of MIMIC-CXR that a file of scanpaths lists, without an official split, and those left out.

    Args:
        mimic: The films.
        images: Their ids, in the order of the file.
        gaze: The file, for messages.

    Raises:
        InputError: None of them is listed.
    """
    listed = mimic.listed()
    searched = listed[listed["image_id"].isin(images)].reset_index(drop=True)
    if searched.empty:
        raise InputError(
            f"{mimic.root}: lists none of the {images.nunique()} films of {gaze}; give the folder of MIMIC-CXR or "
            "MIMIC-CXR-JPG"
        )
    unlisted = images[~images.isin(searched["image_id"])].unique()
    films, skipped = mimic.with_files(searched)
    skipped = [(image, f"{mimic.tables}: lists no film of that id") for image in unlisted] + skipped
    return films.drop(columns="official_split", errors="ignore"), skipped


def end_to_end(table: pd.DataFrame, paths: list[NDArray[np.float64]]) -> Iterator[pd.DataFrame]:
    """Scanpaths as gaze: each fixation begins when the one before has ended.

    Args:
        table: ``image_id``, ``reading_id``, ``width`` and ``height`` of the film, one row a scanpath.
        paths: Of each (n, 3) x, y in pixels of the film resized to 224 × 224, and seconds.
    """
    for reading, path in zip(table.itertuples(), paths, strict=True):
        # Positions are whole pixels of the small film; their centres are taken.
        x, y = ((path[:, axis] + 0.5) * side / SIDE - 0.5 for axis, side in ((0, reading.width), (1, reading.height)))
        duration = path[:, 2]
        yield pd.DataFrame(
            {
                "image_id": reading.image_id,
                "reading_id": reading.reading_id,
                "recording_id": reading.reading_id,
                "t": begin_times(duration),
                "duration": duration,
                "x": x,
                "y": y,
                "valid": on_image(x, y, reading.width, reading.height),
                "kind": "fixation",
            }
        )
