"""REFLACX 1.0.0 with the pixels of MIMIC-CXR or MIMIC-CXR-JPG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.images.geometry import on_image
from gazelit.data.sources.mimic import OFFICIAL_SPLITS, image_file, require_folder
from gazelit.data.sources.views import view_position
from gazelit.data.store.schema import PHRASE_COLUMNS, REGION_COLUMNS, Recording, Source, is_synthetic
from gazelit.data.store.source_files import Folders
from gazelit.data.tables import find_table, numbers, read_chunks, read_text, sides, unique
from gazelit.errors import InputError
from gazelit.files import is_file

DATASET = "REFLACX 1.0.0"
META_COLUMNS = [
    *["id", "split", "eye_tracking_data_discarded", "image", "dicom_id", "subject_id"],
    *["image_size_x", "image_size_y"],
]
#: More are no header of its tables.
MOST_LABELS = 100
#: Labels that are yes or no instead of a certainty, and the label that is free text.
BOOLEAN_LABELS = ("Support devices", "Quality issue")
OTHER_LABEL = "Other"
#: Phase 1 has finer labels; these are their coarser counterparts in phases 2 and 3 (the mapping of MIMIC-Eye).
MERGED = {
    "Emphysema": "High lung volume / emphysema",
    "Mass": "Lung nodule or mass",
    "Nodule": "Lung nodule or mass",
    "Pleural effusion": "Pleural abnormality",
    "Pleural thickening": "Pleural abnormality",
}
SHOWN = {
    "shown_x1": "xmin_shown_from_image",
    "shown_y1": "ymin_shown_from_image",
    "shown_x2": "xmax_shown_from_image",
    "shown_y2": "ymax_shown_from_image",
}
ANGLES = {f"ppd_{axis}": f"angular_resolution_{axis}_pixels_per_degree" for axis in "xy"}
#: Samples come every millisecond; a longer gap is lost tracking (s).
SAMPLE_SECONDS = 0.001
LONGEST_SAMPLE = 0.01
_TRUE, _FALSE = ("true", "1", "1.0"), ("false", "0", "0.0", "")


class REFLACX(Source):
    """REFLACX: 3,032 readings of 2,616 chest X-rays by five radiologists, with 1 kHz gaze and dictation.

    Format: ``main_data/metadata_phase_{1,2,3}.csv`` and a folder for each reading with fixations, ellipses, the chest's
    box and the transcription; ``gaze_data/<id>/gaze.csv``. In phases 1 and 2 five readers read every image; each is
    kept as a separate reading. The readers' identities are not published. Labels: the certainty of each reader (0 to 5)
    counts as present from a threshold on; of several readers the majority decides. A label that a phase does not have
    is unknown. Access: PhysioNet, restricted. Citation: Bigolin Lanfredi et al., Scientific Data 9, 350 (2022), doi
    10.1038/s41597-022-01441-z.

    There is no column for normal images: ``Normal`` is 1 if all certainties are 0 and Other is blank. Readings whose
    gaze the authors discarded have labels and ellipses, but no gaze.

    Args:
        root: The REFLACX folder, which holds ``main_data``.
        images: The MIMIC-CXR (DICOM) or MIMIC-CXR-JPG folder that holds ``files/``.
        phases: Phases to read.
        kinds: Kinds of gaze to read: ``fixation``, raw ``sample`` (10 GB), or both.
        certainty: Least certainty that counts as present; the authors' own is 3, "possibly".
        merge_labels: Whether phase 1's finer labels go into the coarser ones of phases 2 and 3 (the highest certainty
            counts); otherwise all are separate labels.
    """

    name = "reflacx"

    def __init__(
        self,
        root: str,
        images: str,
        phases: Sequence[Literal[1, 2, 3]] = (1, 2, 3),
        kinds: tuple[Literal["sample", "fixation"], ...] = ("fixation",),
        certainty: int = 3,
        merge_labels: bool = True,
    ) -> None:
        if not phases:
            raise InputError("phases: name at least one of 1, 2 and 3")
        if not 1 <= certainty <= 5:
            raise InputError(f"certainty: must be 1 to 5, not {certainty}")
        self.root = Path(root)
        self.images = Path(images)
        self.phases = sorted(set(phases))
        self.kinds = tuple(kinds)
        self.certainty = certainty
        self.merge_labels = merge_labels

    def files(self) -> Folders:
        """See :class:`gazelit.data.store.schema.Source`."""
        return Folders(self.root, self.images)

    def read(self) -> Recording:
        """See :class:`gazelit.data.store.schema.Source`."""
        require_folder(self.root, "REFLACX")
        require_folder(self.images, "MIMIC-CXR or MIMIC-CXR-JPG")
        readings, names = self._readings()
        skipped: list[tuple[str, str]] = []
        images, labels = self._image_table(readings, names, skipped)
        readings = readings[readings["image_id"].isin(images["image_id"])].reset_index(drop=True)
        present = readings[~readings["discarded"]]
        return Recording(
            images,
            labels,
            partial(self._all_gaze, present, skipped),
            is_synthetic(self.root),
            skipped,
            {"readings": len(readings), "readings_discarded_by_the_authors": int(readings["discarded"].sum())},
            regions=self._regions(readings),
            phrases=self._phrases(present),
            # Readers are not published: the readings of an image are of different readers, but readers of different
            # images are unknown.
            readings=readings[["image_id", "reading_id", "reader_id", "phase", *names]],
        )

    def _readings(self) -> tuple[pd.DataFrame, list[str]]:
        """One row a reading: ids, and certainties by label (NaN where the phase did not ask)."""
        tables = []
        for phase in self.phases:
            path = find_table(self.root / "main_data", f"metadata_phase_{phase}.csv", DATASET)
            meta = read_text(path, META_COLUMNS, DATASET)
            unique(path, meta, "id")
            names = [name for name in meta.columns if name not in META_COLUMNS]
            if not names:
                raise InputError(f"{path}: has no label columns; is this {DATASET}?")
            if len(names) > MOST_LABELS:
                raise InputError(
                    f"{path}: has {len(names)} label columns; {DATASET} has under 30 (are its ends of lines lost?)"
                )
            labels = {name: _certainty(path, meta, name) for name in names}
            if self.merge_labels:
                labels = _merge(labels)
            unknown = np.flatnonzero(~meta["split"].isin(list(OFFICIAL_SPLITS)))
            if len(unknown):
                raise InputError(f"{path}: record {unknown[0] + 1}: split is none of {', '.join(OFFICIAL_SPLITS)}")
            tables.append(
                pd.DataFrame(
                    {
                        "image_id": meta["dicom_id"],
                        "reading_id": meta["id"],
                        "reader_id": "",
                        "phase": phase,
                        "patient_id": meta["subject_id"],
                        "path": meta["image"],
                        "official_split": meta["split"].map(OFFICIAL_SPLITS),
                        "discarded": _boolean(path, meta, "eye_tracking_data_discarded") == 1,
                        "height": sides(path, meta, "image_size_y"),
                        "width": sides(path, meta, "image_size_x"),
                        **labels,
                    }
                )
            )
        whole = pd.concat(tables, ignore_index=True)
        fixed = list(tables[0].columns[: list(tables[0].columns).index("width") + 1])
        return whole, sorted(set(whole.columns) - set(fixed))

    def _image_table(
        self, readings: pd.DataFrame, names: list[str], skipped: list[tuple[str, str]]
    ) -> tuple[pd.DataFrame, list[str]]:
        certainty = readings[names].to_numpy()
        scale = np.array([1 if name in (*BOOLEAN_LABELS, OTHER_LABEL) else self.certainty for name in names])
        present = np.where(np.isnan(certainty), np.nan, certainty >= scale)
        graded = [name not in BOOLEAN_LABELS for name in names]
        normal = (np.nan_to_num(certainty[:, graded]) == 0).all(axis=1)
        by_reader = pd.DataFrame(present, columns=names).assign(Normal=normal.astype(float))
        # Half of the readers is not a majority.
        share = by_reader.groupby(readings["image_id"]).mean()
        votes = (share > 0.5).astype("float64").where(share.notna())
        firsts = readings.drop_duplicates("image_id")
        files = [image_file(self.images, published) for published in firsts["path"]]
        has_film = np.array([is_file(file) for file in files])
        skipped += [
            (image, f"{file}: no such file (nor with .jpg)")
            for image, file, found in zip(firsts["image_id"], files, has_film, strict=True)
            if not found
        ]
        if not has_film.any():
            raise InputError(
                f"{self.images}: holds none of the {len(firsts)} images that REFLACX lists as files/pXX/…/"
                "<dicom_id>.dcm (or .jpg); give the folder that holds files/"
            )
        study = firsts["path"].str.extract(r"/s(\d{8})/", expand=False).fillna("")
        labels = ["Normal", *names]
        table = pd.DataFrame(
            {
                "image_id": firsts["image_id"],
                "patient_id": firsts["patient_id"].str.removeprefix("p"),
                "study_id": study,
                "source": self.name,
                "path": [str(file) for file in files],
                "height": firsts["height"].astype(np.int64),
                "width": firsts["width"].astype(np.int64),
                "view": [view_position(file) if found else "" for file, found in zip(files, has_film, strict=True)],
                **{name: votes.loc[firsts["image_id"], name].to_numpy() for name in labels},
                "official_split": firsts["official_split"],
            }
        )
        return table[has_film].reset_index(drop=True), labels

    def _all_gaze(self, readings: pd.DataFrame, skipped: list[tuple[str, str]]) -> Iterator[pd.DataFrame]:
        for reading in readings.itertuples():
            for kind in self.kinds:
                try:
                    yield self._fixations(reading) if kind == "fixation" else self._samples(reading)
                except InputError as error:
                    # A damaged reading is counted and listed, and the others are read.
                    skipped.append((str(reading.image_id), str(error)))

    def _fixations(self, reading: Any) -> pd.DataFrame:
        times = ["timestamp_start_fixation", "timestamp_end_fixation"]
        path = self.root / "main_data" / reading.reading_id / "fixations.csv"
        rows = _gaze_rows(path, times)
        start, end = rows[times[0]].to_numpy(), rows[times[1]].to_numpy()
        wrong = np.flatnonzero(~(end >= start))
        if len(wrong):
            raise InputError(f"{path}: record {wrong[0] + 1}: a fixation ends before it starts, or has no time")
        return _canonical(path, reading, rows, "fixation", start, end - start)

    def _samples(self, reading: Any) -> pd.DataFrame:
        path = self.root / "gaze_data" / reading.reading_id / "gaze.csv"
        rows = _gaze_rows(path, ["timestamp_sample"])
        time = rows["timestamp_sample"].to_numpy()
        wrong = np.flatnonzero(~np.isfinite(time))
        if len(wrong):
            raise InputError(f"{path}: record {wrong[0] + 1}: timestamp_sample is not a time")
        order = np.argsort(time, kind="stable")
        rows, time = rows.iloc[order], time[order]
        interval = np.diff(time, append=np.nan)
        duration = np.where(interval <= LONGEST_SAMPLE, interval, SAMPLE_SECONDS)
        return _canonical(path, reading, rows, "sample", time, duration)

    def _regions(self, readings: pd.DataFrame) -> pd.DataFrame:
        """Ellipses (an ellipse of several labels is listed under each) and the box of the chest."""
        parts = []
        corners = {"x1": "xmin", "y1": "ymin", "x2": "xmax", "y2": "ymax"}
        for reading in readings.itertuples():
            folder = self.root / "main_data" / str(reading.reading_id)
            path = folder / "anomaly_location_ellipses.csv"
            if is_file(path):
                table = read_text(path, [*corners.values(), "certainty"], DATASET)
                shared = {new: numbers(path, table, old) for new, old in corners.items()}
                certainty = numbers(path, table, "certainty")
                parts.append(
                    _ellipses(table.drop(columns=[*corners.values(), "certainty"]), shared, certainty, reading)
                )
            path = folder / "chest_bounding_box.csv"
            if is_file(path):
                table = read_text(path, corners.values(), DATASET)
                box = {new: numbers(path, table, old) for new, old in corners.items()}
                parts.append(
                    pd.DataFrame({"name": "chest", "shape": "box", **box, "certainty": np.nan}).assign(
                        image_id=reading.image_id, reading_id=reading.reading_id
                    )
                )
        parts = [part for part in parts if len(part)]
        if not parts:
            return pd.DataFrame(columns=list(REGION_COLUMNS))
        return pd.concat(parts, ignore_index=True)[list(REGION_COLUMNS)]

    def _phrases(self, readings: pd.DataFrame) -> pd.DataFrame:
        """Sentences, from the words' times; punctuation marks are words, too."""
        words = ["word", "timestamp_start_word", "timestamp_end_word"]
        rows: list[tuple[str, str, str, float, float]] = []
        for reading in readings.itertuples():
            path = self.root / "main_data" / str(reading.reading_id) / "timestamps_transcription.csv"
            if not is_file(path):
                continue
            table = read_text(path, words, DATASET)
            begin, end = (numbers(path, table, column) for column in words[1:])
            first = 0
            for number, word in enumerate(table["word"]):
                if word == "." or number == len(table) - 1:
                    text = " ".join(table["word"].iloc[first : number + 1])
                    rows.append(
                        (str(reading.image_id), str(reading.reading_id), text, float(begin[first]), float(end[number]))
                    )
                    first = number + 1
        return pd.DataFrame(rows, columns=list(PHRASE_COLUMNS))


def _ellipses(
    marks: pd.DataFrame, corners: dict[str, NDArray[np.float64]], certainty: NDArray[np.float64], reading: Any
) -> pd.DataFrame:
    """A row for each label of each ellipse, by label; all labels at once, because a broken header has thousands."""
    cells = pd.Series(marks.to_numpy(dtype=object).ravel(), dtype="str")
    marked = cells.str.lower().isin(_TRUE).to_numpy().reshape(marks.shape)
    label, row = np.nonzero(marked.T)
    return pd.DataFrame(
        {
            "name": marks.columns.to_numpy()[label],
            "shape": "ellipse",
            **{name: values[row] for name, values in corners.items()},
            "certainty": certainty[row],
            "image_id": reading.image_id,
            "reading_id": reading.reading_id,
        }
    )


def _gaze_rows(path: Path, times: list[str]) -> pd.DataFrame:
    """The columns that are used; blinks have empty cells, which become NaN. ``shown`` columns may be missing."""
    position = ["x_position", "y_position", "pupil_area_normalized", *ANGLES.values(), *SHOWN.values()]
    parts = list(read_chunks(path, dict.fromkeys([*times, *position], "float64"), DATASET))
    return pd.concat(parts, ignore_index=True)


def _canonical(
    path: Path,
    reading: Any,
    rows: pd.DataFrame,
    kind: str,
    start: NDArray[np.float64],
    duration: NDArray[np.float64],
) -> pd.DataFrame:
    x, y = rows["x_position"].to_numpy(), rows["y_position"].to_numpy()
    # The authors did not clip positions: gaze on the margins is off the image.
    valid = on_image(x, y, reading.width, reading.height)
    for column in ANGLES.values():
        # A blink has blank cells; without pixels per degree σ would be 0 or unknown.
        wrong = np.flatnonzero(valid & ~((rows[column] > 0) & (rows[column] < np.inf)).to_numpy())
        if len(wrong):
            fault = "is empty" if np.isnan(rows[column].iloc[wrong[0]]) else "is not above 0"
            raise InputError(f"{path}: record {rows.index[wrong[0]] + 1}: {column} {fault}")
    return pd.DataFrame(
        {
            "image_id": reading.image_id,
            "reading_id": reading.reading_id,
            "recording_id": reading.reading_id,
            "t": start,
            "duration": duration,
            "x": x,
            "y": y,
            "valid": valid,
            "kind": kind,
            "pupil": rows["pupil_area_normalized"].to_numpy(),
            **{new: rows[old].to_numpy() for new, old in {**ANGLES, **SHOWN}.items()},
        }
    )


def _certainty(path: Path, meta: pd.DataFrame, name: str) -> NDArray[np.float64]:
    if name == OTHER_LABEL:
        return (meta[name].str.strip() != "").to_numpy(np.float64)
    if name in BOOLEAN_LABELS:
        return _boolean(path, meta, name)
    values = numbers(path, meta, name)
    wrong = np.flatnonzero(~np.isin(values, range(6)))
    if len(wrong):
        raise InputError(f"{path}: record {wrong[0] + 1}: {name} is no certainty from 0 to 5")
    return values


def _boolean(path: Path, meta: pd.DataFrame, name: str) -> NDArray[np.float64]:
    text = meta[name].str.strip().str.lower()
    wrong = np.flatnonzero(~text.isin([*_TRUE, *_FALSE]))
    if len(wrong):
        raise InputError(f"{path}: record {wrong[0] + 1}: {name} is neither True nor False")
    return text.isin(_TRUE).to_numpy(np.float64)


def _merge(labels: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    merged: dict[str, NDArray[np.float64]] = {}
    for name, values in labels.items():
        coarse = MERGED.get(name, name)
        merged[coarse] = np.maximum(merged[coarse], values) if coarse in merged else values
    return merged
