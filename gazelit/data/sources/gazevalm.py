"""GazeVaLM: sixteen radiologists on real and generated chest X-rays, each film under two tasks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from gazelit.data.images.dicom import image_size
from gazelit.data.sources.canvas import on_films
from gazelit.data.sources.mimic import require_folder
from gazelit.data.store.schema import Recording, Source, is_synthetic
from gazelit.data.tables import read_text
from gazelit.errors import InputError

DATASET = "GazeVaLM"
Task = Literal["Task1", "Task2"]
TASKS: tuple[Task, ...] = ("Task1", "Task2")
#: Side in pixels of the square that positions are in.
CANVAS = 1080
COLUMNS = ("participant_id", "x", "y", "duration_ms")
SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")
#: Column of the table beside the stimuli; its other columns are the readers that are used.
READERS_FILE, FILE_COLUMN = "expert_results.csv", "File Name"
_STIMULUS = re.compile(r"(real|fake)_(.+)")


class GazeVaLM(Source):
    """GazeVaLM: 960 recordings of 16 radiologists on 30 real and 30 generated chest X-rays.

    Format, as a published analysis of it reads it (ZhixiangWang-CN/EyeAssist-reproducibility, external/gazevalm; the
    files themselves were not seen): ``Task1`` and ``Task2`` somewhere below the root, in each a folder ``real_<study>``
    or ``fake_<study>`` for every film with ``scanpaths.csv`` (``participant_id``, ``x``, ``y``, ``duration_ms``, rows
    in order), and ``expert_results.csv``, whose columns besides ``File Name`` are the readers that are used. Positions
    are pixels of a square of 1080 × 1080. Nothing there says which task is the diagnosis and which one asks whether the
    film is real. The place of the films is not given either: a file named after the stimulus is searched for in
    ``images``. It is not known how a film that is not square was placed; such films are refused. Diagnoses, raw samples
    and pupils are not read.

    A reading is of one reader under one task. The beginnings of fixations are not given: they are put end to end. The
    label ``generated`` is 1 for a generated film; it and the real one of its study count as one patient, so that a
    split keeps them together.

    Access: Hugging Face, davidcwong/GazeVaLM; read its licence. Citation: Wong et al., GazeVaLM, ETRA 2026, arXiv
    2604.11653.

    Args:
        root: The folder that the dataset was unpacked into.
        images: Folder of the films, if it is not ``root``.
        tasks: Tasks whose readings are taken.
        films: ``all``, ``real`` or ``generated``.
    """

    name = "gazevalm"

    def __init__(
        self,
        root: str,
        images: str | None = None,
        tasks: Sequence[Task] = TASKS,
        films: Literal["all", "real", "generated"] = "all",
    ) -> None:
        self.root = Path(root)
        self.images = Path(images) if images is not None else self.root
        self.tasks = list(tasks)
        self.films = films
        if not self.tasks or set(self.tasks) - set(TASKS) or len(set(self.tasks)) < len(self.tasks):
            raise InputError(f"tasks: must be one or both of {', '.join(TASKS)}")

    def read(self) -> Recording:
        """See :class:`gazelit.data.store.schema.Source`."""
        for folder in (self.root, self.images):
            require_folder(folder, DATASET)
        gaze, notes = self._gaze()
        files: dict[str, list[Path]] = {}
        for path in sorted(self.images.rglob("*")):
            if path.suffix.lower() in SUFFIXES and "__MACOSX" not in path.parts:
                files.setdefault(path.stem, []).append(path)
        skipped: list[tuple[str, str]] = []
        rows = []
        for stimulus in sorted(gaze["image_id"].unique()):
            kind, study = _STIMULUS.fullmatch(stimulus).groups()  # type: ignore[union-attr]
            found = files.get(stimulus, [])
            if len(found) > 1:
                raise InputError(
                    f"{self.images}: {len(found)} files are called {stimulus}, such as {found[0]} and {found[1]}; "
                    "it is not known which is the film and which a map; give the folder of the films as images"
                )
            try:
                if not found:
                    raise InputError(f"{self.images}: no file {stimulus} ({', '.join(SUFFIXES)})")
                height, width = image_size(found[0])
            except InputError as error:
                skipped.append((stimulus, str(error)))
                continue
            if height != width:
                raise InputError(
                    f"{found[0]}: is {width} × {height} pixels; how {DATASET} placed a film that is not square on its "
                    f"{CANVAS} × {CANVAS} pixels is not published. Give the square films as images"
                )
            generated = float(kind == "fake")
            rows.append((stimulus, study, stimulus, self.name, str(found[0]), height, width, "", generated))
        if not rows:
            raise InputError(f"{self.images}: holds none of the {len(skipped)} films; the first: {skipped[0][1]}")
        columns = ["image_id", "patient_id", "study_id", "source", "path", "height", "width", "view", "generated"]
        films = pd.DataFrame(rows, columns=columns)
        gaze = gaze[gaze["image_id"].isin(films["image_id"])]
        readings = gaze[["image_id", "reading_id", "reader_id", "task"]].drop_duplicates(ignore_index=True)
        canvas = pd.DataFrame({"width": CANVAS, "height": CANVAS}, index=films["image_id"])
        synthetic = is_synthetic(self.root)
        return Recording(
            films, ["generated"], partial(on_films, gaze, films, canvas), synthetic, skipped, notes, readings=readings
        )

    def _gaze(self) -> tuple[pd.DataFrame, dict[str, int]]:
        """Fixations of the chosen films and tasks, positions on the canvas, and the fixations that were left out."""
        notes = {"rows_without_time": 0, "rows_of_readers_who_do_not_count": 0}
        parts = []
        for task in self.tasks:
            folder = _task_folder(self.root, task)
            counted = _readers(folder / READERS_FILE)
            for path in sorted(folder.glob("*/scanpaths.csv")):
                match = _STIMULUS.fullmatch(path.parent.name)
                if match is None or self.films not in ("all", {"real": "real", "fake": "generated"}[match[1]]):
                    continue
                table = read_text(path, COLUMNS, DATASET)
                values = {name: pd.to_numeric(table[name], errors="coerce") for name in COLUMNS[1:]}
                reader = table["participant_id"].str.strip()
                counts, timed = reader.isin(counted), values["duration_ms"].between(0, np.inf, inclusive="neither")
                notes["rows_of_readers_who_do_not_count"] += int((~counts).sum())
                notes["rows_without_time"] += int((counts & ~timed).sum())
                part = pd.DataFrame(
                    {
                        "image_id": path.parent.name,
                        "reading_id": path.parent.name + ":" + task + ":" + reader,
                        "reader_id": reader,
                        "task": task,
                        "x": values["x"],
                        "y": values["y"],
                        "duration": values["duration_ms"] / 1000,
                    }
                )
                parts.append(part[counts & timed])
        if not any(len(part) for part in parts):
            raise InputError(
                f"{self.root}: has no scanpath of {self.films} films in {', '.join(self.tasks)}; is this {DATASET}?"
            )
        gaze = pd.concat(parts, ignore_index=True)
        seen = gaze[["x", "y"]].dropna()
        if len(seen) and (seen.abs() <= 1).all(axis=1).mean() > 0.9:
            raise InputError(f"{self.root}: x and y are fractions; they are read as pixels of {CANVAS} × {CANVAS}")
        return gaze, notes


def _task_folder(root: Path, task: str) -> Path:
    """The folder of a task: the one that holds stimuli, at any depth."""
    found = [
        path
        for path in sorted(root.rglob(task))
        if path.is_dir() and "__MACOSX" not in path.parts and any(path.glob("*/scanpaths.csv"))
    ]
    if len(found) != 1:
        raise InputError(f"{root}: {len(found)} folders {task} hold */scanpaths.csv; is this the root of {DATASET}?")
    return found[0]


def _readers(path: Path) -> set[str]:
    table = read_text(path, [FILE_COLUMN], DATASET)
    readers = {str(name).strip() for name in table.columns} - {FILE_COLUMN}
    if not readers:
        raise InputError(f"{path}: has no column of a reader beside {FILE_COLUMN}; is this {DATASET}?")
    return readers
