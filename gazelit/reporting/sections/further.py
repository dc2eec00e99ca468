"""Metrics from outside the package, that a stage was given as ``model.metrics``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gazelit.evaluation.compare import ArmSummary, Result
from gazelit.evaluation.statistics import Estimate
from gazelit.metrics.catalogue import METRICS
from gazelit.reporting.page import Block
from gazelit.reporting.records import ReportRecord
from gazelit.reporting.tables import Table, plain, with_interval

_DIRECTIONS = {True: ", higher is better", False: ", lower is better", None: ""}


def further_blocks(report: ReportRecord) -> list[Block]:
    """A row a metric, a column an arm; nothing without any.

    Metrics with a value for each case have an interval over patients; of others the tests' values are averaged, over
    folds and then over seeds.
    """
    metrics: dict[str, dict[str, Any]] = {}
    for result in report.results:
        metrics |= result.predictions.attrs.get("metrics", {})
    rows = []
    for name, about in metrics.items():
        for key in _keys(name, metrics, report.results):
            label = f"{about['label']}{key.removeprefix(name).replace('_', ' ')}"
            cells = [_cell(key, arm, report.of_arm(arm.name)) for arm in report.summaries]
            rows.append([f"{plain(label)}{_DIRECTIONS[about['higher_is_better']]}", *cells])
    if not rows:
        return []
    spread = "; SD over seeds" if any(len(arm.seeds) > 1 for arm in report.summaries) else ""
    return [
        f"What the stages were given as `model.metrics`, with 95 % intervals over patients{spread}. Without an "
        "interval: what has no value for each case.",
        Table(["metric", *(plain(arm.name) for arm in report.summaries)], rows),
    ]


def _keys(name: str, names: Iterable[str], results: Sequence[Result]) -> list[str]:
    """What a metric is logged as: its name, or its name with that of each of its values."""
    logged = dict.fromkeys(key.removeprefix("test/") for result in results for key in result.metrics)
    longer = tuple(further for further in names if further.startswith(f"{name}_"))
    parts = [key for key in logged if key.startswith(f"{name}_") and not key.startswith(longer) and key not in METRICS]
    return [*[name] * (name in logged), *parts]


def _cell(key: str, arm: ArmSummary, results: Sequence[Result]) -> str:
    if key in arm.estimates:
        return with_interval(arm.estimates[key], arm.spread.get(key))
    by_seed: Mapping[int, list[float]] = {seed: [] for seed in arm.seeds}
    for result in results:
        by_seed[result.seed].append(result.metrics.get(f"test/{key}", math.nan))
    values = [float(np.mean(of_folds)) for of_folds in by_seed.values()]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return with_interval(Estimate(float(np.mean(values)), math.nan, math.nan), spread)
