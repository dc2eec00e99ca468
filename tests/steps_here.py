"""Runs the steps of pipelines in the process of a test, which saves the imports of a process for each step."""

import contextlib
import io
import subprocess
from typing import Any

from gazelit.cli.main import main

_POPEN = subprocess.Popen


class _StepHere:
    """The interface of a step's process that a pipeline uses; output goes to the step's log."""

    def __init__(self, arguments: list[str], log: Any) -> None:
        with io.StringIO() as said:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                try:
                    self.returncode = main(arguments)
                except SystemExit as end:
                    self.returncode = int(end.code or 0)
            log.write(said.getvalue().encode())

    def poll(self) -> int:
        return self.returncode


def popen(command: Any, **options: Any) -> Any:
    """Replaces ``subprocess.Popen``: runs ``python -m gazelit`` in this process, and other programs as usual."""
    if command[1:3] == ["-m", "gazelit"]:
        return _StepHere(command[3:], options["stdout"])
    return _POPEN(command, **options)
