"""The command that scores scanpaths of GazeSearch: yardsticks without a film, and predictions of models."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.sources.gazesearch import SIDE, GazeSearchRows, leak_free, read_gazesearch
from gazelit.data.tables import read_text
from gazelit.errors import InputError
from gazelit.evaluation.scanpaths import yardsticks
from gazelit.evaluation.scanpaths.densities import AfterLast, NextFixation, Static, fit_all, score
from gazelit.evaluation.scanpaths.trials import Trials, from_centre
from gazelit.evaluation.statistics import Estimate, bootstrap_weights, estimate, mean_of
from gazelit.files import atomic_path
from gazelit.metrics.scanpath import Scores, Settings, multimatch, scanmatch, sed
from gazelit.reporting.tables import DASH
from gazelit.text_table import aligned

logger = logging.getLogger("gazelit")

SIZE = (SIDE, SIDE)
CENTRE_BIAS = "centre bias"
#: Radius of the inhibition of return that GazeSearch's own decoding enforces.
INHIBITION = 16
COLUMNS = (
    "bits",
    "cNSS",
    "cAUC",
    "ScanMatch 8×6",
    "ScanMatch 16×12",
    "ScanMatch 16×12 50 ms",
    "SED 5×5",
    "SED/length",
    "MultiMatch",
)


@dataclass(frozen=True)
class Row:
    """A predictor's scores.

    Attributes:
        name: Of the predictor.
        estimates: By column, with an interval over films.
        settings: By column, what the values depend on.
    """

    name: str
    estimates: dict[str, Estimate]
    settings: dict[str, Settings]


def compare(
    file: str,
    split: Literal["film", "official"] = "film",
    insist: bool = False,
    patients: str | None = None,
    predictions: list[str] | str | None = None,
    draws: int = 10,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Scores yardsticks that see no film, and the predictions of models, against GazeSearch's test scanpaths.

    Bits per fixation come first: how much better a density of the next fixation, given the true ones before, predicts
    it than the training films' centre bias. Then come the scores of predicted scanpaths. Every value has an interval
    over films (95 %, bootstrap).

    Args:
        file: GazeSearch's JSON file, or rows of it.
        split: ``film``: GazeSearch's own split, from whose training part the test films are taken out; ``official``
            as published, in which films of the test are in the training part: it needs ``insist``, and both are
            printed.
        insist: Also score on the official split, although its parts share films.
        patients: CSV with ``dicom_id`` and ``subject_id``, such as MIMIC-CXR's metadata, to keep patients apart, too.
        predictions: JSON files in GazeSearch's format with a predicted scanpath for every test scanpath: ``name``,
            ``task``, ``X``, ``Y``, ``T`` without the given centre. ``split`` may be left out.
        draws: Number of draws of random yardsticks; scores are means over the draws.
        seed: Seed of the draws.
        out: CSV file for all values with their intervals and settings.

    Raises:
        InputError: A file or option cannot be used, or the official split shares films and is not insisted on.
    """
    if draws < 1:
        raise InputError(f"draws: must be at least 1, not {draws}")
    rows = read_gazesearch(file)
    if split == "official" and rows.shared and not insist:
        raise InputError(
            f"{file}: {rows.leak}; take --split film, or give --insist to see both for comparison with published "
            "figures"
        )
    files = [predictions] if isinstance(predictions, str) else predictions or []
    predicted = {path: _read_predictions(Path(path), rows) for path in files}
    parts = {"film": leak_free(rows.table, _patients(patients, rows))}
    if split == "official":
        parts["official"] = rows.table["official_split"]
    records = []
    for name, part in parts.items():
        scored = _score(rows, part, predicted, draws, seed, is_leaky=name == "official")
        sys.stdout.write(_title(name, rows, part, patients is not None) + _table(scored) + "\n")
        records += [_record(name, row, column) for row in scored for column in row.estimates]
    sys.stdout.write(_legend(scored) + "\n")
    if out is not None:
        with atomic_path(out) as temporary:
            pd.DataFrame(records).to_csv(temporary, index=False)


def _read_predictions(path: Path, rows: GazeSearchRows) -> list[NDArray[np.float64]]:
    """A predicted scanpath for every test scanpath, in the order of the file that they are scored against."""
    read = read_gazesearch(path, needs_split=False)
    index = {
        pair: number for number, pair in enumerate(zip(read.table["image_id"], read.table["finding"], strict=True))
    }
    test = rows.table[rows.table["official_split"] == "test"]
    numbers = [index.get(pair) for pair in zip(test["image_id"], test["finding"], strict=True)]
    missing = sum(number is None for number in numbers)
    if missing:
        raise InputError(f"{path}: has no prediction for {missing} of {len(test)} test scanpaths; give one for each")
    return [read.paths[number] for number in numbers if number is not None]


def _patients(path: str | None, rows: GazeSearchRows) -> pd.Series | None:
    if path is None:
        return None
    table = read_text(Path(path), ["dicom_id", "subject_id"], "MIMIC-CXR's metadata")
    of_film = table.drop_duplicates("dicom_id").set_index("dicom_id")["subject_id"]
    patients = rows.table["image_id"].map(of_film)
    if patients.isna().any():
        films = rows.table.loc[patients.isna(), "image_id"].nunique()
        raise InputError(f"{path}: lists no patient for {films} films; is it the table of all of MIMIC-CXR?")
    return patients


def _score(
    rows: GazeSearchRows,
    split: pd.Series,
    predicted: dict[str, list[NDArray[np.float64]]],
    draws: int,
    seed: int,
    is_leaky: bool,
) -> list[Row]:
    """The rows of a split's table."""
    trials = Trials(
        rows.table.rename(columns={"image_id": "film"})[["film", "finding"]], from_centre(rows.paths, SIZE), SIZE
    )
    train, test = (trials.take(np.flatnonzero(split == name)) for name in ("train", "test"))
    for name, part in (("train", train), ("test", test)):
        if not len(part):
            raise InputError(f"split: no scanpath of {name} is left; give more rows of GazeSearch")
    films = test.table["film"].to_numpy()
    densities = fit_all(train)
    scored = [_score_density(name, model, test, densities[CENTRE_BIAS], films) for name, model in densities.items()]
    by_name = {row.name: row for row in scored}
    for name, yardstick in _paths_of(train, densities, is_leaky).items():
        generator = np.random.default_rng(seed)
        drawn = [_score_paths(test, yardstick(test.table, generator)) for _ in range(draws)]
        merged = _row(name, drawn, films)
        if name in by_name:
            by_name[name].estimates.update(merged.estimates)
            by_name[name].settings.update(merged.settings)
        else:
            scored.append(merged)
    again, repeated = yardsticks.other_reader(test)
    if len(again):
        scored.append(_row("same film's other reader", [_score_paths(test.take(again), repeated)], films[again]))
    for path, paths in predicted.items():
        scored.append(_row(Path(path).stem, [_score_paths(test, paths)], films))
    return scored


def _paths_of(train: Trials, densities: dict[str, NextFixation], is_leaky: bool) -> dict[str, yardsticks.Yardstick]:
    """The yardsticks that are scanpaths; those with a density's name are drawn from it."""
    drawn = {
        name: yardsticks.drawn(train, model)
        for name, model in densities.items()
        if isinstance(model, (Static, AfterLast))
    }
    typical = yardsticks.medoid(train)
    centre = densities[CENTRE_BIAS]
    assert isinstance(centre, Static)
    return {
        **drawn,
        f"{CENTRE_BIAS}, none within {INHIBITION} px of another": yardsticks.drawn(train, centre, INHIBITION),
        "random training path, any finding": yardsticks.random_path(train, same_finding=False),
        "random training path of the finding": yardsticks.random_path(train, same_finding=True),
        "mean training path of the finding": yardsticks.mean_path(train),
        "medoid training path of the finding": typical,
        **({"training path of the same film (the leak)": yardsticks.same_film(train, typical)} if is_leaky else {}),
    }


def _score_density(name: str, model: NextFixation, test: Trials, baseline: NextFixation, films: NDArray[Any]) -> Row:
    assert isinstance(baseline, Static)
    scores, rows = score(model, test, baseline.log)
    values = dict(zip(COLUMNS, scores, strict=False))
    return _row(name, [values], films[rows])


def _score_paths(test: Trials, predicted: list[NDArray[np.float64]]) -> dict[str, Scores]:
    """Scores of predicted scanpaths, each with the given fixations before it."""
    start = test.paths[0][: test.given]
    paths = [np.concatenate([start, path]) for path in predicted]
    values = (
        scanmatch(paths, test.paths, size=SIZE, bins=(8, 6)),
        scanmatch(paths, test.paths, size=SIZE),
        scanmatch(paths, test.paths, size=SIZE, time_bin=0.05),
        sed(paths, test.paths, size=SIZE),
        sed(paths, test.paths, size=SIZE, normalise=True),
        multimatch(paths, test.paths, size=SIZE).mean,
    )
    return dict(zip(COLUMNS[3:], values, strict=True))


def _row(name: str, drawn: Sequence[dict[str, Scores]], films: NDArray[Any]) -> Row:
    """Means over defined draws for each scanpath (or fixation), then over those, with an interval over films."""
    estimates, settings = {}, {}
    for column in drawn[0]:
        values = pd.DataFrame([draw[column].values for draw in drawn]).mean().to_numpy()
        known = ~np.isnan(values)
        estimates[column] = estimate(mean_of(values[known]), films[known], weights=bootstrap_weights(films[known]))
        settings[column] = drawn[0][column].settings
    return Row(name, estimates, settings)


def _title(name: str, rows: GazeSearchRows, split: pd.Series, by_patient: bool) -> str:
    counts = ", ".join(f"{part} {int((split == part).sum())}" for part in ("train", "val", "test"))
    if name == "official":
        return f"Official split ({counts}): {rows.leak}. Figures on it are too good.\n"
    left_out = int(split.isna().sum())
    apart = "films and patients" if by_patient else "films"
    return f"Split without shared {apart} ({counts}; {left_out} scanpaths left out)\n"


def _table(rows: Sequence[Row]) -> str:
    lines: list[tuple[str, ...]] = [("", *COLUMNS)]
    for row in rows:
        cells = []
        for column in COLUMNS:
            value = row.estimates.get(column)
            half = "" if value is None else f" ±{(value.high - value.low) / 2:.3f}"
            cells.append(DASH if value is None else f"{value.value:.3f}{half}")
        lines.append((row.name, *cells))
    return aligned(lines)


def _legend(rows: Sequence[Row]) -> str:
    settings: dict[str, Settings] = {}
    for row in rows:
        settings.update(row.settings)
    lines = [f"  {column}: {settings[column]}" for column in COLUMNS if column in settings]
    return "\n".join(
        [
            "Each value is the mean over test scanpaths (bits, cNSS, cAUC: over fixations) ± half of its 95 % interval",
            "over films. The centre is given and comes first in every path, with 0 s. Bits are gained over the centre",
            f"bias of the training films; a path has no density ({DASH}).",
            *lines,
            *(
                []
                if any(row.name.startswith("same film's other") for row in rows)
                else ["No film and finding was read twice: there is no human ceiling to compare with."]
            ),
        ]
    )


def _record(split: str, row: Row, column: str) -> dict[str, Any]:
    value = row.estimates[column]
    return {
        "split": split,
        "predictor": row.name,
        "metric": column,
        "value": value.value,
        "low": value.low,
        "high": value.high,
        "settings": str(row.settings[column]),
    }
