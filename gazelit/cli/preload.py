"""Imports of the process from which steps of a pipeline are forked: those of trainings, evaluations and reports."""

from gazelit.cli.signature import load

load("gazelit.cli.training:GazeCLI")
load("gazelit.cli.result_table:show_metrics")
load("gazelit.reporting.collect:write_report_of")
