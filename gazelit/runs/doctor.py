"""`gazelit doctor`: checks whether machine, store and configuration are fit for a training."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from json import dumps
from pathlib import Path
from typing import Any, Literal

import yaml
from packaging.requirements import Requirement

from gazelit import __version__, processors
from gazelit.configs import find_config
from gazelit.errors import InputError, first_line

State = Literal["ok", "warning", "error"]
#: Free bytes below which a run folder may not hold its checkpoints: two of the paper's network with Adam's states.
LITTLE_DISK = 4 * 2**30
#: Bytes of shared memory below which loader workers fail with batches of full-size films.
LITTLE_SHARED = 256 * 2**20
#: Packages of each extra.
EXTRA = re.compile(r"extra == ['\"](?P<name>[\w-]+)['\"]")
SECONDS = 100.0


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        name: What was checked.
        state: ``ok``; ``warning``: it works, but not as well as it could; ``error``: a training would fail.
        text: What was found; for a warning or error also what to do.
    """

    name: str
    state: State
    text: str


def doctor(
    store: Path | None = None, fit: str | list[str] | None = None, out: Path = Path("runs"), json: bool = False
) -> None:
    """Checks environment, devices, memory and disk, and a store and a configuration if they are given.

    Args:
        store: A prepared store that a training would read.
        fit: Configurations of `gazelit fit`; later ones replace values of earlier ones.
        out: Folder to which runs would be written.
        json: Whether a line of JSON is printed for each finding instead of a table.

    Raises:
        InputError: A training would fail; the findings say why.
    """
    errors = 0
    for finding in findings(store, [fit] if isinstance(fit, str) else fit or [], out):
        errors += finding.state == "error"
        if json:
            line = dumps(asdict(finding))
        else:
            mark = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}[finding.state]
            line = f"{mark}  {finding.name}: {finding.text}"
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    if errors:
        raise InputError(f"{errors} of these would stop a training; each says what to do")


def findings(store: Path | None, config: list[str], out: Path) -> Iterator[Finding]:
    """The findings on the machine, and on a store and configurations if given; arguments as in :func:`doctor`."""
    checks: list[tuple[str, Callable[[], Iterator[tuple[State, str]]]]] = [
        ("versions", _versions),
        ("extras", _extras),
        ("processors", _processors),
        ("memory", _memory),
        ("shared memory", _shared_memory),
        ("devices", _devices),
        ("compiled metrics", _compiled_metrics),
        ("run folder", lambda: _run_folder(out)),
    ]
    if store is not None:
        checks.append(("store", lambda: _store(store)))
    if config:
        checks.append(("configuration", lambda: _configuration(config, store)))
    for name, check in checks:
        for state, text in check():
            yield Finding(name, state, text)


def _requirements(extra: str | None) -> Iterator[Requirement]:
    for line in metadata.requires("gazelit") or []:
        found = EXTRA.search(line)
        if (found["name"] if found else None) == extra:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra or ""}):
                yield requirement


def _unmet(extra: str | None) -> list[str]:
    """Requirements that the environment does not meet, each with what is installed."""
    unmet = []
    for requirement in _requirements(extra):
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            unmet.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{requirement.name} is {version}, {requirement.specifier} is needed")
    return unmet


def _versions() -> Iterator[tuple[State, str]]:
    unmet = _unmet(None)
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "lightning", "numpy"))
    if unmet:
        yield "error", f"{'; '.join(unmet)}; install gazelit anew in a fresh environment"
    else:
        yield "ok", f"gazelit {__version__}, Python {platform.python_version()}, {shown}"


def _extras() -> Iterator[tuple[State, str]]:
    names = sorted(set(metadata.metadata("gazelit").get_all("Provides-Extra") or []) - {"dev", "docs"})
    complete = [name for name in names if not _unmet(name)]
    missing = [name for name in names if name not in complete]
    text = f"installed: {', '.join(complete) or 'none'}"
    yield "ok", f"{text}; not installed: {', '.join(missing)}" if missing else text


def _processors() -> Iterator[tuple[State, str]]:
    count, all_of_them = processors.usable(), os.cpu_count() or 1
    text = f"{count} usable of {all_of_them}"
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is not None and threads.isdigit() and int(threads) > count:
        yield "warning", f"{text}, but OMP_NUM_THREADS is {threads}: threads would wait for each other; unset it"
    else:
        yield "ok", text + (f", threads limited to {threads} by OMP_NUM_THREADS" if threads else "")


def _memory() -> Iterator[tuple[State, str]]:
    found = re.search(r"MemAvailable:\s+(\d+) kB", _text(Path("/proc/meminfo")))
    if found is None:
        yield "warning", "not known on this system"
        return
    available = int(found[1]) * 1024
    text = f"{as_size(available)} available"
    if available < 4 * 2**30:
        yield "warning", f"{text}; the paper's network trains in some 8 GB on a CPU: use a smaller preset or batch"
    else:
        yield "ok", text


def _shared_memory() -> Iterator[tuple[State, str]]:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        yield "warning", "there is no /dev/shm; if loader workers fail, set --data.loader.num_workers=0"
        return
    free = shutil.disk_usage(folder).free
    if free < LITTLE_SHARED:
        yield (
            "warning",
            f"{as_size(free)} free in /dev/shm; loader workers may fail with a bus error: start the container with "
            "--shm-size=2g, or set --data.loader.num_workers=0",
        )
    else:
        yield "ok", f"{as_size(free)} free in /dev/shm"


def _devices() -> Iterator[tuple[State, str]]:
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            try:
                free, _ = torch.cuda.mem_get_info(number)
                torch.ones(8, device=f"cuda:{number}").sum().item()
            except RuntimeError as error:
                yield "error", f"cuda:{number} {about.name} does not work ({first_line(error)})"
                continue
            support = "takes" if torch.cuda.is_bf16_supported(including_emulation=False) else "does not take"
            yield (
                "ok",
                f"cuda:{number} {about.name}, {as_size(free)} of {as_size(about.total_memory)} free, "
                f"{support} bfloat16",
            )
    elif torch.backends.mps.is_available():
        yield "ok", "mps (Apple), no CUDA"
    else:
        built = (
            f"; torch is built for CUDA {torch.version.cuda}, but finds no device or driver"
            if torch.version.cuda
            else ""
        )
        fast = "has" if processors.takes_bfloat16() else "has no"
        yield "ok", f"no GPU: trainings run on the CPU, which {fast} instructions for bfloat16{built}"


def _compiled_metrics() -> Iterator[tuple[State, str]]:
    named = os.environ.get("NUMBA_CACHE_DIR")
    # The folders that numba tries, in order.
    folders = [Path(named)] if named else [Path(__file__).parent.parent / "metrics", Path.home() / ".cache"]
    folder = next((folder for folder in folders if _is_writable(folder)), None)
    if folder is not None:
        yield "ok", f"kept below {folder}"
    else:
        yield (
            "warning",
            "cannot be kept, so every process compiles them anew (6 s); set NUMBA_CACHE_DIR to a folder that can be "
            "written",
        )


def _run_folder(out: Path) -> Iterator[tuple[State, str]]:
    existing = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not existing.is_dir() or not _is_writable(existing):
        yield "error", f"{out} cannot be written; choose another --out"
        return
    free = shutil.disk_usage(existing).free
    with tempfile.TemporaryDirectory(dir=existing, prefix=".gazelit-doctor-") as folder:
        try:
            with (Path(folder) / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            yield (
                "warning",
                f"{out}: its file system has no locks ({error.strerror}); never start two runs in one folder there",
            )
    if free < LITTLE_DISK:
        yield (
            "warning",
            f"{out}: {as_size(free)} free; a stage of the paper's network leaves 1.6 GB of checkpoints",
        )
    else:
        yield "ok", f"{out} can be written, {as_size(free)} free"


def _store(path: Path) -> Iterator[tuple[State, str]]:
    from gazelit.data.store.store import Store

    try:
        store = Store.open(path)
    except InputError as error:
        yield "error", str(error)
        return
    height, width = store.size
    yield "ok", f"{path}: {len(store.cases):,} cases at {height} × {width}"


def _configuration(config: list[str], store: Path | None) -> Iterator[tuple[State, str]]:
    names = ", ".join(config)
    try:
        options = [f"--config={find_config(name)}" for name in config]
    except InputError as error:
        yield "error", str(error)
        return
    options += [f"--data.store={store}"] if store is not None else []
    command = [sys.executable, "-m", "gazelit", "fit", *options, "--print_config"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        yield "error", f"{names}: could not be read within {SECONDS:.0f} s"
        return
    if done.returncode:
        yield "error", f"{names}: {(done.stderr.strip().splitlines() or ['cannot be read'])[-1]}"
        return
    read: dict[str, Any] = yaml.safe_load(done.stdout)
    precision = str((read.get("trainer") or {}).get("precision") or "32-true")
    try:
        processors.check_precision(precision)
    except InputError as error:
        yield "error", f"{names}: {error}"
        return
    if precision.startswith("bf16") and not processors.has_bfloat16():
        yield "warning", f"{names}: precision is {precision}, which this machine emulates; float32 may be faster"
    yield "ok", f"{names}: every option is known, precision {precision}"


def _is_writable(folder: Path) -> bool:
    """Whether a file can be made there; on some file systems the mode bits do not show it."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def as_size(count: float) -> str:
    """A number of bytes in readable form."""
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
