"""Does the model look where the reader looked, and where the finding is?"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gazelit.checkpoints import split_guard
from gazelit.data.datamodule import GazeDataModule
from gazelit.data.gaze.heatmap import fixation_counts
from gazelit.data.saved import saved_datamodule
from gazelit.data.splits.identity import identity
from gazelit.density import CentreBias, log_density
from gazelit.deploy.inference import LoadedModel, load_model
from gazelit.errors import InputError
from gazelit.evaluation.figures import Localisation, localisation_figure, save
from gazelit.evaluation.findings import CENTRE, PREDICTED, READER, REGION_METRICS, spelt_alike, summed
from gazelit.evaluation.page import to_page
from gazelit.evaluation.sections import banner_lines
from gazelit.evaluation.statistics import Estimate
from gazelit.evaluation.text import header, plain, row, with_interval
from gazelit.files import atomic_path
from gazelit.metrics.calibration import probabilities
from gazelit.metrics.functional import auc_judd, cc, nss, sauc
from gazelit.metrics.localisation import localisation_values
from gazelit.models.attribution import METHODS, attribute
from gazelit.parsing import read_saved
from gazelit.spreadsheet import without_formulas

logger = logging.getLogger("gazelit")

GAZE_METRICS = {"cc": "CC", "nss": "NSS", "auc_judd": "AUC-Judd", "sauc": "shuffled AUC"}
#: Cases of the figure.
SHOWN = 6


@dataclass(frozen=True)
class Tables:
    """What was measured, a row for each case and map.

    Attributes:
        gaze: ``index``, ``patient``, ``map``, ``right`` (whether the diagnosis was; NaN if unknown) and
            ``GAZE_METRICS``.
        regions: ``index``, ``patient``, ``region``, ``map``, ``REGION_METRICS`` and ``area``.
        shown: Cases for the figure.
    """

    gaze: pd.DataFrame
    regions: pd.DataFrame
    shown: Sequence[Localisation]


def agreement(
    ckpt: str,
    out: Path,
    stage_config: Path | None = None,
    store: Path | None = None,
    methods: list[str] | None = None,
    split: str = "test",
    films: bool = False,
    allow_other_split: bool = False,
) -> None:
    """Scores a model's class-activation and predicted gaze maps against the reader's gaze and the marked regions.

    Writes ``agreement.md``, ``agreement.html``, ``agreement.csv``, ``figures/agreement.png``, and with the values of
    every case ``agreement_gaze.parquet`` and ``agreement_regions.parquet``, which hold no ids.

    Args:
        ckpt: A checkpoint of ``gazelit fit``.
        out: Folder for the results.
        stage_config: The ``config.yaml`` of its training; the one beside its ``checkpoints`` unless given.
        store: Another prepared store, all of whose cases are read but those of patients that were trained on; the
            configuration's own store unless given.
        methods: Any of gradcam, integrated_gradients, occlusion; gradcam alone unless given.
        split: Which split is read.
        films: Whether films with gaze are shown although they are of real cases; those of synthetic data always are.
        allow_other_split: Take a checkpoint although it, or one it came from, was trained on another split of these
            data, and may have seen the patients that are scored.

    Raises:
        InputError: The checkpoint, its configuration or a method cannot be used, it was trained on another split, or
            there is nothing to score.
    """
    model = load_model(Path(ckpt))
    found = stage_config or Path(ckpt).resolve().parent.parent / "config.yaml"
    if not found.is_file():
        raise InputError(f"{found}: no configuration; name the config.yaml of the training with --stage_config")
    elsewhere: list[str] = []
    if store is not None:
        own = read_saved(found)["data"]["init_args"]["store"]
        elsewhere = [
            f"--data.store={store}", "--data.split_method=external", f"--data.trained_on={own}",
            "--data.split_file=null", "--data.folds=null",
        ]  # fmt: skip
    datamodule = saved_datamodule(found, elsewhere)
    data = datamodule.provenance
    note = split_guard.check_split(ckpt, model.stamp, data, allow_other_split)
    if note is not None:
        logger.info("%s", note)
    chosen = ["gradcam"] if methods is None else methods
    unknown = [name for name in chosen if name not in METHODS]
    if unknown:
        raise InputError(f"methods: {', '.join(unknown)} is none of {', '.join(METHODS)}")
    if model.network.classes is None:
        chosen = []
    tables = measure(model, datamodule, chosen, split)
    gaze, regions = summed(tables.gaze, ["map"], GAZE_METRICS), pd.DataFrame()
    if len(tables.regions):
        regions = summed(tables.regions, ["region", "map"], {**REGION_METRICS, "area": ""})
    with_figure = bool(tables.shown) and (films or data["synthetic"])
    picture = out / "figures" / "agreement.png"
    if with_figure:
        save(localisation_figure(tables.shown), picture)
    else:
        # That of an earlier call must not lie beside a text that says there is none.
        picture.unlink(missing_ok=True)
    lines = _lines(data, model, chosen, split, gaze, tables.gaze, regions, with_figure, note)
    text = "\n".join(lines) + "\n"
    for name, content in (("agreement.md", text), ("agreement.html", to_page(text, out, "gazelit agreement"))):
        with atomic_path(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    with atomic_path(out / "agreement.csv") as temporary:
        both = pd.concat([gaze.assign(against="gaze"), regions.assign(against="region")], ignore_index=True)
        without_formulas(both).to_csv(temporary, index=False)
    for name, table in (("gaze", tables.gaze), ("regions", tables.regions)):
        with atomic_path(out / f"agreement_{name}.parquet") as temporary:
            table.drop(columns="patient", errors="ignore").to_parquet(temporary)
    logger.info("%s", out / "agreement.md")


def measure(model: LoadedModel, datamodule: GazeDataModule, methods: Sequence[str], split: str = "test") -> Tables:
    """Scores every map of every case of a split.

    Class-activation maps explain the class that the model predicts; against a region that has the name of a class,
    they explain that class.

    Args:
        model: See :func:`gazelit.deploy.inference.load_model`.
        datamodule: The data.
        methods: Names of :data:`gazelit.models.attribution.METHODS`.
        split: Which split is read.

    Raises:
        InputError: No case has gaze or a region, or the model gives no map.
    """
    if not methods and "saliency_head" not in model.network.specs:
        raise InputError("the model has neither a classifier nor a saliency head: it makes no map to score")
    patients = identity(datamodule.store.cases["patient_id"]).to_numpy()
    gaze: list[dict[str, Any]] = []
    regions: list[dict[str, Any]] = []
    shown: list[Localisation] = []
    seen = 0
    for batch in datamodule.loader(split):
        rendered = datamodule.render(batch)
        bias = datamodule.centre_bias(rendered["index"])
        maps, right = _maps(model, rendered, methods)
        gaze += _gaze_rows(maps, rendered, bias, right)
        for place, case in enumerate(rendered["index"].tolist()):
            marked = datamodule.regions(case)
            if marked:
                regions += _region_rows(model, rendered, place, methods, maps, bias, marked)
            if len(shown) < SHOWN and bool(rendered["has_gaze"][place]):
                shown.append(
                    Localisation(
                        title=f"case {seen + place + 1}",
                        image=rendered["image"][place, 0].numpy(),
                        maps={
                            name: one[place].numpy()
                            for name, one in {READER: rendered["heatmap"][:, 0], **maps}.items()
                        },
                        regions={name: one.numpy() for name, one in marked.items()},
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
    """By name, maps (B, H, W) of a batch; and whether each diagnosis is right, NaN where that is unknown."""
    with torch.inference_mode():
        outputs = model.network(batch["image"])
    maps: dict[str, Tensor] = {}
    right = [float("nan")] * len(batch["image"])
    if "saliency_logits" in outputs:
        maps[PREDICTED] = log_density(outputs["saliency_logits"]).exp()[:, 0]
    if "logits" in outputs:
        exclusive = bool(model.stamp["data"].get("exclusive", True))
        predicted = probabilities(outputs["logits"], model.temperature, exclusive).argmax(1)
        if exclusive and batch["label"].ndim == 1:
            right = (predicted == batch["label"]).float().tolist()
        # The attribution needs tensors that were not made in inference mode.
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
    for name, one in {**maps, CENTRE: bias.density}.items():
        values = {
            "cc": cc(one, target, mask),
            "nss": nss(one, counts, mask),
            "auc_judd": auc_judd(one, counts, mask),
            "sauc": sauc(one, counts, bias.counts, mask),
        }
        for place, case in enumerate(batch["index"].tolist()):
            cells = {key: float(value[place]) for key, value in values.items()}
            yield {"index": case, "map": name, "right": right[place], **cells}


def _region_rows(
    model: LoadedModel,
    batch: dict[str, Tensor],
    place: int,
    methods: Sequence[str],
    maps: dict[str, Tensor],
    bias: CentreBias,
    marked: dict[str, Tensor],
) -> Iterator[dict[str, Any]]:
    names = [spelt_alike(name) for name in model.stamp["data"].get("class_names", [])]
    mask = batch["valid_mask"][place]
    one_case = {key: value[place : place + 1] for key, value in batch.items()}
    for region, inside in marked.items():
        mine = {name: one[place] for name, one in maps.items()}
        if spelt_alike(region) in names:
            named = torch.tensor([names.index(spelt_alike(region))])
            mine |= {method: _attributed(model, one_case, named, method)[0] for method in methods}
        if bool(batch["has_gaze"][place]):
            mine[READER] = batch["heatmap"][place, 0]
        for name, one in {**mine, CENTRE: bias.density[place]}.items():
            values = localisation_values(one[None], inside[None], mask)
            cells = {key: float(value[0]) for key, value in values.items()}
            yield {"index": int(batch["index"][place]), "region": region, "map": name, **cells}


def _lines(
    data: dict[str, Any],
    model: LoadedModel,
    methods: Sequence[str],
    split: str,
    gaze: pd.DataFrame,
    cases: pd.DataFrame,
    regions: pd.DataFrame,
    with_figure: bool,
    note: str | None,
) -> list[str]:
    lines = ["# Where the model looks", "", *banner_lines(data, with_figure)]
    if note is not None:
        lines += [f"**{plain(note)}**", ""]
    lines += [
        f"{data['n'][split]} cases of the {split} split of {plain(data['source'])}; checkpoint "
        f"`{model.sha256[:16]}`. Means over cases; intervals: 95 %, bootstrap over patients (2,000 draws).",
        "",
        "## With the reader's gaze",
        "",
        f"Fixation maps with σ = {data['sigma']:g} {data['sigma_unit']}. Class-activation maps explain the class the "
        "model predicts. A map that knows nothing of the image scores what the centre bias (mean training map) does.",
        "",
        *_table(gaze, ["map"], GAZE_METRICS),
        "",
    ]
    if methods and cases["right"].nunique() == 2:
        lines += ["CC where the diagnosis is right, and where it is wrong:", ""]
        parts = {name: cases[cases["right"] == value] for name, value in (("right", 1.0), ("wrong", 0.0))}
        means = {name: summed(part, ["map"], {"cc": "CC"}).set_index("map") for name, part in parts.items()}
        lines += header(["map", *(f"{name} (n = {part['index'].nunique()})" for name, part in parts.items())])
        for name in means["right"].index:
            lines.append(row([name, *(_cell(means[part].loc[name]) for part in parts)]))
        lines.append("")
    if len(regions):
        lines += [
            "## With the marked regions",
            "",
            "Pointing game: how often the map's maximum lies in the region. Mass: the share of the map that does. IoU: "
            "of the region and as many of the map's highest pixels. By chance, pointing game and mass are the region's "
            "share of the image, and the AUC is 0.5. Against a region with the name of a class, class-activation maps "
            "explain that class, and elsewhere the predicted one.",
            "",
        ]
        areas = regions[regions["metric"] == "area"].groupby("region")["value"].mean()
        shown = regions.assign(region=[f"{name} ({areas[name]:.1%} of the image)" for name in regions["region"]])
        lines += [*_table(shown, ["region", "map"], REGION_METRICS), ""]
    if with_figure:
        lines += [
            "## Cases",
            "",
            "The first cases with gaze, not chosen. Outlined: the marked regions.",
            "",
            "![Film with regions, reader's map, predicted map, class-activation maps](figures/agreement.png)",
        ]
    elif not data["synthetic"]:
        lines += ["No film is shown, because the data are of real cases; `--films=true` shows some."]
    return lines


def _table(table: pd.DataFrame, by: list[str], metrics: dict[str, str]) -> list[str]:
    lines = header([*by, "n", *metrics.values()])
    for key, group in table.groupby(by, sort=False):
        values = group.set_index("metric")
        n = str(int(values["n"].max()))
        lines.append(row([*map(plain, key), n, *(_cell(values.loc[metric]) for metric in metrics)]))
    return lines


def _cell(mean: pd.Series) -> str:
    return with_interval(Estimate(float(mean["value"]), float(mean["low"]), float(mean["high"])))
