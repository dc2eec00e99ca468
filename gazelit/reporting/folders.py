"""From folders to tested models: those of ``gazelit run``, and those that a user trained and tested by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from gazelit.checkpoints import stamps
from gazelit.configs import CONFIG_FILE, EPOCHS_FILE, METRICS_FILE, PREDICTIONS_FILE, TEST_FILE, read_yaml
from gazelit.data.splits.identity import identity
from gazelit.data.store.store import Store
from gazelit.errors import InputError
from gazelit.evaluation.asynchrony import read_curve
from gazelit.evaluation.compare import Result
from gazelit.files import read_json, sha256_file
from gazelit.metrics.catalogue import WITH_GAZE
from gazelit.parsing import read_saved
from gazelit.runs.run_file import RUN_FILE, read_run_file
from gazelit.runs.steps import LOG_FILE

#: Trainings that one may have started from, one after another, before a loop is suspected.
MOST_STAGES = 16


@dataclass(frozen=True)
class Run:
    """The tested models of a folder.

    Attributes:
        folder: The folder.
        store: The store that its models were trained on.
        results: Its tested models, in the order of its arms.
        commands: Its command lines, where they are known.
        external: By name, the other sources that its models were tested on, with ``store`` and ``overrides``.
    """

    folder: Path
    store: str
    results: Sequence[Result]
    commands: Sequence[str] = ()
    external: Mapping[str, Any] = field(default_factory=dict)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs, with different names for all arms.

    Args:
        folders: Each made by ``gazelit run``, or by ``gazelit fit`` or ``gazelit test``.

    Raises:
        InputError: A folder is none of these, is not tested, or its store is gone or changed.
    """
    return [read_run(folder, _prefix(folder, folders), len(folders) > 1) for folder in folders]


def _prefix(folder: Path, folders: Sequence[Path]) -> str:
    """Prefix of the names of a run's arms, if there are several runs: the run folder's name."""
    if len(folders) == 1:
        return ""
    same = [path for path in folders if path.resolve().name == folder.resolve().name]
    return f"{folder if len(same) > 1 else folder.resolve().name}: "


def read_run(folder: Path, prefix: str = "", is_one_of_several: bool = False) -> Run:
    """The tested models of a folder.

    Args:
        folder: As in :func:`read_runs`.
        prefix: Put before the names of the arms of a run.
        is_one_of_several: Whether an arm that was trained by hand has its folder's name instead of its stage's.

    Raises:
        InputError: As in :func:`read_runs`.
    """
    if (folder / RUN_FILE).is_file():
        return _read_pipeline(folder, prefix)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name one of `gazelit run`, `gazelit fit` or `gazelit test`")
    return _read_by_hand(folder, prefix.removesuffix(": ") if is_one_of_several else "")


def _read_pipeline(run: Path, prefix: str) -> Run:
    """Reads the notes of a run; the folder may be from someone else."""
    about = read_run_file(run)
    store = Store.open(about["store"])
    results = []
    for record in about["trained"]:
        log = (run / record["test"] / LOG_FILE).read_text(encoding="utf-8")
        checkpoint = run / record["checkpoint"]
        kept = "last" if checkpoint.stem.startswith("last") else "best"
        results.append(
            _result(
                run,
                f"{prefix}{record['arm']}",
                checkpoint,
                run / record["test"],
                store,
                seed=record["seed"],
                fold=record["fold"],
                stages=record["stages"],
                seconds=record["seconds"],
                times_tested=log.count("\n$ gazelit test "),
                external={name: run / folder for name, folder in record.get("external", {}).items()},
                # Of runs that did not note it, by the checkpoint's name.
                kept=str(about.get("checkpoint", kept)),
            )
        )
    return Run(run, about["store"], results, about["commands"], about.get("external", {}))


def _read_by_hand(folder: Path, arm: str) -> Run:
    """A model that was trained with ``gazelit fit`` and tested with ``gazelit test``."""
    tests = _tests(folder)
    test = tests[-1]
    about = read_json(test / TEST_FILE)
    if not isinstance(about, dict) or not isinstance(about.get("checkpoint"), str):
        raise InputError(f"{test / TEST_FILE}: not what `gazelit test` writes; test the checkpoint anew")
    checkpoint = Path(about["checkpoint"])
    if not checkpoint.is_file():
        raise InputError(f"{checkpoint}: the checkpoint that {test} tested is gone; put it back or test another")
    if sha256_file(checkpoint) != about.get("sha256"):
        raise InputError(f"{checkpoint}: changed since {test} tested it; run `gazelit test` anew")
    stages = _stages(_training_of(checkpoint))
    store = Store.open(read_saved(stages[-1] / CONFIG_FILE)["data"]["init_args"]["store"])
    stamp = stamps.read_checkpoint(checkpoint)[stamps.STAMP_KEY]
    result = _result(
        test,
        arm or str(stamp["stage"]),
        checkpoint,
        test,
        store,
        seed=int(stamp.get("seed") or 0),
        fold=None,
        stages=[str(stage) for stage in stages],
        seconds=math.nan,
        times_tested=len(tests),
        kept="last" if checkpoint.stem.startswith("last") else "best",
    )
    return Run(test, str(store.path), [result])


def _tests(folder: Path) -> list[Path]:
    """The folder itself if it is of a test; for a training the tests of its checkpoints, the newest last."""
    if (folder / TEST_FILE).is_file():
        return [folder]
    if (folder / PREDICTIONS_FILE).is_file():
        raise InputError(f"{folder}: {TEST_FILE} is missing, which says what was tested; run `gazelit test` anew")
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(
            f"{folder}: no finished run, training or test ({RUN_FILE}, {CONFIG_FILE} and {TEST_FILE} are missing); "
            "`gazelit run` makes a run, `gazelit fit` and `gazelit test` the others"
        )
    found = []
    whole = folder.resolve()
    # Beside it, or of a training with a name within it.
    for path in (*whole.parent.glob(f"*/{TEST_FILE}"), *whole.glob(f"*/{TEST_FILE}")):
        about = read_json(path)
        checkpoint = Path(str(about.get("checkpoint") if isinstance(about, dict) else ""))
        if checkpoint.is_relative_to(folder.resolve()):
            found.append(path)
    if not found:
        raise InputError(
            f"{folder}: a training without a test; run `gazelit test --config {folder / CONFIG_FILE}`, and then this "
            "command again or with the folder of the test"
        )
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime)]


def _training_of(checkpoint: Path) -> Path:
    """The folder of the training that made a checkpoint; one that was calibrated may lie directly in it."""
    for folder in (checkpoint.parent.parent, checkpoint.parent):
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise InputError(
        f"{checkpoint}: no {CONFIG_FILE} of its training beside it; keep a checkpoint in the folder of its training"
    )


def _stages(last: Path) -> list[Path]:
    """The folders of the stages that led to a training, as far as its configurations name them, the first first."""
    stages = [last]
    while len(stages) < MOST_STAGES:
        config = read_yaml(stages[0] / CONFIG_FILE)
        parent = config.get("start_from") or config.get("ckpt_path")
        before = Path(str(parent)).resolve().parent.parent if parent else stages[0]
        if before in stages or not (before / CONFIG_FILE).is_file():
            break
        stages.insert(0, before)
    return stages


def _result(run: Path, arm: str, checkpoint: Path, test: Path, store: Store, **known: Any) -> Result:
    """A tested model, its files read."""
    loaded = stamps.read_checkpoint(checkpoint)
    stamp = loaded[stamps.STAMP_KEY]
    if stamp["data"].get("fingerprint") != store.about["fingerprint"]:
        name = checkpoint.relative_to(run) if checkpoint.is_relative_to(run) else checkpoint
        raise InputError(f"{store.path}: changed since {name} was trained on it; run the pipeline anew")
    return Result(
        run=run,
        arm=arm,
        checkpoint=checkpoint,
        metrics=read_json(test / METRICS_FILE),
        predictions=read_predictions(test, store, stamp["data"]["class_names"]),
        stamp=stamp,
        steps=_steps([run / stage for stage in known["stages"]]),
        epoch=loaded.get("epoch"),
        tested=datetime.fromtimestamp((test / PREDICTIONS_FILE).stat().st_mtime, UTC),
        **known,
    )


def _steps(stages: Sequence[Path]) -> int | None:
    """Optimiser steps of all stages, by their curves."""
    total = 0
    for stage in stages:
        curve = read_curve(stage / EPOCHS_FILE)
        if curve is None or "step" not in curve or curve["step"].dropna().empty:
            return None
        total += int(curve["step"].max())
    return total


def read_predictions(folder: Path, store: Store, class_names: Sequence[str]) -> pd.DataFrame:
    """The table of a test, with the patients, and with the classes under the names they have in training.

    Raises:
        InputError: It is missing.
    """
    path = folder / PREDICTIONS_FILE
    if not path.is_file():
        raise InputError(f"{path}: missing; it is written by `gazelit test`: test the checkpoint anew")
    table = pd.read_parquet(path)
    for kind in ("p_", "logit_", "y_", f"{WITH_GAZE}_p_", f"{WITH_GAZE}_logit_"):
        columns = [name for name in table if name.startswith(kind)]
        table = table.rename(columns=dict(zip(columns, [f"{kind}{name}" for name in class_names], strict=False)))
    return table.assign(patient=identity(store.cases["patient_id"]).to_numpy()[table["index"]])


def curves_of(result: Result) -> dict[str, pd.DataFrame]:
    """By stage, its epochs.

    Raises:
        InputError: A stage has no ``epochs.csv``, or it is no table of epochs.
    """
    curves = {}
    for stage in result.stages:
        path = result.run / stage / EPOCHS_FILE
        curve = read_curve(path)
        if curve is None:
            raise InputError(f"{path}: missing; it is written by `gazelit fit`: put it back or train the stage anew")
        curves[Path(stage).name] = curve
    return curves
