"""The split of a prepared store, or of several: its settings, its counts and warnings about it."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.options import Method, SplitOptions
from gazelit.data.splits.by_patient import load_split, make_split, save_split, stratified_labels
from gazelit.data.splits.identity import find_people, identity, pixel_hashes
from gazelit.data.splits.split_table import check_classes, count_split, format_table, save_counts, warnings
from gazelit.data.store.store import Store
from gazelit.errors import InputError
from gazelit.files import sha256_file

logger = logging.getLogger("gazelit")


#: Settings of a split that a checkpoint records besides its hash; a message that refuses a checkpoint names those that
#: differ.
SETTINGS = (
    "split_method",
    "split_file_sha256",
    "split_seed",
    "split_val_fraction",
    "split_test_fraction",
    "split_stratify",
    "folds",
    "fold",
)


@dataclass(frozen=True)
class CaseSplit:
    """The split of a store's cases.

    Attributes:
        of_case: The split of every case; NaN for none.
        settings: Its settings, in primitives, for checkpoints; None for those that had no effect.
        notes: Warnings about it, in words and counts.
        remedy: Advice for the user if a class is missing in a split.
    """

    of_case: pd.Series
    settings: dict[str, Any]
    notes: list[str]
    remedy: str


def split_cases(store: Store, options: SplitOptions, usable: NDArray[np.bool_]) -> CaseSplit:
    """Splits a store's cases.

    Args:
        store: The store.
        options: The options of the split.
        usable: (N,) which cases have a usable label; an external test leaves the others out.

    Raises:
        InputError: The options or a file do not fit the store, a split is empty, or splits overlap.
    """
    pixels = pixel_hashes(store)
    people = find_people(store.cases, pixels)
    notes = [people.spellings]
    settings: dict[str, Any] = dict.fromkeys([*SETTINGS, "trained_on"])
    if options.file is not None:
        split = load_split(options.file, store.cases)
        settings |= {"split_method": "file", "split_file_sha256": sha256_file(options.file)}
        remedy = "make another split.file, or set split.allow_empty: true"
    elif options.method == "external":
        split, left_out = _external(store, options, usable, pixels)
        notes.append(left_out)
        settings |= {"split_method": "external", "split_seed": options.seed}
        if options.trained_on is not None:
            settings["trained_on"] = Store.open(options.trained_on).about["fingerprint"]
        remedy = ""
    elif options.method in ("official", "official_shared"):
        split = make_split(store.cases, store.cases[[]], options)
        settings |= {"split_method": options.method, "split_seed": options.seed}
        remedy = "take split.method: patient, or set split.allow_empty: true"
    else:
        labels = stratified_labels([store], options.stratify, options.method)
        split = make_split(store.cases, labels, options, people)
        if options.method == "patient" and people.twins:
            notes.append(f"{people.twins}; they stay in one split")
        settings |= {"split_method": options.method, "split_seed": options.seed, "split_stratify": list(labels.columns)}
        if options.folds is not None:
            settings |= {"folds": options.folds, "fold": options.fold}
        elif options.method == "patient":
            settings |= {"split_val_fraction": options.val_fraction, "split_test_fraction": options.test_fraction}
        remedy = (
            "name the classes in split.stratify, take larger shares or another split.seed, or set split.allow_empty: "
            "true"
        )
    notes.append(_twins_apart(split, pixels))
    return CaseSplit(split, settings, [note for note in notes if note], remedy)


def _external(
    store: Store, options: SplitOptions, usable: NDArray[np.bool_], pixels: NDArray[np.bytes_]
) -> tuple[pd.Series, str]:
    """Every case for the test, except those without a usable label and those of patients in the training's store."""
    split = make_split(store.cases, store.cases[[]], options)
    known = np.zeros(len(split), bool)
    if options.trained_on is not None:
        trained_on = Store.open(options.trained_on)
        known = identity(store.cases["patient_id"]).isin(identity(trained_on.cases["patient_id"])).to_numpy()
        known = known | (np.isin(pixels, pixel_hashes(trained_on)) & (pixels != b""))
    split[known | ~usable] = np.nan
    if split.isna().all():
        raise InputError(f"{store.path}: no case is left for an external test")
    if split.notna().all():
        return split, ""
    return split, (
        f"external test: of {len(split)} cases {known.sum()} are left out because their patients or films are in the "
        f"store that was trained on, and {(~usable & ~known).sum()} more because they do not have exactly one of the "
        "classes"
    )


def _twins_apart(split: pd.Series, pixels: NDArray[np.bytes_]) -> str:
    """Logs how many films have the same pixels as a film of another split."""
    table = pd.DataFrame({"pixels": pixels, "split": split.to_numpy()})[pixels != b""]
    apart = int((table.groupby("pixels")["split"].transform("nunique") > 1).sum())
    return f"{apart} films have the same pixels as a film in another split: its figures are too good" if apart else ""


def write_split(
    stores: list[str],
    out: Path,
    method: Method = "patient",
    seed: int = 0,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    folds: int | None = None,
    stratify: list[str] | None = None,
    allow_empty: bool = False,
) -> None:
    """Splits the patients of one or several stores together and writes the split, for ``--data.split.file``.

    The counts of each split are printed, and written beside it as ``<name>.counts.csv``. Many arguments, because each
    is an option of the command line.

    Args:
        stores: Prepared stores; a patient of several is in one split.
        out: The CSV file; with folds, ``<name>-0.csv``, ``<name>-1.csv``, ….
        method: ``patient``, ``official``, or, for comparison alone, ``official_shared`` (a dataset's own split whose
            parts share patients) or ``reference_image_level``.
        seed: Of the shuffle of patients.
        val_fraction: Share of patients for validation.
        test_fraction: Share of patients for the test.
        folds: Number of folds: every patient is in the test of one of them.
        stratify: Label columns whose prevalence is the same in every split; a column that a store does not have counts
            as unknown. Unless given, all label columns that have a positive case.
        allow_empty: Continue even if a split has no positive case of one of them.

    Raises:
        InputError: A store or option cannot be used, patients of an official split overlap, or a split has no positive
            case of a label.
    """
    if method == "external":
        raise InputError("method: external has every case in the test and needs no file; see --data.split.method")
    opened = [Store.open(store) for store in stores]
    labels = stratified_labels(opened, stratify, method)
    cases = pd.concat([store.cases for store in opened], ignore_index=True)
    pixels = np.concatenate([pixel_hashes(store) for store in opened])
    people = find_people(cases, pixels)
    # An image of several stores is one image, with the values that any store has.
    if len(labels.columns):
        labels = labels.groupby(cases["image_id"]).transform("first")
    once = ~cases["image_id"].duplicated().to_numpy()
    cases, labels, people, pixels = cases[once], labels[once], people.of(once), pixels[once]
    twins = f"{people.twins}; they stay in one split" if method == "patient" and people.twins else ""
    for note in (people.spellings, twins):
        if note:
            logger.warning("%s", note)
    written = []
    for fold in range(folds or 1):
        options = SplitOptions(method, seed, val_fraction, test_fraction, folds, fold, stratify)
        split = make_split(cases, labels, options, people)
        table = count_split(cases, split, labels)
        path = Path(out).with_stem(f"{Path(out).stem}-{fold}") if folds else Path(out)
        sys.stdout.write(f"{path}\n{format_table(table)}\n")
        if not allow_empty:
            check_classes(
                table, "name the classes that you train on with --stratify, take larger shares, or give --allow_empty"
            )
        apart = _twins_apart(split, pixels)
        for line in [*([apart] if apart else []), *warnings(table)]:
            logger.warning("%s", line)
        written.append((path, split, table))
    for path, split, table in written:
        save_split(path, cases, split)
        save_counts(path, table)
