"""Labels of a store as classes of a model, and the comparison of their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gazelit.data.store.store import Store
from gazelit.errors import InputError

Uncertain = Literal["unknown", "positive", "negative"]


def spelt_alike(name: str) -> str:
    """The name of a label, finding or region without the parts that datasets spell differently."""
    return " ".join(name.lower().replace("_", " ").split())


def read_labels(
    store: Store, names: Sequence[str], exclusive: bool, uncertain: Uncertain
) -> tuple[Tensor, NDArray[np.bool_]]:
    """Labels of all rows, and which rows have usable ones.

    Args:
        store: The store.
        names: Label columns of the store that are the classes.
        exclusive: Whether a usable row has a 1 in one of them and a 0 in all others.
        uncertain: What a label of −1 becomes when labels are not exclusive.

    Returns:
        (N,) int64, −1 where there is no usable label, or (N, K) float32 with NaN for unknown; and (N,) bool.

    Raises:
        InputError: The store lacks a label.
    """
    check_known(store, names, "labels")
    values = _values(store, names)
    if not exclusive:
        values[values == -1] = {"unknown": np.nan, "positive": 1.0, "negative": 0.0}[uncertain]
        return torch.from_numpy(values), np.ones(len(values), bool)
    usable = _is_one_class(values)
    # −1 is no class: a wrong class would go unnoticed if such a row reached a model.
    classes = np.where(usable, np.nan_to_num(values).argmax(axis=1), -1) if names else np.full(len(values), -1)
    return torch.from_numpy(classes.astype(np.int64)), usable


def explain_unusable(store: Store, names: Sequence[str], rows: NDArray[np.int64]) -> str:
    """Describes how many of some rows do not have exactly one of the classes, and why."""
    if not names:
        return f"{len(rows)} cases do not have a label, as none is named"
    values = _values(store, names)[rows]
    several = (values == 1).sum(axis=1) > 1
    partial = ~several & ~(np.isin(values, (0, 1, -1)) | np.isnan(values)).all(axis=1)
    usable = _is_one_class(values)
    rest = ~(several | partial | usable)
    reasons = {"have several": several, "have a value other than 0 and 1": partial, "have none or an unknown": rest}
    detail = ", ".join(f"{int(chosen.sum())} {reason}" for reason, chosen in reasons.items() if chosen.any())
    return f"{int((~usable).sum())} cases do not have exactly one of {', '.join(names)} ({detail})"


def check_known(store: Store, names: Sequence[str], option: str) -> None:
    """Raises InputError if the store lacks a label that an option names."""
    known = store.about["label_columns"]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"{option}: the store has no label {', '.join(unknown)}; it has {', '.join(known) or 'none'}")


def _is_one_class(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.isin(values, (0, 1)).all(axis=1) & ((values == 1).sum(axis=1) == 1)


def _values(store: Store, names: Sequence[str]) -> NDArray[np.float32]:
    return store.cases[list(names)].to_numpy(np.float32, copy=True).reshape(len(store.cases), len(names))
