"""EGD-CXR 1.0.0 with the pixels of MIMIC-CXR or MIMIC-CXR-JPG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.dicom import image_size
from gazelit.data.schema import GAZE_COLUMNS, Recording, Source
from gazelit.errors import InputError

#: The screen that the tracker's fractions refer to (width, height); films were padded to 1920 × 1024.
SCREEN = (1920, 1080)
#: Screen pixels per degree at 28 inches from a 27-inch 1920 × 1080 screen; EGD-CXR publishes no angular column.
SCREEN_PIXELS_PER_DEGREE = 39.87
CLASSES = ["Normal", "CHF", "pneumonia"]
PADS = ["image_top_pad", "image_bottom_pad", "image_left_pad", "image_right_pad"]
#: A gap between samples longer than this is lost tracking, not looking (s).
LONGEST_SAMPLE = 0.1
CHUNK_ROWS = 200_000

_GAZE_DTYPES = {
    "DICOM_ID": "str",
    "Time (in secs)": "float64",
    "FPOGX": "float64",
    "FPOGY": "float64",
    "FPOGS": "float64",
    "FPOGD": "float64",
    "FPOGV": "float64",
}


class EGDCXR(Source):
    """EGD-CXR: 1,083 chest X-rays read once by one radiologist, with 60 Hz gaze.

    Format: ``master_sheet.csv``, ``eye_gaze.csv`` (samples), ``fixations.csv``. Labels: Normal, CHF and pneumonia,
    mutually exclusive, from the emergency department's discharge diagnosis. Access: PhysioNet, credentialed. Citation:
    Karargyris et al., Scientific Data 8, 92 (2021), doi 10.1038/s41597-021-00863-5.

    Coordinates are recomputed in float from the tracker's screen fractions and the film's padding; the published
    X_ORIGINAL and Y_ORIGINAL are the same, truncated to integers, and off the film they hold scaled sentinels. Screens
    that are no film (calibration dots, under shortened ids) are left out. A row is valid if the tracker had a fixation
    (FPOGV = 1) on the film.

    Args:
        root: The EGD-CXR folder.
        images: The MIMIC-CXR (DICOM) or MIMIC-CXR-JPG folder that holds ``files/``.
    """

    name = "egd-cxr"

    def __init__(self, root: str, images: str) -> None:
        self.root = Path(root)
        self.images = Path(images)

    def read(self) -> Recording:
        """See :class:`Source`."""
        for folder, what in ((self.root, "EGD-CXR"), (self.images, "MIMIC-CXR")):
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder; give the root of {what}")
        sheet = self._master_sheet()
        findings = _findings(sheet)
        images, skipped = self._image_table(sheet, findings)
        pads = sheet.set_index("dicom_id")[PADS].join(images.set_index("image_id")[["height", "width"]], how="inner")
        gaze = pd.concat(
            [self._gaze("eye_gaze.csv", "sample", pads), self._gaze("fixations.csv", "fixation", pads)],
            ignore_index=True,
        )
        gaze = gaze.sort_values(["image_id", "kind", "t"], kind="stable", ignore_index=True)
        synthetic = (self.root / "SYNTHETIC.json").is_file()
        return Recording(images, gaze, [*CLASSES, *findings], synthetic, skipped)

    def _master_sheet(self) -> pd.DataFrame:
        path = self.root / "master_sheet.csv"
        sheet = _read_csv(path, dtype=str, keep_default_na=False)
        needed = ["dicom_id", "path", "study_id", "patient_id", *PADS, *CLASSES]
        _require(path, sheet.columns, needed)
        if sheet["dicom_id"].duplicated().any():
            raise InputError(f"{path}: {int(sheet['dicom_id'].duplicated().sum())} dicom_id are listed more than once")
        for column in (*PADS, *CLASSES):
            values = pd.to_numeric(sheet[column], errors="coerce")
            if values.isna().any():
                row = int(np.flatnonzero(values.isna())[0]) + 1
                raise InputError(f"{path}: record {row}: {column} is not a number")
            sheet[column] = values
        wrong = np.flatnonzero(sheet[CLASSES].sum(axis=1) != 1)
        if len(wrong):
            raise InputError(f"{path}: record {wrong[0] + 1}: exactly one of {', '.join(CLASSES)} must be 1")
        return sheet

    def _image_path(self, published: str) -> Path:
        jpeg = (self.images / published).with_suffix(".jpg")
        return jpeg if jpeg.is_file() else self.images / published

    def _image_table(self, sheet: pd.DataFrame, findings: list[str]) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
        paths = [self._image_path(published) for published in sheet["path"]]
        if not any(path.is_file() for path in paths):
            raise InputError(
                f"{self.images}: holds none of the {len(sheet)} images that {self.root / 'master_sheet.csv'} lists as "
                "files/pXX/…/<dicom_id>.dcm (or .jpg); give the folder that holds files/"
            )
        sizes: list[tuple[int, int]] = []
        skipped: list[tuple[str, str]] = []
        kept: list[int] = []
        for row, path in enumerate(paths):
            try:
                sizes.append(image_size(path))
                kept.append(row)
            except InputError as error:
                skipped.append((sheet["dicom_id"].iloc[row], str(error)))
        sheet = sheet.iloc[kept].reset_index(drop=True)
        table = pd.DataFrame(
            {
                "image_id": sheet["dicom_id"],
                "patient_id": sheet["patient_id"],
                "study_id": sheet["study_id"],
                "source": self.name,
                "path": [str(paths[row]) for row in kept],
                "height": [height for height, _ in sizes],
                "width": [width for _, width in sizes],
                "view": "PA",
                **{name: sheet[name].astype("float64") for name in CLASSES},
                **{name: pd.to_numeric(sheet[name], errors="coerce").astype("float64") for name in findings},
                **{name: sheet[name] for name in ("gender", "anchor_age") if name in sheet},
            }
        )
        return table, skipped

    def _gaze(self, file: str, kind: str, films: pd.DataFrame) -> pd.DataFrame:
        path = self.root / file
        _require(path, _read_csv(path, nrows=0).columns, list(_GAZE_DTYPES))
        try:
            with pd.read_csv(path, usecols=list(_GAZE_DTYPES), dtype=_GAZE_DTYPES, chunksize=CHUNK_ROWS) as reader:
                # Calibration screens stand under ids that are no image's.
                rows = pd.concat([chunk[chunk["DICOM_ID"].isin(films.index)] for chunk in reader], ignore_index=True)
        except (ValueError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: a value is not of its column's type, or the file is damaged") from error
        if not np.isfinite(rows["Time (in secs)"]).all() or (rows["FPOGD"] < 0).any():
            raise InputError(f"{path}: holds a time that is not a number or a negative FPOGD; the file is damaged")
        rows = rows.sort_values(["DICOM_ID", "Time (in secs)"], kind="stable", ignore_index=True)
        start, duration = _fixation_times(rows) if kind == "fixation" else _sample_times(rows)
        film = films.loc[rows["DICOM_ID"]]
        pads = film[PADS].to_numpy(float)
        width, height = film["width"].to_numpy(float), film["height"].to_numpy(float)
        x, y = screen_to_image(rows[["FPOGX", "FPOGY"]].to_numpy(), pads, width, height).T
        # Comparisons with NaN are false, so that a lost eye is not valid.
        inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
        top, bottom, left, right = pads.T
        return pd.DataFrame(
            {
                "image_id": rows["DICOM_ID"],
                "reading_id": rows["DICOM_ID"],
                "reader_id": "egd-cxr-1",
                "t": start,
                "duration": np.nan_to_num(duration),
                "x": x,
                "y": y,
                "valid": inside & (rows["FPOGV"].to_numpy() == 1) & np.isfinite(duration),
                "kind": kind,
                "ppd_x": SCREEN_PIXELS_PER_DEGREE * width / (SCREEN[0] - left - right),
                "ppd_y": SCREEN_PIXELS_PER_DEGREE * height / (SCREEN[1] - top - bottom),
            },
            columns=list(GAZE_COLUMNS),
        )


def screen_to_image(
    fpog: NDArray[np.float64],
    pads: NDArray[np.float64],
    width: NDArray[np.float64],
    height: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Tracker fractions to pixels of the film.

    Follows the published mapping, which subtracts the padding of the 1920 × 1024 canvas from coordinates on the
    1920 × 1080 screen and scales what is left to the film, odd sizes rounded up. The published integers name the pixel
    whose area holds the point; here pixel centres are at integers, hence half a pixel less.

    Args:
        fpog: (N, 2) FPOGX, FPOGY.
        pads: (N, 4) top, bottom, left, right padding.
        width: (N,) of the film.
        height: (N,) of the film.

    Returns:
        (N, 2) float x, y on the film; outside [−0.5, size − 0.5] off it.
    """
    top, bottom, left, right = pads.T
    x = (fpog[:, 0] * SCREEN[0] - left) * (width + width % 2) / (SCREEN[0] - left - right)
    y = (fpog[:, 1] * SCREEN[1] - top) * (height + height % 2) / (SCREEN[1] - top - bottom)
    return np.stack([x, y], axis=1) - 0.5


def _fixation_times(rows: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and duration: a row of fixations.csv is the fixation's last sample, at FPOGS + FPOGD."""
    return rows["FPOGS"].to_numpy(), rows["FPOGD"].to_numpy()


def _sample_times(rows: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Time, and time to the image's next sample; the usual interval after its last and before a gap."""
    time, image = rows["Time (in secs)"].to_numpy(), rows["DICOM_ID"].to_numpy()
    interval = np.diff(time, append=np.nan)
    regular = np.append(image[1:] == image[:-1], False) & (interval <= LONGEST_SAMPLE)
    usual = float(np.median(interval[regular])) if regular.any() else 1 / 60
    return time, np.where(regular, interval, usual)


def _findings(sheet: pd.DataFrame) -> list[str]:
    """The NLP findings and CheXpert's, which stand between ``pneumonia`` and the exam's indication."""
    columns = list(sheet.columns)
    return [name for name in columns[columns.index("pneumonia") + 1 :] if name != "cxr_exam_indication"]


def _read_csv(path: Path, **options: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(path, **options)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; is this the root of EGD-CXR 1.0.0?") from error
    except pd.errors.EmptyDataError as error:
        raise InputError(f"{path}: is empty") from error
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error.__class__.__name__})") from error


def _require(path: Path, columns: pd.Index, needed: list[str]) -> None:
    missing = [name for name in needed if name not in columns]
    if missing:
        raise InputError(f"{path}: column {', '.join(missing)} is missing; is this EGD-CXR 1.0.0?")
