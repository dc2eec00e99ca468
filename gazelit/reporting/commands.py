"""``gazelit report``; its imports are made when it runs, so that ``--help`` is fast."""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger("gazelit")


def report(run: list[str], out: Path | None = None, films: bool = False) -> None:
    """Writes ``report.html``, ``report.md``, ``report.csv``, ``metrics.json`` and figures of finished runs.

    Args:
        run: Folders that ``gazelit run`` made, or of trainings by hand those of ``gazelit fit`` or of ``gazelit test``.
            Several of them are compared: the arms of all stand side by side, the first run's first arm being what the
            others are compared with.
        out: Where the files go. Unless given the run folder, of a training by hand ``report`` in the folder of its
            test, and for several runs ``comparison`` beside the first.
        films: Whether films with gaze are shown although they are of real cases. The report then begins with a banner
            that says so. Those of synthetic data are always shown.

    Raises:
        InputError: A folder is no finished run, or runs were tested on other cases or with other targets.
    """
    from gazelit.reporting.collect import write_report_of

    target = write_report_of([Path(folder) for folder in run], out, films)
    logger.info("%s", target / "report.md")
