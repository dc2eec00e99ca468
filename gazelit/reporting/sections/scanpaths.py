"""Scanpaths: bits a fixation, then scores of drawn paths, with yardsticks that need no model of the film."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from gazelit.evaluation.compare import ArmSummary
from gazelit.evaluation.scores import share_of
from gazelit.evaluation.statistics import Estimate, estimate, mean_of
from gazelit.metrics.catalogue import SCANPATH_METRICS
from gazelit.reporting.page import Block
from gazelit.reporting.tables import DASH, Table, plain, with_interval

if TYPE_CHECKING:
    from gazelit.evaluation.scanpaths.of_store import Yardstick


@dataclass(frozen=True)
class ScanpathRow:
    """A yardstick of a report's table.

    Attributes:
        name: What the table calls it.
        estimates: By metric, its mean over films.
        share: Of an oracle: the share of its bits that the first arm has on the same films.
        films: Number of them.
    """

    name: str
    estimates: Mapping[str, Estimate]
    share: Estimate | None
    films: int


def scanpath_rows(found: Sequence[Sequence[Yardstick]], predictions: pd.DataFrame) -> list[ScanpathRow]:
    """Sums up yardsticks of all folds.

    Args:
        found: Of each fold, the same yardsticks.
        predictions: The first arm's, with ``index``, ``patient`` and ``scanpath_bits``.
    """
    # With numba, which takes 50 MB, as below.
    from gazelit.evaluation.scanpaths.of_store import ORACLE, ORACLE_OF_READER

    cases = predictions.drop_duplicates("index").set_index("index")
    rows = []
    for name in dict.fromkeys(each.name for fold in found for each in fold):
        table = pd.concat([each.films for fold in found for each in fold if each.name == name])
        patients = cases.loc[table["index"], "patient"].to_numpy()
        estimates = {
            metric: estimate(mean_of(table[metric].to_numpy(np.float64)), patients)
            for metric in SCANPATH_METRICS
            if metric in table
        }
        share = None
        if name in (ORACLE, ORACLE_OF_READER):
            model = cases.loc[table["index"], "scanpath_bits"].to_numpy(np.float64)
            share = estimate(share_of(model, table["scanpath_bits"].to_numpy(np.float64)), patients)
        rows.append(ScanpathRow(name, estimates, share, len(table)))
    return rows


def scanpath_blocks(rows: Sequence[ScanpathRow], summaries: Sequence[ArmSummary]) -> list[Block]:
    """The arms that predict scanpaths above the yardsticks; nothing without any."""
    arms = [arm for arm in summaries if "scanpath_bits" in arm.estimates]
    if not arms:
        return []
    metrics = {name: entry.short for name, entry in SCANPATH_METRICS.items()}
    cells: list[list[object]] = [
        [plain(arm.name), *(with_interval(arm.estimates.get(name), arm.spread.get(name)) for name in metrics)]
        for arm in arms
    ]
    cells += [[row.name, *(with_interval(row.estimates.get(name)) for name in metrics)] for row in rows]
    blocks: list[Block] = [
        "How well each fixation is predicted, given the film and the true fixations before it, the first fixation "
        "included: bits over the centre bias of the training films (blurred as the target maps are; the kernel density "
        "is that of their fixations), density standardised over the film, and share of the film with a lower one. Then "
        "what drawn paths score against the readings: ScanMatch (16 × 12 cells, threshold 3.5, gap 0, over the longer "
        "length), the same with a letter every 50 ms, edits between 5 × 5 letters over the longer length, and the mean "
        "of MultiMatch's five dimensions, not simplified. Means over films with 95 % intervals over patients. A "
        f"density has no path here and a path no density ({DASH}).",
        Table(["predictor", *metrics.values()], cells),
    ]
    shares = [row for row in rows if row.share is not None]
    if shares:
        from gazelit.evaluation.scanpaths.of_store import MOST_ORACLE_FILMS

        text = "; ".join(f"{row.name}: {with_interval(row.share)} ({row.films} films)" for row in shares)
        blocks.append(
            f"Share of the oracle's bits over the centre bias that {plain(arms[0].name)} has, on the same films (the "
            f"first {MOST_ORACLE_FILMS} at most): {text}. The oracle knows the film's truth and the law of the "
            "simulated readers, and of a reading its past alone; no model has more in expectation."
        )
    if not any(row.name == "same film's other reader" for row in rows):
        blocks.append("No film of the test was read twice: there is no human ceiling to compare with.")
    return blocks
