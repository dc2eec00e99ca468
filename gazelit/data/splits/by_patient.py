"""Splits by patient: no patient is in two of them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.csv_stream import READ_ERRORS, open_csv
from gazelit.data.options import Method, SplitOptions
from gazelit.data.splits.identity import People, find_people, identity
from gazelit.data.splits.stratification import deal
from gazelit.data.store.schema import SPLITS
from gazelit.data.store.store import Store
from gazelit.errors import InputError
from gazelit.files import atomic_path

logger = logging.getLogger("gazelit")

SPLIT_COLUMNS = ("image_id", "patient_id", "study_id", "split")
#: Columns that a split keeps apart; the reference implementation's split keeps only images apart.
GROUPS = ("patient_id", "study_id", "image_id")


def make_split(
    images: pd.DataFrame, labels: pd.DataFrame, options: SplitOptions, people: People | None = None
) -> pd.Series:
    """Splits a table of images.

    Args:
        images: Table with ``image_id``, ``patient_id``, ``study_id``, and ``official_split`` for that method.
        labels: The labels whose prevalence is kept, a column each: 1, 0, −1 (uncertain) or NaN (unknown).
        options: The options of the split.
        people: Which films belong together; by ``patient_id`` unless given.

    Returns:
        The split of every image, indexed as ``images``; NaN if the official split does not list the image.

    Raises:
        InputError: An option is out of range, a split is empty, or patients overlap.
    """
    if options.folds is not None and options.method != "patient":
        raise InputError(f"folds: goes with method patient, not {options.method}")
    if options.method in ("official", "official_shared"):
        if "official_split" not in images or images["official_split"].isna().all():
            raise InputError("split: this source has no official split; take method patient")
        split = images["official_split"].rename("split")
        check_split(images, split, GROUPS if options.method == "official" else ("image_id",))
        if options.method == "official_shared":
            _warn_of_overlap(images, split, "for comparison with published figures")
        return split
    if options.method == "external":
        return pd.Series("test", index=images.index, name="split", dtype=object)
    if options.method == "reference_image_level":
        return split_like_reference(images, labels, options.seed)
    people = find_people(images) if people is None else people
    if options.folds is None:
        return split_by_patient(images, labels, options, people)
    return split_into_folds(images, labels, options, people)


def split_by_patient(images: pd.DataFrame, labels: pd.DataFrame, options: SplitOptions, people: People) -> pd.Series:
    """Splits patients into train, val and test; each gets its share of patients, films and every label.

    Args:
        images: Table of images.
        labels: The labels, a column each.
        options: Shares and seed.
        people: Which films belong together.

    Returns:
        The split of every image, indexed as ``images``.

    Raises:
        InputError: The shares are out of range or leave a split empty.
    """
    val, test = options.val_fraction, options.test_fraction
    if not (0 < val < 1 and 0 < test < 1 and val + test < 1):
        raise InputError("val_fraction and test_fraction must be above 0, with a sum below 1")
    assigned = _dealt(labels, people, (1 - val - test, val, test), options.seed)
    split = pd.Series(np.array(SPLITS, object)[assigned], index=images.index, name="split")
    check_split(images, split)
    return split


def split_into_folds(images: pd.DataFrame, labels: pd.DataFrame, options: SplitOptions, people: People) -> pd.Series:
    """Fold ``fold`` of the patients for the test, the next for validation, the rest for training.

    Over all folds every patient is in the test once and in validation once.

    Args:
        images: Table of images.
        labels: The labels, a column each.
        options: Number of folds, at least 3, which one, and the seed; the folds of one seed belong together.
        people: Which films belong together.

    Returns:
        The split of every image, indexed as ``images``.

    Raises:
        InputError: ``folds`` or ``fold`` is out of range, or a fold is empty.
    """
    folds, fold = options.folds or 0, options.fold
    if folds < 3:
        raise InputError(f"folds: must be at least 3 (train, val and test), not {folds}")
    if not 0 <= fold < folds:
        raise InputError(f"fold: must be 0 to {folds - 1}, not {fold}")
    assigned = _dealt(labels, people, (1 / folds,) * folds, options.seed)
    values = np.full(len(images), "train", object)
    values[assigned == fold], values[assigned == (fold + 1) % folds] = "test", "val"
    split = pd.Series(values, index=images.index, name="split")
    check_split(images, split)
    return split


def _dealt(labels: pd.DataFrame, people: People, shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    """The part of each film, from 0; a function of seed, patients and labels, and not of the order of a file."""
    columns, everywhere = [np.ones(len(labels), np.int64)], [False, False]
    for _, values in labels.items():
        # Uncertain and unknown labels are spread evenly, too, so that prevalence is kept however they are used.
        for value in (1, 0, -1):
            columns.append((values == value).to_numpy(np.int64))
            everywhere.append(value == 1)
    counts = np.zeros((len(people.keys), len(columns)), np.int64)
    np.add.at(counts, people.groups, np.column_stack(columns))
    patients = pd.Series(people.patients).groupby(people.groups).nunique().to_numpy(np.int64)
    counts = np.insert(counts, 1, patients, axis=1)
    # An order by hash is the same on every platform and in every version of NumPy.
    order = np.argsort([hashlib.sha256(f"{seed}:{key}".encode()).hexdigest() for key in people.keys])
    of_group = np.empty(len(order), np.int64)
    of_group[order] = deal(counts[order], shares, np.array(everywhere))
    return of_group[people.groups]


def split_like_reference(images: pd.DataFrame, labels: pd.DataFrame, seed: int) -> pd.Series:
    """The reference implementation's split of images: shuffled, then by a counter in each class (70/10/20).

    Of ten images of a class two go to the test, one to validation, seven to training. Patients with several films are
    in several splits, so that figures on this split are too good. A warning has the number of patients.

    Args:
        images: Table with ``image_id`` and ``patient_id``.
        labels: The exclusive classes, a column each.
        seed: Of the shuffle.

    Returns:
        The split of every image, indexed as ``images``.
    """
    # As text, because rows of NaN differ from each other as numbers.
    strata = [str(row) for row in labels.to_numpy(float).tolist()]
    counter: dict[str, int] = {}
    split = np.empty(len(images), object)
    for position in np.random.default_rng(seed).permutation(len(images)):
        number = counter.get(strata[position], 0)
        counter[strata[position]] = number + 1
        split[position] = ("test", "test", "val", *["train"] * 7)[number % 10]
    result = pd.Series(split, index=images.index, name="split")
    check_split(images, result, ("image_id",))
    _warn_of_overlap(images, result, "for comparison with the reference implementation")
    return result


def _warn_of_overlap(images: pd.DataFrame, split: pd.Series, purpose: str) -> None:
    shared = int((split.groupby(identity(images["patient_id"])).nunique() > 1).sum())
    logger.warning(
        "split: %d patients are in more than one split; figures on it are too good and serve %s alone", shared, purpose
    )


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
            # A source without study ids has blanks; they belong to no study.
            ids = identity(images[column]) if column == "patient_id" else images[column].astype(str)
            known = ids.replace("", np.nan)
            shared = int((split.groupby(known).nunique() > 1).sum())
            if shared:
                raise InputError(f"split: {shared} {column} are in more than one split; split by patient")


def save_split(path: str | Path, images: pd.DataFrame, split: pd.Series) -> None:
    """Writes a split as CSV: ``image_id, patient_id, study_id, split``. The file holds ids: it stays with the data."""
    table = images[["image_id", "patient_id", "study_id"]].assign(split=split)
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def load_split(path: str | Path, images: pd.DataFrame) -> pd.Series:
    """Reads a split file for a table of images; images that it does not name are in no split (NaN), with a warning.

    The file may also name images of other stores; all of it is checked for overlap.

    Raises:
        InputError: The file is missing, lacks columns, names an image twice, names none of these images, or lets splits
            overlap.
    """
    try:
        with open_csv(Path(path)) as stream:
            table = pd.read_csv(stream, dtype=str, keep_default_na=False)
    except InputError:
        raise
    except READ_ERRORS as error:
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
    if split.isna().any():
        logger.warning(
            "%s: %d of the store's %d images are in no split and so left out; make the file anew with `gazelit split` "
            "if it is of an earlier store",
            path, int(split.isna().sum()), len(split),
        )  # fmt: skip
    return split


def stratified_labels(stores: Sequence[Store], stratify: Sequence[str] | None, method: Method) -> pd.DataFrame:
    """The labels whose prevalence a split keeps, for the cases of some stores one after the other.

    Args:
        stores: The stores; a label that a store does not have is unknown there.
        stratify: Label columns. Unless given, every label column that has a positive and no other values than 1, 0, −1
            and blank: They are those of the store, whatever a stage trains on, so that all stages have the same split.
        method: How cases are split.

    Raises:
        InputError: A column is no label of the stores or holds other values; or the method needs them named.
    """
    if stratify is None and method == "reference_image_level":
        raise InputError("stratify: reference_image_level needs the exclusive classes by name, such as [Normal, CHF]")
    known = list(dict.fromkeys(name for store in stores for name in store.about["label_columns"]))
    names = known if stratify is None else list(stratify)
    unknown = [name for name in names if name not in known]
    if unknown:
        owner = "the store has" if len(stores) == 1 else "the stores have"
        raise InputError(f"stratify: {owner} no label {', '.join(unknown)}; labels are {', '.join(known) or 'none'}")
    labels = pd.concat([store.cases.reindex(columns=names) for store in stores], ignore_index=True).astype(float)
    measured = [name for name in names if not (labels[name].isin((0, 1, -1)) | labels[name].isna()).all()]
    if stratify is None:
        return labels[[name for name in names if name not in measured and (labels[name] == 1).any()]]
    if measured:
        raise InputError(f"stratify: {', '.join(measured)} has values other than 1, 0, -1 and blank; leave it out")
    return labels
