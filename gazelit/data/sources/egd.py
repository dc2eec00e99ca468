"""EGD-CXR 1.0.0 with the pixels of MIMIC-CXR or MIMIC-CXR-JPG."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.images.dicom import image_size
from gazelit.data.images.geometry import on_image
from gazelit.data.sources.egd_screen import (
    PADS,
    SCREEN,
    SCREEN_PIXELS_PER_DEGREE,
    is_calibration,
    pixels_per_degree,
    sample_times,
    screen_to_image,
    whole_screens,
)
from gazelit.data.sources.mimic import image_file, require_folder
from gazelit.data.sources.views import view_position
from gazelit.data.store.schema import (
    MASK_COLUMNS,
    PEER,
    PHRASE_COLUMNS,
    RECORDING_COLUMNS,
    REGION_COLUMNS,
    Recording,
    Source,
    is_synthetic,
)
from gazelit.data.store.source_files import Folders
from gazelit.data.tables import find_table, is_text, numbers, read_chunks, read_text, unique
from gazelit.errors import InputError
from gazelit.files import is_file, read_json

DATASET = "EGD-CXR 1.0.0"
CLASSES = ["Normal", "CHF", "pneumonia"]
#: A file that only synthetic cohorts have: fixations of further readers of the films.
PEER_FILE = "peer_fixations.csv"
#: File names of the masks, and their names here: the mediastinum is misspelt on disk.
MASKS = {
    "left_lung": "left lung",
    "right_lung": "right lung",
    "mediastanum": "mediastinum",
    "mediastinum": "mediastinum",
    "aortic_knob": "aortic knob",
}
BOX_CORNERS = ["x1", "x2", "y1", "y2"]

Coordinates = Literal["recomputed", "published"]
Point = Literal["FPOG", "BPOG"]


class EGDCXR(Source):
    """EGD-CXR: 1,083 chest X-rays read once by one radiologist, with 60 Hz gaze.

    Format: ``master_sheet.csv``, ``eye_gaze.csv`` (samples), ``fixations.csv``, ``bounding_boxes.csv``, and a folder of
    masks and a transcript for each image. Labels: Normal, CHF and pneumonia, mutually exclusive, from the emergency
    department's discharge diagnosis; then findings that a language model took from the report, and CheXpert's (1, 0,
    −1 uncertain, NaN not mentioned). Access: PhysioNet, credentialed. Citation: Karargyris et al., Scientific Data 8,
    92 (2021), doi 10.1038/s41597-021-00863-5.

    Coordinates are recomputed in float from the tracker's screen fractions and the film's padding; the published
    X_ORIGINAL and Y_ORIGINAL are the same, truncated to integers, and off the film they hold scaled sentinels. Screens
    that show no film (calibration dots, under ids of no image) give the tracker's error and no gaze. A row is valid if
    the tracker had a fixation (FPOGV = 1; BPOGV for BPOG) and it is on the film.

    Args:
        root: The EGD-CXR folder.
        images: The MIMIC-CXR (DICOM) or MIMIC-CXR-JPG folder that holds ``files/``.
        kinds: Kinds of gaze to read: raw ``sample``, ``fixation``, or both.
        coordinates: ``recomputed``, or the ``published`` integers.
        point: Position of a raw sample: ``FPOG``, the tracker's running mean of the fixation, which published work
            uses, or ``BPOG``, the best point of gaze at that instant, which detection of fixations needs.
        masks: Whether to read the masks of lungs, mediastinum and aortic knob.
    """

    name = "egd-cxr"

    def __init__(
        self,
        root: str,
        images: str,
        kinds: tuple[Literal["sample", "fixation"], ...] = ("sample", "fixation"),
        coordinates: Coordinates = "recomputed",
        point: Point = "FPOG",
        masks: bool = True,
    ) -> None:
        self.root = Path(root)
        self.images = Path(images)
        self.kinds = tuple(kinds)
        self.coordinates = coordinates
        self.point = point
        self.masks = masks
        if coordinates == "published" and point == "BPOG":
            raise InputError("coordinates: EGD-CXR publishes those of FPOG alone; take recomputed with point: BPOG")

    def files(self) -> Folders:
        """See :class:`gazelit.data.store.schema.Source`."""
        return Folders(self.root, self.images)

    def read(self) -> Recording:
        """See :class:`gazelit.data.store.schema.Source`."""
        require_folder(self.root, "EGD-CXR")
        require_folder(self.images, "MIMIC-CXR or MIMIC-CXR-JPG")
        path, sheet = self._master_sheet()
        findings = _findings(sheet)
        images, skipped = self._image_table(path, sheet, findings)
        films = sheet.set_index("dicom_id")[PADS].join(images.set_index("image_id")[["height", "width"]], how="inner")
        folders = self.root / "audio_segmentation_transcripts"
        return Recording(
            images,
            [*CLASSES, *findings],
            partial(self._all_gaze, films),
            is_synthetic(self.root),
            skipped,
            regions=self._boxes(films.index),
            phrases=_phrases(folders, films.index, skipped),
            masks=_masks(folders, films.index) if self.masks else pd.DataFrame(columns=list(MASK_COLUMNS)),
            readings=pd.DataFrame({"image_id": films.index, "reading_id": films.index, "reader_id": "egd-cxr-1"}),
            recordings=self._calibration(films.index),
        )

    def _master_sheet(self) -> tuple[Path, pd.DataFrame]:
        path = find_table(self.root, "master_sheet.csv", DATASET)
        sheet = read_text(path, ["dicom_id", "path", "study_id", "patient_id", *PADS, *CLASSES], DATASET)
        unique(path, sheet, "dicom_id")
        for column in (*PADS, *CLASSES):
            sheet[column] = numbers(path, sheet, column)
        top, bottom, left, right = sheet[PADS].to_numpy(float).T
        wrong = np.flatnonzero(
            (sheet[PADS] < 0).any(axis=1) | (left + right >= SCREEN[0]) | (top + bottom >= SCREEN[1])
        )
        if len(wrong):
            raise InputError(f"{path}: record {wrong[0] + 1}: the pads are negative or leave nothing of the screen")
        wrong = np.flatnonzero(sheet[CLASSES].sum(axis=1) != 1)
        if len(wrong):
            raise InputError(f"{path}: record {wrong[0] + 1}: exactly one of {', '.join(CLASSES)} must be 1")
        return path, sheet

    def _image_table(
        self, path: Path, sheet: pd.DataFrame, findings: list[str]
    ) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
        paths = [image_file(self.images, published) for published in sheet["path"]]
        if not any(is_file(file) for file in paths):
            raise InputError(
                f"{self.images}: holds none of the {len(sheet)} images that {path} lists as files/pXX/…/<dicom_id>.dcm "
                "(or .jpg); give the folder that holds files/"
            )
        sizes: list[tuple[int, int]] = []
        skipped: list[tuple[str, str]] = []
        kept: list[int] = []
        for row, file in enumerate(paths):
            try:
                sizes.append(image_size(file))
                kept.append(row)
            except InputError as error:
                skipped.append((sheet["dicom_id"].iloc[row], str(error)))
        sheet = sheet.iloc[kept].reset_index(drop=True)
        labels = {
            name: sheet[name] if name in CLASSES else numbers(path, sheet, name, blank=True)
            for name in (*CLASSES, *findings)
        }
        table = pd.DataFrame(
            {
                "image_id": sheet["dicom_id"],
                "patient_id": sheet["patient_id"],
                "study_id": sheet["study_id"],
                "source": self.name,
                "path": [str(paths[row]) for row in kept],
                "height": np.array([height for height, _ in sizes], np.int64),
                "width": np.array([width for _, width in sizes], np.int64),
                # The authors took only PA films; a header that says otherwise has precedence.
                "view": [view_position(paths[row], "PA") for row in kept],
                **labels,
                **{name: sheet[name] for name in ("gender", "anchor_age") if name in sheet},
            }
        )
        return table, skipped

    def _all_gaze(self, films: pd.DataFrame) -> Iterator[pd.DataFrame]:
        for kind, file in (("sample", "eye_gaze.csv"), ("fixation", "fixations.csv")):
            if kind in self.kinds:
                yield from self._gaze(file, kind, films)
        if is_synthetic(self.root) and (self.root / PEER_FILE).is_file():
            yield self._peers(films)

    def _peers(self, films: pd.DataFrame) -> pd.DataFrame:
        """Simulated fixations of further readers, in pixels of the film; the real dataset has none."""
        columns = {"dicom_id": "str", "reader": "str", **dict.fromkeys(("t", "duration", "x", "y"), "float64")}
        rows = pd.concat(read_chunks(self.root / PEER_FILE, columns, DATASET))
        rows = rows[rows["dicom_id"].isin(films.index)].sort_values(["dicom_id", "reader", "t"], kind="stable")
        film = films.loc[rows["dicom_id"]].reset_index(drop=True)
        rows = rows.reset_index(drop=True)
        ppd_x, ppd_y = pixels_per_degree(film)
        return pd.DataFrame(
            {
                "image_id": rows["dicom_id"],
                "reading_id": rows["dicom_id"] + "/" + rows["reader"],
                "reader_id": rows["reader"],
                **rows[["t", "duration", "x", "y"]],
                "valid": on_image(rows["x"], rows["y"], film["width"], film["height"]),
                "kind": PEER,
                "ppd_x": ppd_x,
                "ppd_y": ppd_y,
            }
        )

    def _gaze(self, file: str, kind: str, films: pd.DataFrame) -> Iterator[pd.DataFrame]:
        path = find_table(self.root, file, DATASET)
        point = self.point if kind == "sample" else "FPOG"
        axes = ["X_ORIGINAL", "Y_ORIGINAL"] if self.coordinates == "published" else [f"{point}X", f"{point}Y"]
        times = ["FPOGS", "FPOGD"] if kind == "fixation" else []
        number = ["Time (in secs)", f"{point}V", *times, *axes]
        columns = {"SESSION_ID": "str", "DICOM_ID": "str", **dict.fromkeys(number, "float64")}
        for rows in whole_screens(read_chunks(path, columns, DATASET)):
            # Calibration screens have ids that belong to no image.
            rows = rows[rows["DICOM_ID"].isin(films.index)]
            for column in ("Time (in secs)", *times):
                wrong = np.flatnonzero(~np.isfinite(rows[column].to_numpy()))
                if len(wrong):
                    raise InputError(f"{path}: record {rows.index[wrong[0]] + 1}: {column} is not a time")
            if kind == "fixation" and (rows["FPOGD"] < 0).any():
                wrong = np.flatnonzero(rows["FPOGD"] < 0)
                raise InputError(f"{path}: record {rows.index[wrong[0]] + 1}: FPOGD is negative")
            rows = rows.sort_values(["DICOM_ID", "Time (in secs)"], kind="stable", ignore_index=True)
            if kind == "fixation":
                # A row of fixations.csv is the fixation's last sample, at FPOGS + FPOGD.
                start, duration = rows["FPOGS"].to_numpy(), rows["FPOGD"].to_numpy()
            else:
                start, duration = sample_times(rows)
            yield self._canonical(rows, films, kind, start, duration, axes, rows[f"{point}V"].to_numpy() == 1)

    def _canonical(
        self,
        rows: pd.DataFrame,
        films: pd.DataFrame,
        kind: str,
        start: NDArray[np.float64],
        duration: NDArray[np.float64],
        axes: list[str],
        looking: NDArray[np.bool_],
    ) -> pd.DataFrame:
        film = films.loc[rows["DICOM_ID"]]
        pads = film[PADS].to_numpy(float)
        width, height = film["width"].to_numpy(float), film["height"].to_numpy(float)
        point = rows[axes].to_numpy()
        if self.coordinates == "published":
            # The published integer is the number of a pixel. Off the film both are negative, but never only one exactly
            # −1; x can be as large as the width if an odd width was rounded up.
            point = np.where((point < 0).any(axis=1, keepdims=True), np.nan, point)
        else:
            point = screen_to_image(point, pads, width, height)
        x, y = point.T
        ppd_x, ppd_y = pixels_per_degree(film)
        return pd.DataFrame(
            {
                "image_id": rows["DICOM_ID"],
                "reading_id": rows["DICOM_ID"],
                "reader_id": "egd-cxr-1",
                "recording_id": rows["SESSION_ID"].fillna(""),
                "t": start,
                "duration": duration,
                "x": x,
                "y": y,
                "valid": on_image(x, y, width, height) & looking,
                "kind": kind,
                "ppd_x": ppd_x,
                "ppd_y": ppd_y,
            }
        )

    def _boxes(self, films: pd.Index) -> pd.DataFrame:
        """Anatomy boxes; their columns come as x1, x2, y1, y2."""
        path = self.root / "bounding_boxes.csv"
        if not is_file(path):
            return pd.DataFrame(columns=list(REGION_COLUMNS))
        table = read_text(path, ["dicom_id", "bbox_name", *BOX_CORNERS], DATASET)
        corners = {name: numbers(path, table, name) for name in BOX_CORNERS}
        wrong = np.flatnonzero((corners["x2"] < corners["x1"]) | (corners["y2"] < corners["y1"]))
        if len(wrong):
            raise InputError(f"{path}: record {wrong[0] + 1}: x2 or y2 is below x1 or y1")
        regions = pd.DataFrame(
            {
                "image_id": table["dicom_id"],
                "reading_id": table["dicom_id"],
                "name": table["bbox_name"],
                "shape": "box",
                **corners,
                "certainty": np.nan,
            },
            columns=list(REGION_COLUMNS),
        )
        return regions[regions["image_id"].isin(films)].reset_index(drop=True)

    def _calibration(self, films: pd.Index) -> pd.DataFrame:
        """The tracker's error in each session: the distance of gaze from the white dot, in degrees.

        The dot is in the middle of a black screen after every 20 films, under an id of no image. A session without such
        a screen has NaN.
        """
        path = self.root / "eye_gaze.csv"
        if "sample" not in self.kinds or not is_file(path):
            return pd.DataFrame(columns=list(RECORDING_COLUMNS))
        columns = {"SESSION_ID": "str", "DICOM_ID": "str", "FPOGX": "float64", "FPOGY": "float64", "FPOGV": "float64"}
        sessions: set[str] = set()
        dots = []
        for chunk in read_chunks(path, columns, DATASET):
            sessions |= set(chunk["SESSION_ID"].dropna())
            dots.append(chunk[~chunk["DICOM_ID"].isin(films) & is_calibration(chunk["DICOM_ID"])])
        dot = pd.concat(dots)
        dot = dot[dot["FPOGV"] == 1]
        offset = (dot[["FPOGX", "FPOGY"]].to_numpy() - 0.5) * SCREEN / SCREEN_PIXELS_PER_DEGREE
        error = pd.DataFrame({"session": dot["SESSION_ID"], "error": np.hypot(*offset.T)})
        grouped = error.dropna().groupby("session")["error"]
        table = pd.DataFrame({"calibration_samples": grouped.size(), "calibration_error": grouped.median()})
        table = table.reindex(sorted(sessions, key=lambda name: (len(name), name)))
        table["calibration_samples"] = table["calibration_samples"].fillna(0).astype(np.int64)
        return table.rename_axis("recording_id").reset_index()


def _findings(sheet: pd.DataFrame) -> list[str]:
    """The NLP findings and CheXpert's, which stand between ``pneumonia`` and the exam's indication."""
    columns = list(sheet.columns)
    return [name for name in columns[columns.index("pneumonia") + 1 :] if name != "cxr_exam_indication"]


def _phrases(folders: Path, films: pd.Index, skipped: list[tuple[str, str]]) -> pd.DataFrame:
    """Dictated phrases with their times; a transcript can be missing or empty; a damaged one is listed."""
    rows: list[tuple[str, str, str, float, float]] = []
    for image in films:
        path = folders / image / "transcript.json"
        if not is_file(path):
            continue
        try:
            content = read_json(path)
            dictated = [(image, image, *_phrase(entry)) for entry in content["time_stamped_text"]]
        except (InputError, LookupError, TypeError, ValueError, OverflowError, RecursionError):
            skipped.append((image, f"{path}: not a transcript with phrase, begin_time and end_time; the image is kept"))
            continue
        rows += dictated
    return pd.DataFrame(rows, columns=list(PHRASE_COLUMNS))


def _phrase(entry: Any) -> tuple[str, float, float]:
    """Text, begin and end (s); raises ValueError if the text or a time is not of its type."""
    text, begin, end = str(entry["phrase"]), float(entry["begin_time"]), float(entry["end_time"])
    if not is_text(text) or not np.isfinite([begin, end]).all():
        raise ValueError("no text, or no times")
    return text, begin, end


def _masks(folders: Path, films: pd.Index) -> pd.DataFrame:
    """Both spellings of the mediastinum are accepted; if both files exist, the first is read."""
    rows = [
        (image, name, str(folders / image / f"{file}.png"))
        for image in films
        for file, name in MASKS.items()
        if is_file(folders / image / f"{file}.png")
    ]
    return pd.DataFrame(rows, columns=list(MASK_COLUMNS)).drop_duplicates(["image_id", "name"], ignore_index=True)
