"""Paired tests of arms on the same cases, beside the intervals: DeLong, McNemar, Wilcoxon, permutation, resampled t.

All but the last take the trained models for given and ask what other patients would change, which a comparison of
methods does not: each table says what it tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.errors import InputError
from gazelit.evaluation.compare import COMPARED, Result
from gazelit.evaluation.crossed import FEWEST_SEEDS
from gazelit.evaluation.statistics import (
    Test,
    corrected_resampled_t,
    delong,
    holm,
    mcnemar,
    paired_t,
    permutation,
    wilcoxon,
)
from gazelit.evaluation.text import DASH, header, is_number, number, p_value, plain, row

#: By arm, by seed, the predictions of all test cases.
Tables = Mapping[str, Mapping[int, pd.DataFrame]]
MAPS = {"cc": "CC", "kld": "KLD", "nss": "NSS"}
NO_P = "– (one seed)"


def paired_lines(tables: Tables, class_names: Sequence[str]) -> list[str]:
    """The tests of every arm against the first as Markdown; nothing for a single arm.

    Over several seeds a case has its mean probability (the ensemble) and its mean map metric. An arm with one seed has
    its differences and no p.
    """
    first, *others = tables
    if not others:
        return []
    diagnosis, maps = _diagnosis_rows(tables, class_names), _map_rows(tables)
    lines: list[str] = []
    if diagnosis:
        adjusted = holm([_p_over_seeds(tables, arm, test.p) for arm, _, test in diagnosis])
        folds = "fold" in next(iter(tables[first].values()))
        within = "; over folds it compares pairs within a fold" if folds else ""
        lines += [
            "",
            "AUC by DeLong's test, accuracy by McNemar's exact test. Where an arm has several seeds they test its "
            "**ensemble**, the mean probability of its seeds' models, usually better than the single models of "
            "the tables above; they ask what other patients would change, not what another training would. Both take "
            f"cases for independent: where patients have several images, trust the intervals above{within}. "
            f"p after Holm over the {len(diagnosis)} tests of this table.",
            "",
            *header(["arm", "less", "of", "difference", "p", "p after Holm"]),
        ]
        for (arm, what, test), p in zip(diagnosis, adjusted, strict=True):
            cells = [f"{plain(name)}, {_models(tables[name])}" for name in (arm, first)]
            given = _p_over_seeds(tables, arm, test.p)
            lines.append(row([*cells, what, number(test.effect, signed=True), _p(given), _p(p)]))
    if maps:
        adjusted = holm([_p_over_seeds(tables, arm, tests[0].p) for arm, _, _, tests in maps])
        lines += [
            "",
            f"Maps, case by case, against {plain(first)}, each case with its mean over seeds: Wilcoxon's signed ranks, "
            "which take cases for independent, and as a check sign flips of whole patients. Both ask what other "
            f"patients would change. Wilcoxon's p after Holm over the {len(maps)} of this table.",
            "",
            *header(
                [
                    *("arm", "metric", "mean difference", "Wilcoxon p", "after Holm", "rank-biserial"),
                    *("permutation p", "Cohen's d"),
                ]
            ),
        ]
        for (arm, metric, difference, (signed, flips, t)), holms in zip(maps, adjusted, strict=True):
            wilcoxons, flipped = (_p(_p_over_seeds(tables, arm, value)) for value in (signed.p, flips.p))
            cells = [plain(arm), MAPS[metric], number(difference, signed=True), wilcoxons, _p(holms)]
            lines.append(row([*cells, _effect(signed.effect), flipped, _effect(t.effect)]))
    return lines


def resampled_lines(results: Sequence[Result]) -> list[str]:
    """The corrected resampled t-test of every arm against the first, over folds and seeds; nothing without folds."""
    first = {(result.seed, result.fold): result for result in results if result.arm == results[0].arm}
    if len(first) < 2 or next(iter(first))[1] is None:
        return []
    n = results[0].stamp["data"]["n"]
    found: list[tuple[str, str, int, Test]] = []
    for arm in dict.fromkeys(result.arm for result in results if result.arm != results[0].arm):
        for metric in ("auroc_macro", "cc"):
            pairs = [
                (result.metrics.get(f"test/{metric}"), first[result.seed, result.fold].metrics.get(f"test/{metric}"))
                for result in results
                if result.arm == arm and (result.seed, result.fold) in first
            ]
            known = np.array(
                [arms - reference for arms, reference in pairs if arms is not None and reference is not None]
            )
            if len(known) > 1 and np.isfinite(known).all():
                seeds = len({result.seed for result in results if result.arm == arm})
                found.append((arm, COMPARED[metric], seeds, corrected_resampled_t(known, n["test"] / n["train"])))
    if not found:
        return []
    p = [test.p if seeds >= FEWEST_SEEDS else float("nan") for _, _, seeds, test in found]
    lines = [
        "",
        f"Over {len(first)} trainings (folds and seeds), whose training sets overlap: corrected resampled t (Nadeau "
        f"and Bengio 2003) against {plain(results[0].arm)}, with p after Holm over the {len(found)} of this table. It "
        "tests single models, each on its fold. All folds of a seed begin with the same weights: with one seed no p is "
        "given.",
        "",
        *header(["arm", "metric", "mean difference", "t", "p", "p after Holm"]),
    ]
    for (arm, name, _, test), plain_p, adjusted in zip(found, p, holm(p), strict=True):
        cells = [plain(arm), name, number(test.effect, signed=True), f"{test.statistic:.2f}"]
        lines.append(row([*cells, _p(plain_p), _p(adjusted)]))
    return lines


def _models(by_seed: Mapping[int, pd.DataFrame]) -> str:
    """What a row of probabilities is of."""
    return f"ensemble of {len(by_seed)} seeds" if len(by_seed) > 1 else f"single model, seed {next(iter(by_seed))}"


def _p_over_seeds(tables: Tables, arm: str, p: float) -> float:
    """The p, if both arms have several seeds."""
    return p if min(len(tables[arm]), len(next(iter(tables.values())))) >= FEWEST_SEEDS else float("nan")


def _effect(value: float) -> str:
    return f"{value:+.2f}" if is_number(value) else DASH


def _p(value: float) -> str:
    return NO_P if np.isnan(value) else p_value(value)


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
                # A class that is hardly there has no test; its AUC stands in the tables as undefined or wide.
                continue
            rows.append((arm, f"AUC {plain(name)}", test))
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
    (_, reference), *others = tables.items()
    patients = next(iter(reference.values()))["patient"].to_numpy()
    rows: list[tuple[str, str, float, tuple[Test, Test, Test]]] = []
    for arm, by_seed in others:
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
