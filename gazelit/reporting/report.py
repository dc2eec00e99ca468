"""The report of one run or of several: one document, its table and its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gazelit.evaluation.compare import Result
from gazelit.files import atomic_path, write_checksums, write_json
from gazelit.reporting.export import long_table, metrics_of
from gazelit.reporting.page import Document, Section, write_document
from gazelit.reporting.records import ReportRecord
from gazelit.reporting.sections.arms import arm_blocks, verdict
from gazelit.reporting.sections.conditional import reader_blocks, said_blocks, time_blocks
from gazelit.reporting.sections.diagnosis import diagnosis_blocks, given_gaze_blocks, subgroup_blocks
from gazelit.reporting.sections.further import further_blocks
from gazelit.reporting.sections.gaze import external_blocks, film_blocks, finding_blocks, gaze_blocks, share_blocks
from gazelit.reporting.sections.scanpaths import scanpath_blocks
from gazelit.reporting.sections.training import (
    asynchrony_blocks,
    curve_blocks,
    data_blocks,
    learning_curve_blocks,
    lineage_blocks,
    published_blocks,
    split_words,
)
from gazelit.reporting.tables import code, plain
from gazelit.runs.verify import REPORT_SUMS
from gazelit.spreadsheet import without_formulas


def write_report(report: ReportRecord, out: Path) -> None:
    """Writes ``report.md``, ``report.html``, ``report.csv``, ``metrics.json``, ``figures/``, and their digests.

    The report carries no image id: cases are numbered.
    """
    write_document(document_of(report, out / "figures"), out, "report")
    with atomic_path(out / "report.csv") as temporary:
        without_formulas(long_table(report)).to_csv(temporary, index=False)
    write_json(out / "metrics.json", metrics_of(report))
    written = ["report.md", "report.html", "report.csv", "metrics.json"]
    figures = [str(path.relative_to(out)) for path in (out / "figures").glob("*") if path.is_file()]
    write_checksums(out / REPORT_SUMS, [*written, *figures])


def document_of(report: ReportRecord, figures: Path) -> Document:
    """The report as a document; draws its figures.

    Args:
        report: Its content.
        figures: The folder of its figures, which is ``figures`` below that of the report.
    """
    record = report.first
    arm = code(report.summaries[0].name)
    sections = [
        ("Films", film_blocks(report, figures)),
        ("Arms" if len(report.summaries) > 1 else "Model", arm_blocks(report)),
        ("Learning curve", learning_curve_blocks(report, figures)),
        ("Diagnosis", diagnosis_blocks(report, figures)),
        ("Gaze at test", given_gaze_blocks(record.given_gaze)),
        ("Gaze", gaze_blocks(report)),
        ("Share of the explainable information", share_blocks(record.oracle, report.summaries)),
        ("Gaze by time", time_blocks(report.summaries)),
        ("Gaze by reader", reader_blocks(report.summaries)),
        ("Gaze by finding", said_blocks(report, figures)),
        ("Scanpaths", scanpath_blocks(record.scanpaths, report.summaries)),
        ("Further metrics", further_blocks(report)),
        ("Asynchrony of the tasks", asynchrony_blocks(record.joint, figures)),
        ("Where the findings are", finding_blocks(record, arm)),
        ("Subgroups", subgroup_blocks(record.groups, arm)),
        *((f"External test: {plain(test.name)}", external_blocks(test)) for test in report.external),
        ("Published figures on EGD-CXR", published_blocks(record.provenance)),
        ("Training", curve_blocks(record, figures)),
        ("Lineage", lineage_blocks(record)),
        ("Data and commands", data_blocks(record)),
    ]
    return Document(
        "gazelit report" if len(report.summaries) == 1 else "gazelit comparison",
        record.facts,
        notices(record.provenance, bool(record.panels or record.finding_maps)),
        verdict(report),
        [_introduction(report)],
        [Section(title, blocks) for title, blocks in sections],
    )


def notices(data: Mapping[str, Any], has_films: bool) -> list[str]:
    """Notices at the top: whether the data are synthetic, and whether films of people are shown."""
    if data["synthetic"]:
        return [
            "**Measured on SYNTHETIC data.** Films and gaze were simulated. These numbers show that the path from "
            "files to report works; they say nothing about clinical performance."
        ]
    if not has_films:
        return []
    return [
        "**This page shows films and gaze of real cases**, because `--films` was given. They are under the data "
        "use agreement of their source: do not pass the page on to people who have not signed it."
    ]


def _introduction(report: ReportRecord) -> str:
    """The tested cases, and what the intervals are over."""
    record, arm = report.first, report.summaries[0]
    notes = " ".join([*record.notes, _openings(report.results)])
    if len(report.results) == 1:
        n = record.provenance["n"]
        return (
            f"Test split: {len(report.tested)} cases of {report.patients} patients (training {n['train']}, validation "
            f"{n['val']}; {split_words(record.provenance)}). {notes} Intervals: 95 %, bootstrap over patients (2,000 "
            f"draws); one training, seed {arm.seeds[0]}: what another training would change is not in them."
        )
    return (
        f"{len(report.tested)} test cases of {report.patients} patients, {_count(len(arm.seeds), 'seed')} "
        f"({', '.join(map(str, arm.seeds))}){f', {arm.folds} folds' if arm.folds > 1 else ''}. Values: mean over seeds "
        "of the value over all test cases. Their intervals: 95 %, bootstrap over patients (2,000 draws, the same for "
        f"all arms): what other patients would change of these models' values. {notes}"
    )


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _openings(results: Sequence[Result]) -> str:
    """How often test splits were opened, by the logs of the test steps."""
    times = [result.times_tested for result in results]
    if max(times) == 1:
        return "Every model was tested once."
    return f"Models were tested up to {max(times)} times: what was chosen after a test is biased by it."
