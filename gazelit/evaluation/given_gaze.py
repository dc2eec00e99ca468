"""Models that were tested twice: as they are, and given the reader's gaze (``gaze_at_test``).

What saw gaze at test answers another question than what did not: how well a diagnosis could be beside an eye tracker.
It therefore stands in a section of its own, each model against itself, and never among the arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from gazelit.evaluation.compare import ArmSummary, Result, compare, pooled
from gazelit.evaluation.text import DASH, header, interval, is_number, number, plain, row, with_interval
from gazelit.metrics.diagnosis import WITH_GAZE

#: What the section tells.
SHOWN = {"auroc_macro": "macro AUC", "accuracy": "accuracy", "brier": "Brier score"}
#: Of what `report.csv` says the rows are.
DATA = "test, given the reader's gaze"


@dataclass(frozen=True)
class GivenGaze:
    """An arm with and without the reader's gaze at test.

    Attributes:
        arm: Its name.
        films: Number of test films.
        films_with_gaze: Of which there was gaze to give; the others were diagnosed by the predicted gaze.
        without: What it is without; gaze was seen in training only.
        given: What it is with gaze; its differences are from ``without``.
    """

    arm: str
    films: int
    films_with_gaze: int
    without: ArmSummary
    given: ArmSummary


def given_gaze(results: Sequence[Result], class_names: Sequence[str]) -> list[GivenGaze]:
    """The arms whose every model was also tested with the reader's gaze."""
    found = []
    for arm in dict.fromkeys(result.arm for result in results):
        members = [result for result in results if result.arm == arm]
        if not all("gaze_given" in result.predictions for result in members):
            continue
        told = [
            replace(result, arm=f"{arm}, gaze at test", predictions=_with_gaze(result.predictions, class_names))
            for result in members
        ]
        plain_members = [replace(result, arm=f"{arm}, gaze in training only") for result in members]
        without, given = compare([*plain_members, *told], class_names)
        films = next(iter(pooled(members).values()))["gaze_given"]
        found.append(GivenGaze(arm, len(films), int(films.sum()), without, given))
    return found


def _with_gaze(predictions: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """The diagnoses with gaze under the names of those without; maps, which do not depend on it, are left out."""
    known = {"index", "image_id", "patient", "label", *(f"y_{name}" for name in class_names)}
    columns = [name for name in predictions if name in known or name.startswith(f"{WITH_GAZE}_")]
    return predictions[columns].rename(columns=lambda name: name.removeprefix(f"{WITH_GAZE}_"))


def section(rows: Sequence[GivenGaze]) -> list[str]:
    """Two rows a model as Markdown; nothing without any."""
    if not rows:
        return []
    shown = {key: name for key, name in SHOWN.items() if any(key in one.given.estimates for one in rows)}
    lines = [
        "## Gaze at test",
        "",
        "The same models, tested as they are and given the reader's gaze of the test film, as beside an eye tracker. "
        "Rows of gaze at test are no arms: they are compared with the same model alone, and nowhere else in this "
        "report. Intervals of values: 95 % over patients, SD over seeds beside them; of differences over patients and, "
        "where there are several, seeds.",
        "",
        *header(["model", "films given gaze", *shown.values(), "difference in macro AUC"]),
    ]
    for one in rows:
        for summary, films in ((one.without, "none"), (one.given, f"{one.films_with_gaze} of {one.films}")):
            cells = []
            for key in shown:
                spread = summary.spread.get(key)
                cells.append(with_interval(summary.estimates.get(key), [number(spread)] if is_number(spread) else []))
            difference = summary.differences.get("auroc_macro")
            text = DASH
            if difference is not None:
                text = f"{number(difference.value, signed=True)} ({interval(difference.low, difference.high, True)})"
            lines.append(row([plain(summary.name), films, *cells, text]))
    fewer = [one for one in rows if one.films_with_gaze < one.films]
    if fewer:
        lines += ["", "Films without gaze are diagnosed by the gaze that the model predicts, in both rows."]
    return [*lines, ""]


def long_rows(rows: Sequence[GivenGaze]) -> pd.DataFrame:
    """The models given gaze as rows of ``report.csv``."""
    return pd.DataFrame(
        {"data": DATA, "arm": one.given.name, "metric": metric}
        | {"value": estimate.value, "low": estimate.low, "high": estimate.high}
        | ({"sd_over_seeds": one.given.spread.get(metric, float("nan"))} if len(one.given.seeds) > 1 else {})
        for one in rows
        for metric, estimate in one.given.estimates.items()
    )


def records_of(rows: Sequence[GivenGaze]) -> dict[str, Any]:
    """By arm what ``metrics.json`` says."""
    return {
        one.arm: {
            "films": one.films,
            "films_with_gaze": one.films_with_gaze,
            "estimates": {key: asdict(value) for key, value in one.given.estimates.items()},
            "differences": {key: asdict(value) for key, value in one.given.differences.items()},
        }
        for one in rows
    }
