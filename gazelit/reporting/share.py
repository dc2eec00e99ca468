"""The report's section on the share of the explainable information (:mod:`gazelit.evaluation.explainable`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gazelit.evaluation.compare import ArmSummary
from gazelit.evaluation.crossed import FEWEST_SEEDS
from gazelit.evaluation.explainable import READINGS, OracleRecord
from gazelit.evaluation.scores import SHARE
from gazelit.evaluation.statistics import Estimate
from gazelit.evaluation.text import DASH, header, interval, is_number, number, plain, row, with_interval


@dataclass(frozen=True)
class Explained:
    """What a model or an arm says of the gaze.

    Attributes:
        name: As text of a table.
        gain: Information gain over the centre bias (bits a fixation), over patients.
        share: Of the oracle's, over patients.
        spread: Standard deviation of the share over seeds, if there are several.
        crossed: The share over patients and seeds.
    """

    name: str
    gain: Estimate
    share: Estimate
    spread: float | None = None
    crossed: Estimate | None = None


def explained_by(summaries: Sequence[ArmSummary]) -> list[Explained]:
    """Of the arms that have a saliency map."""
    return [
        Explained(plain(arm.name), arm.estimates["ig"], arm.estimates[SHARE], arm.spread.get(SHARE), arm.share)
        for arm in summaries
        if SHARE in arm.estimates
    ]


def share_section(oracle: OracleRecord | None, explained: Sequence[Explained]) -> list[str]:
    """:func:`share_lines` below a heading of their own."""
    lines = share_lines(oracle, explained)
    return ["## Share of the explainable information", "", *lines] if lines else []


def share_lines(oracle: OracleRecord | None, explained: Sequence[Explained]) -> list[str]:
    """Each arm between centre bias and oracle; nothing where there is no oracle, or no arm with a map."""
    if oracle is None or not explained:
        return []
    lines = [
        "How much of what a map can say of the readers' fixations each model's map says: its information gain over the "
        f"centre bias, by the oracle's, at the same fixations over the same centre bias; means over {oracle.films} "
        f"test films. {oracle.words} Its maps are of {READINGS} simulated readings a film, which costs it about 0.001 "
        "bits a fixation. A model that learns the expected target perfectly has the share of that row.",
        "",
    ]
    has_seeds = any(arm.crossed is not None and arm.crossed.seeds >= FEWEST_SEEDS for arm in explained)
    columns = ["map", "information gain (bits a fixation; 95 % over patients)", "share (95 % over patients"]
    columns[-1] += "; SD over seeds)" if has_seeds else ")"
    lines += header([*columns, *["share, 95 % over patients and seeds"] * has_seeds])
    lines.append(row(["centre bias", "0", "0", *[DASH] * has_seeds]))
    for arm in explained:
        spread = [number(arm.spread)] if is_number(arm.spread) else []
        crossed = DASH
        if arm.crossed is not None and arm.crossed.seeds >= FEWEST_SEEDS:
            crossed = interval(arm.crossed.low, arm.crossed.high)
        lines.append(row([arm.name, with_interval(arm.gain), with_interval(arm.share, spread), *[crossed] * has_seeds]))
    blurred = "expected target (blurred and weighted as the targets)"
    cells = with_interval(oracle.target_gain), with_interval(oracle.target_share)
    lines.append(row([blurred, *cells, *[DASH] * has_seeds]))
    lines.append(row(["oracle", with_interval(oracle.gain), "1", *[DASH] * has_seeds]))
    return [*lines, ""]
