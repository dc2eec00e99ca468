"""Does the model look where the reader looked, and where the finding is?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gazelit.data.gaze.heatmap import fixation_counts
from gazelit.data.gaze_data import GazeData
from gazelit.data.labels import spelt_alike
from gazelit.data.splits.identity import identity
from gazelit.density import CentreBias, log_density
from gazelit.deploy.inference import LoadedModel
from gazelit.errors import InputError
from gazelit.evaluation.findings import CENTRE, PREDICTED, READER, SHOWN, Localisation
from gazelit.metrics.calibration import probabilities
from gazelit.metrics.catalogue import short_labels
from gazelit.metrics.functional import auc_judd, cc, nss, sauc
from gazelit.metrics.localisation import localisation_values
from gazelit.models.attribution import attribute

GAZE_METRICS = short_labels("cc", "nss", "auc_judd", "sauc")


@dataclass(frozen=True)
class Tables:
    """The measurements, a row for each case and map.

    Attributes:
        gaze: ``index``, ``patient``, ``map``, ``right`` (whether the diagnosis was right; NaN if unknown) and
            ``GAZE_METRICS``.
        regions: ``index``, ``patient``, ``region``, ``map``, ``REGION_METRICS`` and ``area``.
        shown: Cases for the figure.
    """

    gaze: pd.DataFrame
    regions: pd.DataFrame
    shown: Sequence[Localisation]


def measure(model: LoadedModel, data: GazeData, methods: Sequence[str], split: str = "test") -> Tables:
    """Scores every map of every case of a split.

    Class-activation maps explain the class that the model predicts; against a region that has the name of a class,
    they explain that class.

    Args:
        model: See :func:`gazelit.deploy.inference.load_model`.
        data: The data.
        methods: Names of :data:`gazelit.models.attribution.METHODS`.
        split: Which split is read.

    Raises:
        InputError: No case has gaze or a region, or the model gives no map.
    """
    if not methods and "saliency_head" not in model.network.specs:
        raise InputError("the model has neither a classifier nor a saliency head: it makes no map to score")
    patients = identity(data.store.cases["patient_id"]).to_numpy()
    gaze: list[dict[str, Any]] = []
    regions: list[dict[str, Any]] = []
    shown: list[Localisation] = []
    seen = 0
    for batch in data.loader(split):
        rendered = data.render(batch)
        bias = data.centre_bias(rendered["index"])
        maps, right = _maps(model, rendered, methods)
        gaze += _gaze_rows(maps, rendered, bias, right)
        for position, case in enumerate(rendered["index"].tolist()):
            marked = data.regions(case)
            if marked:
                regions += _region_rows(model, rendered, position, methods, maps, bias, marked)
            if len(shown) < SHOWN and bool(rendered["has_gaze"][position]):
                shown.append(
                    Localisation(
                        title=f"case {seen + position + 1}",
                        image=rendered["image"][position, 0].numpy(),
                        maps={
                            name: density[position].numpy()
                            for name, density in {READER: rendered["heatmap"][:, 0], **maps}.items()
                        },
                        regions={name: inside.numpy() for name, inside in marked.items()},
                    )
                )
        seen += len(rendered["index"])
    if not any(np.isfinite(row["cc"]) for row in gaze) and not regions:
        raise InputError(f"split {split}: no case has gaze or a marked region; there is nothing to score")
    tables = [pd.DataFrame(rows) for rows in (gaze, regions)]
    for table in tables:
        if len(table):
            table.insert(1, "patient", patients[table["index"]])
    return Tables(tables[0], tables[1], shown)


def _maps(
    model: LoadedModel, batch: dict[str, Tensor], methods: Sequence[str]
) -> tuple[dict[str, Tensor], list[float]]:
    """By name, maps (B, H, W) of a batch; and whether each diagnosis is right, NaN if that is unknown."""
    with torch.inference_mode():
        outputs = model.network(batch["image"])
    maps: dict[str, Tensor] = {}
    right = [float("nan")] * len(batch["image"])
    if "saliency_logits" in outputs:
        maps[PREDICTED] = log_density(outputs["saliency_logits"]).exp()[:, 0]
    if "logits" in outputs:
        exclusive = model.is_exclusive
        predicted = probabilities(outputs["logits"], model.temperature, exclusive).argmax(1)
        if exclusive and batch["label"].ndim == 1:
            right = (predicted == batch["label"]).float().tolist()
        # Attribution cannot use tensors that were made in inference mode.
        maps |= {name: _attributed(model, batch, predicted.clone(), name) for name in methods}
    return maps, right


def _attributed(model: LoadedModel, batch: dict[str, Tensor], classes: Tensor, method: str) -> Tensor:
    blur = float(np.nanmean(batch["sigma_px"].numpy())) if bool(batch["has_gaze"].any()) else 0.0
    return attribute(model.network, batch["image"], classes, method, blur)


def _gaze_rows(
    maps: dict[str, Tensor], batch: dict[str, Tensor], bias: CentreBias, right: Sequence[float]
) -> Iterator[dict[str, Any]]:
    target, mask = batch["heatmap"][:, 0], batch["valid_mask"][:, 0]
    counts = fixation_counts(batch["points"], (target.shape[1], target.shape[2]))
    for name, density in {**maps, CENTRE: bias.density}.items():
        values = {
            "cc": cc(density, target, mask),
            "nss": nss(density, counts, mask),
            "auc_judd": auc_judd(density, counts, mask),
            "sauc": sauc(density, counts, bias.counts, mask),
        }
        for position, case in enumerate(batch["index"].tolist()):
            cells = {key: float(value[position]) for key, value in values.items()}
            yield {"index": case, "map": name, "right": right[position], **cells}


def _region_rows(
    model: LoadedModel,
    batch: dict[str, Tensor],
    position: int,
    methods: Sequence[str],
    maps: dict[str, Tensor],
    bias: CentreBias,
    marked: dict[str, Tensor],
) -> Iterator[dict[str, Any]]:
    names = [spelt_alike(name) for name in model.stamp["data"].get("class_names", [])]
    mask = batch["valid_mask"][position]
    one_case = {key: value[position : position + 1] for key, value in batch.items()}
    for region, inside in marked.items():
        of_case = {name: density[position] for name, density in maps.items()}
        if spelt_alike(region) in names:
            named = torch.tensor([names.index(spelt_alike(region))])
            of_case |= {method: _attributed(model, one_case, named, method)[0] for method in methods}
        if bool(batch["has_gaze"][position]):
            of_case[READER] = batch["heatmap"][position, 0]
        for name, density in {**of_case, CENTRE: bias.density[position]}.items():
            values = localisation_values(density[None], inside[None], mask)
            cells = {key: float(value[0]) for key, value in values.items()}
            yield {"index": int(batch["index"][position]), "region": region, "map": name, **cells}
