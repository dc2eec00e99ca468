"""A cohort as a MIMIC-CXR-JPG 2.0.0 tree: images and report labels, no gaze."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.random import SeedSequence

from gazelit.synthetic.case import Plan, SyntheticCase
from gazelit.synthetic.tables import identifiers

FOLDER = "mimic-cxr-jpg"
FINDINGS = [
    *["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion"],
    *["Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax"],
    "Support Devices",
]
_RATES = {
    "Normal": {"No Finding": 0.85},
    "CHF": {"Cardiomegaly": 0.8, "Edema": 0.7, "Pleural Effusion": 0.65},
    "pneumonia": {"Pneumonia": 0.65, "Lung Opacity": 0.7, "Consolidation": 0.6},
}


def write_case(root: Path, case: SyntheticCase, plans: int, seed: int) -> Any:
    """Writes the JPEG as the published recipe does; returns the case's rows of the four tables."""
    plan = case.plan
    rng = np.random.default_rng(SeedSequence([seed, 5, plan.number]))
    ids = identifiers(plan)
    path = root / FOLDER / ids["path"].replace(".dcm", ".jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    low, high = float(case.film.min()), float(case.film.max())
    cv2.imwrite(str(path), cv2.equalizeHist(((case.film - low) / (high - low) * 255).astype(np.uint8)))
    names = {"subject_id": ids["patient_id"], "study_id": ids["study_id"], "dicom_id": ids["dicom_id"]}
    # A few views are missing, and a few say lateral.
    view = "" if plan.number % 11 == 10 else "LATERAL" if plan.number % 13 == 12 else ("PA", "AP")[plan.number % 2]
    metadata = {
        "dicom_id": names["dicom_id"],
        "subject_id": names["subject_id"],
        "study_id": names["study_id"],
        "PerformedProcedureStepDescription": "CHEST (PA AND LAT)",
        "ViewPosition": view,
        "Rows": plan.size[1],
        "Columns": plan.size[0],
        "StudyDate": 21500101,
        # Leading zeros are lost in the published table.
        "StudyTime": round(float(rng.uniform(0, 235959)), 3),
        "ProcedureCodeSequence_CodeMeaning": "CHEST (PA AND LAT)",
        "ViewCodeSequence_CodeMeaning": "postero-anterior",
        "PatientOrientationCodeSequence_CodeMeaning": "Erect",
    }
    split = {
        "dicom_id": names["dicom_id"],
        "study_id": names["study_id"],
        "subject_id": names["subject_id"],
        "split": ("train", "train", "train", "validate", "test")[plan.patient % 5],
    }
    study = {"subject_id": names["subject_id"], "study_id": names["study_id"]}
    return metadata, split, study | _labels(plan.label, rng), study | _labels(plan.label, rng)


def write_tables(root: Path, plans: list[Plan], cases: list[Any], seed: int) -> None:
    """Writes the four tables, most of them gzipped; labels belong to studies, and a few studies have none."""
    metadata, split, chexpert, negbio = (pd.DataFrame(rows) for rows in zip(*cases, strict=True))
    folder = root / FOLDER
    metadata.to_csv(folder / "mimic-cxr-2.0.0-metadata.csv.gz", index=False, compression=_GZIP)
    split.to_csv(folder / "mimic-cxr-2.0.0-split.csv.gz", index=False, compression=_GZIP)
    for name, table, compression in (("chexpert", chexpert, _GZIP), ("negbio", negbio, None)):
        table = table.drop_duplicates("study_id")
        table = table[table["study_id"].astype(int) % 29 != 28]
        file = f"mimic-cxr-2.0.0-{name}.csv" + (".gz" if compression else "")
        table.to_csv(folder / file, index=False, compression=compression)


#: Leaves out the time, which would make the bytes differ from run to run.
_GZIP: dict[str, Any] = {"method": "gzip", "mtime": 0}


def _labels(label: str, rng: np.random.Generator) -> dict[str, object]:
    row: dict[str, object] = {}
    for name in FINDINGS:
        draw, rate = rng.random(), _RATES[label].get(name, 0.01)
        row[name] = 1.0 if draw < rate else -1.0 if draw < rate + 0.04 else 0.0 if draw < rate + 0.12 else ""
    return row
