"""The stage orchestrator: stages, test and report in one run folder, each step a process of its own.

A step that is finished is skipped, one that was interrupted is resumed, and a run folder never mixes settings: every
step's inputs (its command, configuration, data and parent checkpoint) are hashed into a key that a later run must
match.
"""

from __future__ import annotations

import csv
import ctypes
import fcntl
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from gazelit.configs import config_root, find_config
from gazelit.errors import InputError
from gazelit.files import read_json, sha256_file, sha256_json, write_json

logger = logging.getLogger("gazelit")

RUN_FILE = "run.json"
DONE_FILE = "done.json"
STARTED_FILE = "started.json"
LOG_FILE = "log.txt"
TEST = "test"
#: Seconds to wait for the run folder: the stage of a run killed a moment ago may still be going down.
LOCK_PATIENCE = 20.0


@dataclass
class StageStep:
    """One stage of a pipeline.

    Attributes:
        name: Folder of the stage within the run.
        config: Its configuration: a path or the name of a shipped file.
        after: Step whose checkpoint is handed over; the step before it unless given, ``null`` for none.
        overrides: Options added to its command line, such as ``--trainer.max_epochs=3``.
    """

    name: str
    config: str
    after: str | None = "previous"
    overrides: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Step:
    name: str
    arguments: list[str]
    #: What the step's result depends on besides its arguments.
    inputs: dict[str, str]


def run(
    stages: list[StageStep],
    store: Path,
    out: Path,
    seed: int = 0,
    checkpoint: str = "best",
    overrides: list[str] | None = None,
) -> None:
    """Runs the stages one after another, tests the last one and writes the report.

    Args:
        stages: The stages in order.
        store: The prepared store that all stages read.
        out: The run folder. Running the same command again goes on where it stopped.
        seed: Seed of every stage: weights, order and augmentation. The split has its own (``--data.split_seed``).
        checkpoint: Which checkpoint of a stage is handed over and tested: ``best`` by the validation loss, or ``last``.
        overrides: Options added to every stage's command line, such as ``--trainer.precision=bf16-mixed``.

    Raises:
        InputError: The pipeline is not runnable, the run folder was made with other settings, or a step failed.
    """
    _check(stages, checkpoint)
    if not (store / "store.json").is_file():
        raise InputError(f"{store}: no prepared store; make one with `gazelit prepare`")
    out = out.resolve()
    with _exclusive(out) as lock:
        console = Console(stderr=True)
        common = [f"--seed_everything={seed}", f"--data.seed={seed}", f"--data.store={store.resolve()}"]
        store_hash = sha256_file(store / "store.json")
        checkpoints: dict[str, Path] = {}
        previous: str | None = None
        total = len(stages) + 2
        commands: list[str] = []
        for number, stage in enumerate(stages, start=1):
            folder = out / stage.name
            config = find_config(stage.config).resolve()
            parent = previous if stage.after == "previous" else stage.after
            arguments = [
                "fit",
                f"--config={config}",
                *common,
                f"--trainer.default_root_dir={folder}",
                f"--checkpoint.dirpath={folder / 'checkpoints'}",
                *(overrides or []),
                *stage.overrides,
            ]
            inputs = {"config": sha256_file(config), "store": store_hash}
            if parent is not None:
                inputs["parent"] = sha256_file(checkpoints[parent])
            step = _Step(stage.name, arguments, inputs)
            resume = folder / "checkpoints" / "last.ckpt"
            start_from = resume if resume.is_file() else checkpoints.get(parent) if parent else None
            commands.append(
                _run_step(step, out, f"[{number}/{total}]", start_from, console, lock, _max_epochs(arguments))
            )
            checkpoints[stage.name] = folder / "checkpoints" / f"{checkpoint}.ckpt"
            previous = stage.name

        last = out / stages[-1].name
        final = checkpoints[stages[-1].name]
        arguments = [
            "test",
            f"--config={last / 'config.yaml'}",
            f"--trainer.default_root_dir={out / TEST}",
            "--trainer.logger=false",
        ]
        step = _Step(TEST, arguments, {"checkpoint": sha256_file(final)})
        commands.append(_run_step(step, out, f"[{total - 1}/{total}]", final, console, lock))
        write_json(
            out / RUN_FILE,
            {
                "stages": [stage.name for stage in stages],
                "checkpoints": {name: str(path.relative_to(out)) for name, path in checkpoints.items()},
                "test": TEST,
                "store": str(store.resolve()),
                "seed": seed,
                "commands": commands,
            },
        )
        step = _Step("report", ["report", str(out)], {"test": sha256_file(out / TEST / "metrics.json")})
        _run_step(step, out, f"[{total}/{total}]", None, console, lock)
        console.print(f"report: {out / 'report.md'}")


def _check(stages: Sequence[StageStep], checkpoint: str) -> None:
    if not stages:
        raise InputError("stages: the pipeline has none; name at least one stage with its config")
    if checkpoint not in ("best", "last"):
        raise InputError(f"checkpoint: must be 'best' or 'last', not '{checkpoint}'")
    seen: list[str] = []
    for stage in stages:
        if stage.name in (*seen, TEST, "report") or not stage.name.isidentifier():
            raise InputError(f"stages: '{stage.name}' is taken or not a plain name; give every stage its own")
        if stage.after not in (None, "previous", *seen):
            raise InputError(f"stages: '{stage.name}' comes after '{stage.after}', which is no earlier stage")
        seen.append(stage.name)


def _run_step(
    step: _Step,
    out: Path,
    label: str,
    start_from: Path | None,
    console: Console,
    lock: IO[str],
    epochs: int | None = None,
) -> str:
    """Runs a step unless it is done; returns its command line."""
    folder = out / step.name
    # Configuration and store count by their content, not by where they lie.
    counted = [one for one in step.arguments if not one.startswith(("--config=", "--data.store="))]
    key = sha256_json({"arguments": _portable(counted, out), "inputs": step.inputs})
    arguments = [*step.arguments, f"--ckpt_path={start_from}"] if start_from else step.arguments
    command = shlex.join(["gazelit", *_portable(arguments, out)])
    done = folder / DONE_FILE
    # A step that failed before its first checkpoint may be tried again with other settings.
    half_done = (folder / "checkpoints" / "last.ckpt").is_file()
    for marker in (done, folder / STARTED_FILE) if half_done else (done,):
        if marker.is_file() and read_json(marker)["key"] != key:
            raise InputError(
                f"{folder}: made with other settings (options, configuration, data or parent checkpoint changed); "
                "choose another --out, or remove this folder and the steps after it"
            )
    if done.is_file():
        console.print(f"{label} {step.name}: done before, skipped")
        return str(read_json(done)["command"])

    write_json(folder / STARTED_FILE, {"key": key, "command": command})
    resumed = start_from is not None and start_from.parent.parent == folder
    started = time.monotonic()
    with (folder / LOG_FILE).open("ab") as log:
        log.write(f"\n$ {command}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", "gazelit", *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            pass_fds=(lock.fileno(),),
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        try:
            _show_progress(process, folder, f"{label} {step.name}{' (resumed)' if resumed else ''}", epochs, console)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode != 0:
        raise InputError(f"step '{step.name}' failed ({_exit(process.returncode)}): {_reason(folder / LOG_FILE)}")
    write_json(done, {"key": key, "command": command, "seconds": round(time.monotonic() - started, 1)})
    return command


def _show_progress(
    process: subprocess.Popen[bytes], folder: Path, label: str, epochs: int | None, console: Console
) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(label, total=epochs, state="")
        shown = 0
        while process.poll() is None:
            time.sleep(0.2)
            rows = _epochs(folder)
            if len(rows) > shown:
                shown = len(rows)
                state = f"epoch {shown}/{epochs}" + "".join(
                    f" · {key} {float(rows[-1][key]):.3f}"
                    for key in ("val/loss", "val/auroc_macro", "val/cc")
                    if rows[-1].get(key)
                )
                progress.update(task, completed=shown, state=state)
                if not console.is_terminal:
                    console.print(f"{label}: {state}")
        if process.returncode == 0:
            progress.update(task, total=epochs or 1, completed=epochs or 1)


def _epochs(folder: Path) -> list[dict[str, Any]]:
    path = folder / "epochs.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _max_epochs(arguments: Sequence[str]) -> int | None:
    import yaml

    flag = "--trainer.max_epochs="
    given = [argument.removeprefix(flag) for argument in arguments if argument.startswith(flag)]
    if given:
        return int(given[-1])
    config = next(argument.removeprefix("--config=") for argument in arguments if argument.startswith("--config="))
    settings = yaml.safe_load(Path(config).read_text(encoding="utf-8")) or {}
    return (settings.get("trainer") or {}).get("max_epochs")


def _portable(arguments: Sequence[str], out: Path) -> list[str]:
    """Arguments as seen from the run folder: shipped configurations by name, other paths relative to it."""
    portable = []
    for argument in arguments:
        flag, separator, value = argument.rpartition("=")
        path = Path(value)
        if path.is_absolute() and path.is_relative_to(config_root()):
            value = str(path.relative_to(config_root()))
        elif path.is_absolute():
            value = os.path.relpath(path, out)
        portable.append(f"{flag}{separator}{value}")
    return portable


def _exit(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _reason(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return f"{(errors or lines or ['no output'])[-1].strip()} (see {log})"


def _die_with_parent() -> None:
    # A killed orchestrator must not leave a stage training behind its back: PR_SET_PDEATHSIG, SIGTERM.
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


@contextmanager
def _exclusive(out: Path) -> Iterator[IO[str]]:
    """Holds the run folder's lock, which a stage's process inherits and so keeps while it lives."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from error
    with lock:
        os.set_inheritable(lock.fileno(), True)
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise InputError(f"{out}: another run is at work in this folder; wait for it or stop it") from None
                time.sleep(0.2)
        yield lock
