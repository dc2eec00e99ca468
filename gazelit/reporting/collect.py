"""From finished runs to their report."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from gazelit import __version__
from gazelit.checkpoints import stamps
from gazelit.configs import CONFIG_FILE, METRICS_FILE, read_yaml
from gazelit.data.dataset import GazeDataset, collate
from gazelit.data.gaze_data import GazeData
from gazelit.data.saved import saved_data
from gazelit.data.store.store import Store
from gazelit.density import log_density
from gazelit.errors import InputError
from gazelit.evaluation.asynchrony import trainings
from gazelit.evaluation.compare import Result, check_predictions, compare, pooled
from gazelit.evaluation.explainable import Oracles, law_of, oracle_record, oracle_yardsticks
from gazelit.evaluation.findings import finding_sizes, localisation, maps_by_finding
from gazelit.evaluation.given_gaze import given_gaze
from gazelit.evaluation.subgroups import subgroups
from gazelit.evaluation.yardsticks import yardsticks
from gazelit.files import read_json
from gazelit.memory import give_back
from gazelit.reporting.figures import Panel
from gazelit.reporting.folders import Run, curves_of, read_predictions, read_runs
from gazelit.reporting.records import ExternalRecord, ReportRecord, RunRecord
from gazelit.reporting.report import write_report
from gazelit.reporting.sections.scanpaths import ScanpathRow, scanpath_rows
from gazelit.reporting.tables import code, plain

if TYPE_CHECKING:
    from gazelit.deploy.inference import LoadedModel


def write_report_of(run: Sequence[Path], out: Path | None = None, films: bool = False) -> Path:
    """Writes the report of runs, and says where; see :func:`gazelit.reporting.commands.report`."""
    folders = [Path(folder) for folder in run]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("report: a run is named twice; name each once")
    runs = read_runs(folders)
    results = [result for each in runs for result in each.results]
    oracles = Oracles(runs[0].folder)
    names: list[str] = results[0].stamp["data"]["class_names"]
    check_predictions(results, names)
    results = with_oracle(results, oracles)
    first = [result for result in results if result.arm == results[0].arm]
    record = collect([result for result in first if result.seed == first[0].seed], films)
    store = Store.open(runs[0].store)
    cases = store.cases
    if "finding_size" not in cases:
        cases = cases.assign(finding_size=finding_sizes(store, names))
    record = replace(
        record,
        commands=[command for each in runs for command in each.commands],
        facts=facts(runs),
        notes=notes(results),
        oracle=oracle_record(store, next(iter(pooled(first).values()))),
        joint=trainings(results),
        given_gaze=given_gaze(results, names),
        groups=subgroups(list(pooled(first).values()), cases, names),
    )
    # What made the record, before arms are compared.
    del store, cases
    give_back()
    shared = [name for name in runs[0].external if all(name in each.external for each in runs)]
    external = [_external_test(name, runs[0].external[name], results, oracles) for name in shared]
    beside = runs[0].folder.parent / "comparison" if len(runs) > 1 else runs[0].folder
    if len(runs) == 1 and not runs[0].commands:
        # The folder of a test has a metrics.json of its own.
        beside = runs[0].folder / "report"
    target = out or beside
    write_report(ReportRecord(results, compare(results, names), record, external), target)
    return target


def facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What identifies a report: its runs, when they were tested, and what wrote it."""
    tested = [result.tested for run in runs for result in run.results if result.tested is not None]
    commit = source_commit()
    return [
        ("run" if len(runs) == 1 else "runs", ", ".join(code(run.folder.resolve().name) for run in runs)),
        ("tested", max(tested).strftime("%Y-%m-%d")),
        ("gazelit", __version__ + (f", commit {code(commit)}" if commit else "")),
    ]


def source_commit() -> str | None:
    """The commit of the code that runs, if it runs from a checkout; with ``+`` if files were changed since."""
    package = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", package, *arguments], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An environment within another repository is no checkout of gazelit.
    if git("ls-files", "--error-unmatch", "errors.py") is None:
        return None
    commit = git("rev-parse", "--short=10", "HEAD")
    return commit if not commit or not git("status", "--porcelain", "--", ".") else f"{commit}+"


def with_oracle(results: Sequence[Result], oracles: Oracles) -> list[Result]:
    """The results with the oracle's scores of their test cases, if there is an oracle."""
    stores = {_configuration(result)["data"]["init_args"]["store"] for result in results}
    if not all(law_of(Store.open(store)) for store in stores):
        return list(results)
    data_by_split: dict[str, GazeData] = {}
    found = []
    for result in results:
        trained_on = result.stamp["data"]
        # If a part of the training split is drawn, each seed has a centre bias of its own.
        drawn = None if trained_on.get("train_cases") is None else (trained_on["train_cases"], result.seed)
        key = f"{trained_on['split_sha256']} {drawn}"
        if key not in data_by_split:
            data_by_split[key] = saved_data(result.run / result.stages[-1] / CONFIG_FILE)
        found.append(replace(result, predictions=oracles.joined(result.predictions, data_by_split[key])))
    return found


def _external_test(name: str, about: Mapping[str, Any], results: Sequence[Result], oracles: Oracles) -> ExternalRecord:
    store = Store.open(about["store"])
    names = results[0].stamp["data"]["class_names"]
    data = saved_data(results[0].run / results[0].stages[-1] / CONFIG_FILE, about["overrides"])
    tested = [
        replace(
            result,
            metrics=read_json(result.external[name] / METRICS_FILE),
            predictions=oracles.joined(read_predictions(result.external[name], store, names), data),
        )
        for result in results
    ]
    return ExternalRecord(
        name,
        data.provenance,
        compare(tested, names, all_read_all=True),
        yardsticks(data) | oracle_yardsticks(tested[0].predictions),
        oracle_record(store, tested[0].predictions),
        given_gaze(tested, names, all_read_all=True),
        int(tested[0].predictions["patient"].nunique()),
    )


def collect(results: Sequence[Result], films: bool = False) -> RunRecord:
    """Collects the content of a report on one arm with one seed.

    Args:
        results: The models of its folds; pictures, curves and lineage are those of the first, yardsticks are over all
            test cases.
        films: Whether films of real cases are shown.
    """
    result = results[0]
    data_of_folds = [saved_data(fold.run / fold.stages[-1] / CONFIG_FILE) for fold in results]
    data, provenance = data_of_folds[0], data_of_folds[0].provenance
    # Yardsticks first: they take the most memory, and there is no model then, nor what reads films of any form.
    baselines = _over_folds([(yardsticks(each), len(each.rows("test"))) for each in data_of_folds])
    give_back()
    from gazelit.deploy.inference import load_model

    model = load_model(result.checkpoint)
    shown = films or provenance["synthetic"]
    panels = _panels(model, data, result.predictions) if shown else []
    findings = []
    if finding_sizes(data.store, data.class_names).notna().any():
        # One fold's model at a time: they are large.
        for fold, fold_data in zip(results, data_of_folds, strict=True):
            findings.append(localisation(model if fold is result else load_model(fold.checkpoint), fold_data))
    scanpaths: list[ScanpathRow] = []
    if "scanpath_bits" in result.predictions:
        # With numba, which takes 50 MB.
        from gazelit.evaluation.scanpaths.of_store import scanpath_yardsticks

        together = pd.concat([fold.predictions for fold in results])
        found = [
            scanpath_yardsticks(fold_data, (model if fold is result else load_model(fold.checkpoint)).network)
            for fold, fold_data in zip(results, data_of_folds, strict=True)
        ]
        scanpaths = scanpath_rows(found, together)
    metrics: dict[str, Any] = {
        **result.metrics,
        **{f"baseline/{row.name}/{key}": each.value for row in scanpaths for key, each in row.estimates.items()},
        **baselines,
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
        panels=panels,
        curves=curves_of(result),
        lineage=list(stamps.chain({**model.stamp, "sha256": model.sha256})),
        provenance=provenance,
        commands=[],
        findings=pd.concat(findings, ignore_index=True) if findings else pd.DataFrame(),
        finding_maps=maps_by_finding(model, data) if shown else [],
        scanpaths=scanpaths,
    )


def notes(results: Sequence[Result]) -> list[str]:
    """How the models were selected and calibrated, and what their lineage leaves open, in sentences."""
    found = [_selection(results)]
    calibrated = [result.stamp["calibration"] for result in results if result.stamp.get("calibration")]
    if calibrated:
        share = "" if len(calibrated) == len(results) else f" of {len(calibrated)} of {len(results)} models"
        cases = sorted({record["n"] for record in calibrated})
        counts = f"{cases[0]}" if len(cases) == 1 else f"{cases[0]} to {cases[-1]}"
        found.append(
            f"The probabilities{share} are scaled by a temperature that was fitted on the {calibrated[0]['split']} "
            f"split ({counts} cases), which also selected the checkpoint: not on test cases, but on cases that the "
            "checkpoint suits better than others, so that it is somewhat too sure of itself."
        )
    found += _taught(results)
    for role, is_teacher in (("checkpoints that training started from", False), ("teachers", True)):
        ancestors = [stamp for result in results for stamp in stamps.sources(result.stamp)]
        doubts = [stamp.get("split_note") for stamp in ancestors if ("taught" in stamp) == is_teacher]
        found += [f"**Of the {role}: {plain(doubt)}.**" for doubt in dict.fromkeys(doubts) if doubt]
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
    """How the checkpoints were selected, from the runs' records."""
    kept = {result.kept for result in results}
    if "last" in kept:
        subject = "The checkpoints are" if len(kept) == 1 else "Some of the checkpoints are"
        return f"{subject} those of the last epoch (`checkpoint: last`); nothing was selected."
    monitors = {_monitor(result) for result in results}
    if not all(monitor.startswith("val/") for monitor in monitors):
        return (
            f"**Checkpoints were selected by {', '.join(map(code, sorted(monitors)))}, not on validation cases alone.**"
        )
    return f"Checkpoints were selected on the validation split alone, by {', '.join(map(code, sorted(monitors)))}."


def _monitor(result: Result) -> str:
    """The criterion by which the last stage's checkpoint was selected."""
    return str((_configuration(result).get("checkpoint") or {}).get("monitor") or "nothing")


def _configuration(result: Result) -> dict[str, Any]:
    """The configuration that the last stage saved."""
    config: dict[str, Any] = read_yaml(result.run / result.stages[-1] / CONFIG_FILE)
    return config


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


def _panels(model: LoadedModel, data: GazeData, predictions: pd.DataFrame) -> list[Panel]:
    """Of each class (or of all cases) the best, the middle and the worst by CC."""
    if "cc" not in predictions:
        return []
    scored = predictions.dropna(subset="cc").sort_values("cc", ascending=False, kind="stable")
    groups = [group for _, group in scored.groupby("label")] if "label" in scored else [scored]
    dataset = data.dataset("test")
    panels = []
    for group in groups:
        ranks = dict.fromkeys([0, len(group) // 2, len(group) - 1])
        panels += [_panel(model, data, dataset, group.iloc[rank]) for rank in ranks]
    return panels


def _panel(model: LoadedModel, data: GazeData, dataset: GazeDataset, case: pd.Series) -> Panel:
    position = int(np.flatnonzero(dataset.rows == case["index"])[0])
    example = dataset[0, position]
    batch = data.render(collate([example]))
    with torch.inference_mode():
        prediction = log_density(model.network(batch["image"])["saliency_logits"]).exp()
    title = f"case {position + 1} · CC {case['cc']:.2f}"
    if "label" in case:
        names = data.class_names
        guess = names[int(np.argmax([case[f"p_{name}"] for name in names]))]
        title += f" · {names[int(case['label'])]}, model says {guess}"
    # Without the borders that the letterbox adds.
    inside = batch["valid_mask"][0, 0].numpy()
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Panel(
        title=title,
        image=batch["image"][0, 0].numpy()[part],
        reader=batch["heatmap"][0, 0].numpy()[part],
        prediction=prediction[0, 0].numpy()[part],
        points=example["points"].numpy() - np.array([columns[0], rows[0], 0], np.float32),
    )
