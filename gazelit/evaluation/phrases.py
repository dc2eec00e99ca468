"""Whether readers look at the findings that they name, and how long before they name them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.labels import spelt_alike
from gazelit.data.splits.identity import identity
from gazelit.data.store.store import Store
from gazelit.errors import InputError

#: Number of draws of the control for each reading.
DRAWS = 20
#: The measured shares of a finding at a lag, by column.
SHARES = {"said": "while it was said", "moved": "phrases moved at random", "whole": "in the whole reading"}

Floats = NDArray[np.float64]
Spans = Sequence[tuple[float, float]]


def looks_at_findings(
    store: Store, findings: Mapping[str, str], lags: Sequence[float], kind: str = "fixation", seed: int = 0
) -> pd.DataFrame:
    """Share of the looking time that lies in a finding's regions, in each reading and at each lag.

    The looking time is taken during matching phrases, moved back by the lag: readers may look at a finding first and
    name it later. The control moves all phrases of the reading by the same random time, from its end round to its
    start. Their lengths and distances stay, and only their relation to the gaze is lost.

    Args:
        store: A store with regions, phrases and gaze.
        findings: By name of a region, a regular expression for its words; case does not matter.
        lags: Seconds by which looking precedes the words.
        kind: ``fixation`` or ``sample``.
        seed: Of the control.

    Returns:
        ``index`` (the store's row), ``patient``, ``reading_id``, ``finding``, ``lag``, and the columns of
        :data:`SHARES`, each in [0, 1], NaN without gaze.

    Raises:
        InputError: A pattern is not a regular expression, or no reading has both the words and a region of a finding.
    """
    regions, phrases, gaze = store.table("regions"), store.table("phrases"), store.gaze(kind)
    patients = identity(store.cases["patient_id"]).to_numpy()
    generator = np.random.default_rng(seed)
    readings = {
        (int(row), str(reading)): part.index.to_numpy()
        for (row, reading), part in gaze.groupby(["row", "reading_id"], observed=True)
    }
    columns = gaze[["t", "duration", "x", "y"]].to_numpy(np.float64)
    rows = []
    for name, pattern in findings.items():
        try:
            # Checked here, because pandas would raise the errors of the library that it matches with.
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"findings.{name}: is no regular expression ({error})") from error
        matching = phrases[phrases["text"].str.contains(pattern, case=False, regex=True)]
        named = regions[[spelt_alike(region) == spelt_alike(name) for region in regions["name"]]]
        by_case = {int(row): part for row, part in named.groupby("row")}
        for (row, reading), words in matching.groupby(["row", "reading_id"]):
            key = int(row), str(reading)
            if key not in readings or key[0] not in by_case:
                continue
            start, duration, x, y = columns[readings[key]].T
            inside = _within(by_case[key[0]], x, y)
            spans = list(zip(words["begin"], words["end"], strict=True))
            end = float((start + duration).max())
            offsets = generator.uniform(0, end, DRAWS)
            for lag in lags:
                moved = [_share(start, duration, inside, _turned(spans, lag - offset, end)) for offset in offsets]
                rows.append(
                    {
                        "index": key[0],
                        "patient": patients[key[0]],
                        "reading_id": key[1],
                        "finding": name,
                        "lag": float(lag),
                        "said": _share(start, duration, inside, [(a - lag, b - lag) for a, b in spans]),
                        "moved": float(np.nanmean(moved)) if np.isfinite(moved).any() else np.nan,
                        "whole": float((duration * inside).sum() / duration.sum()),
                    }
                )
    if not rows:
        raise InputError(
            f"{store.path}: no reading says one of {', '.join(findings)} on a film where it is marked; name regions "
            'and their words, such as --findings \'{"cardiac silhouette": "heart"}\''
        )
    return pd.DataFrame(rows)


def _within(regions: pd.DataFrame, x: Floats, y: Floats) -> NDArray[np.bool_]:
    """Which points lie in any of the boxes and ellipses."""
    inside = np.zeros(len(x), bool)
    for shape, x1, y1, x2, y2 in regions[["shape", "x1", "y1", "x2", "y2"]].itertuples(index=False):
        across = np.abs(x - (x1 + x2) / 2) / max((x2 - x1) / 2, 0.5)
        down = np.abs(y - (y1 + y2) / 2) / max((y2 - y1) / 2, 0.5)
        inside |= (np.maximum(across, down) <= 1) if shape == "box" else (across**2 + down**2 <= 1)
    return inside


def _share(start: Floats, duration: Floats, inside: NDArray[np.bool_], spans: Spans) -> float:
    """Share of the looking time within the spans that is inside the regions; NaN without gaze in the spans."""
    overlap = np.zeros(len(start))
    for begin, end in spans:
        overlap += np.clip(np.minimum(start + duration, end) - np.maximum(start, begin), 0, None)
    total = float(overlap.sum())
    return float((overlap * inside).sum() / total) if total > 0 else float("nan")


def _turned(spans: Spans, lag: float, end: float) -> list[tuple[float, float]]:
    """Spans moved back by a lag; parts that leave [0, ``end``] on one side enter on the other."""
    turned = []
    for begin, finish in spans:
        first = (begin - lag) % end
        last = first + min(finish - begin, end)
        turned.append((first, min(last, end)))
        if last > end:
            turned.append((0.0, last - end))
    return turned
