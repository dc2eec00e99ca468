"""Gaze: films, map metrics with their yardsticks, share of the explainable information, marked findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gazelit.evaluation.compare import ArmSummary
from gazelit.evaluation.crossed import FEWEST_SEEDS
from gazelit.evaluation.explainable import READINGS, OracleRecord
from gazelit.evaluation.findings import REGION_METRICS, summed
from gazelit.evaluation.scores import MAP_METRICS, SHARE
from gazelit.evaluation.statistics import Estimate
from gazelit.evaluation.yardsticks import reader_sizes, share_of_the_way
from gazelit.reporting.figures import panel_figure, save
from gazelit.reporting.page import Block, Picture
from gazelit.reporting.records import ExternalRecord, ReportRecord, RunRecord
from gazelit.reporting.sections.arms import comparison
from gazelit.reporting.sections.diagnosis import given_gaze_blocks
from gazelit.reporting.tables import DASH, Table, code, interval, number, plain, with_interval

FILMS_ON_REQUEST = "No film is shown, because the data are of real cases; `gazelit report RUN --films=true` shows some."


def film_blocks(report: ReportRecord, figures: Path) -> list[Block]:
    """Cases with their maps, drawn; or why no film is shown."""
    record = report.first
    if not record.panels:
        # A figure of an earlier report must not stay beside a text that says there is none.
        (figures / "cases.png").unlink(missing_ok=True)
        withheld = not record.provenance["synthetic"] and _mapped(report.summaries) is not None
        return [FILMS_ON_REQUEST] if withheld else []
    save(panel_figure(record.panels), figures / "cases.png")
    fold = " They are of the first fold." if report.summaries[0].folds > 1 else ""
    return [
        f"{len(record.panels)} test cases of {code(report.summaries[0].name)}: of each class the best, the middle and "
        "the worst by CC. On the left the film with the reader's scanpath (circles: duration), then the reader's map "
        f"and the model's, on one colour scale in multiples of the uniform level, clear at and below it.{fold}",
        Picture("figures/cases.png", "Film, reader's map and model's map"),
    ]


def gaze_blocks(report: ReportRecord) -> list[Block]:
    """Map metrics of the first arm that has a map; nothing without any."""
    arm = _mapped(report.summaries)
    metrics = report.first.metrics
    if arm is None or not any(key.startswith("baseline/centre/") for key in metrics):
        return []
    blocks = map_blocks(report.first.provenance, metrics, arm.estimates, code(arm.name))
    if len(report.summaries) == 1:
        return blocks
    if arm.folds > 1:
        blocks.append("Yardsticks and values are of all folds.")
    return blocks


def _mapped(summaries: Sequence[ArmSummary]) -> ArmSummary | None:
    return next((arm for arm in summaries if "cc" in arm.estimates), None)


def map_blocks(
    provenance: Mapping[str, Any], metrics: Mapping[str, Any], estimates: Mapping[str, Estimate], arm: str
) -> list[Block]:
    """Map metrics with their yardsticks.

    Args:
        provenance: Of the data.
        metrics: ``baseline/…``.
        estimates: By metric, of the model or arm.
        arm: The model or arm, as Markdown.
    """
    baselines = {"centre": "centre bias (mean training map)", "gaussian": "Gaussian centre", "uniform": "uniform"}
    if "baseline/class_centre/cc" in metrics:
        baselines["class_centre"] = "mean map of the true class"
    if "baseline/oracle/cc" in metrics:
        baselines["oracle"] = "oracle"
    sizes = reader_sizes(metrics)
    for size in sizes:
        baselines[f"reader_{size}"] = "one other reader" if size == 1 else f"mean of {size} other readers"
    columns = ["metric", arm, "95 % interval", baselines["centre"], "difference", *list(baselines.values())[1:]]
    if sizes:
        columns.append(f"share of the way from centre bias to {baselines[f'reader_{sizes[-1]}']}")
    rows = []
    for key, (name, direction) in MAP_METRICS.items():
        if key not in estimates or f"baseline/centre/{key}" not in metrics:
            continue
        value, scores = estimates[key].value, [metrics.get(f"baseline/{baseline}/{key}") for baseline in baselines]
        difference = float("nan") if scores[0] is None else value - scores[0]
        cells = [f"{name}, {direction}", number(value), interval(estimates[key].low, estimates[key].high)]
        cells += [number(scores[0]), number(difference, signed=True), *map(number, scores[1:])]
        if sizes:
            share = share_of_the_way(value, scores[0], scores[-1])
            cells.append(DASH if share is None else f"{share:.0%}")
        rows.append(cells)
    blocks: list[Block] = [_target_text(provenance), Table(columns, rows), *_reader_texts(metrics, sizes)]
    if "oracle" in baselines:
        blocks.append(
            "Oracle: the expected map under the law of the simulated readers, which knows what is on the film: as the "
            "targets are made for CC, KLD, SIM and EMD, of the fixations for the others. No map has a greater "
            "information gain or a lower KLD in expectation; of CC it is nearly the greatest."
        )
    return blocks


def _target_text(provenance: Mapping[str, Any]) -> str:
    """What the targets are, as far as there was gaze to make them of."""
    sigma, degrees = provenance["sigma_px"], provenance["sigma_deg"]
    angle = "" if degrees is None or provenance["sigma_unit"] == "deg" else f", {np.mean(degrees):.2f}° of visual angle"
    mean = "" if sigma is None else f" (on average {sigma[0]:.2f} × {sigma[1]:.2f} pixels of the working image{angle})"
    return (
        f"Targets: {provenance['gaze_kind']}s weighted by {provenance['weight']}, σ = {provenance['sigma']:g} "
        f"{provenance['sigma_unit']}{mean}. CC, KLD, SIM and EMD of another σ are not comparable."
    )


def _reader_texts(metrics: Mapping[str, Any], sizes: Sequence[int]) -> list[str]:
    if not sizes:
        return []
    readings = {size: round(metrics[f"baseline/reader_{size}/n"]) for size in sizes}
    counts = ", ".join(f"{count} with {size} other" for size, count in readings.items())
    if len(set(readings.values())) == 1:
        counts = str(readings[sizes[0]])
    text = (
        "Readers: how well the mean map of so many other readers predicts a reader's gaze "
        f"(readings: {counts}). One reader is a noisy guess of where readers look, and the mean of more is a better "
        "one: the ceiling of a model, which may learn the expected map, is above all of these columns."
    )
    if metrics.get("baseline/reader/simulated"):
        return [f"{text} The other readers were drawn from the simulator that drew the reader."]
    return [
        f"{text} A reader is scored against one reading, the model against all readings of a film together, which is "
        "easier."
    ]


def share_blocks(oracle: OracleRecord | None, summaries: Sequence[ArmSummary]) -> list[Block]:
    """Each arm between centre bias and oracle; nothing where there is no oracle, or no arm with a map."""
    arms = [arm for arm in summaries if SHARE in arm.estimates]
    if oracle is None or not arms:
        return []
    has_seeds = any(arm.share is not None and arm.share.seeds >= FEWEST_SEEDS for arm in arms)
    columns = ["map", "information gain (bits a fixation; 95 % over patients)", "share (95 % over patients"]
    columns[-1] += "; SD over seeds)" if has_seeds else ")"
    rows: list[list[object]] = [["centre bias", "0", "0", *[DASH] * has_seeds]]
    for arm in arms:
        crossed = DASH
        if arm.share is not None and arm.share.seeds >= FEWEST_SEEDS:
            crossed = interval(arm.share.low, arm.share.high)
        share = with_interval(arm.estimates[SHARE], arm.spread.get(SHARE))
        rows.append([plain(arm.name), with_interval(arm.estimates["ig"]), share, *[crossed] * has_seeds])
    blurred = "expected target (blurred and weighted as the targets)"
    rows.append([blurred, with_interval(oracle.target_gain), with_interval(oracle.target_share), *[DASH] * has_seeds])
    rows.append(["oracle", with_interval(oracle.gain), "1", *[DASH] * has_seeds])
    return [
        "How much of what a map can say of the readers' fixations each model's map says: its information gain over the "
        f"centre bias, by the oracle's, at the same fixations over the same centre bias; means over {oracle.films} "
        f"test films. {oracle.words} Its maps are of {READINGS} simulated readings a film, which costs it about 0.001 "
        "bits a fixation. A model that learns the expected target perfectly has the share of that row.",
        Table([*columns, *["share, 95 % over patients and seeds"] * has_seeds], rows),
    ]


def finding_blocks(record: RunRecord, arm: str) -> list[Block]:
    """Whether the model's map lies on the marked findings; nothing without any.

    Args:
        record: Of the arm.
        arm: Its name, as Markdown.
    """
    if not len(record.findings):
        return []
    table = summed(record.findings, ["map"], {**REGION_METRICS, "area": ""})
    area = table.loc[table["metric"] == "area", "value"].mean()
    cases = record.findings["index"].nunique()
    return [
        f"Maps of {arm} (seed {record.metrics['seed']}) against the marked findings of {cases} test cases, which take "
        f"{area:.1%} of the image on average: what pointing game and mass are by chance. Means with 95 % intervals "
        "over patients.",
        metric_table(table, ["map"], REGION_METRICS, with_n=False),
    ]


def metric_table(table: pd.DataFrame, by: list[str], metrics: Mapping[str, str], with_n: bool = True) -> Table:
    """Means of :func:`gazelit.evaluation.findings.summed`, a row a group."""
    rows: list[list[object]] = []
    for key, group in table.groupby(by, sort=False):
        values = group.set_index("metric")
        n = [int(values["n"].max())] * with_n
        rows.append([*map(plain, key), *n, *(with_interval(estimate_of(values.loc[metric])) for metric in metrics)])
    return Table([*by, *["n"] * with_n, *metrics.values()], rows)


def estimate_of(row: pd.Series) -> Estimate:
    """The mean of a row of :func:`gazelit.evaluation.findings.summed`."""
    return Estimate(float(row["value"]), float(row["low"]), float(row["high"]))


def external_blocks(test: ExternalRecord) -> list[Block]:
    """A test on another source."""
    data = test.provenance
    # With a single patient there is no other half for a mean map.
    halves = test.patients > 1
    baselines = test.baselines if halves else _without_centre(test.baselines)
    several = any(arm.folds > 1 or len(arm.seeds) > 1 for arm in test.summaries)
    means = (
        " Every model of every seed and fold has read all of them; values are means over models, first over the folds "
        "of a seed."
    )
    blocks: list[Block] = [
        f"{data['n']['test']} cases of {plain(data['source'])}{' (synthetic)' if data['synthetic'] else ''}, none "
        f"of a patient of the store that was trained on.{means if several else ''}",
        *comparison(test.summaries, baselines, test.patients),
        *given_gaze_blocks(test.given_gaze),
        *share_blocks(test.oracle, test.summaries),
    ]
    if _mapped(test.summaries) is None or "baseline/centre/cc" not in test.baselines:
        return blocks
    if not halves:
        return [*blocks, f"Mean map of the other half of these patients: {DASH} (there is a single patient)."]
    scores = f"CC {number(test.baselines['baseline/centre/cc'])}, NSS {number(test.baselines['baseline/centre/nss'])}"
    return [*blocks, f"Mean map of the other half of these patients: {scores}."]


def _without_centre(baselines: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in baselines.items() if not key.startswith("baseline/centre/")}
