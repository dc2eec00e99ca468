"""Scores of predictions: every metric of an arm by seed, over all cases and in draws of patients."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.evaluation.calibration_error import Judged, calibration_errors
from gazelit.evaluation.statistics import (
    Estimate,
    Floats,
    Statistic,
    Weights,
    auroc_of,
    average_of,
    drawn_all,
    mean_of,
    percentile,
    sensitivity_of,
)
from gazelit.metrics import catalogue
from gazelit.metrics.catalogue import SPECIFICITY

#: For each map metric, its name in reports and its better direction.
MAP_METRICS = {name: (metric.label, metric.direction) for name, metric in catalogue.MAP_METRICS.items()}
#: Share of the explainable information: information gain over the oracle's (:mod:`gazelit.evaluation.explainable`).
SHARE = "explainable_share"
#: Column of the oracle's information gain over the same centre bias at the same fixations.
ORACLE_GAIN = "oracle_ig"
#: Column of the information gain of the expected target map, blurred and weighted as the targets of training.
TARGET_GAIN = "expected_target_ig"
#: Metrics of maps by reader: the unknown reader's information gain, and the share of identified readers.
BY_READER = ("ig_of_unknown", "reader_identified")
#: Information gain of a reader's map less that of the unknown reader's.
READER_GAIN = "reader_gain"
#: Columns of maps by time; each is of a part of the readings, named by its beginning.
OF_PART = re.compile(r"from_[\d.]+s_(ig|ig_of_whole|cc)")
#: Columns of maps by finding: the finding's own map, the whole reading's map, and the share of its region.
OF_FINDING = re.compile(r"said_(\w+)_(?:(mass|pointing|auc)(?:_of_whole)?|area)")
#: The macro AUC of all folds' scores ranked together.
POOLED_AUC = "auroc_macro_pooled"


@dataclass(frozen=True)
class Scores:
    """The metrics of an arm.

    Attributes:
        values: By metric, (S,) of every seed.
        draws: By metric, (S, R) of every seed in every draw of patients.
        calibration: By calibration error, its estimate.
        defined: By map metric, (N,) whether each case has a value.
        infinite: By map metric, the number of infinite values of all seeds; only metrics with such values.
        undefined: By map metric, the number of cases without a value; only metrics with such cases.
        patients: Number of patients.
    """

    values: dict[str, Floats]
    draws: dict[str, Floats]
    calibration: dict[str, Estimate]
    defined: dict[str, NDArray[np.bool_]]
    infinite: dict[str, int]
    undefined: dict[str, int]
    patients: int

    def estimates(self) -> dict[str, Estimate]:
        """By metric, the mean over seeds with its percentile interval over patients."""
        found = {}
        for name, values in self.values.items():
            draws = self.draws[name].mean(axis=0) if self.patients > 1 else np.empty(0)
            found[name] = percentile(float(values.mean()), draws)
        return found | self.calibration


def scores_of(by_seed: Mapping[int, Sequence[pd.DataFrame]], class_names: Sequence[str], weights: Weights) -> Scores:
    """The metrics of an arm.

    Args:
        by_seed: For every seed its tables of predictions, all of the same cases in the same order. Several tables are
            of models that were each tested on all cases; their values are averaged.
        class_names: Names of the classes.
        weights: Draws of patients.
    """
    each = [[case_statistics(table, class_names) for table in tables] for tables in by_seed.values()]
    names = [name for name in each[0][0] if all(name in statistics for seed in each for statistics in seed)]
    together = {name: [average_of([statistics[name] for statistics in seed]) for seed in each] for name in names}
    tables = [table for seed in by_seed.values() for table in seed]
    maps = [name for name in MAP_METRICS if name in names]
    endless = {name: sum(int(np.isinf(table[name]).sum()) for table in tables) for name in maps}
    defined = {name: np.all([table[name].notna() for table in tables], axis=0) for name in maps}
    patients = tables[0]["patient"].to_numpy()
    judged = [judgements(table, class_names) for table in tables]
    everyone = np.ones((1, len(patients)))
    of_seeds = {(name, seed): statistic for name, seeds in together.items() for seed, statistic in enumerate(seeds)}
    draws = drawn_all(of_seeds, weights)
    return Scores(
        {name: np.array([seed(everyone)[0] for seed in seeds]) for name, seeds in together.items()},
        {name: np.stack([draws[name, seed] for seed in range(len(seeds))]) for name, seeds in together.items()},
        calibration_errors([model for model in judged if model is not None], patients, weights),
        defined,
        {name: count for name, count in endless.items() if count},
        {name: int((~known).sum()) for name, known in defined.items() if not known.all()},
        len(np.unique(patients)),
    )


def case_statistics(table: pd.DataFrame, class_names: Sequence[str]) -> dict[str, Statistic]:
    """The metrics that a table of predictions has, by name, as functions of its cases' weights.

    If there is a column ``fold``, AUCs and sensitivities compare only cases of the same fold, and
    ``auroc_macro_pooled`` ranks the scores of all folds' models together.
    """
    statistics: dict[str, Statistic] = {}
    fold = table["fold"].to_numpy() if "fold" in table else None
    truth = truths(table, class_names)
    if truth is not None:
        scores = table[[f"p_{name}" for name in class_names]].to_numpy(np.float64)
        known = ~np.isnan(truth)
        by_class: dict[str, list[Statistic]] = {"auroc": [], "sensitivity": [], "pooled": []}
        for number in range(len(class_names)):
            rows = known[:, number]
            score, positive = scores[rows, number], truth[rows, number] == 1
            part = None if fold is None else fold[rows]
            made = (
                auroc_of(score, positive, part),
                sensitivity_of(score, positive, SPECIFICITY, part),
                auroc_of(score, positive),
            )
            for kind, statistic in zip(by_class, made, strict=True):
                by_class[kind].append(_of_known(statistic, rows))
        statistics["auroc_macro"] = average_of(by_class["auroc"])
        if fold is not None:
            statistics[POOLED_AUC] = average_of(by_class["pooled"])
        if "label" in table:
            statistics["accuracy"] = mean_of((scores.argmax(1) == table["label"].to_numpy()).astype(np.float64))
        for kind in ("auroc", "sensitivity"):
            statistics |= {
                f"{kind}_{name}": statistic for name, statistic in zip(class_names, by_class[kind], strict=True)
            }
        error = np.where(known, (scores - np.nan_to_num(truth)) ** 2, 0.0).sum(1)
        counted = np.ones(len(table)) if "label" in table else known.sum(1).astype(np.float64)
        statistics["brier"] = _ratio(error, counted)
    # Metrics from outside the package are named in the table itself (gazelit.stages.callbacks.PredictionWriter).
    parts = [name for name in table if OF_PART.fullmatch(str(name))]
    findings = [name for name in table if OF_FINDING.fullmatch(str(name))]
    each = (*MAP_METRICS, *catalogue.SCANPATH_METRICS, *BY_READER, *parts, *findings, *table.attrs.get("metrics", ()))
    of_cases = [name for name in each if name in table]
    pairs = [(READER_GAIN, "ig", "ig_of_unknown")]
    own = [name for name in (*parts, *findings) if f"{name}_of_whole" in table]
    pairs += [(f"{name}_gain", name, f"{name}_of_whole") for name in own]
    for gain, better, plain in pairs:
        if {better, plain} <= set(table):
            statistics[gain] = mean_of((table[better] - table[plain]).to_numpy(np.float64))
    statistics |= {name: mean_of(table[name].to_numpy(np.float64)) for name in of_cases}
    if {"ig", ORACLE_GAIN} <= set(table):
        statistics[SHARE] = share_of(table["ig"].to_numpy(np.float64), table[ORACLE_GAIN].to_numpy(np.float64))
    return statistics


def share_of(gain: Floats, greatest: Floats) -> Statistic:
    """The ratio of the mean gains over the cases that have both (:func:`gazelit.synthetic.oracle.explainable_share`).

    NaN where the greatest gain is not above 0: there is nothing to explain.
    """
    known = ~np.isnan(gain) & ~np.isnan(greatest)
    means = [mean_of(np.where(known, values, np.nan)) for values in (gain, greatest)]

    def statistic(weights: Floats) -> Floats:
        model, oracle = (mean(weights) for mean in means)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(oracle > 0, model / oracle, np.nan)

    return statistic


def truths(table: pd.DataFrame, class_names: Sequence[str]) -> Floats | None:
    """(N, K) 0, 1 and NaN for unknown; None for a table without diagnoses."""
    if not class_names or not {f"p_{name}" for name in class_names} <= set(table):
        return None
    if "label" in table:
        return np.eye(len(class_names))[table["label"].to_numpy()]
    columns = [f"y_{name}" for name in class_names]
    return table[columns].to_numpy(np.float64) if set(columns) <= set(table) else None


def judgements(table: pd.DataFrame, class_names: Sequence[str]) -> Judged | None:
    """Probabilities with their outcomes, for errors of calibration; None for a table without diagnoses.

    For exclusive classes they are the probability of the likeliest class and whether this class is right; for several
    labels, the probabilities of all known labels.
    """
    truth = truths(table, class_names)
    if truth is None:
        return None
    scores = table[[f"p_{name}" for name in class_names]].to_numpy(np.float64)
    if "label" in table:
        right = (scores.argmax(1) == table["label"].to_numpy()).astype(np.float64)
        return Judged(scores.max(1), right, np.arange(len(table)))
    known = ~np.isnan(truth)
    return Judged(scores[known], truth[known], np.nonzero(known)[0])


def _of_known(statistic: Statistic, known: NDArray[np.bool_]) -> Statistic:
    return statistic if known.all() else lambda weights: statistic(weights[:, known])


def _ratio(total: Floats, count: Floats) -> Statistic:
    def statistic(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return (weights @ total) / (weights @ count)

    return statistic
