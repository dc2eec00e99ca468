"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from gazelit.evaluation.asynchrony import JointTraining
from gazelit.evaluation.compare import ArmSummary
from gazelit.evaluation.explainable import OracleRecord
from gazelit.evaluation.given_gaze import GivenGaze
from gazelit.reporting.figures import Panel


@dataclass(frozen=True)
class RunRecord:
    """What a report is made of.

    Attributes:
        metrics: Flat numbers: ``test/…``, ``baseline/…``, ``n_test``, ``seed``, …; written whole as ``metrics.json``.
        predictions: One row a test case: ``patient``, ``label``, ``p_<class>``, and per-case map metrics.
        panels: Cases to show; films and gaze leave a report only where the data are synthetic or the user asks.
        curves: By stage, its epochs.
        lineage: Checkpoint stamps, newest first, each with its ``sha256``.
        provenance: Of the data.
        commands: The exact command lines.
        notes: Sentences on how models were selected and calibrated, and what their lineage leaves open.
        findings: Where the model's map lies with the marked findings, as
            :func:`gazelit.evaluation.findings.localisation` has it; empty without regions of findings.
        oracle: Of the test films; None where it is not known what can be explained.
        joint: The trainings of several tasks that the reported models went through.
        given_gaze: The arms that were also tested with the reader's gaze.
    """

    metrics: dict[str, Any]
    predictions: pd.DataFrame
    panels: Sequence[Panel]
    curves: dict[str, pd.DataFrame]
    lineage: list[dict[str, Any]]
    provenance: dict[str, Any]
    commands: list[str]
    notes: Sequence[str] = ()
    findings: pd.DataFrame = field(default_factory=pd.DataFrame)
    oracle: OracleRecord | None = None
    joint: Sequence[JointTraining] = ()
    given_gaze: Sequence[GivenGaze] = ()


@dataclass(frozen=True)
class ExternalRecord:
    """A test of the same models on another source.

    Attributes:
        name: As the pipeline calls it.
        provenance: Of its data.
        summaries: The arms; every model of every seed and fold has read all cases.
        baselines: Yardsticks on its cases.
        oracle: As in :class:`RunRecord`.
    """

    name: str
    provenance: dict[str, Any]
    summaries: Sequence[ArmSummary]
    baselines: Mapping[str, float]
    oracle: OracleRecord | None = None
