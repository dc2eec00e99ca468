"""A cohort as a REFLACX 1.0.0 tree beside a MIMIC-CXR tree, quirks included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator, SeedSequence
from numpy.typing import NDArray

from gazelit.synthetic.case import Plan, SyntheticCase
from gazelit.synthetic.dicom_writer import write_case_film
from gazelit.synthetic.hard_case import HardCase
from gazelit.synthetic.reader import Fixations
from gazelit.synthetic.tables import identifiers

FOLDER = "reflacx"
READERS = 5
RATE = 1000
#: The screen (width, height) and the area of the film on it.
SCREEN = (3840, 2160)
FILM_AREA = (660, 0, 3180, 2160)
#: Screen pixels per degree: 1° is then some 94 pixels of a film of 3056 rows, as in the published example.
SCREEN_PIXELS_PER_DEGREE = 66.5
LABELS_1 = [
    *["Airway wall thickening", "Atelectasis", "Consolidation", "Emphysema", "Enlarged cardiac silhouette", "Fibrosis"],
    *["Fracture", "Groundglass opacity", "Mass", "Nodule", "Other", "Pleural effusion", "Pleural thickening"],
    *["Pneumothorax", "Pulmonary edema", "Quality issue", "Support devices", "Wide mediastinum"],
]
LABELS_2 = [
    *["Abnormal mediastinal contour", "Acute fracture", "Atelectasis", "Consolidation", "Enlarged cardiac silhouette"],
    *["Enlarged hilum", "Groundglass opacity", "Hiatal hernia", "High lung volume / emphysema"],
    *["Interstitial lung disease", "Lung nodule or mass", "Other", "Pleural abnormality", "Pneumothorax"],
    *["Pulmonary edema", "Support devices"],
]
SHARED = [
    *["pupil_area_normalized", "angular_resolution_x_pixels_per_degree", "angular_resolution_y_pixels_per_degree"],
    *["window_width", "window_level", "xmin_shown_from_image", "ymin_shown_from_image", "xmax_shown_from_image"],
    *["ymax_shown_from_image", "xmin_in_screen_coordinates", "ymin_in_screen_coordinates"],
    *["xmax_in_screen_coordinates", "ymax_in_screen_coordinates"],
]
FIXATION_COLUMNS = [
    *["timestamp_start_fixation", "timestamp_end_fixation", "x_position", "y_position"],
    *SHARED,
]
SAMPLE_COLUMNS = ["timestamp_sample", "x_position", "y_position", *SHARED]
#: Columns of the samples that are empty during a blink.
BLINK_COLUMNS = SAMPLE_COLUMNS[1:6]
#: Likely labels of each class: (name in phase 1, name in later phases, chance).
_FINDINGS = {
    "Normal": [],
    "CHF": [
        ("Enlarged cardiac silhouette", "Enlarged cardiac silhouette", 0.9),
        ("Pulmonary edema", "Pulmonary edema", 0.75),
        ("Pleural effusion", "Pleural abnormality", 0.6),
    ],
    "pneumonia": [("Consolidation", "Consolidation", 0.8), ("Groundglass opacity", "Groundglass opacity", 0.4)],
}


def phase_of(plan: Plan, plans: int) -> int:
    """The phase of a case: 1 for the first eighth of the cases, 2 for the next, each with five readers; else 3."""
    share = max(1, plans // 8)
    return 1 if plan.number < share else 2 if plan.number < 2 * share else 3


def write_case(root: Path, case: SyntheticCase, plans: int, seed: int) -> Any:
    """Writes the film and every reading's files; returns the case's rows of its phase's metadata."""
    plan = case.plan
    rng = np.random.default_rng(SeedSequence([seed, 5, plan.number]))
    ids = identifiers(plan)
    write_case_film(root / "mimic-cxr" / ids["path"], case, ids["patient_id"], seed, rng)
    phase = phase_of(plan, plans)
    labels = LABELS_1 if phase == 1 else LABELS_2
    split = ("train", "train", "train", "validate", "test")[plan.patient % 5]
    width, height = plan.size
    rows = []
    for reader in range(READERS if phase < 3 else 1):
        reading = np.random.default_rng(SeedSequence([seed, 10, plan.number, reader]))
        trial = plan.number + 1 if phase < 3 else 0
        name = f"P{phase}{trial:02d}R{(plan.number * READERS + reader + 1) * 7919 % 10**6:06d}"
        # The last reading of the first case was discarded: it has labels and ellipses, but no other files.
        discarded = phase == 1 and plan.number == 0 and reader == READERS - 1
        certainty = _certainties(plan.label, labels, phase, reading)
        rows.append(
            {
                "id": name,
                "split": split,
                "eye_tracking_data_discarded": discarded,
                # Most paths have a prefix; readers must take both.
                "image": ("" if plan.number % 7 == 6 else "physionet.org/files/mimic-cxr/2.0.0/") + ids["path"],
                "dicom_id": ids["dicom_id"],
                "subject_id": ids["patient_id"],
                "image_size_x": width,
                "image_size_y": height,
                **certainty,
            }
        )
        folder = root / FOLDER / "main_data" / name
        folder.mkdir(parents=True)
        _write_ellipses(folder, case, labels, certainty, reading)
        ys, xs = (np.flatnonzero((case.lungs[0] | case.lungs[1]).any(axis=axis)) for axis in (1, 0))
        _csv(
            folder / "chest_bounding_box.csv",
            pd.DataFrame([{"xmin": xs[0], "ymin": ys[0], "xmax": xs[-1] + 1, "ymax": ys[-1] + 1}]),
        )
        if not discarded:
            _write_reading(root / FOLDER, folder, case, reading, reader)
    return phase, rows


def write_tables(root: Path, plans: list[Plan], cases: list[Any], seed: int) -> None:
    """Writes the three tables of readings."""
    for phase in (1, 2, 3):
        rows = [row for group, readings in cases if group == phase for row in readings]
        columns = [
            *["id", "split", "eye_tracking_data_discarded", "image", "dicom_id", "subject_id"],
            *["image_size_x", "image_size_y", *(LABELS_1 if phase == 1 else LABELS_2)],
        ]
        _csv(root / FOLDER / "main_data" / f"metadata_phase_{phase}.csv", pd.DataFrame(rows, columns=columns))


def _certainties(label: str, labels: list[str], phase: int, rng: Generator) -> dict[str, object]:
    values: dict[str, object] = dict.fromkeys(labels, 0)
    for early, late, chance in _FINDINGS[label]:
        if rng.random() < chance:
            values[early if phase == 1 else late] = int(rng.choice((2, 3, 4, 5), p=(0.1, 0.2, 0.3, 0.4)))
    values["Other"] = "scoliosis|old rib fracture" if rng.random() < 0.05 else ""
    for name in ("Support devices", "Quality issue"):
        if name in values:
            values[name] = bool(rng.random() < 0.15)
    return values


def _write_ellipses(
    folder: Path, case: SyntheticCase, labels: list[str], certainty: dict[str, object], rng: Generator
) -> None:
    """Writes an ellipse for each label with a certainty; only the header if there is none."""
    height, width = case.film.shape
    rows = []
    for name, value in certainty.items():
        if name in ("Other", "Support devices", "Quality issue") or not value:
            continue
        number = int(rng.integers(len(case.findings)))
        x, y, _ = case.findings[number]
        rx, ry = rng.uniform(0.05, 0.12) * width, rng.uniform(0.04, 0.1) * height
        if isinstance(case, HardCase):
            rx = ry = case.finding_radius(number) * rng.uniform(0.9, 1.3)
        corners = [round(float(corner)) for corner in (x - rx, y - ry, x + rx, y + ry)]
        rows.append(
            dict(zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
            | {"certainty": value}
            | {label: label == name for label in labels}
        )
    columns = ["xmin", "ymin", "xmax", "ymax", "certainty", *labels]
    _csv(folder / "anomaly_location_ellipses.csv", pd.DataFrame(rows, columns=columns))


def _write_reading(root: Path, folder: Path, case: SyntheticCase, rng: Generator, reading: int) -> None:
    fixations, x, y = case.read(rng, reading)
    # Times are those of the audio, which begins later than the tracker in some readings.
    offset = -0.2 if rng.random() < 0.2 else 0.0
    zoomed = _zoomed(len(x), rng)
    shared = _view(case, x, y, zoomed)
    start = np.round(fixations.start + offset, 3)
    end = np.round(fixations.start + fixations.duration + offset, 3)
    table = pd.DataFrame(
        {
            "timestamp_start_fixation": start,
            "timestamp_end_fixation": end,
            "x_position": np.round(x).astype(int),
            "y_position": np.round(y).astype(int),
            "pupil_area_normalized": np.round(rng.normal(1, 0.05, len(x)), 3),
            **shared,
        },
        columns=FIXATION_COLUMNS,
    )
    # A look at a button beside the film.
    if rng.random() < 0.5:
        table.loc[len(table) // 2, "x_position"] = -int(0.1 * case.plan.size[0])
    _csv(folder / "fixations.csv", table)
    _csv(root / "gaze_data" / folder.name / "gaze.csv", _samples(fixations, x, y, shared, offset, rng))
    words = _words(case, float(end[-1]))
    _csv(folder / "timestamps_transcription.csv", words)
    (folder / "transcription.txt").write_text(" ".join(words["word"]))


def _zoomed(count: int, rng: Generator) -> NDArray[np.bool_]:
    """Which fixations are made while zoomed in; a reader zooms in one reading of three."""
    zoomed = np.zeros(count, bool)
    if rng.random() < 1 / 3:
        zoomed[count // 3 : count // 3 + 6] = True
    return zoomed


def _view(
    case: SyntheticCase, x: NDArray[np.float64], y: NDArray[np.float64], zoomed: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """The shown part of the film during each fixation and its area on the screen: all of it, or half of each side."""
    width, height = case.plan.size
    left = np.where(zoomed, np.clip(x - width / 4, 0, width / 2), 0).astype(int)
    top = np.where(zoomed, np.clip(y - height / 4, 0, height / 2), 0).astype(int)
    right = np.where(zoomed, left + width // 2, width).astype(int)
    bottom = np.where(zoomed, top + height // 2, height).astype(int)
    area = (FILM_AREA[2] - FILM_AREA[0], FILM_AREA[3] - FILM_AREA[1])
    scale = np.minimum(area[0] / (right - left), area[1] / (bottom - top))
    # At least 1, because films of tests are small and the column holds integers.
    ppd = np.maximum(np.round(SCREEN_PIXELS_PER_DEGREE / scale), 1).astype(int)
    shown_width, shown_height = np.round((right - left) * scale), np.round((bottom - top) * scale)
    screen_left = np.round(FILM_AREA[0] + (area[0] - shown_width) / 2)
    screen_top = np.round(FILM_AREA[1] + (area[1] - shown_height) / 2)
    unit = np.ones(len(x))
    return {
        "angular_resolution_x_pixels_per_degree": ppd,
        "angular_resolution_y_pixels_per_degree": ppd,
        "window_width": unit,
        "window_level": 0.5 * unit,
        "xmin_shown_from_image": left,
        "ymin_shown_from_image": top,
        "xmax_shown_from_image": right,
        "ymax_shown_from_image": bottom,
        "xmin_in_screen_coordinates": screen_left.astype(int),
        "ymin_in_screen_coordinates": screen_top.astype(int),
        "xmax_in_screen_coordinates": (screen_left + shown_width).astype(int),
        "ymax_in_screen_coordinates": (screen_top + shown_height).astype(int),
    }


def _samples(
    fixations: Fixations,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    shared: dict[str, NDArray[Any]],
    offset: float,
    rng: Generator,
) -> pd.DataFrame:
    t = np.arange(int((fixations.start[-1] + fixations.duration[-1]) * RATE)) / RATE
    knots = np.column_stack([fixations.start, fixations.start + fixations.duration]).ravel()
    index = np.clip(np.searchsorted(fixations.start, t, side="right") - 1, 0, None)
    ppd = shared["angular_resolution_x_pixels_per_degree"][index]
    position = {}
    for name, values in (("x_position", x), ("y_position", y)):
        path = np.interp(t, knots, np.repeat(values, 2))
        # Slow drift of a tenth of a degree and much smaller noise, as in a video tracker at 1 kHz.
        drift = np.interp(t, t[::50], rng.normal(0, 0.06, len(t[::50])))
        position[name] = np.round(path + ppd * (drift + rng.normal(0, 0.01, len(t))))
    if rng.random() < 0.5:
        # A look at a button beside the film; such positions are not clipped.
        begin = int(rng.integers(0, len(t) - 300))
        position["x_position"][begin : begin + 300] = -np.round(4 * ppd[begin : begin + 300])
    table = pd.DataFrame(
        {
            "timestamp_sample": np.round(t + offset, 3),
            **position,
            "pupil_area_normalized": np.round(rng.normal(1, 0.02, len(t)), 3),
            **{name: values[index] for name, values in shared.items()},
        },
        columns=SAMPLE_COLUMNS,
    ).astype(dict.fromkeys((*BLINK_COLUMNS[:2], *BLINK_COLUMNS[3:]), "Int64"))
    for _ in range(1 + int(rng.poisson(t[-1] / 6))):
        begin = int(rng.integers(0, len(t)))
        table.loc[begin : begin + int(rng.integers(80, 250)), BLINK_COLUMNS] = None
    return table


def _words(case: SyntheticCase, end: float) -> pd.DataFrame:
    text = {
        "Normal": "the lungs are clear . no effusion .",
        "CHF": "the heart is enlarged . there is edema , and effusion .",
        "pneumonia": "there is a focal consolidation . heart size is normal .",
    }[case.plan.label].split()
    begin = np.round(np.linspace(0.3 * end, 0.9 * end, len(text)), 2)
    return pd.DataFrame({"word": text, "timestamp_start_word": begin, "timestamp_end_word": np.round(begin + 0.3, 2)})


def _csv(path: Path, table: pd.DataFrame) -> None:
    """Writes a table as REFLACX's files are: CRLF line ends and no index."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, lineterminator="\r\n")
