"""Arms side by side: the same cases, over seeds and folds, with paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gazelit.errors import InputError
from gazelit.evaluation.crossed import crossed_difference, crossed_value
from gazelit.evaluation.hypothesis_tests import holm
from gazelit.evaluation.scores import SHARE, Scores, scores_of
from gazelit.evaluation.statistics import Estimate, bootstrap_weights
from gazelit.metrics.catalogue import short_labels

#: Metrics by which arms are compared; for each task the first metric that an arm has is tested.
COMPARED = short_labels("auroc_macro", "scanpath_bits", "cc", "kld", "nss")


@dataclass(frozen=True)
class Result:
    """A trained and tested model.

    Attributes:
        run: The run folder; for a model trained by hand, the folder of its test.
        arm: Name of its arm.
        seed: Seed of its training.
        fold: Number of the fold that was its test split, if there are folds.
        stages: Folders of the stages of its training, relative to the run folder.
        checkpoint: Its checkpoint.
        seconds: Seconds of its training, all stages together; NaN if not known.
        metrics: Metrics that `gazelit test` logged.
        predictions: A row for each test case, with ``patient``.
        stamp: Stamp of its checkpoint.
        times_tested: Number of times that it was tested, by the log of the step.
        external: By name of another source, the folder of its test on that source.
        epoch: The epoch of its checkpoint, from 0; None if the checkpoint does not record it.
        steps: Optimiser steps of its training, all stages together; None if its curves do not record them.
        kept: ``last`` if the checkpoint is that of the last epoch, else ``best``.
        tested: Time at which its predictions were written, if known.
    """

    run: Path
    arm: str
    seed: int
    fold: int | None
    stages: list[str]
    checkpoint: Path
    seconds: float
    metrics: dict[str, float]
    predictions: pd.DataFrame
    stamp: dict[str, Any]
    times_tested: int = 1
    external: dict[str, Path] = field(default_factory=dict)
    steps: int | None = None
    epoch: int | None = None
    kept: str = "best"
    tested: datetime | None = None


@dataclass(frozen=True)
class ArmSummary:
    """An arm over its seeds and folds.

    Attributes:
        name: Name of the arm.
        seeds: Its seeds.
        folds: Number of folds; 1 without.
        seconds: Mean seconds of a training.
        estimates: By metric, the mean over seeds of the value over all test cases; of AUCs over folds see
            :func:`gazelit.evaluation.scores.case_statistics`.
        spread: By metric, the standard deviation over seeds; NaN with one.
        differences: By metric, this arm less the first arm, on the same cases, over patients and seeds; empty for the
            first.
        against: By name of each arm between the first and this arm: this arm less that arm, in the metrics by which
            arms are compared.
        infinite: By map metric, the number of cases of all seeds whose value is infinite; only metrics with such cases.
        undefined: By map metric, the number of cases without a value; only metrics with such cases.
        steps: Mean optimiser steps of a training; None if not known.
        share: Share of the explainable information with its interval over patients and seeds; None if the explainable
            information is not known.
    """

    name: str
    seeds: list[int]
    folds: int
    seconds: float
    estimates: dict[str, Estimate]
    spread: dict[str, float]
    differences: dict[str, Estimate]
    against: dict[str, dict[str, Estimate]]
    infinite: dict[str, int]
    undefined: dict[str, int]
    steps: float | None = None
    share: Estimate | None = None


def pooled(results: Sequence[Result]) -> dict[int, pd.DataFrame]:
    """By seed, the predictions of all folds: each case once, in the store's order.

    With several folds there is a column ``fold``, because their scores are of separately trained models.

    Raises:
        InputError: A case was tested twice with one seed, or seeds were tested on other cases.
    """
    tables: dict[int, pd.DataFrame] = {}
    for seed in sorted({result.seed for result in results}):
        folds = [result for result in results if result.seed == seed]
        parts = [
            result.predictions.assign(fold=result.fold) if len(folds) > 1 else result.predictions for result in folds
        ]
        table = pd.concat(parts).sort_values("index", ignore_index=True)
        if table["index"].duplicated().any():
            raise InputError(f"{results[0].run}: seed {seed} tested a case twice; its folds overlap")
        tables[seed] = table
    first = next(iter(tables.values()))
    for seed, table in tables.items():
        if not table["index"].equals(first["index"]):
            raise InputError(f"{results[0].run}: seed {seed} was tested on other cases than the first; nothing to pool")
    return tables


def _replicas(results: Sequence[Result]) -> dict[int, list[pd.DataFrame]]:
    """By seed, the predictions of models that were each tested on all cases, in the store's order."""
    return {
        seed: [result.predictions.sort_values("index", ignore_index=True) for result in results if result.seed == seed]
        for seed in sorted({result.seed for result in results})
    }


def compare(results: Sequence[Result], class_names: Sequence[str], all_read_all: bool = False) -> list[ArmSummary]:
    """Summarises arms and compares each with the first.

    Intervals of an arm's values are over patients, drawn the same for all arms and seeds; the spread over seeds stands
    beside them. Differences have intervals over patients and seeds (:func:`crossed_difference`).

    Args:
        results: Results of all arms.
        class_names: Names of the classes.
        all_read_all: Whether every fold's model was tested on all cases, as in a test on another source.

    Raises:
        InputError: Arms were tested on other cases, or with other targets, or a prediction is not a number.
    """
    arms = {name: [member for member in results if member.arm == name] for name in _names(results)}
    _check_targets(results)
    check_predictions(results, class_names)
    tables: dict[str, dict[int, list[pd.DataFrame]]] = {}
    for name, members in arms.items():
        if all_read_all:
            tables[name] = _replicas(members)
        else:
            tables[name] = {seed: [table] for seed, table in pooled(members).items()}
    cases = next(iter(next(iter(tables.values())).values()))[0]
    for name, by_seed in tables.items():
        if not all(table["index"].equals(cases["index"]) for parts in by_seed.values() for table in parts):
            raise InputError(f"arm '{name}' was tested on other cases than '{next(iter(tables))}'; use one split")
    weights = bootstrap_weights(cases["patient"].to_numpy())
    scores = {name: scores_of(by_seed, class_names, weights) for name, by_seed in tables.items()}
    first, *names = tables
    summaries: list[ArmSummary] = []
    for name, by_seed in tables.items():
        between = names[: names.index(name)] if name in names else []

        def less(reference: str, keys: Iterable[str], arm: str = name) -> dict[str, Estimate]:
            paired = list(tables[arm]) == list(tables[reference])
            return _differences(scores[arm], scores[reference], keys, paired)

        summaries.append(
            ArmSummary(
                name=name,
                seeds=list(by_seed),
                folds=len({result.fold for result in arms[name]}),
                seconds=float(np.mean([result.seconds for result in arms[name]])),
                estimates=scores[name].estimates(),
                spread={
                    key: float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
                    for key, values in scores[name].values.items()
                },
                differences={} if name == first else less(first, scores[name].values),
                against={reference: less(reference, COMPARED) for reference in between},
                infinite=scores[name].infinite,
                undefined=scores[name].undefined,
                steps=_mean_steps(arms[name]),
                share=_crossed_share(scores[name]),
            )
        )
    return summaries


def _crossed_share(scores: Scores) -> Estimate | None:
    if SHARE not in scores.values:
        return None
    return crossed_value(scores.values[SHARE], scores.draws[SHARE], scores.patients)


def _names(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.arm for result in results))


def _mean_steps(results: Sequence[Result]) -> float | None:
    steps = [result.steps for result in results if result.steps is not None]
    return float(np.mean(steps)) if len(steps) == len(results) else None


def _differences(arm: Scores, reference: Scores, keys: Iterable[str], paired: bool) -> dict[str, Estimate]:
    """Differences of the metrics that both arms have, without map metrics that they define on different cases."""
    found = {}
    for key in keys:
        if key not in arm.values or key not in reference.values:
            continue
        basis = "ig" if key == SHARE else key
        same = basis not in arm.defined or np.array_equal(arm.defined[basis], reference.defined[basis])
        if same:
            values = arm.values[key], reference.values[key]
            found[key] = crossed_difference(values, (arm.draws[key], reference.draws[key]), arm.patients, paired)
        else:
            found[key] = Estimate(float("nan"), float("nan"), float("nan"))
    return found


def check_predictions(results: Sequence[Result], class_names: Sequence[str]) -> None:
    """Checks that every probability is a number.

    Raises:
        InputError: A probability is not a number.
    """
    for result in results:
        columns = [f"p_{name}" for name in class_names if f"p_{name}" in result.predictions]
        bad = int(result.predictions[columns].isna().any(axis=1).sum())
        if bad:
            raise InputError(
                f"{bad} predictions of arm '{result.arm}' are not numbers; its training has diverged: train it anew"
            )


def _check_targets(results: Sequence[Result]) -> None:
    """Raises InputError if arms have targets of another σ or other gaze, which cannot be compared."""
    fields = ("fingerprint", "gaze_kind", "weight", "sigma", "sigma_unit", "size", "readings")
    first = results[0].stamp["data"]
    for result in results:
        data = result.stamp["data"]
        unlike = [field for field in fields if data.get(field) != first.get(field)]
        if unlike:
            raise InputError(
                f"arm '{result.arm}' was trained with another {', '.join(unlike)} than '{results[0].arm}' "
                f"({unlike[0]} {data.get(unlike[0])} and {first.get(unlike[0])}); their numbers cannot be compared"
            )


@dataclass(frozen=True)
class Difference:
    """The difference of two arms on the same cases.

    Attributes:
        arm: Its name.
        reference: The name of the arm it is compared with.
        metric: A metric of ``COMPARED``.
        estimate: The difference, with its uncorrected p.
        p: After Holm (1979) over all pairs and metrics; NaN if it is undefined.
    """

    arm: str
    reference: str
    metric: str
    estimate: Estimate
    p: float


def differences(summaries: Sequence[ArmSummary]) -> list[Difference]:
    """Differences of all pairs of arms in all compared metrics, pairs with the first arm first; p over one family."""
    pairs = [(summary.name, summaries[0].name, summary.differences) for summary in summaries if summary.differences]
    pairs += [(summary.name, name, values) for summary in summaries for name, values in summary.against.items()]
    found = [
        (arm, reference, metric, values[metric])
        for arm, reference, values in pairs
        for metric in COMPARED
        if metric in values
    ]
    adjusted = holm([estimate.p for *_, estimate in found])
    return [Difference(*cells, p) for cells, p in zip(found, adjusted, strict=True)]
