"""``report.md``, ``metrics.json`` and figures of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gazelit.evaluation.compare import MAP_METRICS, ArmSummary, Result, case_statistics, comparison_lines
from gazelit.evaluation.figures import Panel, curve_figure, panel_figure, roc_figure, save
from gazelit.evaluation.statistics import bootstrap_weights, estimate
from gazelit.files import atomic_path, write_json


@dataclass(frozen=True)
class RunRecord:
    """What a report is made of.

    Attributes:
        metrics: Flat numbers: ``test/…``, ``baseline/…``, ``n_test``, ``seed``, …; written whole as ``metrics.json``.
        predictions: One row a test case: ``patient``, ``label``, ``p_<class>``, and per-case map metrics.
        panels: Cases to show.
        curves: By stage, its epochs.
        lineage: Checkpoint stamps, newest first, each with its ``sha256``.
        provenance: Of the data.
        commands: The exact command lines.
    """

    metrics: dict[str, Any]
    predictions: pd.DataFrame
    panels: Sequence[Panel]
    curves: dict[str, pd.DataFrame]
    lineage: list[dict[str, Any]]
    provenance: dict[str, Any]
    commands: list[str]


def write_report(record: RunRecord, out: Path) -> None:
    """Writes ``report.md``, ``metrics.json`` and ``figures/`` into a folder.

    The report carries no image id: cases are numbered.
    """
    intervals = _intervals(record)
    metrics = dict(record.metrics)
    for key, (low, high) in intervals.items():
        metrics |= {f"{key}_low": low, f"{key}_high": high}
    figures = out / "figures"
    classes: list[str] = record.provenance["class_names"]
    save(curve_figure(record.curves), figures / "curves.png")
    if record.panels:
        save(panel_figure(record.panels), figures / "cases.png")
    if "test/auroc_macro" in metrics and "label" in record.predictions:
        probabilities, label = _diagnosis(record)
        save(roc_figure(probabilities, label, classes), figures / "roc.png")
    text = "\n".join(_lines(record, metrics, intervals))
    with atomic_path(out / "report.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    write_json(out / "metrics.json", metrics)


def write_comparison(
    summaries: Sequence[ArmSummary], results: Sequence[Result], commands: Sequence[str], out: Path
) -> None:
    """Writes ``report.md`` and ``metrics.json`` of several arms, seeds or folds side by side."""
    data = results[0].stamp["data"]
    lines = ["# gazelit comparison", "", *_synthetic_lines(data)]
    cases = sum(len(one.predictions) for one in results if (one.arm, one.seed) == (results[0].arm, results[0].seed))
    lines += [
        f"{cases} test cases, {len(summaries[0].seeds)} seeds ({', '.join(map(str, summaries[0].seeds))}), "
        f"{summaries[0].folds} fold(s). Values: mean over seeds of the value over all test cases, folds pooled. "
        "Intervals: 95 %, bootstrap over patients (2,000 draws, the same for all arms), without the spread over "
        "seeds. Checkpoints were selected on the validation split alone.",
        "",
        *comparison_lines(summaries),
        "",
        "## Data and commands",
        "",
        f"- source: {data['source']}{' (synthetic)' if data['synthetic'] else ''}, store fingerprint "
        f"`{data['fingerprint'][:16]}`",
        "",
        "As run from the run folder:",
        "",
        "```sh",
        *commands,
        "```",
    ]
    with atomic_path(out / "report.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(
        out / "metrics.json",
        {
            "synthetic": data["synthetic"],
            "n_test": cases,
            "arms": {
                one.name: {
                    "seeds": one.seeds,
                    "folds": one.folds,
                    "seconds": one.seconds,
                    "spread": one.spread,
                    "estimates": {key: asdict(value) for key, value in one.estimates.items()},
                    "differences": {key: asdict(value) for key, value in one.differences.items()},
                }
                for one in summaries
            },
        },
    )


def _synthetic_lines(data: Mapping[str, Any]) -> list[str]:
    if not data["synthetic"]:
        return []
    return [
        "> **Measured on SYNTHETIC data.** Films and gaze were simulated. These numbers show that the path from",
        "> files to report works; they say nothing about clinical performance.",
        "",
    ]


def _diagnosis(record: RunRecord) -> tuple[np.ndarray, np.ndarray]:
    columns = [f"p_{name}" for name in record.provenance["class_names"]]
    return record.predictions[columns].to_numpy(), record.predictions["label"].to_numpy()


def _intervals(record: RunRecord) -> dict[str, tuple[float, float]]:
    statistics = case_statistics(record.predictions, record.provenance["class_names"])
    patients = record.predictions["patient"].to_numpy()
    weights = bootstrap_weights(patients)
    bounds = {name: estimate(statistic, patients, weights=weights) for name, statistic in statistics.items()}
    return {f"test/{name}": (one.low, one.high) for name, one in bounds.items()}


def _lines(record: RunRecord, metrics: dict[str, Any], intervals: dict[str, tuple[float, float]]) -> list[str]:
    provenance = record.provenance
    lines = ["# gazelit report", "", *_synthetic_lines(provenance)]
    n = provenance["n"]
    lines += [
        f"Test split: {metrics['n_test']} cases of {metrics['n_test_patients']} patients "
        f"(training {n['train']}, validation {n['val']}; {_split(provenance)}). "
        "Checkpoints were selected on the validation split alone. "
        "Intervals: 95 %, bootstrap over patients (2,000 draws); one run, seed "
        f"{metrics['seed']}: the spread over seeds is not in them.",
        "",
    ]
    if "test/auroc_macro" in metrics:
        lines += _diagnosis_lines(record, metrics, intervals)
    if "test/cc" in metrics:
        lines += _map_lines(provenance, metrics, intervals)
    lines += ["## Training", "", "![Loss and validation metrics of every stage](figures/curves.png)", ""]
    lines += [
        "## Lineage",
        "",
        "| stage | checkpoint (sha256) | seed | gazelit | torch | lightning |",
        "|---|---|---|---|---|---|",
    ]
    for stamp in record.lineage:
        versions = stamp["versions"]
        cells = [stamp["stage"], f"`{stamp['sha256'][:16]}`", stamp["seed"], stamp["version"]]
        lines.append(_row([*cells, versions["torch"], versions["lightning"]]))
    lines += [
        "",
        "Newest first; each stage took its shared components from the one below it.",
        "",
        "## Data and commands",
        "",
        f"- source: {provenance['source']}{' (synthetic)' if provenance['synthetic'] else ''}, "
        f"store fingerprint `{provenance['fingerprint'][:16]}`",
        f"- split: sha256 `{provenance['split_sha256'][:16]}`",
        f"- working size: {provenance['size'][0]} × {provenance['size'][1]} pixels",
        "",
        "As run from the run folder:",
        "",
        "```sh",
        *record.commands,
        "```",
    ]
    return lines


def _diagnosis_lines(
    record: RunRecord, metrics: dict[str, Any], intervals: dict[str, tuple[float, float]]
) -> list[str]:
    classes: list[str] = record.provenance["class_names"]
    lines = ["## Diagnosis", "", "| metric | model | 95 % interval | chance |", "|---|---|---|---|"]
    rows = [("macro AUC (one-versus-rest)", "test/auroc_macro", "0.500")]
    rows += [(f"AUC {name}", f"test/auroc_{name}", "0.500") for name in classes]
    most = ""
    if "label" in record.predictions:
        share = record.predictions["label"].value_counts(normalize=True).max()
        most = f"{share:.3f} (commonest class)"
    rows.append(("accuracy", "test/accuracy", most))
    lines += [
        f"| {name} | {_number(metrics[key])} | {_interval(intervals.get(key))} | {chance} |"
        for name, key, chance in rows
    ]
    if "label" in record.predictions:
        probabilities, label = _diagnosis(record)
        chosen = probabilities.argmax(1)
        lines += [
            "",
            "Rows are the true class, columns the predicted one:",
            "",
            "| | " + " | ".join(classes) + " |",
        ]
        lines += ["|---" * (len(classes) + 1) + "|"]
        for number, name in enumerate(classes):
            counts = [int(((label == number) & (chosen == other)).sum()) for other in range(len(classes))]
            lines.append(f"| **{name}** | " + " | ".join(map(str, counts)) + " |")
        lines += ["", "![ROC curves, one class versus the rest](figures/roc.png)"]
    return [*lines, ""]


def _split(provenance: dict[str, Any]) -> str:
    """How the cases were split, in words."""
    method = provenance["split_method"]
    if method == "file":
        return "by patient, from a split file"
    if method == "official":
        return "the dataset's official split"
    if method == "reference_image_level":
        return (
            f"by IMAGE as the reference implementation does, so that patients overlap, seed {provenance['split_seed']}"
        )
    fold = "" if provenance["folds"] is None else f", fold {provenance['fold'] + 1} of {provenance['folds']}"
    return f"by patient, split seed {provenance['split_seed']}{fold}"


def _map_lines(
    provenance: dict[str, Any], metrics: dict[str, Any], intervals: dict[str, tuple[float, float]]
) -> list[str]:
    x, y = provenance["sigma_px"]
    degrees = provenance["sigma_deg"]
    angle = "" if degrees is None or provenance["sigma_unit"] == "deg" else f", {np.mean(degrees):.2f}° of visual angle"
    lines = [
        "## Gaze",
        "",
        f"Targets: {provenance['gaze_kind']}s weighted by {provenance['weight']}, σ = {provenance['sigma']:g} "
        f"{provenance['sigma_unit']} (on average {x:.2f} × {y:.2f} pixels of the working image{angle}). "
        "CC, KLD and SIM of another σ are not comparable.",
        "",
        "| metric | model | 95 % interval | centre bias (mean training map) | difference | Gaussian centre | uniform |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, (name, direction) in MAP_METRICS.items():
        centre = metrics[f"baseline/centre/{key}"]
        value = metrics[f"test/{key}"]
        cells = [f"{name}, {direction}", _number(value), _interval(intervals.get(f"test/{key}")), _number(centre)]
        others = [_number(metrics[f"baseline/{baseline}/{key}"]) for baseline in ("gaussian", "uniform")]
        lines.append(_row([*cells, f"{value - centre:+.3f}", *others]))
    if metrics["n_panels"]:
        lines += [
            "",
            f"{metrics['n_panels']} cases: of each class the best, the middle and the worst by CC. Left the film with "
            "the reader's scanpath (circles: duration), then the reader's map and the model's, on one colour scale.",
            "",
            "![Film, reader's map and model's map](figures/cases.png)",
        ]
    return [*lines, ""]


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _number(value: float) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.3f}"


def _interval(bounds: tuple[float, float] | None) -> str:
    return "–" if bounds is None or np.isnan(bounds[0]) else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
