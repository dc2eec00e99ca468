"""Figures of the report: readable by colour-blind people and in print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.deploy.overlay import COLOUR_MAP, heat_and_opacity, is_nearly_flat, over_uniform, scale_end
from gazelit.evaluation.asynchrony import JointTraining
from gazelit.evaluation.findings import Localisation
from gazelit.evaluation.statistics import Estimate, Weights, blocks_of
from gazelit.files import atomic_path
from gazelit.metrics.catalogue import short_labels

# Drawing libraries are imported when they are used, after a report has scored its yardsticks, which takes the most
# memory.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from matplotlib.image import AxesImage

#: Okabe and Ito's palette, without yellow, which print loses.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P")
#: Greatest number of arms in a figure whose lines can still be distinguished.
DRAWN = 3
#: Validation metrics that are drawn, all between 0 and 1.
CURVES = {
    f"val/{name}": label
    for name, label in short_labels("auroc_macro", "cc", "accuracy", "probe_auroc_macro", "knn_auroc_macro").items()
}


@dataclass(frozen=True)
class Panel:
    """One case of the picture table.

    Attributes:
        title: Case number, class and score; no id.
        image: (H, W) in [0, 1].
        reader: Fixation density (H, W).
        prediction: Predicted density (H, W).
        points: (N, 3) fixations, in the order they were made.
    """

    title: str
    image: NDArray[np.float32]
    reader: NDArray[np.float32]
    prediction: NDArray[np.float32]
    points: NDArray[np.float32]


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=140)


def _figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _count_whole(axis: Axes) -> None:
    """Has whole numbers along x."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def panel_figure(panels: Sequence[Panel], across: int = 3) -> Figure:
    """Image with the scanpath, reader's map and predicted map side by side, ``across`` cases a row.

    Both maps of a case share one colour scale, in multiples of the uniform level, so that a flat prediction looks flat
    (:mod:`gazelit.deploy.overlay`).
    """
    down = -(-len(panels) // across)
    figure = _figure(5.0 * across, 2.45 * down)
    groups = figure.subfigures(down, across, squeeze=False, wspace=0.04)
    for group in groups.flat[len(panels) :]:
        group.set_visible(False)
    for group, panel in zip(groups.flat, panels, strict=False):
        group.suptitle(panel.title, fontsize=10)
        film, reader, model = group.subplots(1, 3)
        maps = [over_uniform(density) for density in (panel.reader, panel.prediction)]
        end = scale_end(*maps)
        film.imshow(panel.image, cmap="gray", vmin=0, vmax=1)
        x, y, weight = panel.points.T
        film.plot(x, y, color=COLOURS[4], linewidth=0.5, alpha=0.7)
        size = 40 * weight / max(float(weight.max(initial=0)), 1e-9)
        film.scatter(x, y, s=size, facecolors="none", edgecolors=COLOURS[1], linewidths=0.7)
        for axis, multiples in zip((reader, model), maps, strict=True):
            axis.imshow(panel.image, cmap="gray", vmin=0, vmax=1)
            shown = _lay_over(axis, multiples, end)
        _bar(group, model, shown)
        flat = ", nearly flat" if is_nearly_flat(maps[1]) else ""
        for axis, title in ((film, "film, scanpath"), (reader, "reader"), (model, f"model{flat}")):
            axis.set_title(title, fontsize=8)
            axis.set_axis_off()
            axis.set_xlim(-0.5, panel.image.shape[1] - 0.5)
            axis.set_ylim(panel.image.shape[0] - 0.5, -0.5)
    return figure


def localisation_figure(cases: Sequence[Localisation]) -> Figure:
    """The film with its regions outlined, and its maps on a scale each, in multiples of its mean; a case a row.

    On a map that has the name of a region, the region is outlined, too.
    """
    across = 1 + max(len(case.maps) for case in cases)
    figure = _figure(2.4 * across, 2.6 * len(cases))
    axes = figure.subplots(len(cases), across, squeeze=False)
    for row, case in zip(axes, cases, strict=True):
        for axis in row:
            axis.set_axis_off()
        for axis, (name, values) in zip(row, [(case.title, None), *case.maps.items()], strict=False):
            axis.imshow(case.image, cmap="gray", vmin=0, vmax=1)
            title = name.replace("_", " ")
            if values is not None:
                multiples = over_uniform(values)
                _bar(figure, axis, _lay_over(axis, multiples, scale_end(multiples)))
                title += ", nearly flat" if is_nearly_flat(multiples) else ""
            axis.set_title(title, fontsize=8)
        of_map = dict(zip(case.maps, row[1:], strict=False))
        # A finding has its colour on every film, whichever of them are marked.
        numbers = {name: number for number, name in enumerate(dict.fromkeys([*case.maps, *case.regions]))}
        for name, inside in case.regions.items():
            colour = COLOURS[numbers[name] % len(COLOURS)]
            for axis in [row[0], *([of_map[name]] if name in of_map else [])]:
                # With a white edge the line is visible on dark and on bright maps.
                axis.contour(inside, levels=[0.5], colors=["white"], linewidths=1.8)
                axis.contour(inside, levels=[0.5], colors=[colour], linewidths=0.9)
    return figure


def _lay_over(axis: Axes, multiples: NDArray[np.float32], end: float) -> AxesImage:
    """A map over the film that is drawn already; clear at and below the uniform level."""
    _, opacity = heat_and_opacity(multiples, end)
    return axis.imshow(multiples, cmap=COLOUR_MAP, vmin=1, vmax=end, alpha=opacity)


def _bar(figure: FigureBase, axis: Axes, shown: AxesImage) -> None:
    """A colour bar beside a map, without its transparency."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(shown.norm, shown.cmap), ax=axis, fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=6)
    bar.set_label("× uniform", fontsize=6)


def curve_figure(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Training and validation loss of every stage, and below them its validation metrics where it has some."""
    has_metrics = any(key in table for table in curves.values() for key in CURVES)
    figure = _figure(3.6 * len(curves), 5.2 if has_metrics else 2.7)
    axes = figure.subplots(1 + has_metrics, len(curves), squeeze=False)
    for column, (stage, table) in enumerate(curves.items()):
        losses = axes[0][column]
        losses.set_title(stage, fontsize=10)
        losses.set_ylabel("loss" if column == 0 else "")
        for number, (key, label) in enumerate((("train/loss", "training"), ("val/loss", "validation"))):
            _line(losses, table, key, label, number)
        losses.legend(fontsize=8)
        lowest = losses
        if has_metrics:
            metrics = axes[1][column]
            for number, (key, label) in enumerate(CURVES.items()):
                _line(metrics, table, key, label, number)
            if metrics.lines:
                metrics.set_ylim(0, 1)
                metrics.set_ylabel("validation" if column == 0 else "")
                metrics.legend(fontsize=8)
                lowest = metrics
            else:
                metrics.remove()
        lowest.set_xlabel("epoch")
    return figure


def _line(axis: Axes, table: pd.DataFrame, key: str, label: str, number: int) -> None:
    _count_whole(axis)
    if key in table:
        shown = table[["epoch", key]].dropna()
        axis.plot(
            shown["epoch"] + 1, shown[key], color=COLOURS[number], marker=MARKERS[number], markersize=3, linewidth=1.2,
            label=label,
        )  # fmt: skip


def asynchrony_figure(groups: Sequence[Sequence[JointTraining]]) -> Figure:
    """Validation losses of the tasks of joint trainings, and what their weighting learned.

    A loss is stretched from its lowest (0) to its highest (1) of the training, so that tasks share an axis; a mark
    stands at each task's own best epoch, a dotted line at the kept one.

    Args:
        groups: A column each: the trainings of all seeds and folds, a line each.
    """
    figure = _figure(4.4 * len(groups), 4.6)
    axes = figure.subplots(2, len(groups), squeeze=False, sharex="col", height_ratios=(3, 2))
    for column, group in enumerate(groups):
        losses, weights = axes[0][column], axes[1][column]
        losses.set_title(group[0].label, fontsize=9)
        _count_whole(weights)
        learned = dict.fromkeys(name for trained in group for name in trained.learned)
        for trained in group:
            epochs = trained.curve["epoch"] + 1
            if trained.kept is not None:
                losses.axvline(trained.kept + 1, color="0.5", linewidth=0.8, linestyle=":")
            for number, (task, convergence) in enumerate(trained.tasks.items()):
                loss = trained.curve[f"val/{task}_loss"].where(np.isfinite(trained.curve[f"val/{task}_loss"]))
                spread = loss.max() - loss.min()
                stretched = (loss - loss.min()) / (spread if spread > 0 else 1.0)
                label = task if trained is group[0] else None
                losses.plot(epochs, stretched, color=COLOURS[number], linewidth=1.0, alpha=0.8, label=label)
                best = epochs == (-1 if convergence.best_epoch is None else convergence.best_epoch + 1)
                losses.plot(epochs[best], stretched[best], MARKERS[number], color=COLOURS[number], markersize=6)
            for number, name in enumerate(learned):
                if name in trained.learned:
                    label = name.replace("_", " ") if trained is group[0] else None
                    style = {"color": COLOURS[(number + 2) % len(COLOURS)], "linewidth": 1.0, "label": label}
                    weights.plot(epochs, trained.curve[f"train/{name}"], **style)
        losses.set_ylabel("validation loss, 0 to 1" if column == 0 else "")
        losses.legend(fontsize=8)
        weights.set_xlabel("epoch")
        weights.set_ylabel("learned" if column == 0 else "")
        if learned:
            weights.legend(fontsize=8)
        else:
            weights.text(0.5, 0.5, "nothing learned", ha="center", fontsize=8, transform=weights.transAxes)
    return figure


def learning_curve_figure(curve: Mapping[str, Sequence[tuple[int, str, Estimate]]]) -> Figure:
    """Metrics by the number of training cases with gaze, with 95 % intervals.

    Args:
        curve: By metric, (number of cases, arm, estimate), ascending.
    """
    figure = _figure(4.2 * len(curve), 3.6)
    for number, (name, axis) in enumerate(zip(curve, figure.subplots(1, len(curve), squeeze=False)[0], strict=True)):
        points = curve[name]
        values = [estimate.value for _, _, estimate in points]
        error = np.abs([[each.value - each.low, each.high - each.value] for _, _, each in points]).T
        cases = [count for count, _, _ in points]
        axis.errorbar(
            cases, values, yerr=error, color=COLOURS[number], marker=MARKERS[number], capsize=3, linewidth=1.2
        )
        for count, arm, estimate in points:
            # Beside the point and towards the middle, so that no name leaves the axes.
            is_right = count > max(cases) / 2
            axis.annotate(
                arm, (count, estimate.value), textcoords="offset points", xytext=(-6 if is_right else 6, -11),
                fontsize=7, ha="right" if is_right else "left",
            )  # fmt: skip
        axis.margins(x=0.1)
        axis.set_xlabel("training cases with gaze")
        axis.set_ylabel(name)
    return figure


def roc_figure(
    arms: Mapping[str, tuple[Sequence[NDArray[np.floating]], NDArray[np.integer]]],
    class_names: Sequence[str],
    weights: Weights | None,
) -> Figure:
    """One-versus-rest ROC curves, a class a panel: the mean over seeds with its 95 % bootstrap band.

    The first arm's band is filled, and those of others are lines, so that they can be distinguished.

    Args:
        arms: By name, the probabilities (N, K) of each seed, and the labels (N,).
        class_names: Names of the K classes.
        weights: Bootstrap draws; no bands without.
    """
    figure = _figure(3.7 * len(class_names), 3.9)
    grid = np.linspace(0, 1, 101)
    for number, (name, axis) in enumerate(
        zip(class_names, figure.subplots(1, len(class_names), squeeze=False)[0], strict=True)
    ):
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":", label="chance")
        for order, (arm, (seeds, label)) in enumerate(arms.items()):
            positive = label == number
            if positive.all() or not positive.any():
                continue
            everyone = np.ones((1, len(label)))
            curve = np.mean([_roc(scores[:, number], positive, everyone, grid)[0] for scores in seeds], axis=0)
            colour = COLOURS[order % len(COLOURS)]
            if weights is not None:
                draws = np.mean([_roc(scores[:, number], positive, weights, grid) for scores in seeds], axis=0)
                low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
                if order == 0:
                    axis.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)
                else:
                    for edge in (low, high):
                        axis.plot(grid, edge, color=colour, linewidth=0.7, alpha=0.7)
            axis.plot(grid, curve, ("-", "--", "-.")[order % 3], color=colour, linewidth=1.8, label=arm)
        axis.set_title(f"{name} (n = {int((next(iter(arms.values()))[1] == number).sum())})", fontsize=10)
        axis.set_xlabel("1 − specificity")
        axis.set_ylabel("sensitivity" if number == 0 else "")
        axis.set_aspect("equal")
        axis.legend(fontsize=8, loc="lower right")
    return figure


def _roc(
    score: NDArray[np.floating], positive: NDArray[np.bool_], weights: Weights, grid: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Sensitivity (R, G) at each rate of false alarms; NaN for draws with one class only."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)
    curves = np.full((len(weights), len(grid)), np.nan)
    rows = (row for block in blocks_of(weights) for row in block[:, order])
    for number, row in enumerate(rows):
        hits, alarms = np.cumsum(row * positive[order])[last], np.cumsum(row * ~positive[order])[last]
        if hits[-1] > 0 and alarms[-1] > 0:
            curves[number] = np.interp(grid, np.append(0, alarms / alarms[-1]), np.append(0, hits / hits[-1]))
    return curves


def reliability_figure(
    arms: Mapping[str, tuple[Sequence[NDArray[np.floating]], NDArray[np.integer]]], bins: int = 8
) -> Figure:
    """How often the likeliest class is right, by its probability, in bins with as many cases each; seeds pooled."""
    figure = _figure(4.2, 4.0)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":", label="calibrated")
    for order, (arm, (seeds, label)) in enumerate(arms.items()):
        confidence = np.concatenate([scores.max(1) for scores in seeds])
        right = np.concatenate([scores.argmax(1) == label for scores in seeds]).astype(float)
        parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(confidence)))
        x, y = [confidence[part].mean() for part in parts], [right[part].mean() for part in parts]
        error = [1.96 * np.sqrt(max(value * (1 - value), 0) / len(part)) for value, part in zip(y, parts, strict=True)]
        axis.errorbar(
            x, y, yerr=error, color=COLOURS[order % len(COLOURS)], marker=MARKERS[order % len(MARKERS)], markersize=4,
            linewidth=1.1, elinewidth=0.7, label=arm,
        )  # fmt: skip
    axis.set_xlim(0, 1.02)
    axis.set_ylim(0, 1.05)
    axis.set_xlabel("probability of the likeliest class")
    axis.set_ylabel("share of cases where it is right")
    axis.legend(fontsize=8, loc="upper left")
    return figure
