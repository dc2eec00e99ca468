"""Splits by patient: nobody is in two of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from gazelit.errors import InputError
from gazelit.files import atomic_path

SPLITS = ("train", "val", "test")
SPLIT_COLUMNS = ("image_id", "patient_id", "study_id", "split")


def split_by_patient(images: pd.DataFrame, strata: Sequence[object], val: float, test: float, seed: int) -> pd.Series:
    """Splits patients, within strata, into train, val and test.

    A patient belongs to the stratum of their first image. Within a stratum patients are shuffled and each split gets
    its share to the nearest patient.

    Args:
        images: Table with ``image_id`` and ``patient_id``.
        strata: One value an image, such as its class.
        val: Share of patients for validation.
        test: Share of patients for the test.
        seed: Of the shuffle.

    Returns:
        The split of every image, indexed as ``images``.

    Raises:
        InputError: The shares leave a split empty.
    """
    if not (0 < val < 1 and 0 < test < 1 and val + test < 1):
        raise InputError("val_fraction and test_fraction must be above 0, with a sum below 1")
    patients = pd.DataFrame({"patient": images["patient_id"].astype(str), "stratum": [str(value) for value in strata]})
    # Sorted, so that the split depends on who the patients are and not on the order of a file.
    firsts = patients.drop_duplicates("patient").sort_values("patient")
    generator = np.random.default_rng(seed)
    assigned: dict[str, str] = {}
    for _, group in firsts.groupby("stratum", sort=True):
        names = group["patient"].to_numpy()[generator.permutation(len(group))]
        n_test, n_val = round(test * len(names)), round(val * len(names))
        for position, name in enumerate(names):
            assigned[name] = "test" if position < n_test else "val" if position < n_test + n_val else "train"
    split = pd.Series(patients["patient"].map(assigned).to_numpy(), index=images.index, name="split")
    check_split(images, split)
    return split


def check_split(images: pd.DataFrame, split: pd.Series) -> None:
    """Checks that no patient, study or image is in two splits and none of the three is empty.

    Raises:
        InputError: There is overlap, an unknown split name, or an empty split.
    """
    unknown = set(split.dropna()) - set(SPLITS)
    if unknown:
        raise InputError(f"split: {', '.join(sorted(map(str, unknown)))} is none of {', '.join(SPLITS)}")
    for name in SPLITS:
        if not (split == name).any():
            raise InputError(f"split: '{name}' is empty; take more cases or other fractions")
    for column in ("patient_id", "study_id", "image_id"):
        if column in images:
            shared = int((split.groupby(images[column].astype(str)).nunique() > 1).sum())
            if shared:
                raise InputError(f"split: {shared} {column} are in more than one split; split by patient")


def save_split(path: str | Path, images: pd.DataFrame, split: pd.Series) -> None:
    """Writes a split as CSV: ``image_id, patient_id, study_id, split``. The file holds ids: it stays with the data."""
    table = images[["image_id", "patient_id", "study_id"]].assign(split=split)
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def load_split(path: str | Path, images: pd.DataFrame) -> pd.Series:
    """Reads a split file for a table of images; images that it does not name are in no split (NaN).

    Raises:
        InputError: The file is missing, lacks columns, names an image twice, or lets splits overlap.
    """
    try:
        table = pd.read_csv(path, dtype=str)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a split file ({error.__class__.__name__})") from error
    missing = [column for column in ("image_id", "split") if column not in table]
    if missing:
        raise InputError(f"{path}: column {', '.join(missing)} is missing; a split file has {', '.join(SPLIT_COLUMNS)}")
    if table["image_id"].duplicated().any():
        raise InputError(f"{path}: {int(table['image_id'].duplicated().sum())} image_id are named more than once")
    split = images["image_id"].map(table.set_index("image_id")["split"])
    split.name = "split"
    try:
        check_split(images, split)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return split
