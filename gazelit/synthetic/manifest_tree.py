"""A cohort as a manifest: PNG images, a table of images and one of fixations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.random import SeedSequence

from gazelit.synthetic.anatomy import CLASSES
from gazelit.synthetic.case import Plan, SyntheticCase
from gazelit.synthetic.tables import identifiers

FOLDER = "manifest"


def write_case(root: Path, case: SyntheticCase, plans: int, seed: int) -> Any:
    """Writes the PNG; returns the case's rows of the two tables."""
    plan = case.plan
    ids = identifiers(plan)
    path = root / FOLDER / "images" / f"{ids['dicom_id']}.png"
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.round(case.film * 65535).astype(np.uint16))
    image = {
        "image_id": ids["dicom_id"],
        "patient_id": ids["patient_id"],
        "study_id": ids["study_id"],
        "path": f"images/{path.name}",
        "view": "PA",
        **{name: int(name == plan.label) for name in CLASSES},
    }
    gaze = pd.concat([_reading(case, ids["dicom_id"], seed, reading) for reading in range(plan.readings)])
    return image, gaze


def _reading(case: SyntheticCase, image_id: str, seed: int, reading: int) -> pd.DataFrame:
    plan, reader = case.plan, case.reader_id(reading)
    fixations, x, y = case.read(np.random.default_rng(SeedSequence([seed, 10, plan.number, reading])), reading)
    return pd.DataFrame(
        {
            "image_id": image_id,
            "reading_id": f"{image_id}-{reader}",
            "reader_id": reader,
            "t": np.round(fixations.start, 4),
            "duration": np.round(fixations.duration, 4),
            "x": np.round(x / plan.size[0], 6),
            "y": np.round(y / plan.size[1], 6),
            "kind": "fixation",
            "ppd_x": round(119 * plan.size[0] / 2544, 3),
            "ppd_y": round(113 * plan.size[1] / 3056, 3),
        }
    )


def write_tables(root: Path, plans: list[Plan], cases: list[Any], seed: int) -> None:
    """Writes ``images.csv`` and ``gaze.csv`` (normalised coordinates)."""
    images, gaze = zip(*cases, strict=True)
    pd.DataFrame(images).to_csv(root / FOLDER / "images.csv", index=False)
    pd.concat(gaze).to_csv(root / FOLDER / "gaze.csv", index=False)
