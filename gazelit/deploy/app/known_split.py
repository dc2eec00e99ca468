"""The cases of a store that a model was trained on, from its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from gazelit.data.options import SplitOptions
from gazelit.data.splits.case_split import split_cases
from gazelit.data.store.store import Store
from gazelit.errors import InputError
from gazelit.files import sha256_json

#: Methods that can be repeated from their settings; a split file is not in the checkpoint.
_REPEATABLE = ("patient", "official", "official_shared", "reference_image_level")


def known_split(store: Store, data: Mapping[str, Any]) -> tuple[pd.Series, str]:
    """Repeats the split of a model's training, and checks its hash.

    Args:
        store: The store.
        data: A checkpoint's record of the data that it was trained on.

    Returns:
        The split of every case, empty text if it is not known; and a note for the user.
    """
    unknown = pd.Series("", index=store.cases.index, dtype=object)
    if data.get("fingerprint") != store.about["fingerprint"]:
        return unknown, (
            f"The model was trained on another store ({data.get('source') or 'unknown'}). If both have the same "
            "patients, it may have seen them."
        )
    split = _repeated(store, data) if data.get("split_method") in _REPEATABLE else None
    if split is None:
        return unknown, (
            "The model was trained on cases of this store, but its checkpoint alone does not show which. Its readings "
            "of these are better than of new cases."
        )
    return split.where(split.notna(), ""), ""


def _repeated(store: Store, data: Mapping[str, Any]) -> pd.Series | None:
    options = SplitOptions(
        method=data["split_method"],
        seed=data.get("split_seed") or 0,
        val_fraction=data.get("split_val_fraction") or 0.1,
        test_fraction=data.get("split_test_fraction") or 0.2,
        folds=data.get("folds"),
        fold=data.get("fold") or 0,
        stratify=data.get("split_stratify"),
    )
    try:
        split = split_cases(store, options, np.ones(len(store.cases), bool)).of_case
    except InputError:
        return None
    assigned = {str(image): str(part) for image, part in zip(store.cases["image_id"], split, strict=True)}
    return split if sha256_json(assigned) == data.get("split_sha256") else None
