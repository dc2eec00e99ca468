"""Paired tests of arms on the same cases, beside the bootstrap: DeLong, McNemar, Wilcoxon and permutation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.errors import InputError
from gazelit.evaluation.statistics import Test, delong, holm, mcnemar, paired_t, permutation, wilcoxon

#: By arm, by seed, the predictions of all test cases.
Tables = Mapping[str, Mapping[int, pd.DataFrame]]
MAPS = {"cc": "CC", "kld": "KLD", "nss": "NSS"}


def paired_lines(tables: Tables, class_names: Sequence[str]) -> list[str]:
    """The tests of every arm against the first as Markdown; nothing for a single arm.

    Over several seeds a case has its mean probability and its mean map metric.
    """
    first, *others = tables
    if not others:
        return []
    diagnosis, maps = _diagnosis_rows(tables, class_names), _map_rows(tables)
    lines: list[str] = []
    if diagnosis:
        adjusted = holm([test.p for _, _, test in diagnosis])
        lines += [
            "",
            f"AUC by DeLong's test and accuracy by McNemar's exact test, against `{first}`. Both take cases for "
            "independent: where patients have several images, the intervals above are the ones to trust.",
            "",
            "| arm | of | difference | p | p after Holm |",
            "|---|---|---|---|---|",
        ]
        for (arm, what, test), p in zip(diagnosis, adjusted, strict=True):
            lines.append(f"| {arm} | {what} | {test.effect:+.3f} | {_p(test.p)} | {_p(p)} |")
    if maps:
        adjusted = holm([tests[0].p for _, _, _, tests in maps])
        lines += [
            "",
            f"Maps, case by case, against `{first}`: Wilcoxon's signed ranks, and sign flips of whole patients.",
            "",
            "| arm | metric | mean difference | Wilcoxon p | after Holm | rank-biserial | permutation p | Cohen's d |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for (arm, metric, difference, (signed, flips, t)), p in zip(maps, adjusted, strict=True):
            cells = [arm, MAPS[metric], f"{difference:+.3f}", _p(signed.p), _p(p)]
            lines.append("| " + " | ".join([*cells, f"{signed.effect:+.2f}", _p(flips.p), f"{t.effect:+.2f}"]) + " |")
    return lines


def _diagnosis_rows(tables: Tables, class_names: Sequence[str]) -> list[tuple[str, str, Test]]:
    scored = {arm: _probabilities(by_seed, class_names) for arm, by_seed in tables.items()}
    reference = next(iter(scored.values()))
    if reference is None:
        return []
    label = next(iter(next(iter(tables.values())).values()))["label"].to_numpy()
    rows: list[tuple[str, str, Test]] = []
    for arm, scores in list(scored.items())[1:]:
        if scores is None:
            continue
        for number, name in enumerate(class_names):
            try:
                test = delong(scores[:, number], reference[:, number], label == number)
            except InputError:
                # A class that is hardly there has no test; its AUC stands in the tables as undefined or wide.
                continue
            rows.append((arm, f"AUC {name}", test))
        right = [one.argmax(1) == label for one in (scores, reference)]
        rows.append((arm, "accuracy", mcnemar(*right)))
    return rows


def _probabilities(by_seed: Mapping[int, pd.DataFrame], class_names: Sequence[str]) -> NDArray[np.float64] | None:
    columns = [f"p_{name}" for name in class_names]
    each = list(by_seed.values())
    if not {"label", *columns} <= set(each[0]):
        return None
    return np.mean([one[columns].to_numpy(np.float64) for one in each], axis=0)


def _map_rows(tables: Tables) -> list[tuple[str, str, float, tuple[Test, Test, Test]]]:
    (_, reference), *others = tables.items()
    patients = next(iter(reference.values()))["patient"].to_numpy()
    rows: list[tuple[str, str, float, tuple[Test, Test, Test]]] = []
    for arm, by_seed in others:
        for metric in MAPS:
            pair = [[one[metric].to_numpy() for one in each.values() if metric in one] for each in (by_seed, reference)]
            if not all(pair):
                continue
            d = np.mean(pair[0], axis=0) - np.mean(pair[1], axis=0)
            d = np.where(np.isfinite(d), d, np.nan)
            if (~np.isnan(d)).sum() < 2:
                continue
            rows.append((arm, metric, float(np.nanmean(d)), (wilcoxon(d), permutation(d, patients), paired_t(d))))
    return rows


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
