"""`gazelit run --check`: tries every step with two batches and estimates the cost of the run."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from gazelit.batch_costs import BATCHES, MEASURED
from gazelit.errors import InputError
from gazelit.files import read_json
from gazelit.runs.doctor import as_size, findings
from gazelit.runs.status import as_duration
from gazelit.runs.steps import DONE_FILE, Step, read_epochs, standing
from gazelit.text_table import wide_console

#: Added after all of a stage's own options, so that they have precedence.
LIMITS = [
    "--trainer.max_epochs=1",
    "--trainer.logger=false",
    "--trainer.callbacks+=gazelit.stages.measure.BatchMeasure",
]


@dataclass(frozen=True)
class Planned:
    """A step that a run will have.

    Attributes:
        folder: Its folder.
        command: ``fit``, ``calibrate``, ``test`` or ``report``.
        tried_in: Its folder within the run folder if only the first seed and fold are tried.
        max_epochs: Number of epochs of a training, if it is limited.
    """

    folder: Path
    command: str
    tried_in: str
    max_epochs: int | None = None


def check_run(
    out: Path,
    planned: Sequence[Planned],
    begun: Sequence[Iterator[Step]],
    accept_versions: bool,
    try_in: Callable[[Path], None],
    jobs: int,
) -> None:
    """Checks the machine and the finished steps, tries every step, and prints the estimated cost of the run.

    Args:
        out: The run folder; nothing is written there.
        planned: All steps in their order.
        begun: The steps of each seed and fold, each generated when those before it are done.
        accept_versions: As for `gazelit run`.
        try_in: Runs the pipeline with ``LIMITS`` into a folder.
        jobs: Number of seeds and folds that are trained at the same time.

    Raises:
        InputError: The run folder was made with other settings, a step failed, or the machine is not fit.
    """
    states = _states(out, begun, accept_versions)
    *steps, report = planned
    if all(states.get(step.folder) == "skipped" for step in steps) and (report.folder / DONE_FILE).is_file():
        states[report.folder] = "skipped"
    found = list(findings(None, [], out))
    for finding in found:
        if finding.state != "ok":
            sys.stdout.write(f"{finding.state}: {finding.name}: {finding.text}\n")
    if any(finding.state == "error" for finding in found):
        raise InputError("the machine is not fit for this run; the lines above say what to do")
    # Beside the run folder, on the disk to which the run will write.
    parent = next(folder for folder in out.absolute().parents if folder.is_dir())
    with tempfile.TemporaryDirectory(dir=parent, prefix=".gazelit-check-") as folder:
        tried = Path(folder).resolve() / out.name
        try:
            try_in(tried)
        except InputError as error:
            # The log is removed with the folder.
            raise InputError(re.sub(r" \(see [^()]*log\.txt\)$", "", str(error))) from error
        costs = {step.tried_in: _cost(tried, step) for step in planned}
    _print(out, planned, states, costs, jobs)


def _states(out: Path, begun: Sequence[Iterator[Step]], accept_versions: bool) -> dict[Path, str]:
    """``skipped``, ``resumed`` or ``new`` by folder, of each seed and fold up to the first step that is not done."""
    states = {}
    for steps in begun:
        for step in steps:
            state, _ = standing(step, out, accept_versions)
            states[step.folder] = {"done": "skipped", "begun": "resumed"}.get(state, "new")
            if state != "done":
                break
    return states


def _cost(tried: Path, step: Planned) -> dict[str, Any]:
    """The cost of a step, from two batches: of process and batch, the number of batches, memory, checkpoints."""
    done = read_json(tried / step.tried_in / DONE_FILE)
    # The measurements of predictions for a calibration are beside the training whose configuration they used.
    kind = {"calibrate": "predict"}.get(step.command, step.command)
    measured_in = step.tried_in.removesuffix("_calibration") if step.command == "calibrate" else step.tried_in
    path = tried / measured_in / MEASURED.format(kind)
    checkpoints = sum(file.stat().st_size for file in (tried / step.tried_in).rglob("*.ckpt"))
    measured = read_json(path) if path.is_file() else {}
    return {"seconds": done["seconds"], "disk": checkpoints, "measured": measured}


def _left(step: Planned, state: str, cost: Mapping[str, Any]) -> float | None:
    """Seconds that a step will take; None of a training without a last epoch."""
    if state == "skipped":
        return 0.0
    measured = cost["measured"]
    once: float = cost["seconds"]
    each = 0.0
    for name in ("train", "evaluated"):
        if name in measured:
            once -= measured[name]["seconds"] * min(BATCHES, measured[name]["batches"])
            each += measured[name]["seconds"] * measured[name]["batches"]
    if step.command != "fit":
        return max(0.0, once) + each
    if step.max_epochs is None or step.max_epochs < 0:
        return None
    passed = len(read_epochs(step.folder)) if state == "resumed" else 0
    return max(0.0, once) + each * max(0, step.max_epochs - passed)


def _print(
    out: Path, planned: Sequence[Planned], states: Mapping[Path, str], costs: Mapping[str, Any], jobs: int
) -> None:
    console = wide_console()
    table = Table(box=SIMPLE_HEAD)
    for title in ("step", "state", "a batch", "batches", "epochs", "time", "memory"):
        table.add_column(title, justify="left" if title in ("step", "state") else "right", no_wrap=True)
    total, unknown, disk = 0.0, 0, 0
    for step in planned:
        cost, state = costs[step.tried_in], states.get(step.folder, "new")
        left = _left(step, state, cost)
        total, unknown = total + (left or 0.0), unknown + (left is None)
        disk += cost["disk"] if state != "skipped" else 0
        measured = cost["measured"]
        batch = measured.get("train") or measured.get("evaluated")
        table.add_row(
            str(step.folder.relative_to(out)),
            state,
            f"{batch['seconds']:.2f} s" if batch else "",
            str(batch["batches"]) if batch else "",
            str(step.max_epochs or "?") if step.command == "fit" else "",
            as_duration(left),
            " + ".join(
                as_size(measured[name]) + " GPU" * (name != "memory")
                for name in ("memory", "device_memory")
                if measured.get(name)
            ),
        )
    console.print(table)
    free = shutil.disk_usage(next(folder for folder in (out, *out.parents) if folder.is_dir())).free
    trained = sum(states.get(step.folder) == "skipped" for step in planned)
    text = f"every step was tried with {BATCHES} batches, and what it wrote removed; "
    text += f"{trained} of {len(planned)} steps are done; the others take about {as_duration(total)}"
    text += f" on this machine, one after the other ({jobs} at a time are wanted)" if jobs > 1 else " on this machine"
    text += f", but {unknown} without a last epoch" if unknown else ""
    console.print(f"{text}, and {as_size(disk)} for checkpoints ({as_size(free)} are free)", soft_wrap=True)
    if disk > free:
        raise InputError(f"{out}: its checkpoints will need {as_size(disk)}, and {as_size(free)} are free")
