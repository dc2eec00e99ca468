"""Splits by patient: nobody is in two of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from gazelit.data.schema import SPLITS
from gazelit.data.store import Store
from gazelit.errors import InputError
from gazelit.files import atomic_path

logger = logging.getLogger("gazelit")

SPLIT_COLUMNS = ("image_id", "patient_id", "study_id", "split")
#: What a split keeps apart; the reference implementation's keeps images apart and nothing else.
GROUPS = ("patient_id", "study_id", "image_id")

Method = Literal["patient", "official", "reference_image_level", "external"]


@dataclass(frozen=True)
class SplitOptions:
    """How cases are split.

    Attributes:
        method: ``patient``; ``official``, the dataset's own; or ``reference_image_level``, that of the paper's
            reference implementation, which splits images and so puts patients with several films into several
            splits: for comparison with it alone; ``external``: every case is a test case, of a model that was trained
            on other data.
        seed: Of the shuffle of patients.
        val_fraction: Share of patients for validation, with ``patient`` and no folds.
        test_fraction: Share of patients for the test, with ``patient`` and no folds.
        folds: Number of folds with ``patient``: fold ``fold`` is the test, the next one validation.
        fold: Which fold is the test, from 0.
    """

    method: Method = "patient"
    seed: int = 0
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    folds: int | None = None
    fold: int = 0


def make_split(images: pd.DataFrame, strata: Sequence[object], options: SplitOptions) -> pd.Series:
    """Splits a table of images.

    Args:
        images: Table with ``image_id``, ``patient_id``, ``study_id``, and ``official_split`` for that method.
        strata: One value an image, such as its class.
        options: How.

    Returns:
        The split of every image, indexed as ``images``; NaN where the official split names none.

    Raises:
        InputError: An option is out of range, a split is empty, or patients overlap.
    """
    if options.folds is not None:
        if options.method != "patient":
            raise InputError(f"folds: goes with method patient, not {options.method}")
        return split_into_folds(images, strata, options.folds, options.fold, options.seed)
    if options.method == "official":
        if "official_split" not in images or images["official_split"].isna().all():
            raise InputError("split: this source has no official split; take method patient")
        split = images["official_split"].rename("split")
        check_split(images, split)
        return split
    if options.method == "external":
        return pd.Series("test", index=images.index, name="split", dtype=object)
    if options.method == "reference_image_level":
        return split_like_reference(images, strata, options.seed)
    return split_by_patient(images, strata, options.val_fraction, options.test_fraction, options.seed)


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
    assigned: dict[str, str] = {}
    for names in _shuffled_patients(images, strata, seed):
        n_test, n_val = round(test * len(names)), round(val * len(names))
        for position, name in enumerate(names):
            assigned[name] = "test" if position < n_test else "val" if position < n_test + n_val else "train"
    return _assign(images, assigned)


def split_into_folds(images: pd.DataFrame, strata: Sequence[object], folds: int, fold: int, seed: int) -> pd.Series:
    """Fold ``fold`` of the patients for the test, the next for validation, the rest for training.

    Over all folds every patient is in the test once and in validation once.

    Args:
        images: Table with ``image_id`` and ``patient_id``.
        strata: One value an image, such as its class.
        folds: Number of folds, at least 3.
        fold: Which one, from 0.
        seed: Of the shuffle; the folds of one seed belong together.

    Returns:
        The split of every image, indexed as ``images``.

    Raises:
        InputError: ``folds`` or ``fold`` is out of range, or a fold is empty.
    """
    if folds < 3:
        raise InputError(f"folds: must be at least 3 (train, val and test), not {folds}")
    if not 0 <= fold < folds:
        raise InputError(f"fold: must be 0 to {folds - 1}, not {fold}")
    place: dict[str, int] = {}
    count = 0
    for names in _shuffled_patients(images, strata, seed):
        # Dealt on from stratum to stratum, so that small ones do not all fall into the first folds.
        for name in names:
            place[name] = count % folds
            count += 1
    splits = {fold: "test", (fold + 1) % folds: "val"}
    return _assign(images, {name: splits.get(one, "train") for name, one in place.items()})


def split_like_reference(images: pd.DataFrame, strata: Sequence[object], seed: int) -> pd.Series:
    """The reference implementation's split of images: shuffled, then by a counter in each class (70/10/20).

    Of ten images of a class two go to the test, one to validation, seven to training. Patients with several films are
    in several splits, so that figures on it are too good; a warning says how many.

    Args:
        images: Table with ``image_id`` and ``patient_id``.
        strata: The class of each image.
        seed: Of the shuffle.

    Returns:
        The split of every image, indexed as ``images``.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    counter: dict[str, int] = {}
    split = np.empty(len(images), object)
    for place in order:
        stratum = str(strata[place])
        number = counter.get(stratum, 0)
        counter[stratum] = number + 1
        split[place] = ("test", "test", "val", *["train"] * 7)[number % 10]
    result = pd.Series(split, index=images.index, name="split")
    check_split(images, result, ("image_id",))
    shared = int((result.groupby(images["patient_id"].astype(str)).nunique() > 1).sum())
    logger.warning(
        "reference_image_level split: %d patients are in more than one split; figures on it are too good and serve for "
        "comparison with the reference implementation alone",
        shared,
    )
    return result


def check_split(images: pd.DataFrame, split: pd.Series, groups: Sequence[str] = GROUPS) -> None:
    """Checks that no patient, study or image is in two splits and none of the three is empty.

    Args:
        images: Table of images.
        split: The split of each; NaN for images in none.
        groups: Columns that must not be shared.

    Raises:
        InputError: There is overlap, an unknown split name, or an empty split.
    """
    unknown = set(split.dropna()) - set(SPLITS)
    if unknown:
        raise InputError(f"split: {len(unknown)} names are none of {', '.join(SPLITS)}")
    for name in SPLITS:
        if not (split == name).any():
            raise InputError(f"split: '{name}' is empty; take more cases or other fractions")
    _check_overlap(images, split, groups)


def _check_overlap(images: pd.DataFrame, split: pd.Series, groups: Sequence[str]) -> None:
    for column in groups:
        if column in images:
            # A source without study ids has blanks, which are nobody's.
            known = images[column].astype(str).replace("", np.nan)
            shared = int((split.groupby(known).nunique() > 1).sum())
            if shared:
                raise InputError(f"split: {shared} {column} are in more than one split; split by patient")


def save_split(path: str | Path, images: pd.DataFrame, split: pd.Series) -> None:
    """Writes a split as CSV: ``image_id, patient_id, study_id, split``. The file holds ids: it stays with the data."""
    table = images[["image_id", "patient_id", "study_id"]].assign(split=split)
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def load_split(path: str | Path, images: pd.DataFrame) -> pd.Series:
    """Reads a split file for a table of images; images that it does not name are in no split (NaN).

    The file may name images of other stores too: overlap is looked for in all of it.

    Raises:
        InputError: The file is missing, lacks columns, names an image twice, names none of these images, or lets splits
            overlap.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a split file ({error.__class__.__name__})") from error
    missing = [column for column in ("image_id", "split") if column not in table]
    if missing:
        raise InputError(f"{path}: column {', '.join(missing)} is missing; a split file has {', '.join(SPLIT_COLUMNS)}")
    if table["image_id"].duplicated().any():
        raise InputError(f"{path}: {int(table['image_id'].duplicated().sum())} image_id are named more than once")
    table["split"] = table["split"].replace("", np.nan)
    split = images["image_id"].map(table.set_index("image_id")["split"])
    split.name = "split"
    if split.isna().all():
        raise InputError(f"{path}: names none of the {len(images)} images of the store; is it of other data?")
    try:
        _check_overlap(table, table["split"], GROUPS)
        check_split(images, split)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return split


def write_split(
    stores: list[str],
    out: Path,
    method: Method = "patient",
    seed: int = 0,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    folds: int | None = None,
    stratify: list[str] | None = None,
) -> None:
    """Splits the patients of one or several stores together and writes the split to be given to ``split_file``.

    Args:
        stores: Prepared stores; a patient of several is in one split.
        out: The CSV file; with folds, ``<name>-0.csv``, ``<name>-1.csv``, ….
        method: ``patient``, ``official``, or ``reference_image_level`` (for comparison alone).
        seed: Of the shuffle of patients.
        val_fraction: Share of patients for validation.
        test_fraction: Share of patients for the test.
        folds: Number of folds: every patient is in the test of one of them.
        stratify: Label columns whose combinations are spread evenly; what a store does not have counts as unknown.

    Raises:
        InputError: A store or option cannot be used, or patients of an official split overlap.
    """
    if method == "external":
        raise InputError("method: external has every case in the test and needs no file; see --data.split_method")
    cases = pd.concat([Store.open(store).cases for store in stores], ignore_index=True)
    cases = cases.drop_duplicates("image_id", ignore_index=True)
    names = stratify or []
    unknown = [name for name in names if name not in cases]
    if unknown:
        raise InputError(f"stratify: no store has the label {', '.join(unknown)}")
    strata = [str(row) for row in cases[names].to_numpy().tolist()] if names else [""] * len(cases)
    for fold in range(folds or 1):
        options = SplitOptions(method, seed, val_fraction, test_fraction, folds, fold)
        split = make_split(cases, strata, options)
        path = Path(out).with_stem(f"{Path(out).stem}-{fold}") if folds else Path(out)
        save_split(path, cases, split)
        counts = ", ".join(f"{name} {int((split == name).sum())}" for name in SPLITS)
        logger.info("%s: %s images", path, counts)


def _shuffled_patients(images: pd.DataFrame, strata: Sequence[object], seed: int) -> list[list[str]]:
    """Patients of each stratum, shuffled; a function of who they are and not of the order of a file."""
    patients = pd.DataFrame(
        {
            "patient": images["patient_id"].astype(str),
            "image": images["image_id"].astype(str),
            "stratum": [str(value) for value in strata],
        }
    )
    firsts = patients.sort_values(["patient", "image"]).drop_duplicates("patient")
    generator = np.random.default_rng(seed)
    return [
        group["patient"].to_numpy()[generator.permutation(len(group))].tolist()
        for _, group in firsts.groupby("stratum", sort=True)
    ]


def _assign(images: pd.DataFrame, assigned: dict[str, str]) -> pd.Series:
    split = images["patient_id"].astype(str).map(assigned).rename("split")
    check_split(images, split)
    return split
