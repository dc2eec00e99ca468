"""The report of a run: Markdown, one HTML page, CSV, ``metrics.json`` and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gazelit.evaluation.compare import MAP_METRICS, ArmSummary, Result, case_statistics, comparison_lines, pooled
from gazelit.evaluation.figures import (
    Panel,
    curve_figure,
    learning_curve_figure,
    panel_figure,
    reliability_figure,
    roc_band_figure,
    roc_figure,
    save,
)
from gazelit.evaluation.page import to_page
from gazelit.evaluation.paired import paired_lines
from gazelit.evaluation.statistics import Estimate, bootstrap_weights, corrected_resampled_t, estimate
from gazelit.evaluation.subgroups import Subgroup, subgroup_lines
from gazelit.evaluation.yardsticks import share_of_the_way
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


@dataclass(frozen=True)
class ExternalRecord:
    """A test of the same models on another source.

    Attributes:
        name: As the pipeline calls it.
        provenance: Of its data.
        summaries: The arms; every model of every seed and fold has read all cases.
        baselines: Yardsticks on its cases.
    """

    name: str
    provenance: dict[str, Any]
    summaries: Sequence[ArmSummary]
    baselines: Mapping[str, float]


#: How many arms a figure takes before its lines cannot be told apart.
DRAWN = 3
#: What can be cited on EGD-CXR, each with what it was measured on.
PUBLISHED = (
    (
        "Qiu, Rivaz and Xiao 2025",
        "AUC 0.93, CC 0.58",
        "one split of images; their code reports the images that selected",
    ),
    ("GazeGNN (Wang et al. 2023)", "AUC 0.923, accuracy 0.832", "107 images of one split, which also selected"),
    ("VCC-Net 2026", "accuracy 0.851", "the same 107 images"),
    ("EGD-CXR's authors, temporal model 2021", "AUC 0.807", "one test split, best of 20 epochs on it"),
)


def write_report(record: RunRecord, groups: Sequence[Subgroup], external: Sequence[ExternalRecord], out: Path) -> None:
    """Writes ``report.md``, ``report.html``, ``report.csv``, ``metrics.json`` and ``figures/`` of one model.

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
        save(reliability_figure({"model": ([probabilities], label)}), figures / "reliability.png")
    table = pd.DataFrame(
        [
            {"data": "test", "arm": "model", "metric": key.removeprefix("test/"), "value": metrics[key]}
            | {"low": low, "high": high}
            for key, (low, high) in intervals.items()
        ]
    )
    table = pd.concat([table, *(_long_table(one.summaries, one.name) for one in external)], ignore_index=True)
    for one in external:
        for key, value in one.summaries[0].estimates.items():
            cells = {"": value.value, "_low": value.low, "_high": value.high}
            metrics |= {f"external/{one.name}/{key}{end}": cell for end, cell in cells.items()}
    _write(out, "gazelit report", _lines(record, metrics, intervals, groups, external), table)
    write_json(out / "metrics.json", metrics)


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
    classes: list[str] = data["class_names"]
    figures = out / "figures"
    tables = {one.name: pooled([result for result in results if result.arm == one.name]) for one in summaries}
    diagnosing = {
        arm: ([table[[f"p_{name}" for name in classes]].to_numpy() for table in by_seed.values()], _labels(by_seed))
        for arm, by_seed in tables.items()
        if {"label", f"p_{classes[0]}"} <= set(next(iter(by_seed.values())))
    }
    save(curve_figure(record.curves), figures / "curves.png")
    if record.panels:
        save(panel_figure(record.panels), figures / "cases.png")
    shown = dict(list(diagnosing.items())[:DRAWN])
    if diagnosing:
        patients = next(iter(next(iter(tables.values())).values()))["patient"].to_numpy()
        save(roc_band_figure(shown, classes, bootstrap_weights(patients, 200)), figures / "roc.png")
        save(reliability_figure(shown), figures / "reliability.png")
    cases = sum(len(one.predictions) for one in results if (one.arm, one.seed) == (results[0].arm, results[0].seed))
    lines = ["# gazelit comparison", "", *_synthetic_lines(data)]
    lines += [
        f"{cases} test cases, {len(summaries[0].seeds)} seed(s) ({', '.join(map(str, summaries[0].seeds))}), "
        f"{summaries[0].folds} fold(s). Values: mean over seeds of the value over all test cases, folds pooled. "
        "Intervals: 95 %, bootstrap over patients (2,000 draws, the same for all arms), without the spread over "
        "seeds. Checkpoints were selected on the validation split alone. "
        f"{_openings(results)}",
        "",
        "## Arms",
        "",
        *comparison_lines(summaries),
        *_corrected_lines(results, summaries),
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
    if diagnosing:
        lines += [
            "## Diagnosis",
            "",
            f"The figures show {', '.join(f'`{arm}`' for arm in shown)}.",
            "",
            "![ROC curves with 95 % bands, one class versus the rest](figures/roc.png)",
            "",
            "![How often the likeliest class is right, by its probability](figures/reliability.png)",
            "",
        ]
        for arm, (scores, label) in shown.items():
            lines += _confusion_lines(scores, label, classes, f"`{arm}`")
    if "baseline/centre/cc" in record.metrics and "cc" in summaries[0].estimates:
        bounds = {f"test/{key}": (one.low, one.high) for key, one in summaries[0].estimates.items()}
        values = {f"test/{key}": one.value for key, one in summaries[0].estimates.items()}
        metrics = {**record.metrics, **values}
        lines += _map_lines(record.provenance, metrics, bounds, f"`{summaries[0].name}`")
        if summaries[0].folds > 1:
            lines += ["Yardsticks and values are of all folds; the cases shown are of the first.", ""]
    lines += _subgroup_section(groups, f"`{summaries[0].name}`")
    lines += [*_external_lines(external), *_published_lines(data["synthetic"])]
    lines += _closing_lines(record)
    tables_of_all = [_long_table(summaries, "test"), *(_long_table(one.summaries, one.name) for one in external)]
    _write(out, "gazelit comparison", lines, pd.concat(tables_of_all, ignore_index=True))
    write_json(
        out / "metrics.json",
        {
            "synthetic": data["synthetic"],
            "n_test": cases,
            "external": {
                one.name: {
                    arm.name: {key: asdict(value) for key, value in arm.estimates.items()} for arm in one.summaries
                }
                for one in external
            },
            "baselines": {key: value for key, value in record.metrics.items() if key.startswith("baseline/")},
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


def _write(out: Path, title: str, lines: Sequence[str], table: pd.DataFrame) -> None:
    text = "\n".join(lines) + "\n"
    for name, content in (("report.md", text), ("report.html", to_page(text, out, title))):
        with atomic_path(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    with atomic_path(out / "report.csv") as temporary:
        table.to_csv(temporary, index=False)


def _labels(by_seed: Mapping[int, pd.DataFrame]) -> np.ndarray:
    return next(iter(by_seed.values()))["label"].to_numpy()


def _long_table(summaries: Sequence[ArmSummary], data: str) -> pd.DataFrame:
    rows = []
    for arm in summaries:
        for metric, one in arm.estimates.items():
            row = {
                "data": data,
                "arm": arm.name,
                "metric": metric,
                "value": one.value,
                "low": one.low,
                "high": one.high,
            }
            row["sd_over_seeds"] = arm.spread[metric]
            if metric in arm.differences:
                other = arm.differences[metric]
                row |= {
                    "difference": other.value,
                    "difference_low": other.low,
                    "difference_high": other.high,
                    "p": other.p,
                }
            rows.append(row)
    return pd.DataFrame(rows)


def _openings(results: Sequence[Result]) -> str:
    """How often test splits were opened, by the logs of the test steps."""
    times = [result.times_tested for result in results]
    if max(times) == 1:
        return "Every model was tested once."
    return f"Models were tested up to {max(times)} times: what was chosen after a test is biased by it."


def _corrected_lines(results: Sequence[Result], summaries: Sequence[ArmSummary]) -> list[str]:
    """The corrected resampled t-test over folds and seeds, where there are several."""
    first = {(one.seed, one.fold): one for one in results if one.arm == summaries[0].name}
    if len(first) < 2 or len(summaries) < 2 or next(iter(first))[1] is None:
        return []
    n = results[0].stamp["data"]["n"]
    lines = [
        "",
        f"Over {len(first)} folds and seeds, whose training sets overlap (corrected resampled t, Nadeau and Bengio):",
        "",
        "| arm | metric | mean difference | t | p |",
        "|---|---|---|---|---|",
    ]
    for arm in summaries[1:]:
        for metric, name in (("auroc_macro", "macro AUC"), ("cc", "CC")):
            pairs = [
                (one.metrics.get(f"test/{metric}"), first[one.seed, one.fold].metrics.get(f"test/{metric}"))
                for one in results
                if one.arm == arm.name
            ]
            known = [one - other for one, other in pairs if one is not None and other is not None]
            if len(known) < 2 or np.isnan(known).any():
                continue
            test = corrected_resampled_t(np.array(known), n["test"] / n["train"])
            lines.append(_row([arm.name, name, f"{test.effect:+.3f}", f"{test.statistic:.2f}", f"{test.p:.3f}"]))
    return lines if len(lines) > 5 else []


def learning_curve(
    results: Sequence[Result], summaries: Sequence[ArmSummary]
) -> dict[str, list[tuple[int, str, Estimate]]]:
    """By metric, each arm with its readers' own gaze: (training cases with gaze, name, estimate); {} for one number."""
    gaze: dict[str, int] = {}
    for one in results:
        data = one.stamp["data"]
        # Stages before the last may have had another number; an arm is told by the stage that is tested.
        if data.get("gaze_control", "true") in ("true", "none"):
            n = data["n"]["train"]
            asked = 0 if data.get("gaze_control") == "none" else data.get("gaze_cases")
            gaze[one.arm] = n if asked is None else min(asked, n)
    if len(set(gaze.values())) < 2:
        return {}
    curve = {}
    for key, name in (("auroc_macro", "macro AUC"), ("cc", "CC")):
        points = [
            (gaze[arm.name], arm.name, arm.estimates[key])
            for arm in summaries
            if arm.name in gaze and key in arm.estimates
        ]
        if len({count for count, _, _ in points}) > 1:
            curve[name] = sorted(points, key=lambda point: point[0])
    return curve


def _confusion_lines(scores: Sequence[np.ndarray], label: np.ndarray, classes: Sequence[str], what: str) -> list[str]:
    """Counts of true and predicted classes; over several seeds their mean."""
    lines = [f"Confusion of {what}; rows are the true class, columns the predicted one:", ""]
    lines += ["| | " + " | ".join(classes) + " |", "|---" * (len(classes) + 1) + "|"]
    for number, name in enumerate(classes):
        counts = [
            np.mean([((label == number) & (one.argmax(1) == other)).sum() for one in scores])
            for other in range(len(classes))
        ]
        cells = [f"{count:.0f}" if len(scores) == 1 else f"{count:.1f}" for count in counts]
        lines.append(f"| **{name}** | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _external_lines(external: Sequence[ExternalRecord]) -> list[str]:
    lines: list[str] = []
    for one in external:
        data = one.provenance
        lines += [
            f"## External test: {one.name}",
            "",
            f"{data['n']['test']} cases of {data['source']}{' (synthetic)' if data['synthetic'] else ''}, none of a "
            "patient of the store that was trained on. Every model of every seed and fold has read all of them; values "
            "are means over models.",
            "",
            *comparison_lines(one.summaries),
            "",
        ]
        if "cc" in one.summaries[0].estimates and "baseline/centre/cc" in one.baselines:
            lines += [
                f"Mean map of the other half of these patients: CC {one.baselines['baseline/centre/cc']:.3f}, "
                f"NSS {one.baselines['baseline/centre/nss']:.3f}.",
                "",
            ]
    return lines


def _subgroup_section(groups: Sequence[Subgroup], what: str) -> list[str]:
    if not groups:
        return []
    return ["## Subgroups", "", f"Of {what}, with 95 % intervals over patients.", "", *subgroup_lines(groups), ""]


def _published_lines(synthetic: bool) -> list[str]:
    lines = ["## Published figures on EGD-CXR", ""]
    if synthetic:
        lines += ["For orientation only: the figures above are of simulated data and cannot be held against them.", ""]
    lines += ["| source | figures | measured on |", "|---|---|---|", *(_row(row) for row in PUBLISHED), ""]
    return [
        *lines,
        "None has an interval, seeds or folds; a CC belongs to the σ of its target, which is 75.5 pixels of the "
        "original image in the first row.",
        "",
    ]


def _closing_lines(record: RunRecord) -> list[str]:
    """Training, lineage, data and commands."""
    provenance = record.provenance
    lines = ["## Training", "", "![Loss and validation metrics of every stage](figures/curves.png)", ""]
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
    return [
        *lines,
        "",
        "Newest first; each stage took its shared components from the one below it.",
        "",
        "## Data and commands",
        "",
        f"- source: {provenance['source']}{' (synthetic)' if provenance['synthetic'] else ''}, "
        f"store fingerprint `{provenance['fingerprint'][:16]}`",
        f"- split: {_split(provenance)}, sha256 `{provenance['split_sha256'][:16]}`",
        f"- working size: {provenance['size'][0]} × {provenance['size'][1]} pixels",
        "",
        "As run from the run folder:",
        "",
        "```sh",
        *record.commands,
        "```",
    ]


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


def _lines(
    record: RunRecord,
    metrics: dict[str, Any],
    intervals: dict[str, tuple[float, float]],
    groups: Sequence[Subgroup],
    external: Sequence[ExternalRecord],
) -> list[str]:
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
    return [
        *lines,
        *_subgroup_section(groups, "the model"),
        *_external_lines(external),
        *_published_lines(provenance["synthetic"]),
        *_closing_lines(record),
    ]


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
    further = {
        "test/ap_macro": "macro average precision",
        "test/balanced_accuracy": "balanced accuracy",
        "test/brier": "Brier score (lower is better)",
        "test/ece": "expected calibration error (lower is better)",
    }
    rows += [(name, key, "") for key, name in further.items() if key in metrics]
    lines += [
        f"| {name} | {_number(metrics[key])} | {_interval(intervals.get(key))} | {chance} |"
        for name, key, chance in rows
    ]
    if "label" in record.predictions:
        probabilities, label = _diagnosis(record)
        lines += ["", *_confusion_lines([probabilities], label, classes, "the model")]
        lines += [
            "![ROC curves, one class versus the rest](figures/roc.png)",
            "",
            "![How often the likeliest class is right, by its probability](figures/reliability.png)",
        ]
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
    provenance: dict[str, Any],
    metrics: dict[str, Any],
    intervals: dict[str, tuple[float, float]],
    what: str = "model",
) -> list[str]:
    x, y = provenance["sigma_px"]
    degrees = provenance["sigma_deg"]
    angle = "" if degrees is None or provenance["sigma_unit"] == "deg" else f", {np.mean(degrees):.2f}° of visual angle"
    read_twice = "baseline/reader/n" in metrics
    header = [
        "metric",
        what,
        "95 % interval",
        "centre bias (mean training map)",
        "difference",
        "Gaussian centre",
        "uniform",
    ]
    told_class = "baseline/class_centre/cc" in metrics
    if told_class:
        header.append("mean map of the true class")
    if read_twice:
        header += ["another reader", "share of the way from centre bias to reader"]
    lines = [
        "## Gaze",
        "",
        f"Targets: {provenance['gaze_kind']}s weighted by {provenance['weight']}, σ = {provenance['sigma']:g} "
        f"{provenance['sigma_unit']} (on average {x:.2f} × {y:.2f} pixels of the working image{angle}). "
        "CC, KLD, SIM and EMD of another σ are not comparable.",
        "",
    ]
    if read_twice:
        lines += [f"Another reader: {metrics['baseline/reader/n']:.0f} readings of films that were read twice.", ""]
    lines += [_row(header), "|---" * len(header) + "|"]
    for key, (name, direction) in MAP_METRICS.items():
        if f"test/{key}" not in metrics or f"baseline/centre/{key}" not in metrics:
            continue
        centre = metrics[f"baseline/centre/{key}"]
        value = metrics[f"test/{key}"]
        cells = [f"{name}, {direction}", _number(value), _interval(intervals.get(f"test/{key}")), _number(centre)]
        others = [_number(metrics[f"baseline/{baseline}/{key}"]) for baseline in ("gaussian", "uniform")]
        if told_class:
            others.append(_number(metrics[f"baseline/class_centre/{key}"]))
        if read_twice:
            reader = metrics[f"baseline/reader/{key}"]
            share = share_of_the_way(value, centre, reader)
            others += [_number(reader), "–" if share is None else f"{share:.0%}"]
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
