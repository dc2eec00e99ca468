"""The hard cohort's truth, written beside it for evaluation: the items on each film, and which readers noticed them.

There are three tables in ``truth/``, whose rows are joined by ``image_id`` and ``item``:

- ``cases.csv``, a row a film: ``seed``, ``number`` and ``difficulty`` rebuild it
  (:func:`gazelit.synthetic.oracle.for_case`).
- ``items.csv``, a row a finding or distractor: its position and radius in pixels of the film (centres at integers), a
  box around it, the attenuation it adds, and its visibility (contrast over noise, measured on the film).
- ``readings.csv``, a row an item in a reading: the reader's chance of noticing it, whether it was noticed, after how
  many looks, and how many looks it had.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gazelit.synthetic.case import ANALYTIC
from gazelit.synthetic.hard_case import HardCase
from gazelit.synthetic.search import NAMES, notice, panel_reader
from gazelit.synthetic.tables import identifiers

FOLDER = "truth"
Row = dict[str, Any]


def rows(case: HardCase, tracked: bool) -> tuple[list[Row], list[Row], list[Row]]:
    """A case's rows of the three tables.

    Args:
        case: The case, after its readings were written.
        tracked: Whether the written reading is the reading that the tracker sampled.
    """
    film, plan = case.film_truth, case.plan
    image = identifiers(plan)["dicom_id"]
    patient = film.patient
    head: Row = {
        "image_id": image,
        "synthetic": 1,
        "seed": plan.seed,
        "number": plan.number,
        "difficulty": plan.difficulty,
        "label": plan.label,
        "width": plan.size[0],
        "height": plan.size[1],
        "heart_ratio": round(patient.heart_ratio, 4),
        "rotation_degrees": round(float(np.degrees(patient.rotation)), 3),
        "tilt_degrees": round(float(np.degrees(film.position.angle)), 3),
        "oedema": round(patient.oedema, 5),
    }
    # Cohorts of analytic bodies have no such column, so that their bytes stay what they were.
    head |= {} if plan.body == ANALYTIC else {"body": "ct"}
    items = []
    for number, (item, (x, y, radius)) in enumerate(zip(patient.items, film.items, strict=True)):
        x, y = x - 0.5, y - 0.5
        items.append(
            {
                "image_id": image,
                "item": number,
                "kind": item.kind,
                "finding": int(item.finding),
                "subtle": int(item.subtle),
                "x": round(x, 2),
                "y": round(y, 2),
                "radius": round(radius, 2),
                "x1": round(x - radius, 2),
                "y1": round(y - radius, 2),
                "x2": round(x + radius, 2),
                "y2": round(y + radius, 2),
                "radius_cm": round(item.radius, 3),
                "strength": round(item.strength, 4),
                "visibility": round(float(film.visibility[number]), 4),
            }
        )
    readings = [(0, *case.tracked)] if tracked else case.log
    seen = []
    for reading, reader, simulated in readings:
        person = panel_reader(reader)
        target = simulated.target[0][simulated.duration[0] > 0]
        for number in range(len(patient.items)):
            onset = simulated.state.onset[0, number]
            chance = notice(film.visibility[number], np.array(person.threshold), np.array(person.acuity))
            seen.append(
                {
                    "image_id": image,
                    "reading": reading,
                    "reader_id": person.name,
                    "item": number,
                    "chance": round(float(chance), 4),
                    "noticed": int(np.isfinite(onset)),
                    "onset": int(onset) if np.isfinite(onset) else "",
                    "looks": int((target == len(NAMES) + number).sum()),
                }
            )
    return [head], items, seen


def write(folder: Path, cases: list[tuple[list[Row], list[Row], list[Row]]]) -> None:
    """Writes ``cases.csv``, ``items.csv`` and ``readings.csv``."""
    folder.mkdir()
    for name, parts in zip(("cases", "items", "readings"), zip(*cases, strict=True), strict=True):
        pd.DataFrame([row for part in parts for row in part]).to_csv(folder / f"{name}.csv", index=False)
