"""The table that ends `gazelit test` and `gazelit validate`: metrics in groups, with intervals and numbers of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from gazelit.data.splits.identity import identity
from gazelit.evaluation.scores import MAP_METRICS, scores_of, truths
from gazelit.evaluation.statistics import Estimate, bootstrap_weights
from gazelit.metrics.catalogue import WITH_GAZE
from gazelit.text_table import wide_console

#: Number of draws of patients: enough for a console; the report draws more.
RESAMPLES = 1000
#: Number of cases above which no intervals are computed here; the draws would take gigabytes.
MOST_CASES = 20_000
_DIAGNOSIS = {
    "auroc": "AUC",
    "ap": "average precision",
    "sensitivity": "sensitivity at 90 % specificity",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "brier": "Brier score",
    "ece": "calibration error",
    "ece_corrected": "calibration error, debiased",
    "rmsce": "root mean square calibration error",
}
_MAP_NOTES = {"sigma_px": "σ of the targets (working pixels)", "n_without_gaze": "films without gaze"}
_GROUPS = ("diagnosis", "diagnosis, given the reader's gaze", "gaze map", "loss", "other")


def show_metrics(
    metrics: Mapping[str, float],
    predictions: pd.DataFrame | None,
    patients: NDArray[Any] | None,
    classes: Sequence[str],
) -> None:
    """Prints metrics.

    Args:
        metrics: By name, with the split before it: ``test/auroc_macro``.
        predictions: Predictions of every case, as in ``predictions.parquet``; None if there are none.
        patients: (N,) the patient of every prediction; None if not known.
        classes: Names of the classes.
    """
    estimates = {} if predictions is None or patients is None else _estimates(predictions, patients, classes)
    counts = {} if predictions is None else _counts(predictions, classes)
    with_interval = any(np.isfinite(estimate.low) for estimate in estimates.values())
    table = Table(box=SIMPLE_HEAD, title=_title(predictions, patients, with_interval), title_justify="left")
    table.add_column("metric", no_wrap=True)
    for name in ("value", *["95 % interval"] * with_interval, *["n"] * bool(counts)):
        table.add_column(name, justify="right", no_wrap=True)
    further = {} if predictions is None else predictions.attrs.get("metrics", {})
    described = {key: _described(key, classes) for key in metrics}
    described |= {
        f"test/{name}": ((4, 0), about["label"]) for name, about in further.items() if f"test/{name}" in metrics
    }
    rows = sorted(((*described[key], key) for key in metrics), key=lambda row: row[0])
    for group, position in zip(_GROUPS, range(len(_GROUPS)), strict=True):
        of_group = [(text, key) for (group, _), text, key in rows if group == position]
        if of_group:
            table.add_section()
            table.add_row(f"[bold]{group}[/bold]")
        for text, key in of_group:
            name = key.partition("/")[2]
            found = estimates.get(name)
            interval = "" if found is None or not np.isfinite(found.low) else f"{found.low:.3f} to {found.high:.3f}"
            count = counts.get(name)
            cells = [interval] * with_interval + ["" if count is None else str(count)] * bool(counts)
            table.add_row(f"  {text}", _number(metrics[key]), *cells)
    wide_console().print(table)


def _estimates(predictions: pd.DataFrame, patients: NDArray[Any], classes: Sequence[str]) -> dict[str, Estimate]:
    if len(predictions) > MOST_CASES:
        return {}
    weights = bootstrap_weights(patients, RESAMPLES)
    table = predictions.assign(patient=patients)
    found = scores_of({0: [table]}, classes, weights).estimates()
    given = {f"{WITH_GAZE}_p_{name}": f"p_{name}" for name in classes}
    if given and set(given) <= set(table):
        # The same for the classifier that was given gaze; its maps are the same.
        seen = table.drop(columns=[*given.values(), *set(MAP_METRICS) & set(table)]).rename(columns=given)
        with_gaze = scores_of({0: [seen]}, classes, weights).estimates()
        found |= {f"{WITH_GAZE}/{name}": value for name, value in with_gaze.items()}
    return found


def _counts(predictions: pd.DataFrame, classes: Sequence[str]) -> dict[str, int]:
    """By metric, the number of its cases."""
    of_cases = [name for name in (*MAP_METRICS, *predictions.attrs.get("metrics", ())) if name in predictions]
    counts = {name: int(predictions[name].notna().sum()) for name in of_cases}
    truth = truths(predictions, classes)
    if truth is not None:
        known = ~np.isnan(truth)
        for kind in _DIAGNOSIS:
            counts |= {f"{kind}_{name}": int(known[:, column].sum()) for column, name in enumerate(classes)}
            counts |= {name: int(known.any(1).sum()) for name in (kind, f"{kind}_macro", f"{kind}_micro")}
    return counts | {f"{WITH_GAZE}/{name}": count for name, count in counts.items() if name not in MAP_METRICS}


def _title(predictions: pd.DataFrame | None, patients: NDArray[Any] | None, with_interval: bool) -> str | None:
    if predictions is None:
        return None
    cases = f"{len(predictions)} films"
    if patients is None:
        return cases
    return f"{cases} of {len(np.unique(patients))} patients" + ("; intervals over patients" if with_interval else "")


def _described(key: str, classes: Sequence[str]) -> tuple[tuple[int, float], str]:
    """The group of a metric, its place in the group, and its name."""
    name = key.partition("/")[2]
    group = 0
    if name.startswith(f"{WITH_GAZE}/"):
        group, name = 1, name.removeprefix(f"{WITH_GAZE}/")
    for rank_of_kind, (kind, text) in enumerate(_DIAGNOSIS.items()):
        if name == kind:
            return (group, rank_of_kind), text
        for rank, of in enumerate(("macro", "micro", *classes)):
            if name == f"{kind}_{of}":
                mean = {"macro": "mean of the classes", "micro": "all decisions together"}
                return (group, rank_of_kind + rank / 1000), f"{text}, {mean.get(of, of)}"
    if name in ("sigma_px", "n_without_gaze"):
        return (2, 90), _MAP_NOTES[name]
    for rank_of_kind, (kind, (text, _)) in enumerate(MAP_METRICS.items()):
        if name == kind or name.startswith(f"{kind}_"):
            return (2, rank_of_kind), text + (f", {name.removeprefix(f'{kind}_')}" if name != kind else "")
    if name == "gaze_given":
        return (1, 90), "films whose gaze was given"
    return _after(name)


def _after(name: str) -> tuple[tuple[int, float], str]:
    if name == "selection":
        return (3, 0), "selection (sum of the tasks' losses)"
    return (3 if name.endswith("loss") else 4, 1), name


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1e4 else f"{value:.3g}"


def patients_of(datamodule: Any, rows: NDArray[np.int64]) -> NDArray[Any] | None:
    """The patient of every case, if the data module knows."""
    store = getattr(datamodule, "store", None)
    if store is None or "patient_id" not in getattr(store, "cases", ()):
        return None
    found: NDArray[Any] = identity(store.cases["patient_id"]).to_numpy()[rows]
    return found
