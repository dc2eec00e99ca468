"""Maps by time and by reader, beside the map that knows neither."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from gazelit.evaluation.compare import ArmSummary
from gazelit.evaluation.scores import READER_GAIN
from gazelit.reporting.page import Block
from gazelit.reporting.tables import Table, plain, with_interval

_PART_GAIN = "_ig_gain"


def time_blocks(summaries: Sequence[ArmSummary]) -> list[Block]:
    """The maps of the parts of readings; nothing without any."""
    rows: list[list[object]] = []
    for arm in summaries:
        begins = sorted(
            float(name.removeprefix("from_").removesuffix(f"s{_PART_GAIN}"))
            for name in arm.estimates
            if name.startswith("from_") and name.endswith(_PART_GAIN)
        )
        for begin, end in itertools.zip_longest(begins, begins[1:]):
            name = f"from_{begin:g}s"
            part = f"{begin:g} s to {'the end' if end is None else f'{end:g} s'}"
            values = [f"{name}_ig", f"{name}_ig_of_whole", f"{name}{_PART_GAIN}", f"{name}_cc"]
            cells = [
                with_interval(arm.estimates[key], arm.spread.get(key), signed=key.endswith("gain")) for key in values
            ]
            rows.append([plain(arm.name), part, *cells])
    if not rows:
        return []
    columns = ["arm", "part", "information gain (bits a fixation)", "of the whole map", "difference", "CC"]
    return [
        "Each part's map against what was looked at then, and the same network's map of the whole reading, which does "
        "not know the time, at the same fixations. Gains are over the centre bias of whole readings; means over the "
        "films that were looked at then, with 95 % intervals over patients.",
        Table(columns, rows),
    ]


def reader_blocks(summaries: Sequence[ArmSummary]) -> list[Block]:
    """Maps by reader; nothing without any."""
    arms = [arm for arm in summaries if READER_GAIN in arm.estimates]
    if not arms:
        return []
    names = {
        "ig": "information gain, by reader (bits a fixation)",
        "ig_of_unknown": "as an unknown reader",
        READER_GAIN: "difference",
        "reader_identified": "readers told",
    }
    rows: list[list[object]] = [
        [
            plain(arm.name),
            *(with_interval(arm.estimates.get(key), arm.spread.get(key), signed=key == READER_GAIN) for key in names),
        ]
        for arm in arms
    ]
    return [
        "Each reading against the map of its reader, and against that of an unknown one by the same network; readers "
        "whom the network has not learned count as unknown in both. Readers told: the share of readings whose own "
        "reader's map is the likeliest of all that were learned. Means over films with 95 % intervals over patients.",
        Table(["arm", *names.values()], rows),
    ]
