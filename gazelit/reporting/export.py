"""A report's numbers for programs: the rows of ``report.csv`` and the contents of ``metrics.json``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from gazelit.evaluation.asynchrony import HEADLINES, JointTraining, grouped
from gazelit.evaluation.compare import ArmSummary
from gazelit.evaluation.given_gaze import GivenGaze
from gazelit.evaluation.scores import SHARE
from gazelit.reporting.records import ExternalRecord, ReportRecord

#: What `report.csv` calls the only arm of a single model.
MODEL = "model"


def long_table(report: ReportRecord) -> pd.DataFrame:
    """A row a number: ``data``, ``arm``, ``metric``, ``value``, ``low``, ``high``, ``sd_over_seeds``, differences."""
    own = _arm_rows(report.summaries, "test")
    if len(report.results) == 1:
        own = own.assign(arm=MODEL)
    tables = [own, *(_arm_rows(test.summaries, test.name) for test in report.external)]
    tables += [_asynchrony_rows(report.first.joint), _given_gaze_rows(report.first.given_gaze, "test")]
    tables += [_given_gaze_rows(test.given_gaze, test.name) for test in report.external]
    whole = pd.concat([table for table in tables if len(table)], ignore_index=True)
    # One training has no spread.
    return whole.dropna(axis=1, how="all") if len(report.results) == 1 else whole


def metrics_of(report: ReportRecord) -> dict[str, Any]:
    """The numbers of a single model flat, those of several by arm."""
    record = report.first
    metrics: dict[str, Any] = {}
    if len(report.results) == 1:
        metrics = dict(record.metrics)
        for key, estimate in report.summaries[0].estimates.items():
            metrics |= {f"test/{key}_low": estimate.low, f"test/{key}_high": estimate.high}
            metrics.setdefault(f"test/{key}", estimate.value)
        for test in report.external:
            for key, estimate in test.summaries[0].estimates.items():
                cells = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
                metrics |= {f"external/{test.name}/{key}{end}": cell for end, cell in cells.items()}
    else:
        metrics = {
            "synthetic": record.provenance["synthetic"],
            "n_test": len(report.tested),
            "external": {test.name: _external(test) for test in report.external},
            "baselines": {key: value for key, value in record.metrics.items() if key.startswith("baseline/")},
            "arms": {arm.name: _arm(arm) for arm in report.summaries},
        }
    metrics["asynchrony"] = [_asynchrony(trained) for trained in record.joint]
    if record.given_gaze:
        metrics["gaze_at_test"] = _given_gaze(record.given_gaze)
    elsewhere = {test.name: _given_gaze(test.given_gaze) for test in report.external if test.given_gaze}
    return metrics | ({"external_gaze_at_test": elsewhere} if elsewhere else {})


def _arm(arm: ArmSummary) -> dict[str, Any]:
    return {
        "seeds": arm.seeds,
        "folds": arm.folds,
        "seconds": arm.seconds,
        "steps": arm.steps,
        "spread": arm.spread,
        "infinite": arm.infinite,
        "undefined": arm.undefined,
        "estimates": {key: asdict(value) for key, value in arm.estimates.items()},
        **({} if arm.share is None else {f"{SHARE}_over_patients_and_seeds": asdict(arm.share)}),
        "differences": {key: asdict(value) for key, value in arm.differences.items()},
    }


def _external(test: ExternalRecord) -> dict[str, Any]:
    return {arm.name: {key: asdict(value) for key, value in arm.estimates.items()} for arm in test.summaries}


def _given_gaze(rows: Sequence[GivenGaze]) -> dict[str, Any]:
    return {
        row.arm: {
            "films": row.films,
            "films_with_gaze": row.films_with_gaze,
            "estimates": {key: asdict(value) for key, value in row.given.estimates.items()},
            "differences": {key: asdict(value) for key, value in row.given.differences.items()},
        }
        for row in rows
    }


def _asynchrony(trained: JointTraining) -> dict[str, Any]:
    """A training; epochs from 0, undefined numbers null."""
    return {
        "arms": list(trained.arms),
        "stage": trained.stage,
        "seed": trained.seed,
        "fold": trained.fold,
        "epochs": trained.epochs,
        "kept_epoch": trained.kept,
        "epochs_apart": trained.apart,
        "tasks": {
            name: {
                "best_epoch": task.best_epoch,
                "loss_regret": task.loss_regret,
                f"best_epoch_by_{HEADLINES[name][0]}": task.best_epoch_by_metric,
                f"{HEADLINES[name][0]}_regret": task.metric_regret,
            }
            for name, task in trained.tasks.items()
        },
        "learned": {
            name: dict(zip(("first", "kept", "last"), values, strict=True)) for name, values in trained.learned.items()
        },
    }


def _arm_rows(summaries: Sequence[ArmSummary], data: str) -> pd.DataFrame:
    rows = []
    for arm in summaries:
        for metric, estimate in arm.estimates.items():
            cells = {"data": data, "arm": arm.name, "metric": metric}
            bounds = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
            row = cells | bounds | {"sd_over_seeds": arm.spread.get(metric, math.nan)}
            if metric in arm.differences:
                difference = arm.differences[metric]
                row |= {
                    "difference": difference.value,
                    "difference_low": difference.low,
                    "difference_high": difference.high,
                    "p_uncorrected": difference.p,
                }
            rows.append(row)
    return pd.DataFrame(rows)


def _given_gaze_rows(rows: Sequence[GivenGaze], data: str) -> pd.DataFrame:
    table = _arm_rows([row.given for row in rows], f"{data}, given the reader's gaze")
    # A difference here is from the same model without gaze, and that of an arm is from the first arm.
    return table.drop(columns=[name for name in table if "difference" in name or name == "p_uncorrected"])


def _asynchrony_rows(joint: Sequence[JointTraining]) -> pd.DataFrame:
    """``data`` is ``val``, the value a mean over seeds and folds, with its SD."""
    rows = []
    for (arms, stage), group in grouped(joint).items():
        series: dict[str, list[float]] = {"epochs_apart": [trained.apart for trained in group]}
        series["kept_epoch"] = [math.nan if trained.kept is None else trained.kept for trained in group]
        for record in map(_asynchrony, group):
            for task, values in record["tasks"].items():
                for name, value in values.items():
                    series.setdefault(f"{task}/{name}", []).append(math.nan if value is None else value)
        for name, numbers in series.items():
            known = [number for number in numbers if math.isfinite(number)]
            cells = {"data": "val", "arm": ", ".join(arms), "metric": f"asynchrony/{stage}/{name}"}
            value = float(np.mean(known)) if known else math.nan
            spread = float(np.std(known, ddof=1)) if len(known) > 1 else math.nan
            rows.append(cells | {"value": value, "sd_over_seeds": spread})
    return pd.DataFrame(rows)
