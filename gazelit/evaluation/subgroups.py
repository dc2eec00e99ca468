"""The same metrics within subgroups of cases."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gazelit.evaluation.scores import case_statistics
from gazelit.evaluation.statistics import Estimate, average_of, estimates, mean_of
from gazelit.metrics.catalogue import short_labels

#: Number of cases below which the interval is called wide, and below which no number is given.
SMALL, TOO_FEW = 30, 10
#: Columns of a store's cases that make groups, with their names in a report.
COLUMNS = {
    "gender": "sex",
    "sex": "sex",
    "anchor_age": "age",
    "age": "age",
    "view": "view",
    "photometric": "photometric interpretation",
    "subtlety": "subtlety of the finding",
    "finding_size": "size of the finding (share of the image)",
}
#: The columns that are measurements and are cut into thirds.
IN_THIRDS = ("subtlety", "finding_size")
#: Metrics of a group, besides those of maps.
SHOWN = short_labels("auroc_macro", "accuracy", "cc", "nss")
MAPS = ("cc", "nss")


@dataclass(frozen=True)
class Subgroup:
    """A group of cases with its metrics.

    Attributes:
        kind: The grouping.
        name: Name of the group.
        n: Number of cases.
        estimates: By metric, without metrics that are undefined within the group; empty if the group has fewer than
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
    """Metrics by sex, age, view, photometric kind, subtlety and size of the finding, number of fixations and class.

    A grouping is made if the store has its column. Map metrics are also given by right and wrong diagnosis.

    Args:
        tables: One model's predictions, a table for each seed, of the same cases in the same order.
        cases: The store's cases, by index.
        class_names: Names of the classes.
    """
    found = []
    for kind, group in _groups(tables[0], cases, class_names):
        for name in group.dropna().drop_duplicates().sort_values():
            rows = np.flatnonzero((group == name).to_numpy())
            if len(rows) < TOO_FEW:
                found.append(Subgroup(kind, str(name), len(rows), {}))
                continue
            parts = [table.iloc[rows].reset_index(drop=True) for table in tables]
            patients = parts[0]["patient"].to_numpy()
            each = [case_statistics(part, class_names) for part in parts]
            shown = {key: average_of([seed[key] for seed in each]) for key in SHOWN if key in each[0]}
            estimated = estimates(shown, patients)
            defined = {key: value for key, value in estimated.items() if not np.isnan(value.value)}
            found.append(Subgroup(kind, str(name), len(rows), defined))
    return [*found, *_by_diagnosis(tables, class_names)]


def _by_diagnosis(tables: Sequence[pd.DataFrame], class_names: Sequence[str]) -> list[Subgroup]:
    """Map metrics of cases with right and with wrong diagnosis; means over seeds, each of which has its own cases."""
    metrics = [name for name in MAPS if name in tables[0]]
    columns = [f"p_{name}" for name in class_names]
    if not metrics or not class_names or not {"label", *columns} <= set(tables[0]):
        return []
    patients = tables[0]["patient"].to_numpy()
    right = [table[columns].to_numpy().argmax(1) == table["label"].to_numpy() for table in tables]
    found = []
    for name, chosen in (("right", right), ("wrong", [~each for each in right])):
        n = round(float(np.mean([each.sum() for each in chosen])))
        means = {
            key: average_of(
                [mean_of(np.where(each, table[key], np.nan)) for each, table in zip(chosen, tables, strict=True)]
            )
            for key in metrics
        }
        found.append(Subgroup("diagnosis", name, n, {} if n < TOO_FEW else estimates(means, patients)))
    return found


def _groups(table: pd.DataFrame, cases: pd.DataFrame, class_names: Sequence[str]) -> Iterator[tuple[str, pd.Series]]:
    """The groupings, with each case's group; only groupings with two or more groups."""
    known = cases.iloc[table["index"]].reset_index(drop=True)
    for column, kind in COLUMNS.items():
        if column not in known:
            continue
        values = known[column]
        if column in IN_THIRDS:
            if values.nunique() > 3:
                yield kind, _thirds(values)
            continue
        if pd.api.types.is_numeric_dtype(values):
            values = pd.cut(values, [0, 40, 60, 80, 200], right=False, labels=["< 40", "40–59", "60–79", "≥ 80"])
        values = values.astype("object").where(values.notna(), None).replace("", None)
        if values.nunique() > 1:
            yield kind, values.map(lambda value: None if value is None else str(value))
    if "gaze_points" in table and table["gaze_points"].nunique() > 3:
        third = pd.qcut(table["gaze_points"], 3, duplicates="drop")
        yield "gaze points", third.map(_whole_numbers).astype("object")
    if "label" in table:
        yield "class", table["label"].map(lambda label: class_names[int(label)])


def _whole_numbers(interval: pd.Interval) -> str:
    """The whole numbers in an interval that is open on the left."""
    return f"{math.floor(interval.left) + 1} to {math.floor(interval.right)}"


def _thirds(values: pd.Series) -> pd.Series:
    """For each case the third of the values in which it lies, named by its limits."""
    thirds = pd.qcut(values.astype(float), 3, duplicates="drop")
    named = {part: f"{part.left:.3g} to {part.right:.3g}" for part in thirds.cat.categories}
    return thirds.cat.rename_categories(named)
