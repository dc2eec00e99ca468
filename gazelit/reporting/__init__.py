"""Reports: tables, sections, figures and pages of what `gazelit.evaluation` measures."""
