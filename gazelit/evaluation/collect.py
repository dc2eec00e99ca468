"""From a finished run folder to its report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
import yaml
from jsonargparse import ArgumentParser

from gazelit import lineage
from gazelit.data.datamodule import GazeDataModule
from gazelit.data.dataset import GazeDataset, collate
from gazelit.data.store import Store
from gazelit.deploy.inference import LoadedModel, load_model
from gazelit.errors import InputError
from gazelit.evaluation.compare import Result, compare, pooled
from gazelit.evaluation.figures import Panel
from gazelit.evaluation.report import RunRecord, write_comparison, write_report
from gazelit.evaluation.subgroups import subgroups
from gazelit.evaluation.yardsticks import yardsticks
from gazelit.files import read_json
from gazelit.losses.saliency import log_density
from gazelit.pipeline import RUN_FILE
from gazelit.steps import LOG_FILE

logger = logging.getLogger("gazelit")


def report(run: list[str]) -> None:
    """Writes ``report.html``, ``report.md``, ``report.csv``, ``metrics.json`` and figures into run folders.

    Args:
        run: Folders that ``gazelit run`` made.

    Raises:
        InputError: A folder is no finished run.
    """
    for folder in map(Path, run):
        results = load_results(folder)
        names = results[0].stamp["data"]["class_names"]
        cases = Store.open(read_json(folder / RUN_FILE)["store"]).cases
        arm = [one for one in results if one.arm == results[0].arm]
        groups = subgroups(list(pooled(arm).values()), cases, names)
        record = collect(results[0])
        if len(results) == 1:
            write_report(record, groups, folder)
        else:
            write_comparison(compare(results, names), results, record, groups, folder)
        logger.info("%s", folder / "report.md")


def load_results(run: Path) -> list[Result]:
    """The tested models of a run, in the order of its arms.

    Raises:
        InputError: The folder is no finished run, or its store is gone or changed.
    """
    if not (run / RUN_FILE).is_file():
        raise InputError(f"{run}: no finished run ({RUN_FILE} is missing); `gazelit run` makes one")
    about = read_json(run / RUN_FILE)
    store = Store.open(about["store"])
    patients = store.cases["patient_id"].to_numpy()
    results = []
    for record in about["trained"]:
        predictions = pd.read_parquet(run / record["test"] / "predictions.parquet")
        stamp = lineage.read_checkpoint(run / record["checkpoint"])[lineage.STAMP_KEY]
        if stamp["data"]["fingerprint"] != store.about["fingerprint"]:
            raise InputError(
                f"{about['store']}: changed since {record['checkpoint']} was trained on it; run the pipeline anew"
            )
        results.append(
            Result(
                run=run,
                arm=record["arm"],
                seed=record["seed"],
                fold=record["fold"],
                stages=record["stages"],
                checkpoint=run / record["checkpoint"],
                seconds=record["seconds"],
                metrics=read_json(run / record["test"] / "metrics.json"),
                predictions=predictions.assign(patient=patients[predictions["index"]]),
                stamp=stamp,
                times_tested=(run / record["test"] / LOG_FILE).read_text(encoding="utf-8").count("\n$ gazelit test "),
            )
        )
    return results


def collect(result: Result) -> RunRecord:
    """Gathers what the report of one model is made of."""
    model = load_model(result.checkpoint)
    datamodule = saved_datamodule(result.run / result.stages[-1] / "config.yaml")
    provenance = datamodule.provenance
    panels = _panels(model, datamodule, result.predictions)
    metrics: dict[str, Any] = {
        **result.metrics,
        **yardsticks(datamodule),
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
        lineage=list(lineage.chain({**model.stamp, "sha256": model.sha256})),
        provenance=provenance,
        commands=read_json(result.run / RUN_FILE)["commands"],
    )


def saved_datamodule(config: Path, store: Path | None = None) -> GazeDataModule:
    """The data module of a training's ``config.yaml``, set up.

    Args:
        config: The file.
        store: Another prepared store for it to read, if given.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(L.LightningDataModule, "data")
    data = yaml.safe_load(config.read_text(encoding="utf-8"))["data"]
    if store is not None:
        data["init_args"]["store"] = str(store)
    datamodule = parser.instantiate_classes(parser.parse_object({"data": data})).data
    datamodule.setup()
    return datamodule


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
