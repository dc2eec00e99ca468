"""One step of a pipeline: a process of its own, skipped when done, resumed when interrupted."""

from __future__ import annotations

import os
import re
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from gazelit.configs import read_config
from gazelit.errors import InputError, Terminated
from gazelit.files import patiently, read_json, read_rows, sha256_file, try_lock, write_json
from gazelit.runs.parallel import EndedError, Share
from gazelit.runs.processes import ForkedProcess, OwnProcess, StepProcess, can_fork
from gazelit.runs.step_key import check_versions, portable, step_key, versions

DONE_FILE = "done.json"
STARTED_FILE = "started.json"
LOG_FILE = "log.txt"
LOCK_FILE = ".lock"
#: File with the steps of a run, in order.
PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class Step:
    """A command of gazelit and the folder of its results.

    Attributes:
        folder: Folder of the step.
        arguments: The command line after ``gazelit``.
        inputs: Further inputs of the result, besides the arguments.
        start_from: Checkpoint that a training takes over, or that is tested.
        is_derived: Whether it only shows results of other steps, like a report; it is made anew if its inputs change.
    """

    folder: Path
    arguments: list[str]
    inputs: dict[str, str]
    start_from: Path | None = None
    is_derived: bool = False


@dataclass(frozen=True)
class Conduct:
    """How a run's steps are run.

    Attributes:
        out: The run folder.
        console: Console for the progress.
        lock: See :func:`exclusive`.
        accept_versions: Whether steps that other versions of gazelit or torch made, or began, are accepted.
        share_imports: Whether steps are forked from a process that has the imports.
    """

    out: Path
    console: Console
    lock: IO[str]
    accept_versions: bool = False
    share_imports: bool = True


def run_step(step: Step, label: str, conduct: Conduct, share: Share) -> str:
    """Runs a step unless it is done; returns its command line, relative to the run folder.

    Args:
        step: The step.
        label: Its number among all steps, for the console.
        conduct: How steps are run.
        share: The processors and GPUs that it may use.

    Raises:
        InputError: It failed, was done with other settings or versions, or the share says stop.
        Terminated: SIGTERM ended it.
    """
    out, console = conduct.out, conduct.console
    folder = step.folder
    name = str(folder.relative_to(out))
    key = step_key(step.arguments, step.inputs, out)
    start_from = step.start_from
    resume = folder / "checkpoints" / "last.ckpt"
    if step.arguments[0] == "fit" and resume.is_file():
        start_from = resume
    # A new training starts from the step before it, whichever stage that was; an interrupted one resumes its own
    # checkpoint.
    flag = "--start_from" if step.arguments[0] == "fit" and start_from != resume else "--ckpt_path"
    arguments = [*step.arguments, f"{flag}={start_from}"] if start_from else step.arguments
    command = shlex.join(["gazelit", *portable(arguments, out)])
    done = folder / DONE_FILE
    state, note = standing(step, out, conduct.accept_versions)
    if note is not None:
        console.print(note)
    if state == "outdated":
        done.unlink()
    if done.is_file():
        console.print(f"{label} {name}: done before, skipped")
        return str(read_json(done)["command"])

    made_with = versions()
    if start_from is not None and start_from == resume and (folder / STARTED_FILE).is_file():
        # A step that an earlier version began keeps that version in its record.
        made_with = read_json(folder / STARTED_FILE).get("versions", made_with)
    epochs = {"max_epochs": max_epochs(arguments), "epochs": len(read_epochs(folder))}
    write_json(folder / STARTED_FILE, {"key": key, "command": command, "versions": made_with, **epochs})
    resumed = start_from is not None and start_from.parent.parent == folder
    started = time.monotonic()
    with (folder / LOG_FILE).open("ab") as log:
        log.write(f"\n$ {command}\n".encode())
    # Names of the steps in W&B, if it is used.
    environment = {"WANDB_RUN_GROUP": out.name, "WANDB_NAME": name, **os.environ, **share.variables}
    start = ForkedProcess if conduct.share_imports and can_fork() else OwnProcess
    process: StepProcess = start(arguments, folder / LOG_FILE, environment, conduct.lock.fileno())
    try:
        title = f"{label} {name}{' (resumed)' if resumed else ''}"
        code = _show_progress(process, folder, title, max_epochs(arguments), console, share)
    except BaseException:
        process.terminate()
        raise
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        # A batch system's signal may reach only the step.
        raise Terminated(f"step '{name}' was ended; the same command goes on with it")
    if code != 0:
        raise InputError(f"step '{name}' failed ({_exit(code)}): {_reason(folder / LOG_FILE)}")
    cost = {"seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(process.cpu_seconds, 1)}
    record = {"key": key, "command": command, **cost, "versions": made_with, "files": digests_of(folder)}
    write_json(done, record)
    return command


def standing(step: Step, out: Path, accept_versions: bool) -> tuple[str, str | None]:
    """Where a step stands.

    Args:
        step: The step.
        out: The run folder.
        accept_versions: As of :class:`Conduct`.

    Returns:
        ``done``; ``begun``, with a checkpoint to resume from; ``outdated``, for a derived step whose inputs have
        changed; or ``new``. And a note on other versions that are accepted.

    Raises:
        InputError: It was done, or begun, with other settings or versions.
    """
    key = step_key(step.arguments, step.inputs, out)
    done, begun = step.folder / DONE_FILE, step.folder / STARTED_FILE
    # A step that failed before its first checkpoint may be tried again with other settings.
    half_done = (step.folder / "checkpoints" / "last.ckpt").is_file()
    note = None
    for marker in (done, begun) if half_done else (done,):
        if not marker.is_file():
            continue
        record = read_json(marker)
        if record["key"] != key:
            if step.is_derived:
                return "outdated", None
            raise InputError(
                f"{step.folder}: made with other settings (options, files they name, configuration, data or parent "
                "checkpoint changed); choose another --out, or remove this folder and the steps after it"
            )
        if not step.is_derived:
            note = check_versions(step.folder, record.get("versions"), accept_versions)
    state = "done" if done.is_file() else "begun" if half_done and step.arguments[0] == "fit" else "new"
    return state, note


def checkpoint_digest(path: Path) -> str:
    """SHA-256 of the checkpoint of an earlier step.

    Raises:
        InputError: It is gone.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file, although its step is done; put it back, or remove {path.parents[1]} to make it anew"
        )
    return sha256_file(path)


def digests_of(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a finished step, by path within its folder, without W&B's own files."""
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    own = [name for name in names if str(name) not in (LOG_FILE, STARTED_FILE, DONE_FILE) and name.parts[0] != "wandb"]
    return {str(name): sha256_file(folder / name) for name in own}


def _show_progress(
    process: StepProcess, folder: Path, label: str, epochs: int | None, console: Console, share: Share
) -> int:
    """Shows the progress of a process until it ends; returns its exit code.

    Raises:
        InputError: The share says stop.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    # Several bars at once would overwrite each other: steps in parallel print a line for each epoch.
    is_live = share.is_alone and console.is_terminal
    with Progress(*columns, console=console, disable=not share.is_alone) as progress:
        task = progress.add_task(label, total=epochs, state="")
        shown = 0
        while (code := process.poll()) is None:
            if share.stop.wait(0.2):
                raise EndedError(f"{label}: ended, because another training failed")
            rows = read_epochs(folder)
            if len(rows) > shown:
                shown = len(rows)
                state = f"epoch {shown}/{epochs}" + "".join(
                    f" · {key} {float(rows[-1][key]):.3f}"
                    for key in ("val/selection", "val/auroc_macro", "val/cc")
                    if rows[-1].get(key)
                )
                progress.update(task, completed=shown, state=state)
                if not is_live:
                    console.print(f"{label}: {state}")
        if code == 0:
            progress.update(task, total=epochs or 1, completed=epochs or 1)
    if not share.is_alone and code == 0:
        console.print(f"{label}: done")
    return code


def read_epochs(folder: Path) -> list[dict[str, Any]]:
    """The logged values of a training, a row for each epoch; empty before the first epoch has ended."""
    return read_rows(folder / "epochs.csv")


def max_epochs(arguments: Sequence[str]) -> int | None:
    """The number of epochs in a training's command line, or else in its configurations."""
    flag = "--trainer.max_epochs="
    given = [argument.removeprefix(flag) for argument in arguments if argument.startswith(flag)]
    if given:
        return int(given[-1])
    if arguments[0] != "fit":
        return None
    configs = [argument.removeprefix("--config=") for argument in arguments if argument.startswith("--config=")]
    trainers = [read_config(Path(config)).get("trainer") or {} for config in configs]
    return next((trainer["max_epochs"] for trainer in reversed(trainers) if "max_epochs" in trainer), None)


def _exit(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _reason(log: Path) -> str:
    return f"{failure(log) or _last_line(log)} (see {log})"


def failure(log: Path) -> str | None:
    """The last error in a step's log since the step was last started."""
    lines = _lines(log)
    starts = [number for number, line in enumerate(lines) if line.startswith("$ gazelit ")]
    lines = lines[starts[-1] :] if starts else lines
    errors = [
        number for number, line in enumerate(lines) if re.match(r"(gazelit: )?error: |\w*(Error|Exception)\b", line)
    ]
    return " ".join(lines[errors[-1] :])[:600] if errors else None


def _last_line(log: Path) -> str:
    return (_lines(log) or ["no output"])[-1][:600]


def _lines(log: Path) -> list[str]:
    if not log.is_file():
        return []
    return [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


@contextmanager
def exclusive(out: Path) -> Iterator[IO[str]]:
    """Holds the run folder's lock; a stage's process inherits it, and holds it while it lives."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / LOCK_FILE).open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from error
    with lock:
        os.set_inheritable(lock.fileno(), True)
        if not patiently(lambda: try_lock(lock)):
            raise InputError(f"{out}: another run is at work in this folder; wait for it or stop it")
        yield lock
