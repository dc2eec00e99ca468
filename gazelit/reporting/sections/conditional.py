"""Maps by time, by reader and by finding, compared with the map of the whole reading."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from gazelit.evaluation.compare import ArmSummary
from gazelit.evaluation.findings import REGION_METRICS
from gazelit.evaluation.scores import OF_FINDING, READER_GAIN
from gazelit.reporting.figures import localisation_figure, save
from gazelit.reporting.page import Block, Picture
from gazelit.reporting.records import ReportRecord
from gazelit.reporting.tables import DASH, Table, code, number, plain, with_interval

_PART_GAIN = "_ig_gain"
#: How a finding's map lies with the regions of its name.
_SAID_SCORES = {"mass": REGION_METRICS["mass"], "pointing": REGION_METRICS["pointing"], "auc": REGION_METRICS["auc"]}


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
        "reader_identified": "readers identified",
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
        "that the network has not learned count as unknown in both. Readers identified: the share of readings whose "
        "own reader's map is the likeliest of all that were learned. Means over films with 95 % intervals over "
        "patients.",
        Table(["arm", *names.values()], rows),
    ]


def said_blocks(report: ReportRecord, figures: Path) -> list[Block]:
    """Maps by finding against the findings' regions, and films with them, drawn; nothing without any."""
    picture = figures / "findings.png"
    rows: list[list[object]] = []
    unmarked: dict[str, None] = {}
    for arm in report.summaries:
        table = report.tested_of(arm.name)
        for name in dict.fromkeys(found[1] for key in arm.estimates if (found := OF_FINDING.fullmatch(key))):
            films = int(table[f"said_{name}_mass"].notna().sum())
            if not films:
                unmarked[name] = None
                continue
            area = arm.estimates.get(f"said_{name}_area")
            chance = {"auc": "0.5"} | dict.fromkeys(("mass", "pointing"), DASH if area is None else number(area.value))
            for score, label in _SAID_SCORES.items():
                keys = [f"said_{name}_{score}{suffix}" for suffix in ("", "_of_whole", "_gain")]
                cells = [
                    with_interval(arm.estimates[key], arm.spread.get(key), signed=key.endswith("gain")) for key in keys
                ]
                rows.append([plain(arm.name), plain(_spelt(name)), films, label, *cells, chance[score]])
    if not report.first.finding_maps:
        # A figure of an earlier report must not stay beside a text that shows none.
        picture.unlink(missing_ok=True)
    if not rows and not unmarked:
        return []
    blocks: list[Block] = [
        "Each finding's map against the marked regions of its name, and the same network's map of the whole reading, "
        "which does not know the finding, against the same regions. Mass: the share of the map that lies inside. "
        "Pointing game: how often its maximum does. Both are by chance the region's share of the image. Means over "
        "the test films on which the finding is marked, with 95 % intervals over patients"
        f"{'; SD over seeds' if any(len(arm.seeds) > 1 for arm in report.summaries) else ''}.",
    ]
    if rows:
        columns = ["arm", "finding", "films", "score", "its map", "map of the whole reading", "difference", "by chance"]
        blocks.append(Table(columns, rows))
    if unmarked:
        blocks.append(f"No test film has a marked region of {', '.join(plain(_spelt(name)) for name in unmarked)}.")
    if report.first.finding_maps:
        save(localisation_figure(report.first.finding_maps), picture)
        blocks += [
            f"{len(report.first.finding_maps)} test films, the first on which a finding is marked, not chosen by their "
            f"scores, with the maps of {code(report.summaries[0].name)}, each on a scale of its own in multiples of "
            "the uniform level, clear at and below it. Outlined on the film and on its finding's map: the marked "
            "region.",
            Picture("figures/findings.png", "Film with regions, map of the whole reading, map of each finding"),
        ]
    return blocks


def _spelt(name: str) -> str:
    """A finding's name as its column has it."""
    return name.replace("_", " ")
