"""Arms side by side: the same cases, over seeds and folds, with paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.errors import InputError
from gazelit.evaluation.statistics import (
    Estimate,
    Statistic,
    auroc_of,
    average_of,
    bootstrap_weights,
    difference_of,
    estimate,
    holm,
    mean_of,
    remembered,
    value_of,
)

MAP_METRICS = {
    "cc": ("CC", "higher is better"),
    "kld": ("KLD (nats)", "lower is better"),
    "sim": ("SIM", "higher is better"),
    "nss": ("NSS", "higher is better"),
    "auc_judd": ("AUC-Judd", "higher is better"),
    "auc_borji": ("AUC-Borji", "higher is better"),
    "sauc": ("shuffled AUC", "higher is better"),
    "ig": ("information gain over the centre bias (bits)", "higher is better"),
    "emd": ("EMD (pixels)", "lower is better"),
}
#: What arms are compared by; the first that an arm has of each task is tested.
COMPARED = {"auroc_macro": "macro AUC", "cc": "CC", "kld": "KLD", "nss": "NSS"}


@dataclass(frozen=True)
class Result:
    """One trained and tested model.

    Attributes:
        run: The run folder.
        arm: What it is compared as.
        seed: Of its training.
        fold: Which fold was its test split, if there are folds.
        stages: Folders of the stages it went through, below the run folder.
        checkpoint: Its checkpoint.
        seconds: Its training took, all stages together.
        metrics: As `gazelit test` logged them.
        predictions: One row a test case, with ``patient``.
        stamp: Of its checkpoint.
        times_tested: How often it was tested, by the log of the step.
        external: By name of another source, the folder of its test on that.
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


@dataclass(frozen=True)
class ArmSummary:
    """An arm over its seeds and folds.

    Attributes:
        name: Of the arm.
        seeds: Its seeds.
        folds: Number of folds; 1 without.
        seconds: A training took on average.
        estimates: By metric, the mean over seeds of the value over all test cases, folds pooled.
        spread: By metric, the standard deviation over seeds; NaN with one.
        differences: By metric, the arm less the first one, on the same cases; empty for the first.
        others: By the name of each arm between the first and this one, the arm less that one, for what arms are
            compared by.
    """

    name: str
    seeds: list[int]
    folds: int
    seconds: float
    estimates: dict[str, Estimate]
    spread: dict[str, float]
    differences: dict[str, Estimate]
    others: dict[str, dict[str, Estimate]]


def case_statistics(table: pd.DataFrame, class_names: Sequence[str]) -> dict[str, Statistic]:
    """The metrics that a table of predictions has, by name, as functions of its cases' weights."""
    statistics: dict[str, Statistic] = {}
    columns = [f"p_{name}" for name in class_names]
    if "label" in table and set(columns) <= set(table):
        probabilities, label = table[columns].to_numpy(), table["label"].to_numpy()
        curves = {
            f"auroc_{name}": auroc_of(probabilities[:, number], label == number)
            for number, name in enumerate(class_names)
        }
        right = (probabilities.argmax(1) == label).astype(float)
        statistics |= {"auroc_macro": average_of(list(curves.values())), "accuracy": mean_of(right), **curves}
    truths = [f"y_{name}" for name in class_names]
    if class_names and {*columns, *truths} <= set(table):
        curves = {
            f"auroc_{name}": _auroc_of_known(table[score].to_numpy(), table[truth].to_numpy())
            for name, score, truth in zip(class_names, columns, truths, strict=True)
        }
        statistics |= {"auroc_macro": average_of(list(curves.values())), **curves}
    return statistics | {name: mean_of(table[name].to_numpy()) for name in MAP_METRICS if name in table}


def _auroc_of_known(score: NDArray[np.floating], truth: NDArray[np.floating]) -> Statistic:
    """AUC of one label of several, over the cases where it is known."""
    known = ~np.isnan(truth)
    statistic = auroc_of(score[known], truth[known] == 1)
    return lambda weights: statistic(weights[:, known])


def pooled(results: Sequence[Result]) -> dict[int, pd.DataFrame]:
    """By seed, the predictions of all folds: every case once, in the store's order.

    Raises:
        InputError: A case was tested twice with one seed, or seeds were tested on other cases.
    """
    tables: dict[int, pd.DataFrame] = {}
    for seed in sorted({result.seed for result in results}):
        parts = [result.predictions for result in results if result.seed == seed]
        table = pd.concat(parts).sort_values("index", ignore_index=True)
        if table["index"].duplicated().any():
            raise InputError(f"{results[0].run}: seed {seed} tested a case twice; its folds overlap")
        tables[seed] = table
    first = next(iter(tables.values()))
    for seed, table in tables.items():
        if not table["index"].equals(first["index"]):
            raise InputError(f"{results[0].run}: seed {seed} was tested on other cases than the first; nothing to pool")
    return tables


def compare(results: Sequence[Result], class_names: Sequence[str]) -> list[ArmSummary]:
    """Sums up arms, the first being what the others are compared with.

    Intervals are over patients, drawn the same for all arms and seeds; they do not hold the spread over seeds, which
    stands beside them.

    Args:
        results: Of all arms.
        class_names: Names of the classes.

    Raises:
        InputError: Arms were tested on other cases, or with other targets, or a prediction is not a number.
    """
    arms = {name: [one for one in results if one.arm == name] for name in dict.fromkeys(one.arm for one in results)}
    _check_targets(results)
    check_predictions(results, class_names)
    tables = {name: pooled(members) for name, members in arms.items()}
    cases = next(iter(next(iter(tables.values())).values()))
    patients = cases["patient"].to_numpy()
    weights = bootstrap_weights(patients)
    summaries: list[ArmSummary] = []
    arm_metrics: dict[str, dict[str, Statistic]] = {}

    def less(one: dict[str, Statistic], other: dict[str, Statistic], keys: Iterable[str]) -> dict[str, Estimate]:
        return {
            key: estimate(difference_of(one[key], other[key]), patients, weights=weights, is_difference=True)
            for key in keys
            if key in one and key in other
        }

    for name, by_seed in tables.items():
        if not next(iter(by_seed.values()))["index"].equals(cases["index"]):
            raise InputError(f"arm '{name}' was tested on other cases than '{next(iter(tables))}'; use one split")
        each = [case_statistics(table, class_names) for table in by_seed.values()]
        metrics = {key: remembered(average_of([one[key] for one in each]), weights) for key in each[0]}
        first, *between = arm_metrics.values() or [{}]
        values = {key: [value_of(one[key], len(cases)) for one in each] for key in metrics}
        summaries.append(
            ArmSummary(
                name=name,
                seeds=list(by_seed),
                folds=len({result.fold for result in arms[name]}),
                seconds=float(np.mean([result.seconds for result in arms[name]])),
                estimates={key: estimate(one, patients, weights=weights) for key, one in metrics.items()},
                spread={
                    key: float(np.std(one, ddof=1)) if len(one) > 1 else float("nan") for key, one in values.items()
                },
                differences=less(metrics, first, metrics),
                others={
                    other: less(metrics, theirs, COMPARED)
                    for other, theirs in zip(list(arm_metrics)[1:], between, strict=True)
                },
            )
        )
        arm_metrics[name] = metrics
    return summaries


def check_predictions(results: Sequence[Result], class_names: Sequence[str]) -> None:
    """Checks that every probability is a number.

    Raises:
        InputError: One is not.
    """
    for result in results:
        columns = [f"p_{name}" for name in class_names if f"p_{name}" in result.predictions]
        bad = int(result.predictions[columns].isna().any(axis=1).sum())
        if bad:
            raise InputError(
                f"{bad} predictions of arm '{result.arm}' are not numbers; its training has diverged: train it anew"
            )


def _check_targets(results: Sequence[Result]) -> None:
    """Maps of another σ, or made of other gaze, are another question."""
    fields = ("fingerprint", "gaze_kind", "weight", "sigma", "sigma_unit", "size", "readings")
    first = results[0].stamp["data"]
    for result in results:
        data = result.stamp["data"]
        other = [field for field in fields if data.get(field) != first.get(field)]
        if other:
            raise InputError(
                f"arm '{result.arm}' was trained with another {', '.join(other)} than '{results[0].arm}' "
                f"({other[0]} {data.get(other[0])} and {first.get(other[0])}); their numbers cannot be compared"
            )


def comparison_lines(summaries: Sequence[ArmSummary]) -> list[str]:
    """The comparison as Markdown tables."""
    shown = {key: name for key, name in COMPARED.items() if any(key in one.estimates for one in summaries)}
    header = ["arm", *(f"{name} (95 %; SD over seeds)" for name in shown.values()), "training (min)"]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for one in summaries:
        cells = [_cell(one.estimates.get(key), one.spread.get(key)) for key in shown]
        lines.append("| " + " | ".join([one.name, *cells, f"{one.seconds / 60:.1f}"]) + " |")
    others = [one for one in summaries if one.differences]
    if not others:
        return lines
    lines += ["", f"Differences from `{summaries[0].name}` on the same cases (95 %; p after Holm over a column):", ""]
    header = ["arm", *shown.values()]
    lines += ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    adjusted = {key: holm([_p(one.differences, key) for one in others]) for key in shown}
    for number, one in enumerate(others):
        cells = [_difference_cell(one.differences.get(key), adjusted[key][number]) for key in shown]
        lines.append("| " + " | ".join([one.name, *cells]) + " |")
    return [*lines, *_other_pairs(summaries, shown)]


def _other_pairs(summaries: Sequence[ArmSummary], shown: Mapping[str, str]) -> list[str]:
    """Differences of all pairs without the first arm; p-values corrected for all pairs, those with it too."""
    pairs = [(one.name, other, values) for one in summaries for other, values in one.others.items()]
    if not pairs:
        return []
    against_first = [one.differences for one in summaries if one.differences]
    header = ["arm", "less", *shown.values()]
    lines = ["", "The other pairs (p after Holm over all pairs of a column):", ""]
    lines += ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    adjusted = {
        key: holm([*(_p(values, key) for _, _, values in pairs), *(_p(one, key) for one in against_first)])
        for key in shown
    }
    for number, (arm, other, values) in enumerate(pairs):
        cells = [_difference_cell(values.get(key), adjusted[key][number]) for key in shown]
        lines.append("| " + " | ".join([arm, other, *cells]) + " |")
    return lines


def _p(differences: Mapping[str, Estimate], key: str) -> float:
    return differences[key].p if key in differences else float("nan")


def _cell(one: Estimate | None, spread: float | None) -> str:
    if one is None or np.isnan(one.value):
        return "–"
    parts = [] if np.isnan(one.low) else [f"{one.low:.3f} to {one.high:.3f}"]
    parts += [] if spread is None or np.isnan(spread) else [f"{spread:.3f}"]
    return f"{one.value:.3f}" + (f" ({'; '.join(parts)})" if parts else "")


def _difference_cell(one: Estimate | None, p: float) -> str:
    if one is None or np.isnan(one.value):
        return "–"
    if np.isnan(one.low):
        return f"{one.value:+.3f}"
    # A hundred-thousandth would be more than 2,000 draws can say.
    return f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f}), p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
