"""The command that measures whether readers look at the findings that they name, and how long before."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gazelit.data.store.store import Store
from gazelit.errors import InputError
from gazelit.evaluation.findings import summed
from gazelit.evaluation.phrases import DRAWS, SHARES, looks_at_findings
from gazelit.files import atomic_path
from gazelit.reporting.figures import COLOURS, save
from gazelit.reporting.page import Document, Picture, Section, write_document
from gazelit.reporting.report import notices
from gazelit.reporting.sections.gaze import estimate_of
from gazelit.reporting.tables import Table, code, plain, with_interval

logger = logging.getLogger("gazelit")

_DIFFERENCE = "less the control"
LAGS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def phrases(
    store: str,
    out: Path,
    findings: dict[str, str],
    lags: list[float] | None = None,
    kind: Literal["fixation", "sample"] = "fixation",
    seed: int = 0,
) -> None:
    """Scores gaze against marked findings while their words were said, at several lags, with a moved-phrase control.

    Writes ``phrases.md``, ``phrases.html``, ``phrases.csv`` and ``figures/phrases.png``. The lag with the largest
    difference shows how long before its words a finding is looked at. ``data.gaze.window: {phrase: …, lag: …}`` trains
    on the gaze of that time.

    Args:
        store: A prepared store with regions and phrases, such as REFLACX's or EGD-CXR's.
        out: Folder for the results.
        findings: By the name of a region, a regular expression of its words: ``{"cardiac silhouette": "heart"}``.
        lags: Seconds by which looking precedes the words; 0 to 6 unless given.
        kind: Kind of gaze.
        seed: Seed of the control.

    Raises:
        InputError: A lag is no number or given twice, the store cannot be used, or no reading has both the words and a
            region of a finding.
    """
    if not findings:
        raise InputError(
            'findings: name regions and their words, such as --findings \'{"cardiac silhouette": "heart"}\''
        )
    if lags is not None and not (lags and np.isfinite(lags).all() and len(set(lags)) == len(lags)):
        raise InputError("lags: give one or several different numbers of seconds, such as --lags '[0, 1, 2]'")
    opened = Store.open(store)
    table = looks_at_findings(opened, findings, LAGS if lags is None else lags, kind, seed)
    means = summed(
        table.assign(difference=table["said"] - table["moved"]),
        ["finding", "lag"],
        {**SHARES, "difference": _DIFFERENCE},
    )
    save(lag_figure(means), out / "figures" / "phrases.png")
    rows: list[list[object]] = []
    for (name, lag), group in means.groupby(["finding", "lag"], sort=False):
        values = group.set_index("metric")
        cells = [
            with_interval(estimate_of(values.loc[metric]), signed=metric == "difference")
            for metric in (*SHARES, "difference")
        ]
        rows.append([plain(name), f"{lag:g}", int(values["n"].max()), *cells])
    synthetic = bool(opened.about["synthetic"])
    document = Document(
        "Looking and saying",
        [("store", code(Path(store).name)), ("gaze", kind)],
        notices({"synthetic": synthetic}, False),
        [],
        [
            "The share of the looking time that lies in a finding's regions: while its words were said, moved back by "
            f"the lag; the same with the reading's phrases moved by a random time, the mean of {DRAWS} draws; and in "
            "the whole reading. Means over readings with 95 % intervals over patients.",
        ],
        [
            Section("Lag curve", [Picture("figures/phrases.png", "Share of looking in the region by lag")]),
            Section("Values", [Table(["finding", "lag (s)", "readings", *SHARES.values(), _DIFFERENCE], rows)]),
        ],
    )
    write_document(document, out, "phrases")
    with atomic_path(out / "phrases.csv") as temporary:
        means.to_csv(temporary, index=False)
    logger.info("%s", out / "phrases.md")


def lag_figure(means: pd.DataFrame) -> Figure:
    """A panel a finding: the shares by lag, with their intervals.

    Args:
        means: Of :func:`gazelit.evaluation.findings.summed`, by ``finding`` and ``lag``.
    """
    names = list(dict.fromkeys(means["finding"]))
    figure = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for colour, (metric, label) in zip(COLOURS, SHARES.items(), strict=False):
            part = means[(means["finding"] == name) & (means["metric"] == metric)].sort_values("lag")
            axis.plot(part["lag"], part["value"], color=colour, marker="o", markersize=3, label=label)
            axis.fill_between(part["lag"], part["low"], part["high"], color=colour, alpha=0.15, linewidth=0)
        axis.set(
            title=name, xlabel="looking before the words (s)", ylabel="share of looking in the region", ylim=(0, None)
        )
        axis.legend(fontsize=7)
    return figure
