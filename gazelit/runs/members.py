"""The members of a protocol: a training of all stages for each seed and fold, and its folder."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from gazelit.files import read_json
from gazelit.runs.steps import STARTED_FILE


@dataclass(frozen=True)
class Member:
    """One training of all stages: a seed and a fold.

    Attributes:
        folder: Folder of its steps.
        seed: Its seed.
        fold: Its fold, if there are folds.
        options: Options that are added to its stages' command lines.
    """

    folder: Path
    seed: int
    fold: int | None
    options: list[str]


def members_of(out: Path, seed: int, seeds: int, folds: int | None) -> list[Member]:
    """The members, seed by seed.

    Args:
        out: The run folder.
        seed: The first.
        seeds: Number of seeds.
        folds: Number of folds, if there are any.
    """
    members = []
    for number in range(seed, seed + seeds):
        for fold in [None] if folds is None else range(folds):
            options = [f"--seed_everything={number}", f"--data.seed={number}"]
            if fold is not None:
                options += [f"--data.split.folds={folds}", f"--data.split.fold={fold}"]
            members.append(Member(_member_folder(out, number, seeds, fold), number, fold, options))
    return members


def _member_folder(out: Path, seed: int, seeds: int, fold: int | None) -> Path:
    """The folder of a seed and fold; the one that they had before, even if the number of seeds was another then."""
    of_fold = [f"fold-{fold}"] * (fold is not None)
    alone = out / "_".join(of_fold) if of_fold else out
    among_seeds = out / "_".join([f"seed-{seed}", *of_fold])
    if _holds(alone, seed):
        return alone
    return among_seeds if seeds > 1 or among_seeds.is_dir() else alone


def _holds(folder: Path, seed: int) -> bool:
    """Whether stages directly in a folder were trained with a seed."""
    records = [read_json(path) for path in sorted(folder.glob(f"*/{STARTED_FILE}"))]
    words = [word for record in records for word in shlex.split(str(record["command"]))]
    return f"--seed_everything={seed}" in words
