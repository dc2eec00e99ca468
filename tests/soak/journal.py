"""Shared parts of the harnesses: options, and a journal of tries from which the same command goes on."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def parser_of(program: str, description: str | None, work: str) -> argparse.ArgumentParser:
    """A parser with the options of every harness.

    Args:
        program: Command that starts the harness.
        description: Description of the harness.
        work: Default folder of its files.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(work))
    parser.add_argument("--cpu-minutes", type=float, default=1e9, help="end when so much is used")
    parser.add_argument("--table", action="store_true", help="print the table of what was done, and do nothing")
    return parser


def is_used_up(options: argparse.Namespace) -> bool:
    """Whether this process and its children have used up their processor time."""
    return sum(os.times()[:4]) / 60 > options.cpu_minutes


def read_rows(journal: Path, seed: int) -> list[Row]:
    """The tries of a seed, a row each."""
    rows = [json.loads(line) for line in journal.read_text().splitlines()] if journal.is_file() else []
    return [row for row in rows if row["seed"] == seed]


def add_row(journal: Path, row: Row) -> None:
    """Notes a try."""
    with journal.open("a") as file:
        file.write(json.dumps(row) + "\n")
