"""Size of findings, and whether the model's map lies on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from gazelit.data.dataset import collate
from gazelit.data.gaze_data import GazeData
from gazelit.data.labels import spelt_alike
from gazelit.data.splits.identity import identity
from gazelit.data.store.store import Store
from gazelit.density import log_density
from gazelit.evaluation.statistics import estimates, mean_of
from gazelit.metrics.localisation import localisation_values

if TYPE_CHECKING:
    from gazelit.deploy.inference import LoadedModel

#: Names of maps in tables.
READER, PREDICTED, CENTRE = "reader's gaze", "predicted gaze", "centre bias"
WHOLE = "whole reading"
#: Number of cases of a figure.
SHOWN = 6
REGION_METRICS = {"pointing": "pointing game", "mass": "mass inside", "iou": "IoU at equal area", "auc": "AUC"}


@dataclass(frozen=True)
class Localisation:
    """A case of the figure of maps and regions.

    Attributes:
        title: Case number; no id.
        image: (H, W) in [0, 1].
        maps: By name, (H, W), not negative.
        regions: By name, (H, W) bool.
    """

    title: str
    image: NDArray[np.float32]
    maps: Mapping[str, NDArray[np.float32]]
    regions: Mapping[str, NDArray[np.bool_]]


def finding_names(store: Store, class_names: Sequence[str]) -> set[str]:
    """Names of regions that are findings, not anatomy: regions with the name of a label of the store."""
    return {spelt_alike(name) for name in (*store.about["label_columns"], *class_names)} | {"finding"}


def finding_sizes(store: Store, class_names: Sequence[str]) -> pd.Series:
    """By case, the share of the image that its marked findings take; NaN without any.

    Areas are summed, so that overlapping findings count twice; this is enough to separate small from large.
    """
    regions = store.table("regions")
    sizes = pd.Series(np.nan, index=range(len(store.cases)))
    if not len(regions):
        return sizes
    names = finding_names(store, class_names)
    regions = regions[[spelt_alike(name) in names for name in regions["name"]]]
    area = (regions["x2"] - regions["x1"]) * (regions["y2"] - regions["y1"])
    area = area * np.where(regions["shape"] == "ellipse", np.pi / 4, 1.0)
    film = (store.cases["height"] * store.cases["width"]).to_numpy()
    # Several readers mark one finding several times: the mean over readers.
    readers = regions.groupby("row")["reading_id"].nunique()
    total = area.groupby(regions["row"]).sum() / readers
    sizes[total.index] = total.to_numpy() / film[total.index]
    return sizes


def localisation(model: LoadedModel, data: GazeData) -> pd.DataFrame:
    """Scores the predicted map of every test case against the union of its marked findings.

    Args:
        model: See :func:`gazelit.deploy.inference.load_model`.
        data: The data.

    Returns:
        ``index``, ``patient``, ``map`` (predicted, the reader's, the centre bias), ``REGION_METRICS`` and ``area``;
        empty if the model has no map or the store has no region of a finding.
    """
    names = finding_names(data.store, data.class_names)
    if "saliency_head" not in model.network.specs or not len(data.store.table("regions")):
        return pd.DataFrame()
    patients = identity(data.store.cases["patient_id"]).to_numpy()
    dataset = data.dataset("test")
    rows = []
    for position, case in enumerate(dataset.rows.tolist()):
        marked = [mask for name, mask in data.regions(case).items() if spelt_alike(name) in names]
        if not marked:
            continue
        inside = torch.stack(marked).any(0)[None]
        batch = data.render(collate([dataset[0, position]]))
        with torch.inference_mode():
            predicted = log_density(model.network(batch["image"])["saliency_logits"]).exp()[:, 0]
        maps = {PREDICTED: predicted, CENTRE: data.centre_bias(batch["index"]).density}
        if bool(batch["has_gaze"][0]):
            maps[READER] = batch["heatmap"][:, 0]
        for name, density in maps.items():
            values = localisation_values(density, inside, batch["valid_mask"][:, 0])
            cells = {key: float(value[0]) for key, value in values.items()}
            rows.append({"index": case, "patient": patients[case], "map": name, **cells})
    return pd.DataFrame(rows)


def maps_by_finding(model: LoadedModel, data: GazeData) -> list[Localisation]:
    """Test films with the map of the whole reading and that of each finding, and with the findings' regions.

    These are the first films with a marked region of these findings, or the first films if the store has no such
    region. Empty for a network without such maps.
    """
    heads = model.network.specs.get("finding_heads")
    if heads is None:
        return []
    names = {spelt_alike(name): str(name) for name in heads["findings"]}
    regions = data.store.table("regions")
    marked = set(regions.loc[[spelt_alike(name) in names for name in regions["name"]], "row"])
    dataset = data.dataset("test")
    positions = range(len(dataset.rows))
    shown = [position for position in positions if int(dataset.rows[position]) in marked] or list(positions)
    found = []
    for position in shown[:SHOWN]:
        batch = data.render(collate([dataset[0, position]]))
        with torch.inference_mode():
            outputs = model.network(batch["image"])
        logits = torch.cat([outputs["saliency_logits"], outputs["finding_logits"]], dim=1)[0]
        densities = log_density(logits[:, None]).exp()[:, 0].numpy()
        inside = {spelt_alike(name): mask for name, mask in data.regions(int(dataset.rows[position])).items()}
        found.append(
            Localisation(
                title=f"case {position + 1}",
                image=batch["image"][0, 0].numpy(),
                maps=dict(zip([WHOLE, *names.values()], densities, strict=True)),
                regions={name: inside[key].numpy() for key, name in names.items() if key in inside},
            )
        )
    return found


def summed(table: pd.DataFrame, by: list[str], metrics: Mapping[str, str]) -> pd.DataFrame:
    """Means over cases with 95 % intervals over patients: ``by``, ``metric``, ``n``, ``value``, ``low``, ``high``."""
    rows = []
    for key, group in table.groupby(by, sort=False):
        patients = group["patient"].to_numpy()
        of_cases = {metric: group[metric].to_numpy() for metric in metrics}
        means = estimates({metric: mean_of(values) for metric, values in of_cases.items()}, patients)
        for metric, values in of_cases.items():
            mean = means[metric]
            n = int((~np.isnan(values)).sum())
            cells = dict(zip(by, key, strict=True))
            rows.append({**cells, "metric": metric, "n": n, "value": mean.value, "low": mean.low, "high": mean.high})
    return pd.DataFrame(rows)
