"""Paired tests of arms on the same cases: DeLong, McNemar, Wilcoxon, permutation, resampled t.

All but the last take the trained models as fixed, and test whether the difference would hold for other patients. A
comparison of methods is another question, so a report states for each test what it tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.errors import InputError
from gazelit.evaluation.compare import Result
from gazelit.evaluation.crossed import FEWEST_SEEDS
from gazelit.evaluation.hypothesis_tests import (
    Test,
    corrected_resampled_t,
    delong,
    holm,
    mcnemar,
    paired_t,
    permutation,
    wilcoxon,
)

#: The predictions of all test cases, by arm and seed.
Tables = Mapping[str, Mapping[int, pd.DataFrame]]
MAPS = ("cc", "kld", "nss")


@dataclass(frozen=True)
class ArmTest:
    """Test of whether an arm and the first arm are equally good.

    Attributes:
        arm: Its name.
        metric: What is compared.
        outcome: Outcome of the test.
        p: Its p; NaN if an arm has one seed.
        p_holm: p after Holm, over all of these tests.
    """

    arm: str
    metric: str
    outcome: Test
    p: float
    p_holm: float


@dataclass(frozen=True)
class MapTest:
    """Test of whether two arms' maps are equally good, case by case, each case with its mean over seeds.

    Attributes:
        arm: Its name.
        metric: A metric of ``MAPS``.
        difference: Mean over cases of the arm less that of the first arm.
        signed: Wilcoxon's signed ranks, which treat cases as independent.
        flips: Sign flips of whole patients.
        effect: Cohen's d.
        p: Wilcoxon's p; NaN, like ``p_flips``, if an arm has one seed.
        p_holm: Wilcoxon's p after Holm, over all map tests.
        p_flips: p of the sign flips.
    """

    arm: str
    metric: str
    difference: float
    signed: Test
    flips: Test
    effect: float
    p: float
    p_holm: float
    p_flips: float


def diagnosis_tests(tables: Tables, class_names: Sequence[str]) -> list[ArmTest]:
    """Tests every arm's diagnoses against the first arm's: DeLong for ``auroc_<class>``, McNemar for ``accuracy``.

    Over several seeds a case has its mean probability (the ensemble).
    """
    rows = _diagnosis_rows(tables, class_names)
    p = [_p_over_seeds(tables, arm, test.p) for arm, _, test in rows]
    return [ArmTest(*row, *both) for row, both in zip(rows, zip(p, holm(p), strict=True), strict=True)]


def map_tests(tables: Tables) -> list[MapTest]:
    """Tests every arm's map metrics against the first arm's, case by case."""
    rows = _map_rows(tables)
    p = [_p_over_seeds(tables, arm, tests[0].p) for arm, _, _, tests in rows]
    return [
        MapTest(arm, metric, difference, signed, flips, t.effect, *both, _p_over_seeds(tables, arm, flips.p))
        for (arm, metric, difference, (signed, flips, t)), both in zip(rows, zip(p, holm(p), strict=True), strict=True)
    ]


def resampled_tests(results: Sequence[Result]) -> list[ArmTest]:
    """Corrected resampled t-tests of every arm against the first arm, over trainings whose training sets overlap.

    The trainings are of all folds and seeds; the result is empty without folds.
    """
    first = {(result.seed, result.fold): result for result in results if result.arm == results[0].arm}
    if len(first) < 2 or next(iter(first))[1] is None:
        return []
    n = results[0].stamp["data"]["n"]
    found: list[tuple[str, str, Test]] = []
    p: list[float] = []
    for arm in dict.fromkeys(result.arm for result in results if result.arm != results[0].arm):
        for metric in ("auroc_macro", "cc"):
            pairs = [
                (result.metrics.get(f"test/{metric}"), first[result.seed, result.fold].metrics.get(f"test/{metric}"))
                for result in results
                if result.arm == arm and (result.seed, result.fold) in first
            ]
            known = np.array([value - paired for value, paired in pairs if value is not None and paired is not None])
            if len(known) > 1 and np.isfinite(known).all():
                seeds = len({result.seed for result in results if result.arm == arm})
                test = corrected_resampled_t(known, n["test"] / n["train"])
                found.append((arm, metric, test))
                p.append(test.p if seeds >= FEWEST_SEEDS else float("nan"))
    return [ArmTest(*row, *both) for row, both in zip(found, zip(p, holm(p), strict=True), strict=True)]


def _p_over_seeds(tables: Tables, arm: str, p: float) -> float:
    """The p, if both arms have several seeds."""
    return p if min(len(tables[arm]), len(next(iter(tables.values())))) >= FEWEST_SEEDS else float("nan")


def _diagnosis_rows(tables: Tables, class_names: Sequence[str]) -> list[tuple[str, str, Test]]:
    scored = {arm: _probabilities(by_seed, class_names) for arm, by_seed in tables.items()}
    reference = next(iter(scored.values()))
    if reference is None:
        return []
    table = next(iter(next(iter(tables.values())).values()))
    label, fold = table["label"].to_numpy(), table["fold"].to_numpy() if "fold" in table else None
    rows: list[tuple[str, str, Test]] = []
    for arm, scores in list(scored.items())[1:]:
        if scores is None:
            continue
        for position, name in enumerate(class_names):
            try:
                test = delong(scores[:, position], reference[:, position], label == position, fold)
            except InputError:
                # A class with hardly any cases has no test; in the tables its AUC is undefined or has a wide interval.
                continue
            rows.append((arm, f"auroc_{name}", test))
        right = [probabilities.argmax(1) == label for probabilities in (scores, reference)]
        rows.append((arm, "accuracy", mcnemar(*right)))
    return rows


def _probabilities(by_seed: Mapping[int, pd.DataFrame], class_names: Sequence[str]) -> NDArray[np.float64] | None:
    columns = [f"p_{name}" for name in class_names]
    each = list(by_seed.values())
    if not {"label", *columns} <= set(each[0]):
        return None
    return np.mean([table[columns].to_numpy(np.float64) for table in each], axis=0)


def _map_rows(tables: Tables) -> list[tuple[str, str, float, tuple[Test, Test, Test]]]:
    (_, reference), *following = tables.items()
    patients = next(iter(reference.values()))["patient"].to_numpy()
    rows: list[tuple[str, str, float, tuple[Test, Test, Test]]] = []
    for arm, by_seed in following:
        for metric in MAPS:
            pair = [
                [table[metric].to_numpy() for table in each.values() if metric in table]
                for each in (by_seed, reference)
            ]
            if not all(pair):
                continue
            with np.errstate(invalid="ignore"):
                d = np.mean(pair[0], axis=0) - np.mean(pair[1], axis=0)
            d = np.where(np.isfinite(d), d, np.nan)
            if (~np.isnan(d)).sum() < 2:
                continue
            rows.append((arm, metric, float(np.nanmean(d)), (wilcoxon(d), permutation(d, patients), paired_t(d))))
    return rows
