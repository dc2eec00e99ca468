"""Counts of a split: cases, patients and positives of each label, printed, saved and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from gazelit.data.splits.identity import identity
from gazelit.data.store.schema import SPLITS
from gazelit.errors import InputError
from gazelit.files import atomic_path
from gazelit.text_table import aligned

#: A class with fewer positives than this in a split counts as rare: one case changes its sensitivity by 20 points.
RARE = 5


def count_split(images: pd.DataFrame, split: pd.Series, labels: pd.DataFrame) -> pd.DataFrame:
    """Counts the cases, patients and labels of each split.

    Args:
        images: Table with ``patient_id``.
        split: The split of each image; NaN for none.
        labels: Labels of each image: 1, 0, −1 (uncertain) or NaN (unknown).

    Returns:
        Columns ``train``, ``val``, ``test``; rows by ``count`` (``cases``, ``patients``, ``positive``, ``negative``)
        and ``label`` (empty for the first two).
    """
    patients = identity(images["patient_id"])
    rows = {("cases", ""): [int((split == name).sum()) for name in SPLITS]}
    rows[("patients", "")] = [int(patients[split == name].nunique()) for name in SPLITS]
    for label, values in labels.items():
        for count, value in (("positive", 1), ("negative", 0)):
            rows[(count, str(label))] = [int(((values == value) & (split == name)).sum()) for name in SPLITS]
    index = pd.MultiIndex.from_tuples(list(rows), names=["count", "label"])
    return pd.DataFrame(list(rows.values()), index=index, columns=list(SPLITS))


def format_table(table: pd.DataFrame) -> str:
    """The counts as lines of text: positives with their share of the cases whose label is known."""
    lines = [("", *SPLITS), *((name, *(f"{n:,}" for n in table.loc[(name, "")])) for name in ("cases", "patients"))]
    for label in _labels(table):
        positive, negative = table.loc[("positive", label)], table.loc[("negative", label)]
        shares = positive / (positive + negative).replace(0, np.nan)
        cells = (
            f"{n:,}" if np.isnan(share) else f"{n:,} ({share:.1%})" for n, share in zip(positive, shares, strict=True)
        )
        lines.append((f"{label} positive", *cells))
    return aligned(lines).rstrip()


def counts_path(path: Path) -> Path:
    """The file with the counts of a split file: ``split.counts.csv`` beside ``split.csv``."""
    return path.with_suffix(".counts.csv")


def save_counts(path: Path, table: pd.DataFrame) -> None:
    """Writes the counts of a split file beside it, as CSV without ids."""
    with atomic_path(counts_path(path)) as temporary:
        table.reset_index().to_csv(temporary, index=False)


def check_classes(table: pd.DataFrame, remedy: str) -> None:
    """Checks that each split has a positive case of each label.

    Args:
        table: Result of :func:`count_split`.
        remedy: Advice for the message.

    Raises:
        InputError: A label has no positive case in a split.
    """
    missing = _without_positive(table, SPLITS)
    if missing:
        raise InputError(f"split: no positive case of {missing}; {remedy}")


def warnings(table: pd.DataFrame, splits: Sequence[str] = SPLITS) -> list[str]:
    """Warnings about the labels in some splits: those with no positive case, and those with few."""
    missing = _without_positive(table, splits)
    rare = []
    for label, counts in _positives(table, splits).items():
        few = counts[(counts > 0) & (counts < RARE)]
        if len(few):
            rare.append(f"{label} ({', '.join(f'{name} {count}' for name, count in few.items())})")
    lines = (
        [f"split: no positive case of {missing}: a model can neither learn nor be tested on it there"]
        if missing
        else []
    )
    if rare:
        lines.append(f"split: fewer than {RARE} positive cases of {'; '.join(rare)}: figures on them say little")
    return lines


def _without_positive(table: pd.DataFrame, splits: Sequence[str]) -> str:
    empty = {label: counts.index[counts == 0] for label, counts in _positives(table, splits).items()}
    return "; ".join(f"{label} in {' and '.join(names)}" for label, names in empty.items() if len(names))


def _positives(table: pd.DataFrame, splits: Sequence[str]) -> dict[str, pd.Series]:
    return {label: table.loc[("positive", label), list(splits)] for label in _labels(table)}


def _labels(table: pd.DataFrame) -> list[str]:
    return [label for count, label in table.index if count == "positive"]
