"""Models that were tested twice: as they are, and given the reader's gaze (``gaze_at_test``).

A model with gaze at test answers another question: how good a diagnosis could be with an eye tracker. So it is reported
in a separate section, where each model is compared with itself, and never appears among the arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from gazelit.evaluation.compare import ArmSummary, Result, compare, pooled
from gazelit.metrics.catalogue import WITH_GAZE


@dataclass(frozen=True)
class GivenGaze:
    """An arm with and without the reader's gaze at test.

    Attributes:
        arm: Its name.
        films: Number of test films.
        films_with_gaze: Number of test films with gaze; the others were diagnosed with the predicted gaze.
        without: The arm without gaze at test; gaze was seen only in training.
        given: The arm with gaze at test; its differences are from ``without``.
    """

    arm: str
    films: int
    films_with_gaze: int
    without: ArmSummary
    given: ArmSummary


def given_gaze(results: Sequence[Result], class_names: Sequence[str], all_read_all: bool = False) -> list[GivenGaze]:
    """The arms whose every model was also tested with the reader's gaze; arguments as of :func:`compare`."""
    found = []
    for arm in dict.fromkeys(result.arm for result in results):
        members = [result for result in results if result.arm == arm]
        if not all("gaze_given" in result.predictions for result in members):
            continue
        with_gaze = [
            replace(result, arm=f"{arm}, gaze at test", predictions=_with_gaze(result.predictions, class_names))
            for result in members
        ]
        as_they_are = [replace(result, arm=f"{arm}, gaze in training only") for result in members]
        without, given = compare([*as_they_are, *with_gaze], class_names, all_read_all)
        cases = members[0].predictions if all_read_all else next(iter(pooled(members).values()))
        films = cases["gaze_given"]
        found.append(GivenGaze(arm, len(films), int(films.sum()), without, given))
    return found


def _with_gaze(predictions: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """The diagnoses with gaze under the names of those without; maps are left out, because they are the same."""
    known = {"index", "image_id", "patient", "label", *(f"y_{name}" for name in class_names)}
    columns = [name for name in predictions if name in known or name.startswith(f"{WITH_GAZE}_")]
    return predictions[columns].rename(columns=lambda name: name.removeprefix(f"{WITH_GAZE}_"))
