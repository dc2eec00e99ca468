"""`gazelit status`: the state of a run's steps, their cost, and the time that is left."""

from __future__ import annotations

import fcntl
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from gazelit.configs import CONFIG_FILE, read_yaml
from gazelit.errors import InputError
from gazelit.files import read_json
from gazelit.runs.steps import DONE_FILE, LOCK_FILE, LOG_FILE, PLAN_FILE, STARTED_FILE, failure, read_epochs
from gazelit.text_table import wide_console


@dataclass(frozen=True)
class StepStatus:
    """The state of a step.

    Attributes:
        step: Its folder within the run.
        state: ``done``, ``running``, ``interrupted``, ``failed`` or ``waiting``.
        epochs: Number of finished epochs; None if it is no training.
        max_epochs: Number of all epochs; None if not known yet.
        seconds: Its time, for a running step until now; None if not known.
        cpu_seconds: CPU seconds of all its processes.
        left_seconds: Estimated time that is left; None if there is no estimate.
        note: Why it failed, or its best epoch.
    """

    step: str
    state: str
    epochs: int | None = None
    max_epochs: int | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    left_seconds: float | None = None
    note: str = ""


def status(run: str, json: bool = False) -> None:
    """Prints the state of a run's steps, their cost, and the time that is left.

    Args:
        run: Folder of a running or finished `gazelit run` or `gazelit fit`.
        json: Print it as JSON, for programs.

    Raises:
        InputError: The folder holds no run.
    """
    folder = Path(run)
    steps = run_status(folder)
    if json:
        sys.stdout.write(dumps({"run": str(folder), "steps": [asdict(step) for step in steps]}, indent=2) + "\n")
    else:
        _print(folder, steps)


def run_status(folder: Path) -> list[StepStatus]:
    """The steps of a run in their order, or the one training that a folder holds.

    Raises:
        InputError: The folder holds neither a run nor a training.
    """
    if (folder / CONFIG_FILE).is_file():
        return [_training_status(folder)]
    planned = _planned(folder)
    if planned:
        return _pipeline_status(folder, planned)
    reason = "holds no run" if folder.is_dir() else "there is no such folder"
    raise InputError(f"{folder}: {reason}; give what `gazelit run --out` or `gazelit fit --name` made")


def _planned(folder: Path) -> list[dict[str, str]]:
    """Folder and command of each step; of an older run, which has no plan, those of the steps that were begun."""
    if (folder / PLAN_FILE).is_file():
        steps: list[dict[str, str]] = read_json(folder / PLAN_FILE)["steps"]
        return steps
    begun = sorted(folder.rglob(STARTED_FILE), key=lambda path: path.stat().st_mtime)
    return [
        {"folder": str(path.parent.relative_to(folder)), "command": str(read_json(path)["command"]).split()[1]}
        for path in begun
    ]


def _pipeline_status(folder: Path, planned: list[dict[str, str]]) -> list[StepStatus]:
    done = {
        step["folder"]: read_json(folder / step["folder"] / DONE_FILE) for step in planned if _is_done(folder, step)
    }
    costs: dict[str, list[float]] = defaultdict(list)
    for name, record in done.items():
        costs[Path(name).name].append(record["seconds"])
    is_held = _is_held(folder)
    steps = []
    for step in planned:
        name, step_folder = step["folder"], folder / step["folder"]
        trains = step["command"] == "fit"
        rows = len(read_epochs(step_folder)) if trains else None
        if name in done:
            record = done[name]
            steps.append(StepStatus(name, "done", rows, rows, record["seconds"], record.get("cpu_seconds"), 0.0))
            continue
        known = costs[Path(name).name]
        usual = sum(known) / len(known) if known else None
        if not (step_folder / STARTED_FILE).is_file():
            steps.append(StepStatus(name, "waiting", left_seconds=usual))
            continue
        steps.append(_started(name, step_folder, rows, usual, is_held))
    return steps


def _started(name: str, step_folder: Path, rows: int | None, usual: float | None, is_held: bool) -> StepStatus:
    record = read_json(step_folder / STARTED_FILE)
    total = record.get("max_epochs")
    spent = _between(step_folder / STARTED_FILE, None) if is_held else None
    trained = _between(step_folder / STARTED_FILE, step_folder / "epochs.csv") if rows else None
    left = usual
    if rows and total and spent is not None and trained is not None and rows > record.get("epochs", 0):
        # Measured on the epochs of this attempt. The current one may be half done, so this is a little too much.
        left = max(0.0, trained / (rows - record.get("epochs", 0)) * (total - rows))
    elif usual is not None and spent is not None:
        left = max(0.0, usual - spent)
    if is_held:
        return StepStatus(name, "running", rows, total, spent, None, left)
    reason = failure(step_folder / LOG_FILE)
    return StepStatus(name, "failed" if reason else "interrupted", rows, total, None, None, left, reason or "")


def _between(earlier: Path, later: Path | None) -> float | None:
    """Seconds between the writing of two files, or until now; None if the clock was set back between them."""
    seconds = (time.time() if later is None else later.stat().st_mtime) - earlier.stat().st_mtime
    return seconds if seconds >= 0 else None


def _training_status(folder: Path) -> StepStatus:
    config = read_yaml(folder / CONFIG_FILE)
    rows = read_epochs(folder)
    total = (config.get("trainer") or {}).get("max_epochs")
    monitor = (config.get("checkpoint") or {}).get("monitor") or ""
    sign = -1 if (config.get("checkpoint") or {}).get("mode") == "max" else 1
    scored = [row for row in rows if row.get(monitor)]
    best = min(scored, key=lambda row: sign * float(row[monitor]), default=None)
    note = "" if best is None else f"best: epoch {best['epoch']}, {monitor} {float(best[monitor]):.4g}"
    is_done = isinstance(total, int) and 0 < total <= len(rows)
    seconds = _between(folder / CONFIG_FILE, folder / "epochs.csv") if rows else None
    return StepStatus(folder.name, "done" if is_done else "unfinished", len(rows), total, seconds, note=note)


def _print(folder: Path, steps: list[StepStatus]) -> None:
    console = wide_console()
    table = Table(box=SIMPLE_HEAD)
    for title in ("step", "state", "epochs", "time", "CPU time", "left"):
        table.add_column(title, justify="left" if title in ("step", "state") else "right", no_wrap=title != "state")
    for step in steps:
        epochs = "" if step.epochs is None else f"{step.epochs} of {step.max_epochs or '?'}"
        state = f"{step.state}: {step.note}" if step.note else step.state
        left = "" if step.state == "done" else as_duration(step.left_seconds)
        table.add_row(step.step, state, epochs, as_duration(step.seconds), as_duration(step.cpu_seconds), left)
    console.print(table)
    if not (folder / CONFIG_FILE).is_file():
        console.print(_summary(steps), soft_wrap=True)


def _summary(steps: list[StepStatus]) -> str:
    done = [step for step in steps if step.state == "done"]
    open_steps = [step for step in steps if step.state != "done"]
    text = f"{len(done)} of {len(steps)} steps done in {as_duration(sum(step.seconds or 0.0 for step in done))}"
    if not open_steps:
        return f"{text}; report: report.html"
    known = [step.left_seconds for step in open_steps if step.left_seconds is not None]
    if known:
        text += f"; about {as_duration(sum(known))} left"
    if len(known) < len(open_steps):
        text += f"{', and' if known else ';'} {len(open_steps) - len(known)} steps without an estimate"
    if not any(step.state == "running" for step in steps):
        text += "; nothing runs: give the same `gazelit run` command again to go on"
    return text


def as_duration(seconds: float | None) -> str:
    """Seconds in readable form; ``?`` for None."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _is_done(folder: Path, step: dict[str, Any]) -> bool:
    return (folder / step["folder"] / DONE_FILE).is_file()


def _is_held(folder: Path) -> bool:
    """Whether a `gazelit run` is running in the folder."""
    try:
        with (folder / LOCK_FILE).open("r", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
