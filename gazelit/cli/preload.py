"""What the process imports that steps of a pipeline are forked from: what evaluation and reports take."""

from gazelit.cli.signature import load

load("gazelit.cli.training:GazeCLI")
load("gazelit.cli.result_table:show_metrics")
load("gazelit.reporting.collect:write_report_of")
