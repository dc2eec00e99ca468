"""Arms side by side: values, differences, paired tests, and the verdict that stands at the top."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from gazelit.evaluation.compare import COMPARED, ArmSummary, Difference, Result, differences, pooled
from gazelit.evaluation.crossed import FEWEST_SEEDS
from gazelit.evaluation.paired import diagnosis_tests, map_tests, resampled_tests
from gazelit.evaluation.scores import MAP_METRICS, POOLED_AUC
from gazelit.evaluation.statistics import LEVEL
from gazelit.reporting.page import Block
from gazelit.reporting.records import FEWEST_PATIENTS, ReportRecord
from gazelit.reporting.tables import DASH, Table, is_number, number, p_value, plain, with_interval

#: Yardsticks without training below the arms, by their names among the baselines.
YARDSTICKS = {"centre": "centre bias", "oracle": "oracle"}
#: Further metrics in the table of arms, for comparison with publications.
BESIDE = {POOLED_AUC: "macro AUC, folds pooled"}
#: Metrics of the verdict; two arms are compared by the first one that both have.
PRIMARY = ("auroc_macro", "scanpath_bits", "cc")
#: Greatest number of arms with a sentence in the verdict.
MOST_SENTENCES = 4


def verdict(report: ReportRecord) -> list[str]:
    """What the comparison says, a sentence for every arm; or that it concludes nothing, and why."""
    first, *following = report.summaries
    if not following:
        return [_alone(first, report)]
    found = differences(report.summaries)
    sentences = [_sentence(summary, found, report) for summary in following[:MOST_SENTENCES]]
    left = len(following) - len(sentences)
    return [*sentences, *[f"{left} further arms stand in the table of differences."] * bool(left)]


def _alone(arm: ArmSummary, report: ReportRecord) -> str:
    parts = []
    for metric in PRIMARY:
        if metric in arm.estimates:
            compared = {"auroc_macro": "chance is 0.5"}.get(metric)
            centre = report.first.metrics.get(f"baseline/centre/{metric}")
            if compared is None and is_number(centre):
                compared = f"the centre bias has {number(centre)}"
            text = f"{COMPARED[metric]} {with_interval(arm.estimates[metric])}"
            parts.append(text + (f"; {compared}" if compared else ""))
    result = f"{plain(arm.name)}: {'; '.join(parts)}. " if parts else ""
    return (
        f"{result}**There is one arm, so nothing is compared**: what its training, its gaze or its stages add is open."
    )


def _sentence(arm: ArmSummary, found: Sequence[Difference], report: ReportRecord) -> str:
    """The primary difference of an arm from the first, and what can be concluded of it."""
    first = report.summaries[0]
    pair = f"{plain(arm.name)} less {plain(first.name)}"
    primary = [
        difference
        for metric in PRIMARY
        for difference in found
        if (difference.arm, difference.reference, difference.metric) == (arm.name, first.name, metric)
        and is_number(difference.estimate.value)
    ]
    if not primary:
        return f"{pair}: **nothing is concluded**, as the two have no defined metric in common."
    difference = primary[0]
    estimate = difference.estimate
    result = f"{pair}, {COMPARED[difference.metric]}: {with_interval(estimate, signed=True)}"
    if estimate.seeds < FEWEST_SEEDS:
        return (
            f"{result}. **Nothing is concluded**: with one seed it is not known what another training would change, "
            "and the interval is over patients alone."
        )
    if report.patients < FEWEST_PATIENTS:
        return f"{result}. **Nothing is concluded**: {report.patients} test patients are too few for a test."
    if is_number(difference.p):
        result += f"{_p_words(difference.p)} after Holm"
    if not is_number(difference.p) or difference.p >= 1 - LEVEL:
        return f"{result}. **Nothing is concluded**: the data do not separate the two."
    better = "higher" if estimate.value > 0 else "lower"
    return f"{result}. **{plain(arm.name)} is {better}** by more than patients and seeds vary."


def _p_words(p: float) -> str:
    return f", p {'' if p < 0.001 else '= '}{p_value(p)}" if is_number(p) else ""


def arm_blocks(report: ReportRecord) -> list[Block]:
    """The section of the arms."""
    tables = {arm.name: pooled(report.of_arm(arm.name)) for arm in report.summaries}
    return [
        *comparison(report.summaries, report.first.metrics, report.patients),
        *resampled_blocks(report.results),
        *paired_blocks(tables, report.class_names),
    ]


def comparison(
    summaries: Sequence[ArmSummary], baselines: Mapping[str, float] | None = None, patients: int = FEWEST_PATIENTS
) -> list[Block]:
    """Values and differences.

    Args:
        summaries: Of the arms.
        baselines: ``baseline/<name>/<metric>`` (:mod:`gazelit.evaluation.yardsticks`); those of the centre bias and of
            the oracle stand below the arms.
        patients: Number of patients that were tested.
    """
    known = {key for summary in summaries for key in summary.estimates}
    shown = {key: name for key, name in (COMPARED | BESIDE).items() if key in known}
    has_steps = any(summary.steps is not None for summary in summaries)
    has_minutes = any(is_number(summary.seconds) for summary in summaries)
    rows: list[list[object]] = []
    for summary in summaries:
        cells: list[object] = [with_interval(summary.estimates.get(key), summary.spread.get(key)) for key in shown]
        steps = [DASH if summary.steps is None else f"{summary.steps:,.0f}"] * has_steps
        minutes = [f"{summary.seconds / 60:.1f}" if is_number(summary.seconds) else DASH] * has_minutes
        rows.append([plain(summary.name), *cells, *steps, *minutes])
    for key, name in YARDSTICKS.items():
        scores = [(baselines or {}).get(f"baseline/{key}/{metric}") for metric in shown]
        if any(score is not None for score in scores):
            rows.append([name, *map(number, scores), *[DASH] * (has_steps + has_minutes)])
    columns = ["arm", *shown.values(), *["steps"] * has_steps, *["training (min)"] * has_minutes]
    several = any(len(summary.seeds) > 1 for summary in summaries)
    blocks: list[Block] = [
        f"Values with 95 % intervals over patients{'; SD over seeds' if several else ''}.",
        Table(columns, rows),
        *value_texts({summary.name: (summary.undefined, summary.infinite) for summary in summaries}),
    ]
    if POOLED_AUC in shown:
        blocks.append(
            "AUCs compare pairs of cases within a fold. The pooled AUC ranks the scores of all folds' models together, "
            "although models that were trained apart are calibrated differently (Forman and Scholz 2010); it is here "
            "to be held against publications that pool, and is not tested."
        )
    return [*blocks, *_difference_blocks(summaries, patients)]


def value_texts(counts: Mapping[str, tuple[Mapping[str, int], Mapping[str, int]]]) -> list[str]:
    """How many cases have no value, and how many an infinite one, which makes a mean a dash.

    Args:
        counts: By arm, both by map metric.
    """
    texts = []
    words = (
        "Cases without a value (no gaze, or none defined), left out",
        "Cases with an infinite value, whose mean is a dash",
    )
    for position, text in enumerate(words):
        found = [
            f"{MAP_METRICS[key][0]} of {plain(arm)}: {count}"
            for arm, both in counts.items()
            for key, count in both[position].items()
        ]
        texts += [f"{text}: {'; '.join(found)}."] if found else []
    return texts


def _difference_blocks(summaries: Sequence[ArmSummary], patients: int) -> list[Block]:
    """Differences of all pairs of arms in one table, whose p are one family."""
    found = differences(summaries)
    if len(summaries) < 2:
        return []
    known = {key for summary in summaries for key in summary.estimates}
    metrics = [metric for metric in COMPARED if metric in known]
    seeds = min(len(summary.seeds) for summary in summaries)
    text = "Differences on the same cases, with 95 % intervals."
    if max(len(summary.seeds) for summary in summaries) >= FEWEST_SEEDS:
        text += (
            " Intervals and p are over patients and seeds, crossed: what other patients and another training would "
            "change. p after Holm (1979) over all p of this table."
        )
    if seeds < FEWEST_SEEDS:
        text += (
            " Where an arm has one seed, what another training would change is not known: the interval is over "
            "patients alone and no p is given. Train with more seeds (`--seeds=5`)."
        )
    elif seeds < 5:
        text += f" With {seeds} seeds the spread over seeds is poorly known, and intervals are wide for it."
    if patients < FEWEST_PATIENTS:
        text += f" {patients} patients are too few for a p."
    pairs: dict[tuple[str, str], dict[str, Difference]] = {}
    for summary in summaries[1:]:
        pairs[summary.name, summaries[0].name] = {}
    for difference in found:
        pairs.setdefault((difference.arm, difference.reference), {})[difference.metric] = difference
    rows = [
        [plain(arm), plain(reference), *(_difference_cell(by_metric.get(metric), patients) for metric in metrics)]
        for (arm, reference), by_metric in pairs.items()
    ]
    return [text, Table(["arm", "less", *(COMPARED[metric] for metric in metrics)], rows)]


def _difference_cell(difference: Difference | None, patients: int) -> str:
    if difference is None or not is_number(difference.estimate.value):
        return DASH
    text = with_interval(difference.estimate, signed=True)
    if difference.estimate.seeds < FEWEST_SEEDS:
        return f"{text}, no p: one seed"
    if patients < FEWEST_PATIENTS or not is_number(difference.p):
        return text
    return f"{text}{_p_words(difference.p)}"


def resampled_blocks(results: Sequence[Result]) -> list[Block]:
    """The corrected resampled t-test of every arm against the first; nothing without folds, or with one seed alone."""
    tests = resampled_tests(results)
    if not tests:
        return []
    trainings = len({(result.seed, result.fold) for result in results if result.arm == results[0].arm})
    text = (
        f"Over {trainings} trainings (folds and seeds), whose training sets overlap: corrected resampled t (Nadeau and "
        f"Bengio 2003) against {plain(results[0].arm)}, with p after Holm over the {len(tests)} of this table. It "
        "tests single models, each on its fold. All folds of a seed begin with the same weights: with one seed no p is "
        "given."
    )
    has_p = any(is_number(test.p) for test in tests)
    rows = []
    for test in tests:
        cells = [plain(test.arm), COMPARED[test.metric], number(test.outcome.effect, signed=True)]
        rows.append([*cells, f"{test.outcome.statistic:.2f}", *[p_value(test.p), p_value(test.p_holm)] * has_p])
    return [text, Table(["arm", "metric", "mean difference", "t", *["p", "p after Holm"] * has_p], rows)]


def paired_blocks(tables: Mapping[str, Mapping[int, pd.DataFrame]], class_names: Sequence[str]) -> list[Block]:
    """The paired tests of every arm against the first; nothing for a single arm.

    An arm with one seed has its differences and no p, and where no arm has a p there are no columns of them.

    Args:
        tables: By arm and seed, the predictions of all test cases.
        class_names: Names of the classes.
    """
    first = next(iter(tables))
    if len(tables) < 2:
        return []
    cases = next(iter(tables[first].values()))
    enough = cases["patient"].nunique() >= FEWEST_PATIENTS
    blocks: list[Block] = []
    diagnosis = diagnosis_tests(tables, class_names)
    if diagnosis:
        has_p = enough and any(is_number(test.p) for test in diagnosis)
        within = "; over folds it compares pairs within a fold" if "fold" in cases else ""
        rows: list[list[object]] = []
        for test in diagnosis:
            models = [f"{plain(name)}, {_models(tables[name])}" for name in (test.arm, first)]
            p = [p_value(test.p), p_value(test.p_holm)] * has_p
            rows.append([*models, _metric_name(test.metric), number(test.outcome.effect, signed=True), *p])
        blocks += [
            "AUC by DeLong's test, accuracy by McNemar's exact test. Where an arm has several seeds they test its "
            "**ensemble**, the mean probability of its seeds' models, usually better than the single models of "
            "the tables above; they ask what other patients would change, not what another training would. Both take "
            f"cases for independent: where patients have several images, trust the intervals above{within}. "
            + (f"p after Holm over the {len(diagnosis)} tests of this table." if has_p else _no_p(enough)),
            Table(["arm", "less", "of", "difference", *["p", "p after Holm"] * has_p], rows),
        ]
    maps = map_tests(tables)
    if maps:
        has_p = enough and any(is_number(compared.p) for compared in maps)
        rows = []
        for compared in maps:
            p = [p_value(compared.p), p_value(compared.p_holm)] * has_p
            flips = [p_value(compared.p_flips)] * has_p
            cells = [plain(compared.arm), COMPARED[compared.metric], number(compared.difference, signed=True)]
            rows.append([*cells, *p, _effect(compared.signed.effect), *flips, _effect(compared.effect)])
        columns = ["arm", "metric", "mean difference", *["Wilcoxon p", "after Holm"] * has_p, "rank-biserial"]
        blocks += [
            f"Maps, case by case, against {plain(first)}, each case with its mean over seeds: Wilcoxon's signed ranks, "
            "which take cases for independent, and as a check sign flips of whole patients. Both ask what other "
            "patients would change. "
            + (f"Wilcoxon's p after Holm over the {len(maps)} of this table." if has_p else _no_p(enough)),
            Table([*columns, *["permutation p"] * has_p, "Cohen's d"], rows),
        ]
    return blocks


def _no_p(enough: bool) -> str:
    return "No p: one seed." if enough else f"No p: fewer than {FEWEST_PATIENTS} patients."


def _metric_name(metric: str) -> str:
    return f"AUC {plain(metric.removeprefix('auroc_'))}" if metric.startswith("auroc_") else metric


def _models(by_seed: Mapping[int, pd.DataFrame]) -> str:
    """What a row of probabilities is of."""
    return f"ensemble of {len(by_seed)} seeds" if len(by_seed) > 1 else f"single model, seed {next(iter(by_seed))}"


def _effect(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else DASH
