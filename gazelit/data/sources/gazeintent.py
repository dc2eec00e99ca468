"""GazeIntent: readings of EGD-CXR and REFLACX with the findings for each fixation, over MIMIC-CXR's films."""

from __future__ import annotations

from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.sources.canvas import begin_times
from gazelit.data.sources.gazesearch import (
    OFFICIAL_SPLITS,
    end_to_end,
    films_read,
    path_of,
    read_records,
    strictest_split,
)
from gazelit.data.sources.mimic import MIMICCXR
from gazelit.data.sources.plausible import require_seconds
from gazelit.data.store.schema import PHRASE_COLUMNS, Recording, Source, is_synthetic
from gazelit.data.tables import is_text
from gazelit.errors import InputError

KEYS = ("name", "X", "Y", "T", "findings", "split")
#: Marks a fixation that was for no finding.
NOTHING = "null"


class GazeIntent(Source):
    """GazeIntent (RadSeq, RadExplore, RadHybrid): the findings for each fixation of a reading, inferred by its authors.

    Format, from the authors' own reader (UARK-AICV/RadGazeIntent, common/utils.py): a JSON list of records ``name``
    (``<dicom_id>.jpg``), ``X``, ``Y`` (pixels of the film resized to 224 × 224), ``T``, ``split`` (``train``, ``test``)
    and ``findings``: tracks as long as the scanpath, each with a finding or ``null`` for every fixation. The files
    themselves are gated and were not seen. Two assumptions, as in GazeSearch by the same authors: ``T`` is in seconds,
    and ``name`` is MIMIC-CXR's dicom id. Readers are not given; each record is a reading of its film.

    The findings of fixations become the store's phrases, with the times of the fixations. So ``gaze.window``,
    ``gaze.phrases`` and ``gazelit phrases`` can use them like dictated phrases. Labels are 1 for the findings of any
    fixation on a film, and unknown for others. A film with all films of its patient belongs to the strictest part of
    the official split that it is in.

    Access: Hugging Face, gated, CC BY-NC-SA 4.0; the films are PhysioNet's, credentialed. Citation: Pham et al.,
    Interpreting radiologist's intention from eye movements in chest X-ray diagnosis, ACM MM 2025.

    Args:
        gaze: The JSON file.
        images: The MIMIC-CXR (DICOM) or MIMIC-CXR-JPG folder.
        tables: Folder of MIMIC-CXR's tables, if they lie elsewhere.
    """

    name = "gazeintent"

    def __init__(self, gaze: str, images: str, tables: str | None = None) -> None:
        self.gaze = Path(gaze)
        self._mimic = MIMICCXR(images, tables, labels="none", views=())

    def read(self) -> Recording:
        """See :class:`gazelit.data.store.schema.Source`."""
        table, paths, tracks = read_gazeintent(self.gaze)
        films, skipped = films_read(self._mimic, table["image_id"], self.gaze)
        has_film = table["image_id"].isin(films["image_id"])
        numbers = np.flatnonzero(has_film)
        table = table[has_film].reset_index(drop=True)
        table = table.merge(films[["image_id", "patient_id", "height", "width"]], on="image_id")
        table["reading_id"] = table["image_id"] + ":" + table.groupby("image_id").cumcount().astype(str)
        strictest = strictest_split(table["official_split"], table["patient_id"])
        films = films.assign(source=self.name)
        films["official_split"] = films["image_id"].map(strictest.groupby(table["image_id"]).first())
        shared = int((table.groupby("image_id")["official_split"].nunique() > 1).sum())
        phrases = _phrases(table, [paths[number] for number in numbers], [tracks[number] for number in numbers])
        findings = sorted(phrases["text"].unique())
        for finding in findings:
            seen = films["image_id"].isin(phrases.loc[phrases["text"] == finding, "image_id"])
            films[finding] = np.where(seen, 1.0, np.nan)
        return Recording(
            films,
            findings,
            partial(end_to_end, table, [paths[number] for number in numbers]),
            is_synthetic(self._mimic.root),
            skipped,
            {"scanpaths": len(table), "films_in_several_official_splits": shared},
            phrases=phrases,
            readings=table[["image_id", "reading_id"]].assign(reader_id=""),
        )


Tracks = list[list[str]]


def read_gazeintent(path: str | Path) -> tuple[pd.DataFrame, list[NDArray[np.float64]], list[Tracks]]:
    """Reads a GazeIntent file.

    Returns:
        ``image_id`` and ``official_split``, one row a scanpath; of each (n, 3) x, y and seconds; and its tracks, n
        findings or ``null`` each.

    Raises:
        InputError: The file is no list of records with ``name``, ``X``, ``Y``, ``T``, ``findings`` and ``split``; a
            record's lists differ in length or hold what cannot be; or the times cannot be seconds.
    """

    def read(record: Any) -> tuple[tuple[str, str], NDArray[np.float64], Tracks]:
        row, fixations = _row(record), path_of(record)
        return row, fixations, _tracks(record["findings"], len(fixations))

    rows, paths, tracks = map(list, zip(*read_records(path, KEYS, "GazeIntent", read), strict=True))
    require_seconds(Path(path), np.concatenate(paths)[:, 2], "T")
    return pd.DataFrame(rows, columns=["image_id", "official_split"]), paths, tracks


def _row(record: Any) -> tuple[str, str]:
    missing = [key for key in KEYS if not isinstance(record, dict) or key not in record]
    if missing:
        hint = "; a GazeSearch file has none: take --source GazeSearch" if missing == ["findings"] else ""
        raise InputError(f"{', '.join(missing)} is missing{hint}")
    if not is_text(record["name"]):
        raise InputError("name is not text")
    if not isinstance(record["split"], str) or record["split"] not in OFFICIAL_SPLITS:
        raise InputError(f"split is none of {', '.join(OFFICIAL_SPLITS)}")
    return record["name"].removesuffix(".jpg"), OFFICIAL_SPLITS[record["split"]]


def _tracks(value: Any, length: int) -> Tracks:
    is_sound = isinstance(value, list) and all(
        isinstance(track, list) and len(track) == length and all(is_text(name) for name in track) for track in value
    )
    if not is_sound:
        raise InputError(f"findings must be lists of {length} names, one for each fixation")
    return value


def _phrases(table: pd.DataFrame, paths: list[NDArray[np.float64]], tracks: list[Tracks]) -> pd.DataFrame:
    """A phrase for each run of fixations for the same finding."""
    rows = []
    for reading, path, own in zip(table.itertuples(), paths, tracks, strict=True):
        begins, ends = begin_times(path[:, 2]), np.cumsum(path[:, 2])
        for track in own:
            first = 0
            for finding, run in groupby(track):
                last = first + len(list(run))
                if finding != NOTHING:
                    rows.append((reading.image_id, reading.reading_id, finding, begins[first], ends[last - 1]))
                first = last
    return pd.DataFrame(rows, columns=list(PHRASE_COLUMNS))
