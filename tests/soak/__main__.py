"""``make soak``: sends signals at random moments until each command has had its share; goes on where it stopped.

``python -m tests.soak --seed 0 --signals 20`` appends a line for every try to a journal, and prints a table of it.
"""

import argparse
import importlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.clock import Clock
from tests.soak import commands as known
from tests.soak.journal import add_row, is_used_up, parser_of, read_rows
from tests.soak.processes import ORPHAN_SECONDS, SIGNALS, TARGETS, disturb, finish, start

#: Greatest number of signals in a try, after which the command is left alone.
_MOST = 3


class Soak:
    """Tries in a folder of their own.

    Args:
        work: Folder of the commands' inputs, the undisturbed results, and the tries.
        seed: Seed of all draws.
        names: Names of the commands.
    """

    def __init__(self, work: Path, seed: int, names: list[str]) -> None:
        self.work, self.seed = work.resolve(), seed
        self.at_hand, self.place, self.logs = (self.work / name for name in ("at_hand", "try", "logs"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.commands = known.commands(self.port)
        self.names = names or list(self.commands)
        # On another file system if there is one.
        self.temporary = [self.work / "tmp", *(folder for folder in [Path("/dev/shm")] if folder.is_dir())]
        for folder in (self.at_hand, self.logs, self.work / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        self.reference: dict[str, dict[str, bytes]] = {}
        self.seconds: dict[str, float] = {}
        #: Seconds after which a service is asked to end although it has not done its work.
        self.patience: float | None = None
        #: The clock of the processes, if it is not this machine's.
        self.clock: Clock | None = None
        #: A function that a process calls before its command.
        self.arrange: Callable[[], None] | None = None

    def undisturbed(self, name: str) -> None:
        """Runs a command, and those that it needs, without a signal; twice, to find times in its results."""
        if name in self.reference:
            return
        for needed in self.commands[name].needs:
            self.undisturbed(needed)
        runs = []
        for _ in range(2):
            known.clear(self.place)
            outcome, fault = self._run(name, begun=False)
            if outcome.code != 0 or fault:
                sys.exit(f"{name}: the undisturbed run failed (exit code {outcome.code}); see {self.logs / 'log.txt'}")
            runs.append(known.contents(self.place / self.commands[name].writes))
            self.seconds[name] = outcome.seconds
        if runs[0] != runs[1]:
            sys.exit(f"{name}: two undisturbed runs differ in {differing(*runs)}")
        self.reference[name] = runs[0]
        shutil.rmtree(self.at_hand / name, ignore_errors=True)
        self.place.rename(self.at_hand / name)
        sys.stderr.write(f"{name}: {self.seconds[name]:.1f} s undisturbed, {len(runs[0])} files\n")

    def _run(self, name: str, begun: bool, plan: Any = None) -> tuple[Any, str]:
        """A process of a command, with a signal if one is planned."""
        command = self.commands[name]
        receiver, is_done = None, None
        if command.is_service:
            count = known.fill_spool(self.at_hand, self.place) if not begun else 6
            received = self.place / command.writes
            receiver = subprocess.Popen([sys.executable, "-m", "tests.soak.receiver", str(self.port), str(received)])
            while socket.socket().connect_ex(("127.0.0.1", self.port)):
                time.sleep(0.05)

            ends = None if self.patience is None else time.monotonic() + self.patience

            def is_done() -> bool:
                if ends is not None and time.monotonic() > ends:
                    return True
                spool = self.place / "spool"
                waits = any(path.is_file() for path in spool.rglob("*")) if spool.is_dir() else True
                return not waits and len(list(received.glob("*.dcm"))) == count

        log = self.logs / "log.txt"
        draw = random.Random() if plan is None else plan["draw"]
        temporary = self.temporary[-1] if plan is not None and plan["far"] else self.work / "tmp"
        began = time.monotonic()
        process = start(command.arguments(self.at_hand, begun), self.place, log, temporary, self.clock, self.arrange)
        landed = ""
        if plan is not None:
            landed = disturb(process, plan["delay"], plan["signal"], plan["target"], draw)
        outcome = finish(process, began, landed, is_done)
        if receiver is not None:
            receiver.kill()
            receiver.wait()
        return outcome, f"{outcome.orphans} processes lived on for {ORPHAN_SECONDS:g} s" if outcome.orphans else ""

    def _has_traceback(self) -> bool:
        """Whether a traceback was printed, other than Python's own report of a Ctrl-C that it ignores.

        An interrupt that comes while an object is destroyed, or while the interpreter ends, cannot be raised.
        """
        log = self.logs / "log.txt"
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        return any(
            line.startswith("Traceback") and not before.startswith("Exception ignored in")
            for before, line in zip(["", *lines], lines, strict=False)
        )

    def tried(self, name: str, number: int) -> dict[str, Any]:
        """Kills a command up to three times, lets it end, and compares its results."""
        self.undisturbed(name)
        draw = random.Random(f"{self.seed}/{name}/{number}")
        known.clear(self.place)
        (self.logs / "log.txt").unlink(missing_ok=True)
        folder = self.place / self.commands[name].writes
        signals, faults = [], []
        for attempt in range(1 + _MOST):
            plan = {
                "delay": draw.uniform(0, self.seconds[name]), "signal": draw.choice(SIGNALS),
                "target": draw.choice(TARGETS), "draw": draw, "far": draw.random() < 0.5,
            }  # fmt: skip
            begun = (folder / "checkpoints" / "last.ckpt").is_file() if "fit" in name else attempt > 0
            outcome, fault = self._run(name, begun, plan if attempt < _MOST else None)
            faults += [fault] if fault else []
            if outcome.landed:
                signals.append({"sent": outcome.landed, "after": round(plan["delay"], 3), "code": outcome.code})
                faults += known.torn(self.place)
                # The exit code may be of another process of the session: 143 if it could clean up, else the signal.
                expected = (0, 2, 130, 143, *(-number for number in SIGNALS))
                if outcome.code not in expected or self._has_traceback():
                    faults.append(f"exit code {outcome.code}, or a traceback, after {outcome.landed}")
            # A service that is asked to end has not done its work.
            is_service = self.commands[name].is_service
            # If no work was left, the service may be asked to end before it listens to signals.
            if (outcome.code == 0 and not (outcome.landed and is_service)) or (
                is_service and not outcome.landed and outcome.code in (-15, 143)
            ):
                break
            if not outcome.landed:
                faults.append(f"exit code {outcome.code} without a signal")
                break
        else:
            faults.append("did not end")
        if not faults:
            found = known.contents(folder)
            if found != self.reference[name]:
                faults.append(f"differs from the undisturbed run in {differing(found, self.reference[name])}")
            faults += [f"left {name}" for name in known.leftovers(self.place)]
        if faults:
            kept = self.work / "faults" / f"{self.seed}-{name}-{number}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(self.place, kept, symlinks=True)
            shutil.copy(self.logs / "log.txt", kept)
        return {"seed": self.seed, "command": name, "number": number, "signals": signals, "faults": faults}


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> str:
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return ", ".join(names[:5])


def table(rows: list[dict[str, Any]]) -> str:
    """Signals and faults by command, as Markdown."""
    kinds = [number.name for number in SIGNALS]
    lines = [f"| command | tries | signals | {' | '.join(kinds)} | faults |", "|---|" + "---|" * (3 + len(kinds))]
    total: Counter[str] = Counter()
    for name in dict.fromkeys(row["command"] for row in rows):
        mine = [row for row in rows if row["command"] == name]
        sent = Counter(one["sent"].split()[0] for row in mine for one in row["signals"])
        counts = {"tries": len(mine), "signals": sent.total(), **{kind: sent[kind] for kind in kinds}}
        counts["faults"] = sum(bool(row["faults"]) for row in mine)
        total.update(counts)
        lines.append(f"| {name} | {' | '.join(str(counts[key]) for key in counts)} |")
    keys = ["tries", "signals", *kinds, "faults"]
    return "\n".join([*lines, f"| all | {' | '.join(str(total[key]) for key in keys)} |"])


def main() -> int:
    """Runs tries until each command has had its signals; returns 1 if a fault was found."""
    parser = parser_of("tests.soak", __doc__, "build/soak")
    parser.add_argument("--signals", type=int, default=20, help="of each command")
    parser.add_argument("--commands", default="", help="names, separated by commas; all unless given")
    options = parser.parse_args()
    journal = options.work / "journal.jsonl"
    rows = read_rows(journal, options.seed)
    if not options.table:
        rows = _try(options, journal, rows)
    sys.stdout.write(f"seed {options.seed}\n{table(rows)}\n")
    found = [(row["command"], fault) for row in rows for fault in row["faults"]]
    for name, fault in found:
        sys.stdout.write(f"{name}: {fault}\n")
    return int(bool(found))


def prepared(soak: Soak) -> None:
    """Imports the modules of the commands, so that forks need not, and makes the cohort."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import gazelit.cli.main  # noqa: F401
    from gazelit.synthetic.cohort import write_cohort

    pending, wanted = list(soak.names), set()
    while pending:
        command = soak.commands[pending.pop()]
        pending += command.needs
        wanted.add(command.imports)
    for name in sorted(wanted):
        importlib.import_module(name)
    if not (soak.at_hand / "cohort").is_dir():
        write_cohort(soak.at_hand / "cohort", cases=known.CASES, seed=3, max_side=128, workers=1)


def _try(options: argparse.Namespace, journal: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    soak = Soak(options.work, options.seed, [name for name in options.commands.split(",") if name])
    prepared(soak)
    # Commands take turns, so that all have been tried alike whenever the run ends.
    while True:
        counts = Counter(dict.fromkeys(soak.names, 0))
        numbers = Counter(row["command"] for row in rows)
        for row in rows:
            if row["command"] in counts:
                counts[row["command"]] += len(row["signals"])
        name = min(counts, key=counts.__getitem__)
        if counts[name] >= options.signals or is_used_up(options):
            return rows
        rows.append(soak.tried(name, numbers[name]))
        add_row(journal, rows[-1])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
