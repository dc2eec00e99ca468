"""The same metrics within subgroups of cases."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gazelit.evaluation.compare import case_statistics
from gazelit.evaluation.statistics import Estimate, average_of, bootstrap_weights, estimate

#: Below so many cases an interval is told to be wide, not read; below so few no number is given.
SMALL, TOO_FEW = 30, 10
#: Columns of a store's cases that make groups, with what a report calls them.
COLUMNS = {
    "gender": "sex",
    "sex": "sex",
    "anchor_age": "age",
    "age": "age",
    "view": "view",
    "photometric": "photometric interpretation",
}


@dataclass(frozen=True)
class Subgroup:
    """One group.

    Attributes:
        kind: What cases are grouped by.
        name: Of the group.
        n: Number of cases.
        estimates: By metric; those that are undefined within the group are left out, and all of fewer than
            ``TOO_FEW`` cases.
    """

    kind: str
    name: str
    n: int
    estimates: dict[str, Estimate]

    @property
    def is_small(self) -> bool:
        """Whether there are too few cases to say much."""
        return self.n < SMALL


def subgroups(tables: Sequence[pd.DataFrame], cases: pd.DataFrame, class_names: Sequence[str]) -> list[Subgroup]:
    """Metrics by sex, age, view, photometric kind, number of fixations and class, as far as the store knows them.

    Args:
        tables: One model's predictions, a table for each seed, of the same cases in the same order.
        cases: The store's cases, by index.
        class_names: Names of the classes.
    """
    first = tables[0]
    found = []
    for kind, group in _groups(first, cases, class_names):
        for name in sorted(group.dropna().unique()):
            rows = np.flatnonzero((group == name).to_numpy())
            if len(rows) < TOO_FEW:
                found.append(Subgroup(kind, str(name), len(rows), {}))
                continue
            parts = [table.iloc[rows].reset_index(drop=True) for table in tables]
            patients = parts[0]["patient"].to_numpy()
            weights = bootstrap_weights(patients)
            each = [case_statistics(part, class_names) for part in parts]
            shown: list[str] = [key for key in ("auroc_macro", "accuracy", "cc", "nss") if key in each[0]]
            estimates = {
                key: estimate(average_of([one[key] for one in each]), patients, weights=weights) for key in shown
            }
            defined = {key: value for key, value in estimates.items() if not np.isnan(value.value)}
            found.append(Subgroup(kind, str(name), len(rows), defined))
    return found


def _groups(table: pd.DataFrame, cases: pd.DataFrame, class_names: Sequence[str]) -> Iterator[tuple[str, pd.Series]]:
    """What cases are grouped by, and each case's group; only what makes two groups or more."""
    known = cases.iloc[table["index"]].reset_index(drop=True)
    for column, kind in COLUMNS.items():
        if column not in known:
            continue
        values = known[column]
        if pd.api.types.is_numeric_dtype(values):
            values = pd.cut(values, [0, 40, 60, 80, 200], right=False, labels=["< 40", "40–59", "60–79", "≥ 80"])
        values = values.astype("object").where(values.notna(), None).replace("", None)
        if values.nunique() > 1:
            yield kind, values.map(lambda one: None if one is None else str(one))
    if "gaze_points" in table and table["gaze_points"].nunique() > 3:
        third = pd.qcut(table["gaze_points"], 3, duplicates="drop")
        yield "gaze points", third.map(_whole_numbers).astype("object")
    if "label" in table:
        yield "class", table["label"].map(lambda one: class_names[int(one)])


def _whole_numbers(interval: pd.Interval) -> str:
    """The whole numbers in an interval that is open on the left."""
    return f"{math.floor(interval.left) + 1} to {math.floor(interval.right)}"


def subgroup_lines(groups: Sequence[Subgroup]) -> list[str]:
    """The groups as a Markdown table."""
    shown = [
        (key, name)
        for key, name in (("auroc_macro", "macro AUC"), ("accuracy", "accuracy"), ("cc", "CC"), ("nss", "NSS"))
        if any(key in one.estimates for one in groups)
    ]
    lines = [
        "| by | group | n | " + " | ".join(name for _, name in shown) + " |",
        "|---" * (3 + len(shown)) + "|",
    ]
    for one in groups:
        cells = [
            f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})" if value is not None else "–"
            for value in (one.estimates.get(key) for key, _ in shown)
        ]
        n = str(one.n)
        if one.is_small:
            n += " (too few)" if one.n < TOO_FEW else " (few: wide intervals)"
        lines.append("| " + " | ".join([one.kind, one.name.replace("|", "/"), n, *cells]) + " |")
    return lines
