"""The metrics that a run measured of a released model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gazelit.data.splits.by_patient import SPLITS
from gazelit.errors import InputError
from gazelit.evaluation.compare import Result, compare, pooled
from gazelit.evaluation.scores import scores_of
from gazelit.evaluation.statistics import LEVEL, RESAMPLES, Estimate, bootstrap_weights
from gazelit.files import sha256_file
from gazelit.reporting.collect import notes
from gazelit.reporting.folders import read_run
from gazelit.reporting.sections.training import split_words
from gazelit.runs.run_file import RUN_FILE

#: Number of a run's models that a message names.
_SHOWN = 4


def find_run(ckpt: str) -> Path | None:
    """The run folder that a checkpoint lies in; None if it lies in none."""
    return next((folder for folder in Path(ckpt).resolve().parents if (folder / RUN_FILE).is_file()), None)


def tested(run: Path, hashes: Sequence[str], model: str) -> dict[str, Any]:
    """The metrics of a model of a run on its test split, and of all models that were trained in the same way.

    Args:
        run: The run folder.
        hashes: SHA-256 of the checkpoint; for exported weights also that of the checkpoint from which they were made.
        model: Name of the checkpoint in messages.

    Returns:
        ``data``, ``split``, ``notes`` and ``intervals`` in words; ``model`` with ``seed``, ``fold``, ``times_tested``
        and ``metrics``, by name ``value``, ``low``, ``high`` (95 %, over patients). If there are several trainings,
        also ``trainings`` with ``seeds``, ``folds`` and the metrics of their mean, with ``sd_over_seeds``.

    Raises:
        InputError: The folder is not a finished run, or the run did not test this model.
    """
    results = read_run(run).results
    found = next((result for result in results if sha256_file(result.checkpoint) in hashes), None)
    if found is None:
        tested_models = ", ".join(str(result.checkpoint.relative_to(run)) for result in results[:_SHOWN])
        more = f" and {len(results) - _SHOWN} more" if len(results) > _SHOWN else ""
        raise InputError(f"{run}: did not test {model}, but {tested_models}{more}; give one of these")
    data = found.stamp["data"]
    names: list[str] = data["class_names"]
    alike = [result for result in results if result.arm == found.arm]
    weights = bootstrap_weights(found.predictions["patient"].to_numpy())
    estimates = scores_of({0: [found.predictions]}, names, weights).estimates()
    record: dict[str, Any] = {
        "data": {key: data.get(key) for key in ("source", "synthetic", "fingerprint", "split_sha256")},
        "n": {split: data["n"][split] for split in SPLITS},
        "patients": int(found.predictions["patient"].nunique()),
        "split": split_words(data),
        "notes": notes([found]),
        "intervals": f"{LEVEL:.0%}, bootstrap over patients ({RESAMPLES:,} draws)",
        "model": {
            "arm": found.arm,
            "seed": found.seed,
            "fold": found.fold,
            "times_tested": found.times_tested,
            "metrics": _cells(estimates),
        },
    }
    if len(alike) > 1:
        record["trainings"] = _together(alike, names)
    return record


def _together(alike: Sequence[Result], names: Sequence[str]) -> dict[str, Any]:
    """The mean of models that differ only in seed and fold."""
    (summary,) = compare(alike, names)
    metrics = _cells(summary.estimates)
    for name, cells in metrics.items():
        cells["sd_over_seeds"] = summary.spread.get(name)
    cases = len(next(iter(pooled(alike).values())))
    return {"seeds": summary.seeds, "folds": summary.folds, "cases": cases, "metrics": metrics}


def _cells(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    kept = ("value", "low", "high")
    return {name: {key: asdict(estimate)[key] for key in kept} for name, estimate in estimates.items()}
