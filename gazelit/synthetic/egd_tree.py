"""A cohort as an EGD-CXR 1.0.0 tree beside a MIMIC-CXR tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.random import SeedSequence

from gazelit.files import write_json
from gazelit.synthetic.case import Plan, SyntheticCase, session_bias
from gazelit.synthetic.dicom_writer import write_case_film
from gazelit.synthetic.hard_case import tracker_bias
from gazelit.synthetic.tables import (
    GAZE_COLUMNS,
    SHEET_COLUMNS,
    boxes,
    calibration_rows,
    gaze_rows,
    identifiers,
    sheet_row,
    transcript,
)

FOLDER = "egd-cxr"
#: Number of further readers of each film, which EGD-CXR does not have: agreement of readers bounds what a model can
#: reach.
PEERS = 5
#: Number of films between calibration screens, as in EGD-CXR.
CALIBRATION_EVERY = 20


def write_case(root: Path, case: SyntheticCase, plans: int, seed: int) -> Any:
    """Writes the film, the masks and the transcript; returns the case's rows of the three tables."""
    plan = case.plan
    rng = np.random.default_rng(SeedSequence([seed, 5, plan.number]))
    ids = identifiers(plan)
    write_case_film(root / "mimic-cxr" / ids["path"], case, ids["patient_id"], seed, rng)
    folder = root / FOLDER / "audio_segmentation_transcripts" / ids["dicom_id"]
    folder.mkdir(parents=True)
    masks = {
        "right_lung": case.lungs[0],
        "left_lung": case.lungs[1],
        # Most of the real files have the misspelt name.
        "mediastinum" if plan.number % 10 == 9 else "mediastanum": case.mediastinum,
        "aortic_knob": case.knob,
    }
    for name, mask in masks.items():
        cv2.imwrite(str(folder / f"{name}.png"), mask.astype(np.uint8) * 255)
    # A recursive download leaves this file in the folder.
    (folder / "index.html").write_text("<html></html>\n")
    write_json(folder / "transcript.json", transcript(case))
    row = sheet_row(case, rng)
    gaze = gaze_rows(case.samples, ids["dicom_id"], case.pads, plan.size, rng)
    return row, gaze, boxes(case, rng), pd.concat(_peer(case, ids["dicom_id"], seed, number) for number in range(PEERS))


def _peer(case: SyntheticCase, dicom_id: str, seed: int, number: int) -> pd.DataFrame:
    """Fixations of a further reader, in pixels of the film."""
    reading = number + 1
    fixations, x, y = case.read(np.random.default_rng(SeedSequence([seed, 11, case.plan.number, reading])), reading)
    return pd.DataFrame(
        {
            "dicom_id": dicom_id,
            "reader": case.reader_id(reading),
            "t": np.round(fixations.start, 4),
            "duration": np.round(fixations.duration, 4),
            "x": np.round(x, 2),
            "y": np.round(y, 2),
        }
    )


def write_tables(root: Path, plans: list[Plan], cases: list[Any], seed: int) -> None:
    """Writes the master sheet, the boxes, the two gaze logs, and the fixations of further readers."""
    sheets, gaze, box_rows, peers = zip(*cases, strict=True)
    egd = root / FOLDER
    pd.DataFrame(sheets, columns=SHEET_COLUMNS).to_csv(egd / "master_sheet.csv", index=False)
    pd.DataFrame([row for rows in box_rows for row in rows]).to_csv(egd / "bounding_boxes.csv", index=False)
    pd.concat(peers).to_csv(egd / "peer_fixations.csv", index=False)
    samples = _sessions(plans, list(gaze), seed)
    samples[GAZE_COLUMNS].to_csv(egd / "eye_gaze.csv", index=False)
    samples.loc[samples["_last"], GAZE_COLUMNS].to_csv(egd / "fixations.csv", index=False)


def _sessions(plans: list[Plan], gaze: list[pd.DataFrame], seed: int) -> pd.DataFrame:
    """Rows of all screens in the order in which they were read, with calibration screens and the session's columns."""
    rng = np.random.default_rng(SeedSequence([seed, 9]))
    screens: list[pd.DataFrame] = []
    shown = 0
    for session in sorted({plan.session for plan in plans}):
        clock = 1.5e12 + session * 1e11
        counter = media = 0
        for number in [plan.number for plan in plans if plan.session == session]:
            dicom_id = identifiers(plans[number])["dicom_id"]
            batch = [gaze[number]]
            if shown % CALIBRATION_EVERY == 0:
                # EGD-CXR names the screen after the next film without its last five characters, once with a suffix.
                name = f"{dicom_id}_calibration" if shown == 0 else dicom_id[:-5]
                bias = (tracker_bias if plans[number].difficulty == "hard" else session_bias)(seed, session)
                batch.insert(0, calibration_rows(name, bias, rng))
            shown += 1
            for rows in batch:
                count = len(rows)
                ticks = np.round(clock + rows["Time (in secs)"].to_numpy() * 1e7)
                screens.append(
                    rows.assign(
                        SESSION_ID=session + 1,
                        MEDIA_ID=media,
                        CNT=np.arange(counter, counter + count),
                        **{"TIMETICK(f=10000000)": ticks},
                    )
                )
                counter, media, clock = counter + count, media + 1, float(ticks[-1]) + 2e7
    return pd.concat(screens, ignore_index=True)
