"""The sections of a report as Markdown lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gazelit.evaluation.compare import ArmSummary, comparison_lines
from gazelit.evaluation.findings import REGION_METRICS, summed
from gazelit.evaluation.scores import MAP_METRICS
from gazelit.evaluation.statistics import Estimate
from gazelit.evaluation.subgroups import Subgroup, subgroup_lines
from gazelit.evaluation.text import DASH, code, header, interval, is_number, number, plain, row, with_interval
from gazelit.evaluation.yardsticks import reader_sizes, share_of_the_way
from gazelit.reporting.records import ExternalRecord, RunRecord
from gazelit.reporting.share import explained_by, share_lines

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
#: What a table of arms says of their probabilities beside the AUC.
PROBABILITIES = {
    "accuracy": "accuracy",
    "brier": "Brier score",
    "ece_corrected": "calibration error, bias-corrected",
    "rmsce": "calibration error, root mean square, debiased",
}
PROBABILITIES_ARE = (
    "Lower is better but for accuracy and sensitivity. Calibration errors are over at most 15 bins with equal numbers "
    "of cases, at least ten each: the mean gap of probability and frequency, less its bias from noise (Kumar, Liang "
    "and Ma 2019; about half of the bias is left where the error is near zero), and the root mean square gap, whose "
    "square is unbiased. The Brier score is a mean over cases and has no such bias."
)


def banner_lines(data: Mapping[str, Any], has_films: bool) -> list[str]:
    """What must be known first: whether the data are synthetic, and whether films of people are shown."""
    if data["synthetic"]:
        return [
            "> **Measured on SYNTHETIC data.** Films and gaze were simulated. These numbers show that the path from",
            "> files to report works; they say nothing about clinical performance.",
            "",
        ]
    if not has_films:
        return []
    return [
        "> **This page shows films and gaze of real cases**, because `--films` asked for them. They are under the data",
        "> use agreement of their source: do not pass the page on to people who have not signed it.",
        "",
    ]


def films_line(record: RunRecord) -> list[str]:
    """Why no film is shown, where none is."""
    if record.panels or record.provenance["synthetic"] or not is_number(record.metrics.get("test/cc")):
        return []
    return ["No film is shown, because the data are of real cases; `gazelit report RUN --films=true` shows some.", ""]


def diagnosis_lines(record: RunRecord, estimates: Mapping[str, Estimate]) -> list[str]:
    """One model's diagnosis: metrics, confusion and figures."""
    metrics = record.metrics
    classes: list[str] = record.provenance["class_names"]
    chance = {f"auroc_{name}": "0.500" for name in ("macro", *classes)}
    rows = [("macro AUC (one-versus-rest)", "auroc_macro")]
    rows += [(f"AUC {plain(name)}", f"auroc_{name}") for name in classes]
    if "label" in record.predictions:
        share = record.predictions["label"].value_counts(normalize=True)
        chance["accuracy"] = f"{share.max():.3f} (commonest class)"
        chance["brier"] = f"{1 - (share**2).sum():.3f} (the classes' shares)"
    rows += [(name, key) for key, name in PROBABILITIES.items()]
    rows += [(f"sensitivity to {plain(name)} at a specificity of 0.9", f"sensitivity_{name}") for name in classes]
    rows += [("macro average precision", "ap_macro"), ("balanced accuracy", "balanced_accuracy")]
    lines = ["## Diagnosis", "", *header(["metric", "model", "95 % interval", "chance"])]
    for name, key in rows:
        estimate = estimates.get(key)
        value = metrics.get(f"test/{key}") if estimate is None else estimate.value
        if estimate is None and value is None:
            continue
        bounds = DASH if estimate is None else interval(estimate.low, estimate.high)
        lines.append(row([name, number(value), bounds, chance.get(key, "")]))
    lines += ["", PROBABILITIES_ARE]
    if "label" in record.predictions:
        scores = record.predictions[[f"p_{name}" for name in classes]].to_numpy()
        lines += ["", *confusion_lines([scores], record.predictions["label"].to_numpy(), classes, "the model")]
        lines += [
            "![ROC curves, one class versus the rest](figures/roc.png)",
            "",
            "![How often the likeliest class is right, by its probability](figures/reliability.png)",
        ]
    return [*lines, ""]


def probability_lines(summaries: Sequence[ArmSummary], class_names: Sequence[str]) -> list[str]:
    """Accuracy, calibration and sensitivity of several arms, with intervals over patients."""
    columns = PROBABILITIES | {f"sensitivity_{name}": f"sensitivity to {plain(name)}" for name in class_names}
    shown = {key: name for key, name in columns.items() if any(key in summary.estimates for summary in summaries)}
    if not shown:
        return []
    lines = ["Probabilities, and sensitivity at a specificity of at least 0.9 (95 % over patients):", ""]
    lines += header(["arm", *shown.values()])
    for summary in summaries:
        lines.append(row([plain(summary.name), *(with_interval(summary.estimates.get(key)) for key in shown)]))
    return [*lines, "", PROBABILITIES_ARE, ""]


def confusion_lines(scores: Sequence[np.ndarray], label: np.ndarray, classes: Sequence[str], what: str) -> list[str]:
    """Counts of true and predicted classes; over several seeds their mean."""
    lines = [f"Confusion of {what}; rows are the true class, columns the predicted one:", ""]
    lines += header(["", *map(plain, classes)])
    for true, name in enumerate(classes):
        counts = [
            np.mean([((label == true) & (each.argmax(1) == predicted)).sum() for each in scores])
            for predicted in range(len(classes))
        ]
        cells = [f"{count:.0f}" if len(scores) == 1 else f"{count:.1f}" for count in counts]
        lines.append(row([f"**{plain(name)}**", *cells]))
    return [*lines, ""]


def map_lines(
    provenance: Mapping[str, Any], metrics: Mapping[str, Any], estimates: Mapping[str, Estimate], what: str = "model"
) -> list[str]:
    """Map metrics beside their yardsticks.

    Args:
        provenance: Of the data.
        metrics: ``baseline/…``, and ``n_panels``.
        estimates: By metric, of the model or arm.
        what: The model or arm, as Markdown.
    """
    lines = ["## Gaze", "", *_target_lines(provenance)]
    baselines = {"centre": "centre bias (mean training map)", "gaussian": "Gaussian centre", "uniform": "uniform"}
    if "baseline/class_centre/cc" in metrics:
        baselines["class_centre"] = "mean map of the true class"
    if "baseline/oracle/cc" in metrics:
        baselines["oracle"] = "oracle"
    sizes = reader_sizes(metrics)
    for size in sizes:
        baselines[f"reader_{size}"] = "one other reader" if size == 1 else f"mean of {size} other readers"
    columns = ["metric", what, "95 % interval", baselines["centre"], "difference", *list(baselines.values())[1:]]
    if sizes:
        columns.append(f"share of the way from centre bias to {baselines[f'reader_{sizes[-1]}']}")
    lines += header(columns)
    for key, (name, direction) in MAP_METRICS.items():
        if key not in estimates or f"baseline/centre/{key}" not in metrics:
            continue
        value, scores = estimates[key].value, [metrics.get(f"baseline/{baseline}/{key}") for baseline in baselines]
        difference = float("nan") if scores[0] is None else value - scores[0]
        cells = [f"{name}, {direction}", number(value), interval(estimates[key].low, estimates[key].high)]
        cells += [number(scores[0]), number(difference, signed=True), *map(number, scores[1:])]
        if sizes:
            share = share_of_the_way(value, scores[0], scores[-1])
            cells.append(DASH if share is None else f"{share:.0%}")
        lines.append(row(cells))
    lines += ["", *_reader_lines(metrics, sizes)]
    if "oracle" in baselines:
        lines += [
            "Oracle: the expected map under the law of the simulated readers, which knows what is on the film: as the "
            "targets are made for CC, KLD, SIM and EMD, of the fixations for the others. No map has a greater "
            "information gain or a lower KLD in expectation; of CC it is nearly the greatest.",
            "",
        ]
    if metrics.get("n_panels"):
        lines += [
            f"{metrics['n_panels']} cases: of each class the best, the middle and the worst by CC. Left the film with "
            "the reader's scanpath (circles: duration), then the reader's map and the model's, on one colour scale.",
            "",
            "![Film, reader's map and model's map](figures/cases.png)",
            "",
        ]
    return lines


def _target_lines(provenance: Mapping[str, Any]) -> list[str]:
    """What the targets are, as far as there was gaze to make them of."""
    sigma, degrees = provenance["sigma_px"], provenance["sigma_deg"]
    angle = "" if degrees is None or provenance["sigma_unit"] == "deg" else f", {np.mean(degrees):.2f}° of visual angle"
    mean = "" if sigma is None else f" (on average {sigma[0]:.2f} × {sigma[1]:.2f} pixels of the working image{angle})"
    return [
        f"Targets: {provenance['gaze_kind']}s weighted by {provenance['weight']}, σ = {provenance['sigma']:g} "
        f"{provenance['sigma_unit']}{mean}. CC, KLD, SIM and EMD of another σ are not comparable.",
        "",
    ]


def _reader_lines(metrics: Mapping[str, Any], sizes: Sequence[int]) -> list[str]:
    if not sizes:
        return []
    readings = {size: round(metrics[f"baseline/reader_{size}/n"]) for size in sizes}
    counts = ", ".join(f"{count} with {size} other" for size, count in readings.items())
    if len(set(readings.values())) == 1:
        counts = str(readings[sizes[0]])
    lines = [
        "Readers: how well the mean map of so many other readers predicts a reader's gaze "
        f"(readings: {counts}). One reader is a noisy guess of where readers look, and the mean of more is a better "
        "one: the ceiling of a model, which may learn the expected map, is above all of these columns.",
        "",
    ]
    if metrics.get("baseline/reader/simulated"):
        lines[0] += " The other readers were drawn from the simulator that drew the reader."
    else:
        lines[0] += (
            " A reader is scored against one reading, the model against all readings of a film together, which is "
            "easier."
        )
    return lines


def finding_lines(record: RunRecord, what: str) -> list[str]:
    """Whether the model's map lies on the marked findings; nothing without any."""
    if not len(record.findings):
        return []
    table = summed(record.findings, ["map"], {**REGION_METRICS, "area": ""})
    area = table.loc[table["metric"] == "area", "value"].mean()
    cases = record.findings["index"].nunique()
    lines = [
        "## Where the findings are",
        "",
        f"Maps of {what} against the marked findings of {cases} test cases, which take {area:.1%} of the image on "
        "average: what pointing game and mass are by chance. Means with 95 % intervals over patients.",
        "",
        *header(["map", *REGION_METRICS.values()]),
    ]
    for name, group in table.groupby("map", sort=False):
        values = group.set_index("metric")
        cells = [Estimate(*values.loc[metric, ["value", "low", "high"]].astype(float)) for metric in REGION_METRICS]
        lines.append(row([name, *map(with_interval, cells)]))
    return [*lines, ""]


def external_lines(external: Sequence[ExternalRecord]) -> list[str]:
    """Tests on other sources."""
    lines: list[str] = []
    for test in external:
        data = test.provenance
        lines += [
            f"## External test: {plain(test.name)}",
            "",
            f"{data['n']['test']} cases of {plain(data['source'])}{' (synthetic)' if data['synthetic'] else ''}, none "
            "of a patient of the store that was trained on. Every model of every seed and fold has read all of them; "
            "values are means over models, first over the folds of a seed.",
            "",
            *comparison_lines(test.summaries, test.baselines),
            "",
        ]
        lines += share_lines(test.oracle, explained_by(test.summaries))
        if "cc" in test.summaries[0].estimates and "baseline/centre/cc" in test.baselines:
            lines += [
                f"Mean map of the other half of these patients: CC {number(test.baselines['baseline/centre/cc'])}, "
                f"NSS {number(test.baselines['baseline/centre/nss'])}.",
                "",
            ]
    return lines


def subgroup_section(groups: Sequence[Subgroup], what: str) -> list[str]:
    """Metrics of subgroups; nothing without any."""
    if not groups:
        return []
    return ["## Subgroups", "", f"Of {what}, with 95 % intervals over patients.", "", *subgroup_lines(groups), ""]


def published_lines(data: Mapping[str, Any]) -> list[str]:
    """What can be cited on EGD-CXR, for a report of those data alone."""
    if data["synthetic"] or "egd-cxr" not in str(data["source"]).split("+"):
        return []
    return [
        "## Published figures on EGD-CXR",
        "",
        *header(["source", "figures", "measured on"]),
        *(row(cells) for cells in PUBLISHED),
        "",
        "None has an interval, seeds or folds; a CC belongs to the σ of its target, which is 75.5 pixels of the "
        "original image in the first row.",
        "",
    ]


def closing_lines(record: RunRecord) -> list[str]:
    """Training, lineage, data and commands."""
    provenance = record.provenance
    lines = ["## Training", "", "![Loss and validation metrics of every stage](figures/curves.png)", ""]
    lines += ["## Lineage", "", *header(["stage", "checkpoint (sha256)", "seed", "gazelit", "torch", "lightning"])]
    for stamp in record.lineage:
        versions = stamp["versions"]
        cells = [plain(stamp["stage"]), code(stamp["sha256"][:16]), stamp["seed"], plain(stamp["version"])]
        lines.append(row([*cells, plain(versions["torch"]), plain(versions["lightning"])]))
    return [
        *lines,
        "",
        "Newest first; each stage took its shared components from the one below it.",
        "",
        "## Data and commands",
        "",
        f"- source: {plain(provenance['source'])}{' (synthetic)' if provenance['synthetic'] else ''}, "
        f"store fingerprint `{provenance['fingerprint'][:16]}`",
        f"- split: {split_words(provenance)}, sha256 `{provenance['split_sha256'][:16]}`",
        f"- working size: {provenance['size'][0]} × {provenance['size'][1]} pixels",
        "",
        "As run from the run folder:",
        "",
        "```sh",
        *(" ".join(command.splitlines()) for command in record.commands),
        "```",
    ]


def split_words(provenance: Mapping[str, Any]) -> str:
    """How the cases were split."""
    method = provenance["split_method"]
    if method == "file":
        return "by patient, from a split file"
    if method == "official":
        return "the dataset's official split"
    if method == "official_shared":
        return "the dataset's official split, whose parts share PATIENTS"
    if method == "reference_image_level":
        return (
            f"by IMAGE as the reference implementation does, so that patients overlap, seed {provenance['split_seed']}"
        )
    fold = "" if provenance["folds"] is None else f", fold {provenance['fold'] + 1} of {provenance['folds']}"
    return f"by patient, split seed {provenance['split_seed']}{fold}"
