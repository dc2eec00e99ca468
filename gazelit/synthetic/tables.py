"""The tables of EGD-CXR 1.0.0 as its authors wrote them, quirks included."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

from gazelit.errors import InputError
from gazelit.synthetic.anatomy import CLASSES
from gazelit.synthetic.case import ANALYTIC, SCREEN, Difficulty, Pads, Plan, SyntheticCase
from gazelit.synthetic.reader import RATE, Samples

#: Marks ids of the hard cohort (in the last of their five parts).
HARD_MARK = 0x68617264
#: Marks ids of films projected from a CT.
CT_MARK = 0x66726374
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")

GAZE_COLUMNS = [
    "SESSION_ID",
    "MEDIA_ID",
    "DICOM_ID",
    "CNT",
    "Time (in secs)",
    "TIMETICK(f=10000000)",
    "FPOGX",
    "FPOGY",
    "FPOGS",
    "FPOGD",
    "FPOGID",
    "FPOGV",
    "BPOGX",
    "BPOGY",
    "BPOGV",
    "LPCX",
    "LPCY",
    "LPD",
    "LPS",
    "LPV",
    "RPCX",
    "RPCY",
    "RPD",
    "RPS",
    "RPV",
    "BKID",
    "BKDUR",
    "BKPMIN",
    "LPMM",
    "LPMMV",
    "RPMM",
    "RPMMV",
    "SACCADE_MAG",
    "SACCADE_DIR",
    "VID_FRAME",
    "X_ORIGINAL",
    "Y_ORIGINAL",
]

NLP_FINDINGS = [
    "consolidation",
    "enlarged_cardiac_silhouette",
    "linear__patchy_atelectasis",
    "lobar__segmental_collapse",
    "not_otherwise_specified_opacity___pleural__parenchymal_opacity__",
    "pleural_effusion_or_thickening",
    "pulmonary_edema__hazy_opacity",
    "normal_anatomically",
    "elevated_hemidiaphragm",
    "hyperaeration",
    "vascular_redistribution",
]
CHEXPERT_FINDINGS = [
    "atelectasis",
    "cardiomegaly",
    "consolidation",
    "edema",
    "enlarged_cardiomediastinum",
    "fracture",
    "lung_lesion",
    "lung_opacity",
    "no_finding",
    "pleural_effusion",
    "pleural_other",
    "pneumonia",
    "pneumothorax",
    "support_devices",
]
SHEET_COLUMNS = [
    *["dicom_id", "path", "study_id", "patient_id", "stay_id", "gender", "anchor_age"],
    *["image_top_pad", "image_bottom_pad", "image_left_pad", "image_right_pad"],
    *(f"dx{number}{suffix}" for number in range(1, 10) for suffix in ("", "_icd")),
    *["normal_reports", "Normal", "CHF", "pneumonia"],
    *NLP_FINDINGS,
    *(f"{finding}__chx" for finding in CHEXPERT_FINDINGS),
    "cxr_exam_indication",
]

#: How often each class has each finding, by NLP of its report.
_FINDING_RATES = {
    "Normal": {"normal_anatomically": 0.9, "hyperaeration": 0.05},
    "CHF": {
        "enlarged_cardiac_silhouette": 0.9,
        "pleural_effusion_or_thickening": 0.75,
        "pulmonary_edema__hazy_opacity": 0.8,
        "vascular_redistribution": 0.7,
        "linear__patchy_atelectasis": 0.3,
    },
    "pneumonia": {
        "consolidation": 0.75,
        "not_otherwise_specified_opacity___pleural__parenchymal_opacity__": 0.6,
        "linear__patchy_atelectasis": 0.3,
        "lobar__segmental_collapse": 0.08,
    },
}
_CHEXPERT_RATES = {
    "Normal": {"no_finding": 0.85},
    "CHF": {"cardiomegaly": 0.8, "edema": 0.7, "pleural_effusion": 0.65},
    "pneumonia": {"pneumonia": 0.65, "lung_opacity": 0.7, "consolidation": 0.6},
}
_DIAGNOSES = {
    "Normal": [("CHEST PAIN, UNSPECIFIED", "R079"), ("PALPITATIONS", "7851")],
    "CHF": [("CONGESTIVE HEART FAILURE, UNSPECIFIED", "4280"), ("HEART FAILURE, UNSPECIFIED", "I509")],
    "pneumonia": [("PNEUMONIA, UNSPECIFIED ORGANISM", "J189"), ("PNEUMONIA, ORGANISM UNSPECIFIED", "486")],
}
_INDICATIONS = (
    "___F with cough, evaluate for pneumonia",
    'History: ___ with "chest tightness"\nEvaluate, please, for acute process',
    "___M with dyspnea, leg swelling\n\n// edema?",
    "Chest pain",
)


def identifiers(plan: Plan) -> dict[str, str]:
    """Invented ids of a case, in the shapes of the real ones."""
    # The person in a CT has the same id in the cohorts of every seed.
    number = (plan.seed * 100_003 + plan.patient) % 10**7 if plan.body == ANALYTIC else plan.patient
    patient, study = f"1{number:07d}", f"5{number:07d}"
    mark = CT_MARK if plan.body != ANALYTIC else HARD_MARK if plan.difficulty == "hard" else 0
    check = (plan.number * 2654435761) % 2**32 ^ mark
    parts = (plan.seed % 2**32, plan.number, plan.patient, plan.image, check)
    image = "-".join(f"{part:08x}" for part in parts)
    return {
        "dicom_id": image,
        "patient_id": patient,
        "study_id": study,
        "path": f"files/p{patient[:2]}/p{patient}/s{study}/{image}.dcm",
    }


def plan_of(image_id: str, size: tuple[int, int]) -> Plan:
    """The plan of a case, read from its id. The id holds neither session, here −1, nor folder of a CT, here ``ct``.

    Args:
        image_id: As :func:`identifiers` makes it: seed, number, patient, image of the patient and a check.
        size: (W, H) of the film in pixels.

    Raises:
        InputError: The id is not of a synthetic case.
    """
    parts = [int(part, 16) for part in image_id.split("-")] if _ID.fullmatch(image_id) else []
    mark = parts[4] ^ (parts[1] * 2654435761) % 2**32 if parts else None
    if mark not in (0, HARD_MARK, CT_MARK):
        raise InputError(f"{image_id}: is no image of a synthetic cohort")
    seed, number, patient, image, _ = parts
    difficulty: Difficulty = "easy" if mark == 0 else "hard"
    body = "ct" if mark == CT_MARK else ANALYTIC
    return Plan(number, CLASSES[number % len(CLASSES)], patient, image, size, -1, seed, difficulty, body=body)


def sheet_row(case: SyntheticCase, rng: Generator) -> dict[str, object]:
    """A case's record of ``master_sheet.csv``."""
    plan, label = case.plan, case.plan.label
    row: dict[str, object] = dict.fromkeys(SHEET_COLUMNS, "")
    decade = int(rng.integers(2, 8)) * 10
    row |= identifiers(plan)
    row |= {
        "stay_id": int(30000000 + plan.patient),
        "gender": "MF"[plan.patient % 2],
        "anchor_age": f"{decade} - {decade + 10}",
    }
    row |= {f"image_{side}_pad": getattr(case.pads, side) for side in ("top", "bottom", "left", "right")}
    diagnosis, code = _DIAGNOSES[label][int(rng.integers(2))]
    row |= {"dx1": diagnosis, "dx1_icd": code}
    if rng.random() < 0.4:
        row |= {"dx2": "HYPERTENSION NOS", "dx2_icd": "4019"}
    row |= {name: int(name == label) for name in CLASSES}
    row["normal_reports"] = int(label == "Normal" or rng.random() < 0.02)
    row |= {name: int(rng.random() < _FINDING_RATES[label].get(name, 0.02)) for name in NLP_FINDINGS}
    for name in CHEXPERT_FINDINGS:
        draw = rng.random()
        rate = _CHEXPERT_RATES[label].get(name, 0.01)
        row[f"{name}__chx"] = 1.0 if draw < rate else -1.0 if draw < rate + 0.04 else 0.0 if draw < rate + 0.12 else ""
    row["cxr_exam_indication"] = _INDICATIONS[int(rng.integers(len(_INDICATIONS)))]
    return row


def gaze_rows(
    samples: Samples, dicom_id: str, pads: Pads | None, size: tuple[int, int], rng: Generator
) -> pd.DataFrame:
    """A screen's rows of ``eye_gaze.csv``, without the session's columns.

    Args:
        samples: The samples of the tracker.
        dicom_id: The screen's id.
        pads: How the film lay on the canvas; None for a calibration screen, whose X/Y_ORIGINAL are screen pixels.
        size: (W, H) of the film.
        rng: Draws pupils.
    """
    count = len(samples.t)
    looking = samples.valid
    if pads is not None and size[0] % 2:
        # A glance at the film's right edge. X_ORIGINAL then equals the width, because odd widths are rounded up.
        edge = slice(count // 2, count // 2 + 3)
        samples.x[edge] = (SCREEN[0] - pads.right - 0.2) / SCREEN[0]
        samples.y[edge] = 0.5
        looking = looking.copy()
        looking[edge] = False
    # A blink within a fixation starts another fixation, as in the tracker's own count.
    change = np.flatnonzero(np.diff(np.where(looking, samples.fixation, -1), prepend=-2) != 0)
    block = np.zeros(count, np.int64)
    block[change] = 1
    block = np.cumsum(block)
    grouped = pd.DataFrame({"block": block, "x": samples.x, "y": samples.y, "t": samples.t}).groupby("block")
    order = grouped.cumcount().to_numpy() + 1
    mean_x = grouped["x"].cumsum().to_numpy() / order
    mean_y = grouped["y"].cumsum().to_numpy() / order
    begin = grouped["t"].transform("first").to_numpy() - 1 / RATE
    number = np.cumsum((order == 1) & looking)
    fpog_x, fpog_y = np.where(looking, mean_x, samples.x), np.where(looking, mean_y, samples.y)
    blinking = samples.blink > 0
    seen = (~blinking).astype(int)
    pupil = np.round(np.where(blinking, 0, 18 + np.cumsum(rng.normal(0, 0.02, count))), 3)
    millimetres = np.round(np.where(blinking, 0, 3.4 + 0.05 * rng.standard_normal(count)), 3)
    jump_x = np.append(0.0, np.diff(fpog_x)) * SCREEN[0]
    jump_y = np.append(0.0, np.diff(fpog_y)) * SCREEN[1]
    first = (order == 1) & looking
    x_original, y_original = original_pixels(fpog_x, fpog_y, pads, size)
    time = np.round(samples.t, 5)
    start = np.round(begin, 5)
    # In a long blink the tracker has no coordinates at all.
    lost = blinking & (np.convolve(blinking, np.ones(9), "same") >= 9)
    fpog_x, fpog_y = np.where(lost, np.nan, fpog_x), np.where(lost, np.nan, fpog_y)
    table = {
        "DICOM_ID": dicom_id,
        "Time (in secs)": time,
        "FPOGX": np.round(fpog_x, 5),
        "FPOGY": np.round(fpog_y, 5),
        "FPOGS": start,
        "FPOGD": np.round(time - start, 5),
        "FPOGID": number,
        "FPOGV": looking.astype(int),
        "BPOGX": np.round(np.where(lost, np.nan, samples.x), 5),
        "BPOGY": np.round(np.where(lost, np.nan, samples.y), 5),
        "BPOGV": seen,
        "BKID": samples.blink,
        "BKDUR": 0.0,
        "BKPMIN": int(samples.blink.max()),
        "SACCADE_MAG": np.round(np.where(first, np.hypot(jump_x, jump_y), 0), 3),
        "SACCADE_DIR": np.round(np.where(first, np.degrees(np.arctan2(-jump_y, jump_x)) % 360, 0), 3),
        "VID_FRAME": 0.0,
        "X_ORIGINAL": x_original,
        "Y_ORIGINAL": y_original,
    }
    for eye in "LR":
        table |= {
            f"{eye}PCX": np.round(0.5 + 0.01 * rng.standard_normal(count), 5),
            f"{eye}PCY": np.round(0.5 + 0.01 * rng.standard_normal(count), 5),
            f"{eye}PD": pupil,
            f"{eye}PS": 1.0,
            f"{eye}PV": seen,
            f"{eye}PMM": millimetres,
            f"{eye}PMMV": seen,
        }
    # fixations.csv holds the last sample of each fixation.
    return pd.DataFrame(table).assign(_last=looking & np.append(block[1:] != block[:-1], True))


def original_pixels(
    fpog_x: NDArray[np.float64], fpog_y: NDArray[np.float64], pads: Pads | None, size: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """X_ORIGINAL and Y_ORIGINAL by the published formula, with its sentinel off the film and its truncation."""
    x, y = np.round(fpog_x, 5) * SCREEN[0], np.round(fpog_y, 5) * SCREEN[1]
    if pads is None:
        return x.astype(np.int64), y.astype(np.int64)
    inside = (pads.left < x) & (x < SCREEN[0] - pads.right) & (pads.top < y) & (y < SCREEN[1] - pads.bottom)
    width, height = size[0] + size[0] % 2, size[1] + size[1] % 2
    scaled_x = width / (SCREEN[0] - pads.left - pads.right) * np.where(inside, x - pads.left, -1)
    scaled_y = height / (SCREEN[1] - pads.top - pads.bottom) * np.where(inside, y - pads.top, -1)
    # On films below the screen's resolution the published sentinel would truncate to 0, which is on the film.
    off_film = np.where(inside, np.inf, -1)
    return np.minimum(np.trunc(scaled_x), off_film).astype(np.int64), np.minimum(np.trunc(scaled_y), off_film).astype(
        np.int64
    )


def calibration_rows(dicom_id: str, bias: tuple[float, float], rng: Generator) -> pd.DataFrame:
    """A calibration screen: two seconds on the white dot in the middle, with the session's error."""
    count = int(2 * RATE)
    noise = rng.normal(0, 0.004, (2, count))
    valid = np.ones(count, bool)
    samples = Samples(
        np.arange(1, count + 1) / RATE,
        0.5 + bias[0] + noise[0],
        0.5 + bias[1] + noise[1],
        np.zeros(count, np.int64),
        valid,
        np.zeros(count, np.int64),
    )
    return gaze_rows(samples, dicom_id, None, SCREEN, rng)


def boxes(case: SyntheticCase, rng: Generator) -> list[dict[str, object]]:
    """A case's rows of ``bounding_boxes.csv``, in original pixels; some boxes are missing, as in the real file."""
    height, width = case.film.shape
    rows: list[dict[str, object]] = []

    def add(name: str, x1: float, x2: float, y1: float, y2: float) -> None:
        if rng.random() < 0.95:
            values = np.clip([x1, x2], 0, width), np.clip([y1, y2], 0, height)
            corners = {"x1": values[0][0], "x2": values[0][1], "y1": values[1][0], "y2": values[1][1]}
            rows.append(
                {
                    "dicom_id": identifiers(case.plan)["dicom_id"],
                    "bbox_name": name,
                    **{k: round(float(v), 1) for k, v in corners.items()},
                }
            )

    for name, mask in (
        ("right lung", case.lungs[0]),
        ("left lung", case.lungs[1]),
        ("mediastinum", case.mediastinum),
    ):
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(xs):
            add(name, xs[0], xs[-1] + 1, ys[0], ys[-1] + 1)
    half = {"cardiac silhouette": (0.17, 0.13), "trachea": (0.03, 0.09), "aortic knob": (0.06, 0.05)}
    for name, (x, y) in case.landmarks.items():
        if name == "left heart border":
            continue
        rx, ry = half.get(name, (0.07, 0.05))
        add(name, x - rx * width, x + rx * width, y - ry * height, y + ry * height)
    return rows


def transcript(case: SyntheticCase) -> dict[str, object]:
    """The dictation of the reader, who names the finding after first looking at it."""
    times = case.fixations.start
    end = float(times[-1] + case.fixations.duration[-1])
    drawn = times[case.fixations.on_finding]
    finding = {
        "Normal": "no focal opacity",
        "CHF": "enlarged heart with effusion and edema",
        "pneumonia": "focal consolidation",
    }
    first = float(drawn[0]) if len(drawn) else 0.4 * end
    phrases = [
        ("frontal chest radiograph", 0.05 * end),
        (finding[case.plan.label], min(first + 0.4, 0.8 * end)),
        ("the bones are intact.", 0.88 * end),
    ]
    return {
        "full_text": ". ".join(text for text, _ in phrases),
        "time_stamped_text": [
            {"phrase": text, "begin_time": round(begin, 2), "end_time": round(begin + 0.09 * end, 2)}
            for text, begin in phrases
        ],
    }
