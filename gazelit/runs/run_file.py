"""The record of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gazelit.errors import InputError
from gazelit.files import read_json

RUN_FILE = "run.json"
_MEMBERS = ("arm", "seed", "fold", "stages", "checkpoint", "test", "seconds")


def read_run_file(run: Path) -> dict[str, Any]:
    """Reads the record of a run; the folder may be foreign.

    Raises:
        InputError: The folder is no finished run.
    """
    if not (run / RUN_FILE).is_file():
        raise InputError(f"{run}: no finished run ({RUN_FILE} is missing); `gazelit run` makes one")
    about = read_json(run / RUN_FILE)
    is_run = isinstance(about, dict) and isinstance(about.get("store"), str) and isinstance(about.get("commands"), list)
    trained = about.get("trained") if is_run else None
    if not isinstance(trained, list) or not trained or not all(set(_MEMBERS) <= set(record) for record in trained):
        raise InputError(f"{run / RUN_FILE}: not what `gazelit run` writes; run the pipeline anew")
    assert isinstance(about, dict)
    return about
