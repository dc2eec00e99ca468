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
from gazelit.deploy.inference import LoadedModel, load_model
from gazelit.errors import InputError
from gazelit.evaluation.figures import Panel
from gazelit.evaluation.report import RunRecord, write_report
from gazelit.evaluation.yardsticks import yardsticks
from gazelit.files import read_json
from gazelit.losses.saliency import log_density

logger = logging.getLogger("gazelit")


def report(run: list[str]) -> None:
    """Writes ``report.md``, ``metrics.json`` and figures into run folders.

    Args:
        run: Folders that ``gazelit run`` made.

    Raises:
        InputError: A folder is no finished run.
    """
    for folder in run:
        write_report(collect(Path(folder)), Path(folder))
        logger.info("%s", Path(folder) / "report.md")


def collect(run: Path) -> RunRecord:
    """Gathers what the report of a run is made of.

    Raises:
        InputError: The folder is no finished run, or its data are gone or changed.
    """
    if not (run / "run.json").is_file():
        raise InputError(f"{run}: no finished run (run.json is missing); `gazelit run` makes one")
    about = read_json(run / "run.json")
    final = about["stages"][-1]
    checkpoint = run / about["checkpoints"][final]
    model = load_model(checkpoint)
    datamodule = _datamodule(run / final / "config.yaml")
    provenance = datamodule.provenance
    if provenance["fingerprint"] != model.stamp["data"]["fingerprint"]:
        raise InputError(f"{about['store']}: changed since {checkpoint} was trained on it; run the pipeline anew")
    predictions = pd.read_parquet(run / about["test"] / "predictions.parquet")
    patients = datamodule.store.cases["patient_id"].to_numpy()[predictions["index"]]
    predictions = predictions.assign(patient=patients)
    panels = _panels(model, datamodule, predictions)
    metrics: dict[str, Any] = {
        **read_json(run / about["test"] / "metrics.json"),
        **yardsticks(datamodule),
        **{f"n_{split}": count for split, count in provenance["n"].items()},
        "n_test_patients": int(predictions["patient"].nunique()),
        "n_panels": len(panels),
        "seed": about["seed"],
        "synthetic": provenance["synthetic"],
        "sigma": provenance["sigma"],
        "sigma_unit": provenance["sigma_unit"],
        "sigma_px": float(np.mean(provenance["sigma_px"] or np.nan)),
    }
    return RunRecord(
        metrics=metrics,
        predictions=predictions,
        panels=panels,
        curves={stage: pd.read_csv(run / stage / "epochs.csv") for stage in about["stages"]},
        lineage=list(lineage.chain({**model.stamp, "sha256": model.sha256})),
        provenance=provenance,
        commands=about["commands"],
    )


def _datamodule(config: Path) -> GazeDataModule:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(L.LightningDataModule, "data")
    data = yaml.safe_load(config.read_text(encoding="utf-8"))["data"]
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
