"""A synthetic cohort as an EGD-CXR 1.0.0 tree beside a MIMIC-CXR tree."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.random import SeedSequence
from rich.console import Console
from rich.progress import track

from gazelit import __version__
from gazelit.errors import InputError
from gazelit.files import building_folder, is_free, read_json, write_json
from gazelit.synthetic.case import Plan, plan_cohort, simulate_case
from gazelit.synthetic.dicom_writer import uid, write_film
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

#: Marks a tree as simulated; the EGD-CXR reader passes it on to everything that is measured.
MARKER = "SYNTHETIC.json"
#: A calibration screen after this many films, as in EGD-CXR.
CALIBRATION_EVERY = 20


def write_cohort(out: Path, cases: int, seed: int = 0, max_side: int | None = None, workers: int | None = None) -> None:
    """Writes a synthetic cohort in the formats of EGD-CXR 1.0.0 and MIMIC-CXR.

    The films come from an analytic X-ray projection of a random chest, the gaze from a model of a reader; classes
    Normal, CHF and pneumonia are equally frequent. The same seed gives the same bytes, whatever the number of workers.
    A finished cohort with the same settings is left as it is.

    Args:
        out: Folder that gets ``egd-cxr`` and ``mimic-cxr``; it appears when it is complete.
        cases: Number of films.
        seed: Of everything.
        max_side: Longest side of a film in pixels; EGD-CXR's own sizes (up to 3056) unless given.
        workers: Processes that simulate; as many as cores unless given.

    Raises:
        InputError: An option is out of range, or ``out`` holds something else.
    """
    out = Path(out)
    if cases < 3:
        raise InputError(f"cases: must be at least 3, one of each class, not {cases}")
    if seed < 0:
        raise InputError(f"seed: must not be negative, but is {seed}")
    if max_side is not None and max_side < 64:
        raise InputError(f"max_side: must be at least 64 pixels, not {max_side}")
    about = {
        "synthetic": True,
        "generator": "gazelit",
        "version": __version__,
        "seed": seed,
        "cases": cases,
        "max_side": max_side,
    }
    if not is_free(out):
        marker = out / "egd-cxr" / MARKER
        if not marker.is_file() or read_json(marker) != about:
            raise InputError(f"{out}: exists and is not this cohort; choose another --out, or remove it")
        return
    with building_folder(out) as building:
        _write(building, plan_cohort(cases, seed, max_side), seed, workers)
        write_json(building / "egd-cxr" / MARKER, about)


def _write(root: Path, plans: list[Plan], seed: int, workers: int | None) -> None:
    results = list(
        track(_simulated(root, plans, seed, workers), "simulating", len(plans), console=Console(stderr=True))
    )
    sheets, gaze, box_rows = zip(*results, strict=True)
    egd = root / "egd-cxr"
    pd.DataFrame(sheets, columns=SHEET_COLUMNS).to_csv(egd / "master_sheet.csv", index=False)
    pd.DataFrame([row for rows in box_rows for row in rows]).to_csv(egd / "bounding_boxes.csv", index=False)
    samples = _sessions(plans, list(gaze), seed)
    samples[GAZE_COLUMNS].to_csv(egd / "eye_gaze.csv", index=False)
    samples.loc[samples["_last"], GAZE_COLUMNS].to_csv(egd / "fixations.csv", index=False)


def _simulated(
    root: Path, plans: list[Plan], seed: int, workers: int | None
) -> Iterator[tuple[Any, pd.DataFrame, Any]]:
    write = partial(_write_case, root=root, seed=seed)
    workers = min(workers or os.cpu_count() or 1, len(plans))
    if workers <= 1:
        yield from map(write, plans)
        return
    # spawn: forking a process whose libraries run threads can deadlock.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
        yield from pool.map(write, plans)


def _write_case(plan: Plan, root: Path, seed: int) -> tuple[dict[str, object], pd.DataFrame, list[dict[str, object]]]:
    case = simulate_case(plan, seed)
    rng = np.random.default_rng(SeedSequence([seed, 5, plan.number]))
    ids = identifiers(plan)
    uids = (uid(seed, 6, plan.patient), uid(seed, 7, plan.patient), uid(seed, 8, plan.number))
    write_film(root / "mimic-cxr" / ids["path"], case.film, case.spacing, ids["patient_id"], uids, rng)
    folder = root / "egd-cxr" / "audio_segmentation_transcripts" / ids["dicom_id"]
    folder.mkdir(parents=True)
    masks = {
        "right_lung": case.lungs[0],
        "left_lung": case.lungs[1],
        "mediastanum": case.mediastinum,
        "aortic_knob": case.knob,
    }
    for name, mask in masks.items():
        cv2.imwrite(str(folder / f"{name}.png"), mask.astype(np.uint8) * 255)
    write_json(folder / "transcript.json", transcript(case))
    row = sheet_row(case, rng)
    return row, gaze_rows(case.samples, ids["dicom_id"], case.pads, plan.size, rng), boxes(case, rng)


def _sessions(plans: list[Plan], gaze: list[pd.DataFrame], seed: int) -> pd.DataFrame:
    """Screens in the order they were read, calibration screens between them, with the session's columns."""
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
                # The preparation script named the screen after the next film, less five characters; once with a suffix.
                name = f"{dicom_id}_calibration" if shown == 0 else dicom_id[:-5]
                batch.insert(0, calibration_rows(name, rng))
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
