"""From a finished run folder to its report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from gazelit.checkpoints import stamps
from gazelit.configs import read_yaml
from gazelit.data.datamodule import GazeDataModule
from gazelit.data.dataset import GazeDataset, collate
from gazelit.data.saved import saved_datamodule
from gazelit.data.splits.identity import identity
from gazelit.data.store.store import Store
from gazelit.density import log_density
from gazelit.deploy.inference import LoadedModel, load_model
from gazelit.errors import InputError
from gazelit.evaluation.asynchrony import trainings
from gazelit.evaluation.compare import Result, check_predictions, compare, pooled
from gazelit.evaluation.explainable import Oracles, law_of, oracle_record, oracle_yardsticks
from gazelit.evaluation.findings import finding_sizes, localisation
from gazelit.evaluation.given_gaze import given_gaze
from gazelit.evaluation.subgroups import subgroups
from gazelit.evaluation.text import code, plain
from gazelit.evaluation.yardsticks import yardsticks
from gazelit.files import read_json
from gazelit.metrics.diagnosis import WITH_GAZE
from gazelit.reporting.figures import Panel
from gazelit.reporting.records import ExternalRecord, RunRecord
from gazelit.reporting.report import write_comparison, write_report
from gazelit.runs.pipeline import RUN_FILE
from gazelit.runs.steps import LOG_FILE

logger = logging.getLogger("gazelit")


def report(run: list[str], out: Path | None = None, films: bool = False) -> None:
    """Writes ``report.html``, ``report.md``, ``report.csv``, ``metrics.json`` and figures of finished runs.

    Args:
        run: Folders that ``gazelit run`` made. Several of them are compared: the arms of all stand side by side, the
            first run's first arm being what the others are compared with.
        out: Where the files go; the run folder, or for several runs ``comparison`` beside the first, unless given.
        films: Whether films with gaze are shown although they are of real cases. The report then begins with a banner
            that says so. Those of synthetic data are always shown.

    Raises:
        InputError: A folder is no finished run, or runs were tested on other cases or with other targets.
    """
    folders = [Path(one) for one in run]
    if len({one.resolve() for one in folders}) < len(folders):
        raise InputError("report: a run is named twice; name each once")
    results = [one for folder in folders for one in load_results(folder, _prefix(folder, folders))]
    oracles = Oracles(folders[0])
    check_predictions(results, results[0].stamp["data"]["class_names"])
    results = with_oracle(results, oracles)
    target = out or (folders[0] if len(folders) == 1 else folders[0].parent / "comparison")
    names = results[0].stamp["data"]["class_names"]
    store = Store.open(_read_run(folders[0])["store"])
    cases = store.cases
    if "finding_size" not in cases:
        cases = cases.assign(finding_size=finding_sizes(store, names))
    first = [result for result in results if result.arm == results[0].arm]
    groups = subgroups(list(pooled(first).values()), cases, names)
    record = collect([result for result in first if result.seed == first[0].seed], films)
    together = next(iter(pooled(first).values()))
    record = replace(record, notes=notes(results), oracle=oracle_record(store, together), joint=trainings(results))
    record = replace(record, given_gaze=given_gaze(results, names))
    record.commands.extend(one for folder in folders[1:] for one in read_json(folder / RUN_FILE)["commands"])
    elsewhere = [_external_test(name, folders, results, oracles) for name in _external_names(folders)]
    if len(results) == 1:
        write_report(record, groups, elsewhere, target)
    else:
        write_comparison(compare(results, names), results, record, groups, elsewhere, target)
    logger.info("%s", target / "report.md")


def _prefix(folder: Path, folders: list[Path]) -> str:
    """What tells the arms of several runs apart: the run folder's name."""
    if len(folders) == 1:
        return ""
    same = [one for one in folders if one.resolve().name == folder.resolve().name]
    return f"{folder if len(same) > 1 else folder.resolve().name}: "


def load_results(run: Path, prefix: str = "") -> list[Result]:
    """The tested models of a run, in the order of its arms.

    Args:
        run: The run folder.
        prefix: Put before the names of the arms.

    Raises:
        InputError: The folder is no finished run, or its store is gone or changed.
    """
    about = _read_run(run)
    store = Store.open(about["store"])
    results = []
    for record in about["trained"]:
        checkpoint = stamps.read_checkpoint(run / record["checkpoint"])
        stamp = checkpoint[stamps.STAMP_KEY]
        if stamp["data"].get("fingerprint") != store.about["fingerprint"]:
            raise InputError(
                f"{about['store']}: changed since {record['checkpoint']} was trained on it; run the pipeline anew"
            )
        results.append(
            Result(
                run=run,
                arm=f"{prefix}{record['arm']}",
                seed=record["seed"],
                fold=record["fold"],
                stages=record["stages"],
                checkpoint=run / record["checkpoint"],
                seconds=record["seconds"],
                metrics=read_json(run / record["test"] / "metrics.json"),
                predictions=_predictions(run / record["test"], store, stamp["data"]["class_names"]),
                stamp=stamp,
                times_tested=(run / record["test"] / LOG_FILE).read_text(encoding="utf-8").count("\n$ gazelit test "),
                external={name: run / folder for name, folder in record.get("external", {}).items()},
                steps=_steps([run / stage for stage in record["stages"]]),
                epoch=checkpoint.get("epoch"),
            )
        )
    return results


def _steps(stages: Sequence[Path]) -> int | None:
    """Optimiser steps of all stages, by their curves."""
    total = 0
    for stage in stages:
        curve = pd.read_csv(stage / "epochs.csv") if (stage / "epochs.csv").is_file() else pd.DataFrame()
        if "step" not in curve or curve["step"].dropna().empty:
            return None
        total += int(curve["step"].max())
    return total


def _read_run(run: Path) -> dict[str, Any]:
    """What a run notes of itself; the folder may be a stranger's."""
    if not (run / RUN_FILE).is_file():
        raise InputError(f"{run}: no finished run ({RUN_FILE} is missing); `gazelit run` makes one")
    about = read_json(run / RUN_FILE)
    is_run = isinstance(about, dict) and isinstance(about.get("store"), str) and isinstance(about.get("commands"), list)
    trained = about.get("trained") if is_run else None
    members = ("arm", "seed", "fold", "stages", "checkpoint", "test", "seconds")
    if not isinstance(trained, list) or not trained or not all(set(members) <= set(one) for one in trained):
        raise InputError(f"{run / RUN_FILE}: not what `gazelit run` writes; run the pipeline anew")
    return about


def _predictions(folder: Path, store: Store, class_names: Sequence[str]) -> pd.DataFrame:
    """The table of a test, with the patients, and with the classes under the names they have in training."""
    table = pd.read_parquet(folder / "predictions.parquet")
    for kind in ("p_", "logit_", "y_", f"{WITH_GAZE}_p_", f"{WITH_GAZE}_logit_"):
        columns = [name for name in table if name.startswith(kind)]
        table = table.rename(columns=dict(zip(columns, [f"{kind}{name}" for name in class_names], strict=False)))
    return table.assign(patient=identity(store.cases["patient_id"]).to_numpy()[table["index"]])


def _external_names(folders: Sequence[Path]) -> list[str]:
    """Sources that all runs were tested on besides their own."""
    each = [read_json(folder / RUN_FILE).get("external", {}) for folder in folders]
    return [name for name in each[0] if all(name in one for one in each)]


def with_oracle(results: Sequence[Result], oracles: Oracles) -> list[Result]:
    """The results with what the oracle says of their test cases, where there is one."""
    stores = {run: Store.open(_read_run(run)["store"]) for run in dict.fromkeys(result.run for result in results)}
    if not all(law_of(store) for store in stores.values()):
        return list(results)
    datamodules: dict[str, GazeDataModule] = {}
    found = []
    for result in results:
        data = result.stamp["data"]
        # Of a drawn part of the training split, every seed has a centre bias of its own.
        drawn = None if data.get("train_cases") is None else (data["train_cases"], result.seed)
        key = f"{data['split_sha256']} {drawn}"
        if key not in datamodules:
            datamodules[key] = saved_datamodule(result.run / result.stages[-1] / "config.yaml")
        found.append(replace(result, predictions=oracles.joined(result.predictions, datamodules[key])))
    return found


def _external_test(name: str, folders: Sequence[Path], results: Sequence[Result], oracles: Oracles) -> ExternalRecord:
    about = read_json(folders[0] / RUN_FILE)["external"][name]
    store = Store.open(about["store"])
    names = results[0].stamp["data"]["class_names"]
    datamodule = saved_datamodule(results[0].run / results[0].stages[-1] / "config.yaml", about["overrides"])
    tested = [
        replace(
            result,
            metrics=read_json(result.external[name] / "metrics.json"),
            predictions=oracles.joined(_predictions(result.external[name], store, names), datamodule),
        )
        for result in results
    ]
    return ExternalRecord(
        name,
        datamodule.provenance,
        compare(tested, names, all_read_all=True),
        yardsticks(datamodule) | oracle_yardsticks(tested[0].predictions),
        oracle_record(store, tested[0].predictions),
    )


def collect(results: Sequence[Result], films: bool = False) -> RunRecord:
    """Gathers what the report tells of one arm with one seed.

    Args:
        results: Of its folds; pictures, curves and lineage are the first one's, yardsticks those of all test cases.
        films: Whether films of real cases are shown.
    """
    result = results[0]
    model = load_model(result.checkpoint)
    datamodules = [saved_datamodule(fold.run / fold.stages[-1] / "config.yaml") for fold in results]
    datamodule, provenance = datamodules[0], datamodules[0].provenance
    shown = films or provenance["synthetic"]
    panels = _panels(model, datamodule, result.predictions) if shown else []
    findings = []
    if finding_sizes(datamodule.store, datamodule.class_names).notna().any():
        # One fold's model at a time: they are large.
        for fold, cases in zip(results, datamodules, strict=True):
            findings.append(localisation(model if fold is result else load_model(fold.checkpoint), cases))
    metrics: dict[str, Any] = {
        **result.metrics,
        **_over_folds([(yardsticks(fold), len(fold.rows("test"))) for fold in datamodules]),
        **oracle_yardsticks(pd.concat([fold.predictions for fold in results])),
        **{f"n_{split}": count for split, count in provenance["n"].items()},
        "n_test_patients": int(result.predictions["patient"].nunique()),
        "n_panels": len(panels),
        "seed": result.seed,
        "synthetic": provenance["synthetic"],
        "sigma": provenance["sigma"],
        "sigma_unit": provenance["sigma_unit"],
        "sigma_px": float(np.mean(provenance["sigma_px"] or np.nan)),
    }
    return RunRecord(
        metrics=metrics,
        predictions=result.predictions,
        panels=panels,
        curves={Path(stage).name: pd.read_csv(result.run / stage / "epochs.csv") for stage in result.stages},
        lineage=list(stamps.chain({**model.stamp, "sha256": model.sha256})),
        provenance=provenance,
        commands=list(read_json(result.run / RUN_FILE)["commands"]),
        findings=pd.concat(findings, ignore_index=True) if findings else pd.DataFrame(),
    )


def notes(results: Sequence[Result]) -> list[str]:
    """How the models were selected and calibrated, and what their lineage leaves open, in sentences."""
    found = [_selection(results)]
    calibrated = [result.stamp["calibration"] for result in results if result.stamp.get("calibration")]
    if calibrated:
        some = "" if len(calibrated) == len(results) else f" of {len(calibrated)} of {len(results)} models"
        cases = sorted({record["n"] for record in calibrated})
        counts = f"{cases[0]}" if len(cases) == 1 else f"{cases[0]} to {cases[-1]}"
        found.append(
            f"The probabilities{some} are scaled by a temperature that was fitted on the {calibrated[0]['split']} "
            f"split ({counts} cases), which also selected the checkpoint: not on test cases, but on cases that the "
            "checkpoint suits better than others, so that it is somewhat too sure of itself."
        )
    found += _taught(results)
    for what, is_teacher in (("checkpoints that training started from", False), ("teachers", True)):
        ancestors = [stamp for result in results for stamp in stamps.sources(result.stamp)]
        doubts = [stamp.get("split_note") for stamp in ancestors if ("taught" in stamp) == is_teacher]
        found += [f"**Of the {what}: {plain(doubt)}.**" for doubt in dict.fromkeys(doubts) if doubt]
    return found


def _taught(results: Sequence[Result]) -> list[str]:
    """Which arms learned from teachers besides, by the stamps of all their stages."""
    found: dict[str, list[str]] = {}
    for result in results:
        for stamp in stamps.chain(result.stamp):
            for teacher in stamp.get("teachers", ()):
                seeing = " that saw the readers' gaze of training films" if teacher.get("sees_gaze") else ""
                text = f"{', '.join(teacher.get('taught', ()))} by a model of stage {teacher['stage']}{seeing}"
                found.setdefault(result.arm, []).append(text)
    return [f"{plain(arm)} was taught {plain(', '.join(dict.fromkeys(texts)))}." for arm, texts in found.items()]


def _selection(results: Sequence[Result]) -> str:
    """What chose the checkpoints, by the runs' own records."""
    kept = {str(read_json(result.run / RUN_FILE).get("checkpoint", _kind(result))) for result in results}
    if "last" in kept:
        which = "The checkpoints are" if len(kept) == 1 else "Some of the checkpoints are"
        return f"{which} those of the last epoch (`checkpoint: last`); nothing was selected."
    monitors = {_monitor(result) for result in results}
    if not all(monitor.startswith("val/") for monitor in monitors):
        return (
            f"**Checkpoints were selected by {', '.join(map(code, sorted(monitors)))}, not on validation cases alone.**"
        )
    return f"Checkpoints were selected on the validation split alone, by {', '.join(map(code, sorted(monitors)))}."


def _kind(result: Result) -> str:
    """``best`` or ``last`` by the name of the checkpoint, for runs that did not note it."""
    return "last" if result.checkpoint.stem.startswith("last") else "best"


def _monitor(result: Result) -> str:
    """What the last stage's checkpoint was selected by."""
    config = read_yaml(result.run / result.stages[-1] / "config.yaml")
    return str((config.get("checkpoint") or {}).get("monitor") or "nothing")


def _over_folds(scores: Sequence[tuple[dict[str, float], int]]) -> dict[str, float]:
    """Yardsticks of all folds together: means over their test cases, and the number of readings added up."""
    together = {}
    for key in dict.fromkeys(key for values, _ in scores for key in values):
        known = [(values[key], count) for values, count in scores if key in values and not np.isnan(values[key])]
        if key.endswith("/n"):
            together[key] = float(sum(value for value, _ in known))
        elif known:
            together[key] = sum(value * count for value, count in known) / sum(count for _, count in known)
        else:
            together[key] = float("nan")
    return together


def _panels(model: LoadedModel, datamodule: GazeDataModule, predictions: pd.DataFrame) -> list[Panel]:
    """Of each class (or of all cases) the best, the middle and the worst by CC."""
    if "cc" not in predictions:
        return []
    scored = predictions.dropna(subset="cc").sort_values("cc", ascending=False, kind="stable")
    groups = [group for _, group in scored.groupby("label")] if "label" in scored else [scored]
    dataset = datamodule.dataset("test")
    panels = []
    for group in groups:
        places = dict.fromkeys([0, len(group) // 2, len(group) - 1])
        panels += [_panel(model, datamodule, dataset, group.iloc[place]) for place in places]
    return panels


def _panel(model: LoadedModel, datamodule: GazeDataModule, dataset: GazeDataset, case: pd.Series) -> Panel:
    position = int(np.flatnonzero(dataset.rows == case["index"])[0])
    example = dataset[0, position]
    batch = datamodule.render(collate([example]))
    with torch.inference_mode():
        prediction = log_density(model.network(batch["image"])["saliency_logits"]).exp()
    title = f"case {position + 1} · CC {case['cc']:.2f}"
    if "label" in case:
        names = datamodule.class_names
        guess = names[int(np.argmax([case[f"p_{name}"] for name in names]))]
        title += f" · {names[int(case['label'])]}, model says {guess}"
    return Panel(
        title=title,
        image=batch["image"][0, 0].numpy(),
        reader=batch["heatmap"][0, 0].numpy(),
        prediction=prediction[0, 0].numpy(),
        points=example["points"].numpy(),
    )
