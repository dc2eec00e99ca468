"""The quick part of `make soak`: signals at random moments to the cheapest command."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_signals_at_random_moments_lose_nothing_and_the_journal_goes_on(tmp_path):
    options = ["--seed=1", "--commands=prepare", f"--work={tmp_path}"]

    def soak(*more):
        command = [sys.executable, "-m", "tests.soak", *options, *more]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return next(line.split("|") for line in done.stdout.splitlines() if line.startswith("| prepare"))

    first = soak("--signals=3")
    assert int(first[3]) >= 3
    assert soak("--table") == first
    journal = (tmp_path / "journal.jsonl").read_text()
    # No try is left.
    assert soak("--signals=3", "--cpu-minutes=0") == first
    assert (tmp_path / "journal.jsonl").read_text() == journal
