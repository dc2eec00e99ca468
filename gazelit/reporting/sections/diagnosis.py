"""Diagnosis: metrics and chance, probabilities of arms, confusion, subgroups, and models given gaze at test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from gazelit.evaluation.compare import ArmSummary, pooled
from gazelit.evaluation.given_gaze import GivenGaze
from gazelit.evaluation.statistics import bootstrap_weights
from gazelit.evaluation.subgroups import SHOWN, TOO_FEW, Subgroup
from gazelit.metrics.catalogue import short_labels
from gazelit.reporting.figures import DRAWN, reliability_figure, roc_figure, save
from gazelit.reporting.page import Block, Picture
from gazelit.reporting.records import FEWEST_FOR_RELIABILITY, FEWEST_OF_A_CLASS, ReportRecord
from gazelit.reporting.tables import DASH, Table, code, interval, number, plain, with_interval

#: Metrics of probabilities in a table of arms, besides the AUC.
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
#: Metrics of the section on gaze at test.
GIVEN_GAZE = short_labels("auroc_macro", "accuracy", "brier")
#: Draws of patients for a band.
BAND_DRAWS = 200


def diagnosis_blocks(report: ReportRecord, figures: Path) -> list[Block]:
    """The section, with its figures drawn; nothing without diagnoses."""
    classes = report.class_names
    tables = {arm.name: pooled(report.of_arm(arm.name)) for arm in report.summaries}
    is_single = len(report.results) == 1
    blocks = _model_blocks(report) if is_single else _probability_blocks(report.summaries, classes)
    columns = [f"p_{name}" for name in classes]
    shown = {
        arm: ([table[columns].to_numpy() for table in by_seed.values()], _labels(by_seed))
        for arm, by_seed in tables.items()
        if classes and {"label", *columns} <= set(next(iter(by_seed.values())))
    }
    shown = dict(list(shown.items())[:DRAWN])
    return [*blocks, *(_curves(shown, tables, classes, figures) if shown else [])]


def _curves(
    shown: Mapping[str, tuple[list[np.ndarray], np.ndarray]],
    tables: Mapping[str, Mapping[int, pd.DataFrame]],
    classes: Sequence[str],
    figures: Path,
) -> list[Block]:
    """ROC curves, reliability and confusion of some arms, each as far as there are cases for it."""
    table = next(iter(next(iter(tables.values())).values()))
    label = next(iter(shown.values()))[1]
    counts = np.bincount(label, minlength=len(classes))
    has_bands = min(counts.min(), len(label) - counts.max()) >= FEWEST_OF_A_CLASS
    weights = bootstrap_weights(table["patient"].to_numpy(), BAND_DRAWS)
    save(roc_figure(shown, classes, weights if has_bands else None), figures / "roc.png")
    together = " Folds are pooled in them: their area is the pooled AUC." if "fold" in table else ""
    drawn = f"The figures show {', '.join(map(code, shown))}.{together}" if len(tables) > 1 or together else ""
    words = "ROC curves, one class versus the rest" + (", with 95 % bands over patients" if has_bands else "")
    blocks: list[Block] = [*[drawn] * bool(drawn), Picture("figures/roc.png", words)]
    if not has_bands:
        blocks.append(f"A class has fewer than {FEWEST_OF_A_CLASS} cases: no bands are drawn.")
    if len(label) >= FEWEST_FOR_RELIABILITY:
        save(reliability_figure(shown), figures / "reliability.png")
        words = "How often the likeliest class is right, by its probability"
        blocks.append(Picture("figures/reliability.png", words))
    else:
        blocks.append(f"{len(label)} cases are too few for a reliability curve.")
    for arm, (scores, truth) in shown.items():
        blocks += _confusion(scores, truth, classes, code(arm))
    return blocks


def _model_blocks(report: ReportRecord) -> list[Block]:
    """One model's metrics, with those of chance."""
    estimates, classes = report.summaries[0].estimates, report.class_names
    if "auroc_macro" not in estimates:
        return []
    chance = {f"auroc_{name}": "0.500" for name in ("macro", *classes)}
    rows = [("macro AUC (one-versus-rest)", "auroc_macro")]
    rows += [(f"AUC {plain(name)}", f"auroc_{name}") for name in classes]
    predictions = report.tested
    if "label" in predictions:
        share = predictions["label"].value_counts(normalize=True)
        chance["accuracy"] = f"{share.max():.3f} (commonest class)"
        chance["brier"] = f"{1 - (share**2).sum():.3f} (the classes' shares)"
    rows += [(name, key) for key, name in PROBABILITIES.items()]
    rows += [(f"sensitivity to {plain(name)} at a specificity of 0.9", f"sensitivity_{name}") for name in classes]
    rows += [("macro average precision", "ap_macro"), ("balanced accuracy", "balanced_accuracy")]
    cells = []
    for name, key in rows:
        estimate = estimates.get(key)
        value = report.first.metrics.get(f"test/{key}") if estimate is None else estimate.value
        if estimate is not None or value is not None:
            bounds = DASH if estimate is None else interval(estimate.low, estimate.high)
            cells.append([name, number(value), bounds, chance.get(key, "")])
    return [Table(["metric", "model", "95 % interval", "chance"], cells), PROBABILITIES_ARE]


def _probability_blocks(summaries: Sequence[ArmSummary], classes: Sequence[str]) -> list[Block]:
    """Accuracy, calibration and sensitivity of several arms, with intervals over patients."""
    columns = PROBABILITIES | {f"sensitivity_{name}": f"sensitivity to {plain(name)}" for name in classes}
    shown = {key: name for key, name in columns.items() if any(key in summary.estimates for summary in summaries)}
    if not shown:
        return []
    rows = [
        [plain(summary.name), *(with_interval(summary.estimates.get(key)) for key in shown)] for summary in summaries
    ]
    text = "Probabilities, and sensitivity at a specificity of at least 0.9 (95 % over patients):"
    return [text, Table(["arm", *shown.values()], rows), PROBABILITIES_ARE]


def _confusion(scores: Sequence[np.ndarray], label: np.ndarray, classes: Sequence[str], arm: str) -> list[Block]:
    """Counts of true and predicted classes; over several seeds their mean."""
    rows = []
    for true, name in enumerate(classes):
        counts = [
            np.mean([((label == true) & (each.argmax(1) == predicted)).sum() for each in scores])
            for predicted in range(len(classes))
        ]
        cells = [f"{count:.0f}" if len(scores) == 1 else f"{count:.1f}" for count in counts]
        rows.append([f"**{plain(name)}**", *cells])
    text = f"Confusion of {arm}; rows are the true class, columns the predicted one:"
    return [text, Table(["", *map(plain, classes)], rows)]


def _labels(by_seed: Mapping[int, pd.DataFrame]) -> np.ndarray:
    return next(iter(by_seed.values()))["label"].to_numpy()


def given_gaze_blocks(rows: Sequence[GivenGaze]) -> list[Block]:
    """Two rows a model, with gaze and without; nothing without any."""
    if not rows:
        return []
    shown = {key: name for key, name in GIVEN_GAZE.items() if any(key in row.given.estimates for row in rows)}
    cells: list[list[object]] = []
    for row in rows:
        for arm, films in ((row.without, "none"), (row.given, f"{row.films_with_gaze} of {row.films}")):
            values = [with_interval(arm.estimates.get(key), arm.spread.get(key)) for key in shown]
            difference = with_interval(arm.differences.get("auroc_macro"), signed=True)
            cells.append([plain(arm.name), films, *values, difference])
    blocks: list[Block] = [
        "The same models, tested as they are and given the reader's gaze of the test film, as beside an eye tracker. "
        "Rows of gaze at test are no arms: they are compared with the same model alone, and nowhere else in this "
        "report. Intervals of values: 95 % over patients, SD over seeds beside them; of differences over patients and, "
        "where there are several, seeds.",
        Table(["model", "films given gaze", *shown.values(), "difference in macro AUC"], cells),
    ]
    if any(row.films_with_gaze < row.films for row in rows):
        blocks.append("Films without gaze are diagnosed by the gaze that the model predicts, in both rows.")
    return blocks


def subgroup_blocks(groups: Sequence[Subgroup], arm: str) -> list[Block]:
    """Metrics of subgroups; nothing without any.

    Args:
        groups: The groups.
        arm: Whose, as Markdown.
    """
    if not groups:
        return []
    shown = {key: name for key, name in SHOWN.items() if any(key in group.estimates for group in groups)}
    rows = []
    for group in groups:
        few = " (too few)" if group.n < TOO_FEW else " (few: wide intervals)"
        cells = [with_interval(group.estimates.get(key)) for key in shown]
        rows.append([group.kind, plain(group.name), f"{group.n}{few if group.is_small else ''}", *cells])
    return [f"Of {arm}, with 95 % intervals over patients.", Table(["by", "group", "n", *shown.values()], rows)]
