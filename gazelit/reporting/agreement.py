"""The command ``gazelit agreement`` and its page."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from gazelit.checkpoints import split_guard
from gazelit.data.saved import config_of, saved_data
from gazelit.deploy.inference import load_model
from gazelit.errors import InputError
from gazelit.evaluation.agreement import GAZE_METRICS, measure
from gazelit.evaluation.findings import REGION_METRICS, summed
from gazelit.files import atomic_path
from gazelit.models.attribution import METHODS
from gazelit.parsing import read_saved
from gazelit.reporting.figures import localisation_figure, save
from gazelit.reporting.page import Block, Document, Picture, Section, write_document
from gazelit.reporting.report import notices
from gazelit.reporting.sections.gaze import estimate_of, metric_table
from gazelit.reporting.tables import Table, code, plain, with_interval
from gazelit.spreadsheet import without_formulas

#: Why an agreement page shows no film.
FILMS_ON_REQUEST = "No film is shown, because the data are of real cases; `--films=true` shows some."

logger = logging.getLogger("gazelit")


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
    every case ``agreement_gaze.parquet`` and ``agreement_regions.parquet``, which hold no ids. Its parameters are the
    options of a command.

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
    found = config_of(ckpt, stage_config)
    elsewhere: list[str] = []
    if store is not None:
        own = read_saved(found)["data"]["init_args"]["store"]
        elsewhere = [
            f"--data.store={store}", "--data.split={method: external, file: null, folds: null}",
            f"--data.split.trained_on={own}",
        ]  # fmt: skip
    data = saved_data(found, elsewhere)
    provenance = data.provenance
    note = split_guard.check_split(ckpt, model.stamp, provenance, allow_other_split)
    if note is not None:
        logger.info("%s", note)
    chosen = ["gradcam"] if methods is None else methods
    unknown = [name for name in chosen if name not in METHODS]
    if unknown:
        raise InputError(f"methods: {', '.join(unknown)} is none of {', '.join(METHODS)}")
    if model.network.classes is None:
        chosen = []
    tables = measure(model, data, chosen, split)
    gaze, regions = summed(tables.gaze, ["map"], GAZE_METRICS), pd.DataFrame()
    if len(tables.regions):
        regions = summed(tables.regions, ["region", "map"], {**REGION_METRICS, "area": ""})
    with_figure = bool(tables.shown) and (films or provenance["synthetic"])
    picture = out / "figures" / "agreement.png"
    if with_figure:
        save(localisation_figure(tables.shown), picture)
    else:
        # A figure of an earlier call must not stay beside a text that says there is none.
        picture.unlink(missing_ok=True)
    document = Document(
        "Where the model looks",
        [("checkpoint", code(model.sha256[:16])), ("split", f"{split} of {plain(provenance['source'])}")],
        [*notices(provenance, with_figure), *([f"**{plain(note)}**"] if note is not None else [])],
        [],
        [
            f"{provenance['n'][split]} cases. Means over cases. "
            "Intervals: 95 %, bootstrap over patients (2,000 draws).",
            *([] if with_figure or provenance["synthetic"] else [FILMS_ON_REQUEST]),
        ],
        [
            Section("Cases", _case_blocks() if with_figure else []),
            Section("With the reader's gaze", _gaze_blocks(provenance, gaze, tables.gaze, bool(chosen))),
            Section("With the marked regions", _region_blocks(regions)),
        ],
    )
    write_document(document, out, "agreement")
    with atomic_path(out / "agreement.csv") as temporary:
        both = pd.concat([gaze.assign(against="gaze"), regions.assign(against="region")], ignore_index=True)
        without_formulas(both).to_csv(temporary, index=False)
    for name, table in (("gaze", tables.gaze), ("regions", tables.regions)):
        with atomic_path(out / f"agreement_{name}.parquet") as temporary:
            table.drop(columns="patient", errors="ignore").to_parquet(temporary)
    logger.info("%s", out / "agreement.md")


def _case_blocks() -> list[Block]:
    return [
        "The first cases with gaze, not chosen. Outlined: the marked regions.",
        Picture("figures/agreement.png", "Film with regions, reader's map, predicted map, class-activation maps"),
    ]


def _gaze_blocks(
    provenance: dict[str, Any], gaze: pd.DataFrame, cases: pd.DataFrame, has_attribution: bool
) -> list[Block]:
    blocks: list[Block] = [
        f"Fixation maps with σ = {provenance['sigma']:g} {provenance['sigma_unit']}. "
        "Class-activation maps explain the class the model predicts. "
        "A map that knows nothing of the image scores what the centre bias (mean training map) does.",
        metric_table(gaze, ["map"], GAZE_METRICS),
    ]
    if has_attribution and cases["right"].nunique() == 2:
        parts = {name: cases[cases["right"] == value] for name, value in (("right", 1.0), ("wrong", 0.0))}
        means = {name: summed(part, ["map"], {"cc": "CC"}).set_index("map") for name, part in parts.items()}
        columns = ["map", *(f"{name} (n = {part['index'].nunique()})" for name, part in parts.items())]
        rows = [
            [plain(name), *(with_interval(estimate_of(means[part].loc[name])) for part in parts)]
            for name in means["right"].index
        ]
        blocks += ["CC where the diagnosis is right, and where it is wrong:", Table(columns, rows)]
    return blocks


def _region_blocks(regions: pd.DataFrame) -> list[Block]:
    if not len(regions):
        return []
    areas = regions[regions["metric"] == "area"].groupby("region")["value"].mean()
    shown = regions.assign(region=[f"{name} ({areas[name]:.1%} of the image)" for name in regions["region"]])
    return [
        "Pointing game: how often the map's maximum lies in the region. Mass: the share of the map that does. IoU: of "
        "the region and as many of the map's highest pixels. By chance, pointing game and mass are the region's share "
        "of the image, and the AUC is 0.5. Against a region with the name of a class, class-activation maps explain "
        "that class, and elsewhere the predicted one.",
        metric_table(shown, ["region", "map"], REGION_METRICS),
    ]
