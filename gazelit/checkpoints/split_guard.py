"""Whether a checkpoint, or one that it comes from, may have seen the patients that it is tested on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gazelit.checkpoints.stamps import sources
from gazelit.errors import InputError

#: Collections whose films are part of a larger one: a model of the larger one may have seen their patients.
ORIGINS = dict.fromkeys(("egd-cxr", "reflacx", "gazesearch", "gazeintent", "gazevalm"), "mimic-cxr")


def check_split(
    path: str | os.PathLike[str], stamp: Mapping[str, Any], data: Mapping[str, Any], allowed: bool = False
) -> str | None:
    """Checks that neither a checkpoint nor its ancestors and teachers may have seen patients of the test split.

    They cannot have seen them if they were trained on the same split of the same data, or on data of the same split
    file (``gazelit split``), or if the given data leave out the patients of their store (an external test).

    Args:
        path: The checkpoint, for messages.
        stamp: Its stamp.
        data: Provenance of the given data.
        allowed: Whether the user accepts such a checkpoint.

    Returns:
        A note for the user, or None; without the path, because it is recorded.

    Raises:
        InputError: One of them was trained on another split of the same data, on a collection that includes the given
            data or is included in them, or on patients that are not recorded.
    """
    note = None
    for ancestor in sources(stamp):
        problem = _overlap(ancestor, data)
        if problem is None:
            continue
        text = f"stage '{ancestor['stage']}' {problem}"
        if not _shares_patients(ancestor["data"], data):
            note = note or text
        elif allowed:
            note = f"{text}; this is allowed (--allow_other_split)"
        else:
            raise InputError(
                f"{path}: {text}, so it may have seen patients of this test split; train both on one split "
                "(`gazelit split STORE STORE --out FILE`, --data.split.file=FILE), or insist with "
                "--allow_other_split=true"
            )
    return note


def _overlap(ancestor: Mapping[str, Any], data: Mapping[str, Any]) -> str | None:
    """The reason why a stage's training data may include patients of the given test split."""
    earlier = ancestor["data"]
    split = earlier.get("split_sha256")
    if split is not None and split == data.get("split_sha256"):
        return None
    joint = earlier.get("split_file_sha256")
    if joint is not None and joint == data.get("split_file_sha256"):
        return None
    if data.get("trained_on") is not None and data["trained_on"] == earlier.get("fingerprint"):
        return None
    source, source_now = earlier.get("source"), data.get("source", "these data")
    if split is None:
        return f"was trained on {source or 'data it does not name'}, and on which of their patients is not recorded"
    if not _shares_patients(earlier, data):
        return f"was trained on {source}; whether it has seen patients of this test split is not known"
    if source != source_now:
        return f"was trained on {source}, which shares patients with {source_now}"
    return f"was trained on another split of {source_now} ({_split_differences(earlier, data)})"


def _shares_patients(earlier: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Whether two data sets may hold the same patients: parts of one collection, and not one simulated, one real."""
    if bool(earlier.get("synthetic")) != bool(data.get("synthetic")):
        return False
    return bool(_collections(earlier) & _collections(data))


def _collections(data: Mapping[str, Any]) -> set[str]:
    names = {name for name in str(data.get("source") or "").split("+") if name}
    names |= {ORIGINS[name] for name in names if name in ORIGINS}
    return names | set(data.get("origin") or [])


def _split_differences(earlier: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The settings in which two splits differ, by name."""
    settings = sorted(
        key for key in {*earlier, *data} if key in ("fold", "folds", "fingerprint") or key.startswith("split_")
    )
    differences = [
        f"{key.removeprefix('split_')} {earlier.get(key)}, now {data.get(key)}"
        for key in settings
        if earlier.get(key) != data.get(key) and key != "split_sha256"
    ]
    return "; ".join(differences) or "the settings are the same, the cases are not"
