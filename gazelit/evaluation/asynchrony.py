"""The best epoch of each task of a joint training, and the loss of its only checkpoint against these epochs.

The premise of cooperative training in stages is that diagnosis and gaze converge asynchronously (Qiu, Rivaz and Xiao
2025). A training of several tasks keeps one checkpoint. Its regret on a task is its loss, on validation, against the
epoch that was best for that task alone. Curves are those of ``epochs.csv``, which every run writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from gazelit.checkpoints import stamps
from gazelit.errors import InputError
from gazelit.evaluation.compare import Result

#: For each task, the column of its headline metric in curves, and the metric's name; higher is better.
HEADLINES = {"diagnosis": ("auroc_macro", "macro AUC"), "saliency": ("cc", "CC")}
#: Columns of curves with the values that a weighting learned for a task.
_LEARNED = re.compile(r"train/(?P<name>(?:sigma|weight)_(?:" + "|".join(HEADLINES) + "))")


@dataclass(frozen=True)
class Convergence:
    """A task in a joint training, on validation; epochs count from 0, None where the curve has no number.

    Attributes:
        best_epoch: The first at which the task's own loss was lowest.
        loss_regret: Loss of the kept checkpoint less the lowest; NaN where either is not known.
        best_epoch_by_metric: The first at which its headline metric was highest.
        metric_regret: The highest less that of the kept checkpoint.
    """

    best_epoch: int | None
    loss_regret: float
    best_epoch_by_metric: int | None
    metric_regret: float


@dataclass(frozen=True)
class JointTraining:
    """A training of several tasks.

    Attributes:
        arms: The arms whose models went through it.
        stage: Its name.
        seed: Of the training.
        fold: Of the data, if there are folds.
        kept: Epoch, from 0, of the checkpoint that was handed over or tested; None if it does not record it.
        curve: A row an epoch, in order.
        tasks: By name.
        learned: By name, the value that the weighting learned: (at the first epoch, at the kept epoch, at the last).
    """

    arms: tuple[str, ...]
    stage: str
    seed: int
    fold: int | None
    kept: int | None
    curve: pd.DataFrame
    tasks: Mapping[str, Convergence]
    learned: Mapping[str, tuple[float, float, float]]

    @property
    def label(self) -> str:
        """Name of the trainings of the stage; only the stage's name if its arm has the same name."""
        return self.stage if self.arms == (self.stage,) else f"{', '.join(self.arms)}: {self.stage}"

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return len(self.curve)

    @property
    def apart(self) -> float:
        """Number of epochs between the earliest and the latest best epoch of the tasks; NaN unless all are known."""
        best = [task.best_epoch for task in self.tasks.values()]
        return float("nan") if None in best else float(max(best) - min(best))  # type: ignore[type-var, operator]


def trainings(results: Sequence[Result]) -> list[JointTraining]:
    """The joint trainings of the models, each once, in the order of the arms.

    Args:
        results: The models.

    Raises:
        InputError: A curve is no table of epochs.
    """
    arms: dict[Path, list[str]] = {}
    first: dict[Path, tuple[Result, int | None]] = {}
    for result in results:
        for order, stage in enumerate(result.stages):
            folder = result.run / stage
            arms.setdefault(folder, []).append(result.arm)
            is_tested = order == len(result.stages) - 1
            if folder not in first or is_tested:
                first[folder] = result, result.epoch if is_tested else None
    found = []
    for folder, (result, epoch) in first.items():
        curve = read_curve(folder / "epochs.csv")
        if curve is None or len(tasks_of(curve)) < 2:
            continue
        if epoch is None:
            epoch = _epoch_of(folder / "checkpoints" / result.checkpoint.name)
        names = tuple(dict.fromkeys(arms[folder]))
        found.append(training(names, folder.name, result.seed, result.fold, epoch, curve))
    return found


def _epoch_of(checkpoint: Path) -> int | None:
    """The epoch of a checkpoint that was handed over, if it is still there."""
    return stamps.read_checkpoint(checkpoint).get("epoch") if checkpoint.is_file() else None


def read_curve(path: Path) -> pd.DataFrame | None:
    """A stage's curve in the order of epochs; None if the stage has no curve.

    If an epoch has two rows, the last row is used.

    Raises:
        InputError: The curve has no epochs, or a cell that is not a number.
    """
    if not path.is_file():
        return None
    remedy = "it is written by `gazelit fit`: train the stage anew"
    try:
        curve = pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: cannot be read as a table ({reason}); {remedy}") from error
    if "epoch" not in curve or curve.empty:
        raise InputError(f"{path}: has no {'epochs' if 'epoch' in curve else 'column epoch'}; {remedy}")
    for name in curve:
        try:
            numbers = pd.to_numeric(curve[name], errors="coerce")
        except OverflowError as error:
            raise InputError(f"{path}: {name} holds a number beyond all others; {remedy}") from error
        bad = numbers.isna() & curve[name].notna()
        if bad.any():
            raise InputError(f"{path}: row {int(bad.argmax()) + 1}, column {name}: is no number; {remedy}")
        curve[name] = numbers
    if not (curve["epoch"] >= 0).all() or (curve["epoch"] % 1 != 0).any():
        raise InputError(f"{path}: column epoch: must be whole numbers from 0; {remedy}")
    curve["epoch"] = curve["epoch"].astype(int)
    return curve.drop_duplicates("epoch", keep="last").sort_values("epoch", ignore_index=True)


def tasks_of(curve: pd.DataFrame) -> list[str]:
    """The tasks whose own validation loss is in a curve; a stage of one task logs it as ``val/loss`` alone."""
    return [task for task in HEADLINES if f"val/{task}_loss" in curve]


def training(
    arms: tuple[str, ...], stage: str, seed: int, fold: int | None, kept: int | None, curve: pd.DataFrame
) -> JointTraining:
    """Finds the best epochs and regrets of a curve; arguments as in :class:`JointTraining`."""
    tasks = {}
    for task in tasks_of(curve):
        lowest, loss = _best(curve, f"val/{task}_loss", kept, -1)
        highest, metric = _best(curve, f"val/{HEADLINES[task][0]}", kept, 1)
        tasks[task] = Convergence(lowest, loss, highest, metric)
    learned = {}
    for column in curve:
        match = _LEARNED.fullmatch(column)
        known = curve[column].dropna()
        if match and len(known):
            learned[match["name"]] = float(known.iloc[0]), _value_at(curve, column, kept), float(known.iloc[-1])
    return JointTraining(arms, stage, seed, fold, kept, curve, tasks, learned)


def _best(curve: pd.DataFrame, column: str, kept: int | None, sign: int) -> tuple[int | None, float]:
    """The first epoch with the greatest ``sign`` × value, and the difference to the kept epoch's."""
    values = sign * curve[column].to_numpy(float) if column in curve else np.empty(0)
    finite = np.isfinite(values)
    if not finite.any():
        return None, float("nan")
    best = int(np.where(finite, values, -np.inf).argmax())
    return int(curve["epoch"].iloc[best]), float(values[best] - sign * _value_at(curve, column, kept))


def _value_at(curve: pd.DataFrame, column: str, epoch: int | None) -> float:
    found = curve.loc[curve["epoch"] == epoch, column]
    return float(found.iloc[0]) if len(found) else float("nan")


def grouped(joint: Sequence[JointTraining]) -> dict[tuple[tuple[str, ...], str], list[JointTraining]]:
    """By arms and stage, the trainings of all seeds and folds."""
    groups: dict[tuple[tuple[str, ...], str], list[JointTraining]] = {}
    for trained in joint:
        groups.setdefault((trained.arms, trained.stage), []).append(trained)
    return groups
