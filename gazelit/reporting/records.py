"""The records of which a report is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from gazelit.evaluation.asynchrony import JointTraining
from gazelit.evaluation.compare import ArmSummary, Result
from gazelit.evaluation.explainable import OracleRecord
from gazelit.evaluation.findings import Localisation
from gazelit.evaluation.given_gaze import GivenGaze
from gazelit.evaluation.subgroups import Subgroup
from gazelit.reporting.figures import Panel
from gazelit.reporting.sections.scanpaths import ScanpathRow

#: With fewer patients no p is printed: an interval over so few is itself poorly known.
FEWEST_PATIENTS = 20
#: With fewer cases of a class, or fewer without it, no band is drawn around its ROC curve.
FEWEST_OF_A_CLASS = 10
#: With fewer cases no reliability curve is drawn.
FEWEST_FOR_RELIABILITY = 30


@dataclass(frozen=True)
class RunRecord:
    """The content of a report on its first arm with its first seed.

    Attributes:
        metrics: Flat numbers: ``test/…``, ``baseline/…``, ``n_test``, ``seed``, …; of a single model written whole as
            ``metrics.json``.
        panels: Cases to show. Films and gaze are in a report only if the data are synthetic or the user allows it.
        curves: By stage, its epochs.
        lineage: Checkpoint stamps, newest first, each with its ``sha256``.
        provenance: Provenance of the data.
        commands: The exact command lines; not known for models that were trained by hand.
        facts: What identifies the report: run, date, version, as (name, Markdown).
        notes: Sentences on how models were selected and calibrated, and what their lineage leaves open.
        findings: Scores of the model's map against the marked findings, from
            :func:`gazelit.evaluation.findings.localisation`; empty without regions of findings.
        oracle: Oracle of the test films; None if there is none.
        joint: The trainings of several tasks that the reported models went through.
        given_gaze: The arms that were also tested with the reader's gaze.
        groups: Subgroups of the first arm.
        finding_maps: Films with a map for each finding, shown under the conditions of ``panels``; empty for a model
            without.
        scanpaths: Yardsticks for the first arm's scanpaths; empty if it predicts none.
    """

    metrics: dict[str, Any]
    panels: Sequence[Panel]
    curves: dict[str, pd.DataFrame]
    lineage: list[dict[str, Any]]
    provenance: dict[str, Any]
    commands: list[str]
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    findings: pd.DataFrame = field(default_factory=pd.DataFrame)
    oracle: OracleRecord | None = None
    joint: Sequence[JointTraining] = ()
    given_gaze: Sequence[GivenGaze] = ()
    groups: Sequence[Subgroup] = ()
    finding_maps: Sequence[Localisation] = ()
    scanpaths: Sequence[ScanpathRow] = ()


@dataclass(frozen=True)
class ExternalRecord:
    """A test of the same models on another source.

    Attributes:
        name: Its name in the pipeline.
        provenance: Provenance of its data.
        summaries: The arms; every model of every seed and fold has read all cases.
        baselines: Yardsticks on its cases.
        oracle: As in :class:`RunRecord`.
        given_gaze: As in :class:`RunRecord`.
        patients: Number of its patients.
    """

    name: str
    provenance: dict[str, Any]
    summaries: Sequence[ArmSummary]
    baselines: Mapping[str, float]
    oracle: OracleRecord | None = None
    given_gaze: Sequence[GivenGaze] = ()
    patients: int = FEWEST_PATIENTS


@dataclass(frozen=True)
class ReportRecord:
    """The content of a report, of one trained model or of many.

    Attributes:
        results: All trained models, in the order of their arms.
        summaries: The arms; the others are compared with the first.
        first: The record of the first arm.
        external: Tests on other sources.
    """

    results: Sequence[Result]
    summaries: Sequence[ArmSummary]
    first: RunRecord
    external: Sequence[ExternalRecord] = ()

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        names: list[str] = self.results[0].stamp["data"]["class_names"]
        return names

    def of_arm(self, name: str) -> list[Result]:
        """The models of an arm."""
        return [result for result in self.results if result.arm == name]

    @property
    def tested(self) -> pd.DataFrame:
        """The first arm's predictions of all test cases with its first seed, with all folds in one table."""
        return self.tested_of(self.results[0].arm)

    def tested_of(self, name: str) -> pd.DataFrame:
        """Likewise of any arm."""
        results = self.of_arm(name)
        return pd.concat([result.predictions for result in results if result.seed == results[0].seed])

    @property
    def patients(self) -> int:
        """Number of patients of the test cases."""
        return int(self.tested["patient"].nunique())
