"""The quick part of `make soak`: a few signals on the cheapest commands."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_signals_at_random_moments_lose_nothing(tmp_path):
    options = ["--seed=1", "--signals=3", "--commands=prepare,fit contrastive", f"--work={tmp_path}"]
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "tests.soak", *options], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        options.append("--table")
    lines = [line for line in done.stdout.splitlines() if line.startswith("| all")]
    assert int(lines[0].split("|")[3]) >= 6
