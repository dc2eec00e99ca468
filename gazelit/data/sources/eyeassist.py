"""EyeAssist-Neo: neonatal chest X-rays read by subspecialists and general radiologists, some of them twice."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from gazelit.data.images.dicom import image_size
from gazelit.data.sources.canvas import on_films
from gazelit.data.sources.mimic import require_folder
from gazelit.data.store.schema import Recording, Source, is_synthetic
from gazelit.data.tables import numbers, read_text, sides, unique
from gazelit.errors import InputError

DATASET = "EyeAssist-Neo"
SUFFIX = "_fixations.csv"
CASE = "Source_File"
#: Columns of a reader's file; x, y and duration come first.
COLUMNS = ("CURRENT_FIX_X", "CURRENT_FIX_Y", "CURRENT_FIX_DURATION", "CURRENT_FIX_INDEX", CASE)
MANIFEST_COLUMNS = ("case_id", "patient_id", "image_path", "width", "height", "label")
#: Neither milliseconds below nor above this are fixations at the median.
SHORTEST, LONGEST = 20.0, 10_000.0
#: What include may be, in lower case; a blank includes the case, as in the authors' reader.
INCLUDED = {"": True, "1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
#: How far the shapes of canvas and film may differ.
SHAPE = 0.01


class EyeAssist(Source):
    """EyeAssist-Neo: 75 neonatal chest X-rays, read by five subspecialists and five general radiologists.

    Format, from the authors' own reader (ZhixiangWang-CN/EyeAssist-reproducibility, src/eyeassist/io.py and
    docs/DATA_SCHEMA.md; the dataset is gated and was not seen): a CSV of fixations for each reader,
    ``<state>/<reader>_fixations.csv``, with ``Source_File`` (the case), ``CURRENT_FIX_X``, ``CURRENT_FIX_Y`` (pixels of
    the case's canvas), ``CURRENT_FIX_DURATION`` (EyeLink's milliseconds) and ``CURRENT_FIX_INDEX``; states are
    ``Expert``, ``General`` and the sessions ``first`` and ``second``. Users of that code also write a table of cases:
    ``case_id`` (as in ``Source_File``), ``patient_id``, ``image_path``, ``width`` and ``height`` of the canvas,
    ``label`` (1 abnormal, 0 normal), perhaps ``include`` (1, true or blank; 0 or false leaves the case out).

    Two assumptions: the film fills its canvas, so that a film of another shape is refused; and a file's name is the
    reader in all states. A recording that is in two chosen states is refused, because those of the first session may be
    the experts'. The beginnings of fixations are not given: they are put end to end. EyeAssist-PE has CT and is not
    read.

    Access: Hugging Face, fvewa/EyeAssist, gated; read its licence.

    Args:
        root: The folder with the states' folders, at any depth.
        cases: The table of cases; ``image_path`` is relative to its folder.
        states: Folders whose readings are taken.
    """

    name = "eyeassist"

    def __init__(self, root: str, cases: str, states: Sequence[str] = ("Expert", "General")) -> None:
        self.root = Path(root)
        self.cases = Path(cases)
        self.states = list(states)

    def options(self) -> dict[str, object]:
        """See :class:`gazelit.data.store.schema.Source`."""
        return {"states": self.states}

    def read(self) -> Recording:
        """See :class:`gazelit.data.store.schema.Source`."""
        require_folder(self.root, DATASET)
        films, canvas, skipped = self._films()
        gaze = self._gaze()
        unknown = set(gaze["image_id"]) - set(canvas.index)
        listed = gaze[~gaze["image_id"].isin(unknown)]
        if listed.empty:
            raise InputError(
                f"{self.cases}: has none of the {gaze['image_id'].nunique()} cases of {self.root}; case_id must be as "
                f"{CASE} has it"
            )
        known = listed[listed["image_id"].isin(films["image_id"])]
        readings = known[["image_id", "reading_id", "reader_id", "state"]].drop_duplicates(ignore_index=True)
        notes = {"cases_not_in_the_table": len(unknown), "readings": len(readings)}
        synthetic = is_synthetic(self.root)
        return Recording(
            films, ["abnormal"], partial(on_films, known, films, canvas), synthetic, skipped, notes, readings=readings
        )

    def _films(self) -> tuple[pd.DataFrame, pd.DataFrame, list[tuple[str, str]]]:
        """The films that can be opened, the canvas of every case by id, and the films left out."""
        table = read_text(self.cases, MANIFEST_COLUMNS, f"a table of {DATASET}'s cases")
        unique(self.cases, table, "case_id")
        for axis in ("width", "height"):
            table[axis] = sides(self.cases, table, axis)
        table["abnormal"] = numbers(self.cases, table, "label")
        wrong = np.flatnonzero(~table["abnormal"].isin((0, 1)) | (table["patient_id"].str.strip() == ""))
        if len(wrong):
            raise InputError(f"{self.cases}: record {wrong[0] + 1}: label is neither 1 nor 0, or patient_id is empty")
        if "include" in table:
            is_included = table["include"].str.strip().str.lower().map(INCLUDED)
            wrong = np.flatnonzero(is_included.isna())
            if len(wrong):
                raise InputError(f"{self.cases}: record {wrong[0] + 1}: include is neither 1 nor 0; write one of them")
            table = table[is_included.astype(bool)]
        skipped: list[tuple[str, str]] = []
        rows = []
        for case in table.itertuples():
            path = self.cases.parent / str(case.image_path)
            try:
                height, width = image_size(path)
            except InputError as error:
                skipped.append((str(case.case_id), str(error)))
                continue
            if abs(width * case.height / (height * case.width) - 1) > SHAPE:
                raise InputError(
                    f"{self.cases}: record {case.Index + 1}: the film has {width} × {height} pixels, the canvas "
                    f"{case.width:.0f} × {case.height:.0f}; how a film of another shape was placed is not known"
                )
            identity = case.case_id, case.patient_id, case.case_id, self.name
            rows.append((*identity, str(path), height, width, "", case.abnormal))
        if not rows:
            first = skipped[0][1] if skipped else "no case is included"
            raise InputError(f"{self.cases}: none of the films can be used; the first: {first}")
        columns = ["image_id", "patient_id", "study_id", "source", "path", "height", "width", "view", "abnormal"]
        return pd.DataFrame(rows, columns=columns), table.set_index("case_id")[["width", "height"]], skipped

    def _gaze(self) -> pd.DataFrame:
        parts: list[pd.DataFrame] = []
        for state in self.states:
            files = [path for path in sorted(self.root.rglob(f"*{SUFFIX}")) if path.parent.name == state]
            if not files:
                raise InputError(f"{self.root}: no folder {state} with files of readers (*{SUFFIX}); see states")
            parts += [_reader(path, state) for path in files]
        gaze = pd.concat(parts, ignore_index=True)
        _check_once(self.root, gaze)
        return gaze


def _reader(path: Path, state: str) -> pd.DataFrame:
    """A reader's fixations, in order within each case, positions on the canvas."""
    table = read_text(path, COLUMNS, DATASET)
    x, y = (numbers(path, table, column, blank=True) for column in COLUMNS[:2])
    duration, index = (numbers(path, table, column) for column in COLUMNS[2:4])
    if (duration < 0).any():
        raise InputError(f"{path}: record {np.flatnonzero(duration < 0)[0] + 1}: {COLUMNS[2]} is negative")
    if len(duration) and not SHORTEST <= np.median(duration) <= LONGEST:
        raise InputError(f"{path}: {COLUMNS[2]} cannot be milliseconds: half of the fixations are shorter or longer")
    reader = path.name.removesuffix(SUFFIX)
    case = table[CASE].str.strip()
    gaze = pd.DataFrame(
        {
            "image_id": case,
            "reading_id": case + ":" + state + ":" + reader,
            "reader_id": reader,
            "state": state,
            "index": index,
            "x": x,
            "y": y,
            "duration": duration / 1000,
        }
    )
    return gaze.sort_values(["reading_id", "index"], kind="stable", ignore_index=True)


def _check_once(root: Path, gaze: pd.DataFrame) -> None:
    """Raises InputError if two readings of a case have the same numbers: a recording that is in two states."""
    for _, readings in gaze.groupby("image_id"):
        seen: dict[bytes, str] = {}
        for reading, part in readings.groupby("reading_id"):
            content = part[["x", "y", "duration"]].to_numpy(np.float64).tobytes()
            if content in seen:
                first, second = (str(name).split(":", 1)[1] for name in (seen[content], reading))
                raise InputError(f"{root}: the same recording is in {first} and {second}; take one with states")
            seen[content] = str(reading)
