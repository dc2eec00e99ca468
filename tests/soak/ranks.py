"""Trainings in which one of several processes is killed, frozen, slow, fails or is asked to end.

``python -m tests.soak.ranks --seed 0`` trains with each launcher, two and four processes and each fault, at a random
step of a random rank. It gives the same command again, whose result must equal that of an undisturbed run. It appends a
line for every try to a journal, prints a table, and goes on where it stopped.
"""

import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

from tests.environment import importing_tests
from tests.soak import commands as known
from tests.soak.__main__ import differing
from tests.soak.journal import add_row, is_used_up, parser_of, read_rows
from tests.soak.processes import ORPHAN_SECONDS
from tests.tiny import tiny

FAULTS = ("killed", "frozen", "slow", "failed", "terminated", "all terminated")
#: Numbers of torchrun's agents; two agents have half of the processes each; Lightning's launcher has none.
LAUNCHERS = {"Lightning": 0, "torchrun": 1, "torchrun, two agents": 2}
#: Limits in seconds: without a sign of life (gazelit's own is 120), and of the strategy for a slow process (Lightning's
#: is 1800); the processes also have to find each other in that time.
LIMIT, TIMEOUT = 10, 90
#: Address at which agents meet; the port is drawn for each run.
MEETING = "127.0.0.1:0"
#: Seconds after which the others count as hung.
HANG = 180


def fit(work: Path, world: int, agents: int, draw: dict[str, Any]) -> list[list[str]]:
    """The commands, one for each agent."""
    timeout = f"0:{TIMEOUT // 60:02}:{TIMEOUT % 60:02}"
    # DDP makes its buckets again after a process's first step, and gradients of more than two processes are summed in
    # an order that depends on the position in a bucket. Without this search a resumed run would differ in the last
    # bits.
    searches = str(world > 2).lower()
    strategy = ["--trainer.strategy=DDPStrategy", f"--trainer.strategy.find_unused_parameters={searches}"]
    if draw["fault"] == "slow":
        strategy.append(f"--trainer.strategy.timeout={timeout}")
    options = [
        "fit", "--config=presets/quick/stage3.yaml", *tiny(3, work / "store"), "--trainer.max_epochs=3",
        f"--data.split.file={work / 'split.json'}", "--data.split.allow_empty=true",
        "--data.loader.batch_size=2", "--checkpoint.dirpath=run/checkpoints", "--checkpoint.every_n_train_steps=1",
        f"--ranks.limit_s={LIMIT}", *strategy,
        "--trainer.callbacks+=tests.rank_faults.RankFault",
        *(f"--trainer.callbacks.{name}={value}" for name, value in draw.items()),
    ]  # fmt: skip
    nodes = max(1, agents)
    options += [f"--trainer.num_nodes={nodes}", f"--trainer.devices={world // nodes}"]
    module = ["-m", "gazelit", *options]
    if not agents:
        return [[sys.executable, *module]]
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={world // nodes}",
        "--rdzv-backend=c10d", "--rdzv-id=soak", f"--rdzv-endpoint={MEETING}",
    ]  # fmt: skip
    return [[*torchrun, *module]] * nodes


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def run(folder: Path, commands: list[list[str]], world: int, at_fault: int | None) -> dict[str, Any]:
    """Runs a command on all agents; returns how it ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    commands = [[part.replace(MEETING, f"127.0.0.1:{port}") for part in command] for command in commands]
    for number in range(world):
        (folder / f"rank{number}.txt").unlink(missing_ok=True)
    with (folder / "log.txt").open("a") as log:
        started = [
            subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=importing_tests())
            for command in commands
        ]
        moment = folder / "fault.txt"
        deadline = time.monotonic() + 600
        while at_fault is not None and not moment.is_file() and started[0].poll() is None:
            assert time.monotonic() < deadline, (folder / "log.txt").read_text()
            time.sleep(0.01)
        seconds: float | None = None
        while at_fault is not None:
            ranks = [int((folder / f"rank{number}.txt").read_text()) for number in range(world) if number != at_fault]
            if not any(map(lives, ranks)):
                seconds = time.monotonic() - float(moment.read_text())
                break
            if time.monotonic() > float(moment.read_text()) + HANG:
                break
            time.sleep(0.01)
        # An agent of torchrun gives its last process 30 s.
        ends = time.monotonic() + (600 if at_fault is None else 60)
        while any(each.poll() is None for each in started) and time.monotonic() < ends:
            time.sleep(0.05)
        codes = [each.poll() for each in started]
        sessions = {each.pid for each in started}
        limit = time.monotonic() + ORPHAN_SECONDS
        while (left := [process for process in living() if process[1] in sessions]) and time.monotonic() < limit:
            time.sleep(0.1)
        for process, _ in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for each in started:
            each.wait()
    return {"seconds": seconds, "codes": codes, "left": len(left)}


def living() -> list[tuple[int, int]]:
    """Processes that are not zombies, with their sessions."""
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{int(entry)}/stat").read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX":
                found.append((int(entry), int(fields[3])))
    return found


def _prepare(work: Path) -> None:
    """Makes the store, if it is not there, and a split that leaves all processes but one without a validation case."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "store").is_dir():
        from gazelit.data.sources import EGDCXR
        from gazelit.data.splits.by_patient import save_split
        from gazelit.data.store.prepare import prepare
        from gazelit.data.store.store import Store
        from gazelit.synthetic.cohort import write_cohort

        write_cohort(work / "cohort", cases=24, seed=3, max_side=128, workers=1)
        prepare(
            EGDCXR(work / "cohort" / "egd-cxr", work / "cohort" / "mimic-cxr"), work / "store", size=(64, 64), workers=1
        )
        cases = Store.open(work / "store").cases
        split = pd.Series("train", index=cases.index)
        split.iloc[0], split.iloc[1] = "val", "test"
        save_split(work / "split.json", cases, split)


def undisturbed(work: Path, world: int) -> dict[str, bytes]:
    """Results of a training of ``world`` processes, in the same folder as the tries, because checkpoints hold paths."""
    kept = work / f"undisturbed-{world}"
    if not kept.is_dir():
        known.clear(work / "try")
        command = fit(work, world, 0, {"rank": 0, "fault": "killed", "step": -1})
        outcome = run(work / "try", command, world, None)
        assert outcome["codes"] == [0], (work / "try" / "log.txt").read_text()
        (work / "try").rename(kept)
    return results(kept)


def results(folder: Path) -> dict[str, bytes]:
    """The results that must be the same."""
    paths = (folder / "run").rglob("*")
    return {path.name: path.read_bytes() for path in paths if path.suffix == ".ckpt" or path.name == "epochs.csv"}


def tried(work: Path, seed: int, launcher: str, world: int, fault: str) -> dict[str, Any]:
    """Runs a try: a training with the fault, then the same command again."""
    draw = random.Random(f"{seed}/{launcher}/{world}/{fault}")
    rank = draw.randrange(world)
    expected = undisturbed(work, world)
    folder = work / "try"
    known.clear(folder)
    given = {"rank": rank, "fault": fault, "step": draw.randint(1, 5)}
    commands = fit(work, world, LAUNCHERS[launcher], given)
    first = run(folder, commands, world, rank)
    said = (folder / "log.txt").read_text()
    lines = re.findall(r"^gazelit: (?:.*)$", said, re.MULTILINE)
    faults = [] if first["seconds"] is not None else [f"the others lived on for {HANG} s"]
    faults += [f"exit code {code}" for code in first["codes"] if code == 0 or code is None]
    if fault in ("terminated", "all terminated"):
        faults += [] if any("terminated by SIGTERM" in line for line in lines) else ["no line about SIGTERM"]
        if LAUNCHERS[launcher] == 0 and first["codes"] != [143]:
            faults.append(f"exit code {first['codes'][0]} after SIGTERM")
    elif not any(f"rank {rank} (" in line and " ends: " in line for line in lines):
        faults.append("no line names the rank")
    faults += [f"{first['left']} processes were left"] if first["left"] else []
    faults += known.torn(folder)
    again = run(folder, [[*command, "--ckpt_path=last"] for command in commands], world, None)
    faults += [f"the same command again ended with {code}" for code in again["codes"] if code != 0]
    faults += [f"left {name}" for name in known.leftovers(folder)]
    if (found := results(folder)) != expected:
        faults.append(f"differs from the undisturbed run in {differing(found, expected)}")
    if faults:
        kept = work / "faults" / f"{seed}-{launcher}-{world}-{fault}".replace(" ", "_")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, kept)
    row = {"seed": seed, "launcher": launcher, "world": world, "fault": fault, **given, **first, "faults": faults}
    return {**row, "lines": [line for line in lines if " ends: " in line or "SIGTERM" in line or "waiting" in line]}


def table(rows: list[dict[str, Any]]) -> str:
    """Seconds from the fault to the end of the last of the others, as Markdown."""
    columns = [(launcher, world) for launcher in LAUNCHERS for world in (2, 4)]
    found = {(row["fault"], row["launcher"], row["world"]): row for row in rows}
    lines = [f"| fault | {' | '.join(f'{launcher}, {world}' for launcher, world in columns)} |"]
    lines.append("|---|" + "---|" * len(columns))
    for fault in FAULTS:
        cells = []
        for column in columns:
            row = found.get((fault, *column))
            text = "" if row is None or row["seconds"] is None else f"{row['seconds']:.1f}"
            cells.append(text + (" !" if row and row["faults"] else ""))
        lines.append(f"| {fault} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Runs the tries that the journal does not have yet; returns 1 if a fault was found."""
    parser = parser_of("tests.soak.ranks", __doc__, "build/soak-ranks")
    parser.add_argument("--faults", default="", help="names, separated by commas; all unless given")
    parser.add_argument("--launchers", default="", help="names, separated by semicolons; all unless given")
    parser.add_argument("--worlds", default="2,4")
    options = parser.parse_args()
    work = options.work.resolve()
    journal = work / "journal.jsonl"
    rows = read_rows(journal, options.seed)
    if not options.table:
        chosen = itertools.product(
            options.faults.split(",") if options.faults else FAULTS,
            map(int, options.worlds.split(",")),
            options.launchers.split(";") if options.launchers else LAUNCHERS,
        )
        done = {(row["fault"], row["world"], row["launcher"]) for row in rows}
        _prepare(work)
        for fault, world, launcher in chosen:
            if (fault, world, launcher) not in done and not is_used_up(options):
                rows.append(tried(work, options.seed, launcher, world, fault))
                add_row(journal, rows[-1])
    sys.stdout.write(f"seed {options.seed}, limit {LIMIT} s, strategy's {TIMEOUT} s where one is slow\n{table(rows)}\n")
    found = [(row["fault"], row["world"], row["launcher"], fault) for row in rows for fault in row["faults"]]
    for fault in found:
        sys.stdout.write(": ".join(map(str, fault)) + "\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
