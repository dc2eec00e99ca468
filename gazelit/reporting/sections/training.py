"""How the models were trained: curves, asynchrony of the tasks, lineage, data, commands; and published figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gazelit.evaluation.asynchrony import HEADLINES, JointTraining, grouped
from gazelit.evaluation.compare import ArmSummary, Result
from gazelit.evaluation.statistics import Estimate
from gazelit.reporting.figures import DRAWN, asynchrony_figure, curve_figure, learning_curve_figure, save
from gazelit.reporting.page import Block, Commands, Picture
from gazelit.reporting.records import ReportRecord, RunRecord
from gazelit.reporting.tables import DASH, Table, code, is_number, number, plain

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


def learning_curve_blocks(report: ReportRecord, figures: Path) -> list[Block]:
    """The figure of arms with several numbers of training cases with gaze; nothing for one number."""
    curve = learning_curve(report.results, report.summaries)
    if not curve:
        return []
    save(learning_curve_figure(curve), figures / "learning_curve.png")
    return [
        "Arms that differ in how many training cases have their gaze; the other cases have only their label.",
        Picture("figures/learning_curve.png", "Metrics by the number of training cases with gaze"),
    ]


def learning_curve(
    results: Sequence[Result], summaries: Sequence[ArmSummary]
) -> dict[str, list[tuple[int, str, Estimate]]]:
    """By metric, each arm with its readers' own gaze: (training cases with gaze, name, estimate); {} for one number."""
    gaze: dict[str, int] = {}
    for result in results:
        data = result.stamp["data"]
        # Stages before the last may have had another number; the tested stage decides the arm's number.
        if data.get("gaze_control", "true") in ("true", "none"):
            n = data["n"]["train"]
            limit = 0 if data.get("gaze_control") == "none" else data.get("gaze_cases")
            gaze[result.arm] = n if limit is None else min(limit, n)
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


def curve_blocks(record: RunRecord, figures: Path) -> list[Block]:
    """Loss and validation metrics of every stage."""
    if not record.curves:
        return ["No `epochs.csv` of a stage was found, so that no curve is drawn."]
    save(curve_figure(record.curves), figures / "curves.png")
    return [Picture("figures/curves.png", "Loss and validation metrics of every stage")]


def asynchrony_blocks(joint: Sequence[JointTraining], figures: Path) -> list[Block]:
    """When the tasks of joint trainings were best; nothing without a training of several tasks."""
    groups = list(grouped(joint).values())
    if not groups:
        return []
    save(asynchrony_figure(groups[:DRAWN]), figures / "asynchrony.png")
    text = (
        "Whether diagnosis and gaze converge asynchronously, the premise of Qiu, Rivaz and Xiao (2025), is measured "
        "here: the epoch at which each task of a joint training was best on validation, the epoch of the checkpoint "
        "that was kept, and its *regret*, what it loses on the task against the task's own best epoch of the same "
        "training. The best of many epochs is never below the kept one, so a regret is at least 0 and part of it is "
        "noise of the validation split. Epochs count from 1."
    )
    if any(len(group) > 1 for group in groups):
        text += " Of several trainings (seeds, folds): mean (least to greatest) of epochs, mean ± SD of regrets."
    rows: list[list[object]] = []
    for group in groups:
        for task in group[0].tasks:
            found = [trained.tasks[task] for trained in group if task in trained.tasks]
            regret = _spread([each.metric_regret for each in found])
            rows.append(
                [
                    plain(group[0].label),
                    task,
                    len(group),
                    _range([trained.epochs - 1 for trained in group]),
                    _range([each.best_epoch for each in found]),
                    _range([each.best_epoch_by_metric for each in found]),
                    _range([trained.kept for trained in group]),
                    _spread([each.loss_regret for each in found]),
                    regret if regret == DASH else f"{regret} {HEADLINES[task][1]}",
                ]
            )
    columns = ["arm: stage", "task", "trainings", "epochs", "best epoch by its loss", "best epoch by its metric"]
    return [
        text,
        Table([*columns, "kept epoch", "regret, loss", "regret, metric"], rows),
        *_apart_texts(groups),
        *_learned_blocks(groups),
        Picture("figures/asynchrony.png", "Validation losses of the tasks by epoch, and learned weights"),
    ]


def _apart_texts(groups: Sequence[Sequence[JointTraining]]) -> list[str]:
    lines = []
    for group in groups:
        apart = [trained.apart for trained in group if math.isfinite(trained.apart)]
        if apart:
            length = np.mean([trained.epochs for trained in group])
            far = f"{apart[0]:.0f}"
            if len(apart) > 1:
                far = f"{np.mean(apart):.1f} (from {min(apart):.0f} to {max(apart):.0f})"
            name = plain(group[0].label)
            lines.append(f"- {name}: the tasks' best epochs (by loss) are {far} epochs apart, of {length:.0f}.")
    return ["\n".join(lines)] if lines else []


def _learned_blocks(groups: Sequence[Sequence[JointTraining]]) -> list[Block]:
    """What the weightings learned; nothing where they learn nothing."""
    rows: list[list[object]] = []
    for group in groups:
        for name in dict.fromkeys(name for trained in group for name in trained.learned):
            values = np.array([trained.learned[name] for trained in group if name in trained.learned])
            cells = [_spread(values[:, column].tolist()) for column in range(3)]
            rows.append([plain(group[0].label), name.replace("_", " "), *cells])
    if not rows:
        return []
    columns = ["arm: stage", "learned", "after the first epoch", "at the kept epoch", "after the last epoch"]
    text = "What the weighting of the tasks learned"
    if any(name.startswith("sigma") for group in groups for trained in group for name in trained.learned):
        text += " (a greater σ is a smaller weight: 1/σ² times a constant)"
    return [f"{text}:", Table(columns, rows)]


def _range(epochs: Sequence[int | None]) -> str:
    """Epochs counted from 1."""
    known = [epoch + 1 for epoch in epochs if epoch is not None]
    if not known:
        return DASH
    if len(set(known)) == 1:
        return str(known[0])
    return f"{np.mean(known):.1f} ({min(known)} to {max(known)})"


def _spread(values: Sequence[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return DASH
    return number(float(np.mean(known))) + (f" ± {number(float(np.std(known, ddof=1)))}" if len(known) > 1 else "")


def published_blocks(data: Mapping[str, Any]) -> list[Block]:
    """What can be cited on EGD-CXR, for a report of those data alone."""
    if data["synthetic"] or "egd-cxr" not in str(data["source"]).split("+"):
        return []
    return [
        Table(["source", "figures", "measured on"], PUBLISHED),
        "None has an interval, seeds or folds; a CC belongs to the σ of its target, which is 75.5 pixels of the "
        "original image in the first row.",
    ]


def lineage_blocks(record: RunRecord) -> list[Block]:
    """The chain of checkpoints."""
    rows: list[list[object]] = []
    for stamp in record.lineage:
        versions = stamp["versions"]
        cells = [plain(stamp["stage"]), code(stamp["sha256"][:16]), stamp["seed"], plain(stamp["version"])]
        rows.append([*cells, plain(versions["torch"]), plain(versions["lightning"])])
    return [
        Table(["stage", "checkpoint (sha256)", "seed", "gazelit", "torch", "lightning"], rows),
        "Newest first; each stage took its shared components from the one below it.",
    ]


def data_blocks(record: RunRecord) -> list[Block]:
    """The data, and the commands folded away."""
    data = record.provenance
    facts = (
        f"- source: {plain(data['source'])}{' (synthetic)' if data['synthetic'] else ''}, "
        f"store fingerprint `{data['fingerprint'][:16]}`\n"
        f"- split: {split_words(data)}, sha256 `{data['split_sha256'][:16]}`\n"
        f"- working size: {data['size'][0]} × {data['size'][1]} pixels"
    )
    if not record.commands:
        return [facts]
    title = f"The {len(record.commands)} commands, as run from the run folder"
    return [facts, Commands(title, record.commands)]


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
