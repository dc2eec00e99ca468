"""The report of a run: Markdown, one HTML page, CSV, ``metrics.json`` and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gazelit.evaluation import given_gaze
from gazelit.evaluation.asynchrony import asynchrony_section, grouped, long_rows, records_of
from gazelit.evaluation.compare import ArmSummary, Result, comparison_lines, pooled, value_lines
from gazelit.evaluation.paired import paired_lines, resampled_lines
from gazelit.evaluation.scores import SHARE, scores_of
from gazelit.evaluation.statistics import Estimate, bootstrap_weights
from gazelit.evaluation.subgroups import Subgroup
from gazelit.evaluation.text import code, is_number
from gazelit.files import atomic_path, write_json
from gazelit.reporting.figures import (
    asynchrony_figure,
    curve_figure,
    learning_curve_figure,
    panel_figure,
    reliability_figure,
    roc_band_figure,
    roc_figure,
    save,
)
from gazelit.reporting.page import to_page
from gazelit.reporting.records import ExternalRecord, RunRecord
from gazelit.reporting.sections import (
    banner_lines,
    closing_lines,
    confusion_lines,
    diagnosis_lines,
    external_lines,
    films_line,
    finding_lines,
    map_lines,
    probability_lines,
    published_lines,
    split_words,
    subgroup_section,
)
from gazelit.reporting.share import Explained, explained_by, share_section
from gazelit.spreadsheet import without_formulas

#: How many arms a figure takes before its lines cannot be told apart.
DRAWN = 3


def write_report(record: RunRecord, groups: Sequence[Subgroup], external: Sequence[ExternalRecord], out: Path) -> None:
    """Writes ``report.md``, ``report.html``, ``report.csv``, ``metrics.json`` and ``figures/`` of one model.

    The report carries no image id: cases are numbered.
    """
    classes: list[str] = record.provenance["class_names"]
    weights = bootstrap_weights(record.predictions["patient"].to_numpy())
    scores = scores_of({0: [record.predictions]}, classes, weights)
    estimates = scores.estimates()
    metrics = dict(record.metrics)
    for key, estimate in estimates.items():
        metrics |= {f"test/{key}_low": estimate.low, f"test/{key}_high": estimate.high}
        metrics.setdefault(f"test/{key}", estimate.value)
    figures = out / "figures"
    save(curve_figure(record.curves), figures / "curves.png")
    _draw_panels(record, figures)
    if "auroc_macro" in estimates and "label" in record.predictions:
        probabilities = record.predictions[[f"p_{name}" for name in classes]].to_numpy()
        label = record.predictions["label"].to_numpy()
        save(roc_figure(probabilities, label, classes), figures / "roc.png")
        save(reliability_figure({"model": ([probabilities], label)}), figures / "reliability.png")
    table = pd.DataFrame(
        [
            {"data": "test", "arm": "model", "metric": key}
            | {"value": estimate.value, "low": estimate.low, "high": estimate.high}
            for key, estimate in estimates.items()
        ]
    )
    table = pd.concat([table, *(_long_table(test.summaries, test.name) for test in external)], ignore_index=True)
    for test in external:
        for key, value in test.summaries[0].estimates.items():
            cells = {"": value.value, "_low": value.low, "_high": value.high}
            metrics |= {f"external/{test.name}/{key}{end}": cell for end, cell in cells.items()}
    asynchrony = long_rows(record.joint).drop(columns="sd_over_seeds", errors="ignore")
    table = pd.concat([table, asynchrony, given_gaze.long_rows(record.given_gaze)], ignore_index=True)
    _draw_asynchrony(record, figures)
    counted = value_lines({"the model": (scores.undefined, scores.infinite)})
    _write(out, "gazelit report", _report_lines(record, metrics, estimates, counted, groups, external), table)
    write_json(out / "metrics.json", metrics | {"asynchrony": records_of(record.joint)} | _given_gaze(record))


def _report_lines(
    record: RunRecord,
    metrics: Mapping[str, Any],
    estimates: Mapping[str, Estimate],
    counted: Sequence[str],
    groups: Sequence[Subgroup],
    external: Sequence[ExternalRecord],
) -> list[str]:
    provenance = record.provenance
    n = provenance["n"]
    lines = ["# gazelit report", "", *banner_lines(provenance, bool(record.panels))]
    lines += [
        f"Test split: {metrics['n_test']} cases of {metrics['n_test_patients']} patients "
        f"(training {n['train']}, validation {n['val']}; {split_words(provenance)}). {' '.join(record.notes)} "
        "Intervals: 95 %, bootstrap over patients (2,000 draws); one training, seed "
        f"{metrics['seed']}: what another training would change is not in them.",
        "",
    ]
    if "auroc_macro" in estimates:
        lines += [*diagnosis_lines(record, estimates), *given_gaze.section(record.given_gaze)]
    if "cc" in estimates:
        lines += [*map_lines(provenance, metrics, estimates), *counted, "", *films_line(record)]
    explained = [Explained("the model", estimates["ig"], estimates[SHARE])] if SHARE in estimates else []
    return [
        *lines,
        *share_section(record.oracle, explained),
        *asynchrony_section(record.joint),
        *finding_lines(record, "the model"),
        *subgroup_section(groups, "the model"),
        *external_lines(external),
        *published_lines(provenance),
        *closing_lines(record),
    ]


def write_comparison(
    summaries: Sequence[ArmSummary],
    results: Sequence[Result],
    record: RunRecord,
    groups: Sequence[Subgroup],
    external: Sequence[ExternalRecord],
    out: Path,
) -> None:
    """Writes the same files of several arms, seeds or folds side by side.

    Args:
        summaries: The arms.
        results: All trained models.
        record: Of the first of them, for the pictures and what is told of one model.
        groups: Subgroups of the first arm.
        external: Tests on other sources.
        out: The folder.
    """
    data = results[0].stamp["data"]
    cases = sum(
        len(result.predictions) for result in results if (result.arm, result.seed) == (results[0].arm, results[0].seed)
    )
    lines = _comparison_lines(summaries, results, record, groups, external, cases, out / "figures")
    tables = [_long_table(summaries, "test"), *(_long_table(test.summaries, test.name) for test in external)]
    tables += [long_rows(record.joint), given_gaze.long_rows(record.given_gaze)]
    _write(out, "gazelit comparison", lines, pd.concat(tables, ignore_index=True))
    write_json(
        out / "metrics.json",
        {
            "synthetic": data["synthetic"],
            "n_test": cases,
            "external": {
                test.name: {
                    arm.name: {key: asdict(value) for key, value in arm.estimates.items()} for arm in test.summaries
                }
                for test in external
            },
            "asynchrony": records_of(record.joint),
            **_given_gaze(record),
            "baselines": {key: value for key, value in record.metrics.items() if key.startswith("baseline/")},
            "arms": {
                arm.name: {
                    "seeds": arm.seeds,
                    "folds": arm.folds,
                    "seconds": arm.seconds,
                    "steps": arm.steps,
                    "spread": arm.spread,
                    "infinite": arm.infinite,
                    "undefined": arm.undefined,
                    "estimates": {key: asdict(value) for key, value in arm.estimates.items()},
                    **({} if arm.share is None else {f"{SHARE}_over_patients_and_seeds": asdict(arm.share)}),
                    "differences": {key: asdict(value) for key, value in arm.differences.items()},
                }
                for arm in summaries
            },
        },
    )


def _given_gaze(record: RunRecord) -> dict[str, Any]:
    return {"gaze_at_test": given_gaze.records_of(record.given_gaze)} if record.given_gaze else {}


def _comparison_lines(
    summaries: Sequence[ArmSummary],
    results: Sequence[Result],
    record: RunRecord,
    groups: Sequence[Subgroup],
    external: Sequence[ExternalRecord],
    cases: int,
    figures: Path,
) -> list[str]:
    """The text; draws its figures."""
    data = results[0].stamp["data"]
    classes: list[str] = data["class_names"]
    arm = code(summaries[0].name)
    tables = {
        summary.name: pooled([result for result in results if result.arm == summary.name]) for summary in summaries
    }
    save(curve_figure(record.curves), figures / "curves.png")
    _draw_panels(record, figures)
    _draw_asynchrony(record, figures)
    seeds = summaries[0].seeds
    lines = ["# gazelit comparison", "", *banner_lines(data, bool(record.panels))]
    lines += [
        f"{cases} test cases, {len(seeds)} seed(s) ({', '.join(map(str, seeds))}), {summaries[0].folds} fold(s). "
        "Values: mean over seeds of the value over all test cases. Their intervals: 95 %, bootstrap over patients "
        "(2,000 draws, the same for all arms): what other patients would change of these models' values. "
        f"{' '.join(record.notes)} {_openings(results)}",
        "",
        "## Arms",
        "",
        *comparison_lines(summaries, record.metrics),
        *resampled_lines(results),
        *paired_lines(tables, classes),
        "",
    ]
    curve = learning_curve(results, summaries)
    if curve:
        save(learning_curve_figure(curve), figures / "learning_curve.png")
        lines += [
            "## Learning curve",
            "",
            "Arms that differ in how many training cases have their gaze; the other cases have only their label.",
            "",
            "![Metrics by the number of training cases with gaze](figures/learning_curve.png)",
            "",
        ]
    lines += _diagnosis_section(summaries, tables, classes, figures)
    lines += given_gaze.section(record.given_gaze)
    mapped = next((summary for summary in summaries if "cc" in summary.estimates), None)
    if "baseline/centre/cc" in record.metrics and mapped is not None:
        lines += map_lines(record.provenance, record.metrics, mapped.estimates, code(mapped.name))
        lines += films_line(record)
        if mapped.folds > 1:
            lines += ["Yardsticks and values are of all folds; the cases shown are of the first.", ""]
    return [
        *lines,
        *share_section(record.oracle, explained_by(summaries)),
        *asynchrony_section(record.joint),
        *finding_lines(record, f"{arm} (seed {record.metrics['seed']})"),
        *subgroup_section(groups, arm),
        *external_lines(external),
        *published_lines(data),
        *closing_lines(record),
    ]


def _diagnosis_section(
    summaries: Sequence[ArmSummary],
    tables: Mapping[str, Mapping[int, pd.DataFrame]],
    classes: Sequence[str],
    figures: Path,
) -> list[str]:
    """Probabilities of all arms, and figures and confusion of the first; nothing without diagnoses."""
    lines = probability_lines(summaries, classes)
    columns = [f"p_{name}" for name in classes]
    diagnosing = {
        arm: ([table[columns].to_numpy() for table in by_seed.values()], _labels(by_seed))
        for arm, by_seed in tables.items()
        if classes and {"label", *columns} <= set(next(iter(by_seed.values())))
    }
    shown = dict(list(diagnosing.items())[:DRAWN])
    if shown:
        table = next(iter(next(iter(tables.values())).values()))
        weights = bootstrap_weights(table["patient"].to_numpy(), 200)
        save(roc_band_figure(shown, classes, weights), figures / "roc.png")
        save(reliability_figure(shown), figures / "reliability.png")
        together = " Folds are pooled in them: their area is the pooled AUC." if "fold" in table else ""
        lines += [
            f"The figures show {', '.join(map(code, shown))}.{together}",
            "",
            "![ROC curves with 95 % bands over patients, one class versus the rest](figures/roc.png)",
            "",
            "![How often the likeliest class is right, by its probability](figures/reliability.png)",
            "",
        ]
    for arm, (scores, label) in shown.items():
        lines += confusion_lines(scores, label, classes, code(arm))
    return ["## Diagnosis", "", *lines] if lines else []


def _draw_panels(record: RunRecord, figures: Path) -> None:
    if record.panels:
        save(panel_figure(record.panels), figures / "cases.png")
    else:
        # That of an earlier report must not lie beside a text that says there is none.
        (figures / "cases.png").unlink(missing_ok=True)


def _draw_asynchrony(record: RunRecord, figures: Path) -> None:
    groups = list(grouped(record.joint).values())
    if groups:
        save(asynchrony_figure(groups[:DRAWN]), figures / "asynchrony.png")


def _write(out: Path, title: str, lines: Sequence[str], table: pd.DataFrame) -> None:
    text = "\n".join(lines) + "\n"
    for name, content in (("report.md", text), ("report.html", to_page(text, out, title))):
        with atomic_path(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    with atomic_path(out / "report.csv") as temporary:
        without_formulas(table).to_csv(temporary, index=False)


def _labels(by_seed: Mapping[int, pd.DataFrame]) -> np.ndarray:
    return next(iter(by_seed.values()))["label"].to_numpy()


def _long_table(summaries: Sequence[ArmSummary], data: str) -> pd.DataFrame:
    rows = []
    for arm in summaries:
        for metric, estimate in arm.estimates.items():
            cells = {"data": data, "arm": arm.name, "metric": metric}
            bounds = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
            row = cells | bounds | {"sd_over_seeds": arm.spread.get(metric, float("nan"))}
            if metric in arm.differences:
                difference = arm.differences[metric]
                row |= {
                    "difference": difference.value,
                    "difference_low": difference.low,
                    "difference_high": difference.high,
                    "p_uncorrected": difference.p,
                }
            rows.append(row)
    return pd.DataFrame(rows)


def _openings(results: Sequence[Result]) -> str:
    """How often test splits were opened, by the logs of the test steps."""
    times = [result.times_tested for result in results]
    if max(times) == 1:
        return "Every model was tested once."
    return f"Models were tested up to {max(times)} times: what was chosen after a test is biased by it."


def learning_curve(
    results: Sequence[Result], summaries: Sequence[ArmSummary]
) -> dict[str, list[tuple[int, str, Estimate]]]:
    """By metric, each arm with its readers' own gaze: (training cases with gaze, name, estimate); {} for one number."""
    gaze: dict[str, int] = {}
    for result in results:
        data = result.stamp["data"]
        # Stages before the last may have had another number; an arm is told by the stage that is tested.
        if data.get("gaze_control", "true") in ("true", "none"):
            n = data["n"]["train"]
            wanted = 0 if data.get("gaze_control") == "none" else data.get("gaze_cases")
            gaze[result.arm] = n if wanted is None else min(wanted, n)
    if len(set(gaze.values())) < 2:
        return {}
    curve = {}
    for key, name in (("auroc_macro", "macro AUC"), ("cc", "CC")):
        points = [
            (gaze[arm.name], arm.name, arm.estimates[key])
            for arm in summaries
            if arm.name in gaze and key in arm.estimates and is_number(arm.estimates[key].value)
        ]
        if len({count for count, _, _ in points}) > 1:
            curve[name] = sorted(points, key=lambda point: point[0])
    return curve
