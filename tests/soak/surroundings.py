"""Faults of the surroundings of a command, each of which must give one line.

They are full and read-only disks, quotas, inputs that vanish, change or are damaged, checkpoints that are gone, and
shared memory that is full or missing. A clock that is set back by an hour must have no effect.

After the fault is gone, the same command must give the results of an undisturbed run.
``python -m tests.soak.surroundings --seed 0`` needs the right to mount a tmpfs, and says so if it has none.
"""

import ctypes
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.clock import Clock, date_ahead
from tests.soak import commands as known
from tests.soak.__main__ import Soak, differing, prepared
from tests.soak.journal import add_row, is_used_up, parser_of, read_rows

#: Sizes of the disk, as shares of the bytes that the undisturbed command writes.
ROOM = (0.0, 0.05, 0.3, 0.6, 0.9)
#: Faults by name, with how often each is played on a command.
KINDS = {
    "full disk": len(ROOM), "quota": len(ROOM), "read-only disk": 1, "no shared memory": 2, "missing input": 1,
    "vanishing input": 3, "damaged input": 3, "truncated input": 2, "input cut in use": 2, "input changed in use": 2,
    "lost last.ckpt": 2, "lost parent": 2, "clock set back in use": 2, "clock set back between": 2,
}  # fmt: skip
#: Kinds of faults of which only files with a digest are tried; a film that a hospital sends has none.
_OF_OUR_FILES = ("damaged input", "truncated input", "input cut in use", "input changed in use")
_SUFFIXES = (".ckpt", ".parquet", ".npy")
#: Bytes of shared memory, by number of the fault: a single page, and less than a few batches.
_SHARED = (4096, 131072)
#: Makes quota.c report that a quota is exceeded.
_PLAYS_QUOTA = "PLAYS_QUOTA"


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Callable[[str], None]]:
    """A file system of ``size`` bytes at a folder; yields a function that changes its options."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True) and None
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def hidden(path: Path) -> Iterator[Callable[[], object]]:
    """Yields a function that takes a file or folder away; it is put back at the end."""
    away = path.with_name(f"{path.name}-away")
    try:
        yield lambda: path.rename(away)
    finally:
        if away.exists():
            away.rename(path)


@contextmanager
def changed(path: Path, change: Callable[[bytes], bytes], keeps_time: bool) -> Iterator[Callable[[], object]]:
    """Yields a function that changes a file in its place; its bytes and time are put back at the end."""
    content, about = path.read_bytes(), path.stat()

    def write(new: bytes, as_before: bool) -> None:
        # The change is in place, so that processes that have mapped the file see it.
        with path.open("r+b") as file:
            file.write(new)
            file.truncate()
        if as_before:
            os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))

    try:
        yield lambda: write(change(content), keeps_time)
    finally:
        write(content, True)


class Surroundings(Soak):
    """Faults around a command instead of signals to it."""

    def plan(self, kinds: list[str]) -> list[tuple[str, str, int]]:
        """Command, kind and number of every fault that can happen to a command."""
        return [
            (name, kind, number)
            for kind in kinds
            for number in range(KINDS[kind])
            for name in self.names
            if not (kind in _OF_OUR_FILES and not self.commands[name].needs)
            and not (kind == "lost last.ckpt" and "fit" not in name)
            and not (kind == "lost parent" and not self.commands[name].parent)
        ]

    def fault(self, name: str, kind: str, number: int) -> dict[str, Any]:
        """Makes a fault, gives the same command again, and compares the results."""
        self.undisturbed(name)
        draw = random.Random(f"{self.seed}/{name}/{kind}/{number}")
        known.clear(self.place)
        (self.logs / "log.txt").unlink(missing_ok=True)
        written = sum(path.stat().st_size for path in (self.at_hand / name).rglob("*") if path.is_file())
        faults: list[str] = []
        if kind in ("full disk", "quota", "read-only disk"):
            with disk(self.place, 2**29) as remount:
                # Instances that were sent to the service before do not count.
                self._prepare_place(name)
                room = _used(self.place) + max(4096, int(written * ROOM[number % len(ROOM)]))
                remount("ro" if kind == "read-only disk" else f"size={room}")
                if kind == "quota":
                    os.environ[_PLAYS_QUOTA] = "1"
                faults += self._ends_with_a_line(name)
                os.environ.pop(_PLAYS_QUOTA, None)
                remount("size=512m,rw")
                faults += self._again(name)
        elif kind == "no shared memory":
            self._prepare_place(name)
            self.arrange = lambda: shared_memory(_SHARED[number % len(_SHARED)])
            faults += self._ends_with_a_line(name)
            self.arrange = None
            faults += self._again(name)
        elif kind in ("lost last.ckpt", "lost parent"):
            faults += self._without_a_checkpoint(name, kind, draw)
        elif kind.startswith("clock"):
            self._prepare_place(name)
            faults += self._with_a_clock_set_back(name, kind, draw)
        else:
            self._prepare_place(name)
            faults += self._without_an_input(name, kind, draw)
            faults += self._again(name)
        return {"seed": self.seed, "command": name, "kind": kind, "number": number, "faults": faults}

    def _prepare_place(self, name: str) -> None:
        if self.commands[name].is_service:
            known.fill_spool(self.at_hand, self.place)

    def _is_begun(self, name: str) -> bool:
        if "fit" in name:
            return (self.place / self.commands[name].writes / "checkpoints" / "last.ckpt").is_file()
        return True

    def _ends_with_a_line(self, name: str) -> list[str]:
        self.patience = 2 * self.seconds[name] + 4
        outcome, fault = self._run(name, self._is_begun(name))
        self.patience = None
        said = (self.logs / "log.txt").read_text(errors="replace")
        errors = [line for line in said.splitlines() if line.startswith("gazelit: error:")]
        found = [fault] if fault else []
        if "Traceback" in said:
            found.append(f"a traceback: {said[-300:]!r}")
        if outcome.code != 0 and (outcome.code != 2 or len(errors) != 1):
            found.append(f"exit code {outcome.code}, {len(errors)} lines of error: {said[-300:]!r}")
        return found + known.torn(self.place)

    def _without_an_input(self, name: str, kind: str, draw: random.Random) -> list[str]:
        """An input is missing or different, from the beginning or from some moment on."""
        needed = draw.choice(self.commands[name].needs or ("cohort",))
        source = self.at_hand / needed
        if kind in _OF_OUR_FILES:
            path = draw.choice(sorted(path for path in source.rglob("*") if path.suffix in _SUFFIXES))
            place = draw.randrange(path.stat().st_size)
            is_cut = kind in ("truncated input", "input cut in use")
            flip = (lambda content: content[:place]) if is_cut else _flipped(place)
            # Damage by a disk does not change the time of the file; a process that writes changes it.
            fault = changed(path, flip, keeps_time=kind == "damaged input")
        else:
            fault = hidden(source)
        is_before = kind in ("missing input", "damaged input", "truncated input")
        with fault as play:
            timer = threading.Timer(draw.uniform(0, self.seconds[name]), play)
            if is_before:
                play()
            else:
                timer.start()
            try:
                return self._ends_with_a_line(name)
            finally:
                timer.cancel()
                if timer.is_alive():
                    timer.join()

    def _without_a_checkpoint(self, name: str, kind: str, draw: random.Random) -> list[str]:
        """A training is killed, and the checkpoint to resume from, or its parent, is gone."""
        plan = {
            "delay": draw.uniform(0, self.seconds[name]), "signal": signal.SIGKILL, "target": "group", "draw": draw,
            "far": False,
        }  # fmt: skip
        _, fault = self._run(name, begun=False, plan=plan)
        faults = [fault] if fault else []
        last = self.place / self.commands[name].writes / "checkpoints" / "last.ckpt"
        if kind == "lost last.ckpt":
            last.unlink(missing_ok=True)
            return faults + self._again(name)
        parent = self.commands[name].parent
        assert parent is not None
        with hidden(parent(self.at_hand)) as play:
            play()
            faults += self._ends_with_a_line(name)
        return faults + self._again(name)

    def _with_a_clock_set_back(self, name: str, kind: str, draw: random.Random) -> list[str]:
        """The clock is an hour ahead until some moment of a command, or until a killed command is begun again."""
        clock = self.clock = Clock()
        delay = draw.uniform(0, self.seconds[name])

        def set_back() -> None:
            clock.set_back()
            date_ahead(self.place)

        try:
            if kind == "clock set back in use":
                timer = threading.Timer(delay, set_back)
                timer.start()
                outcome, fault = self._run(name, self._is_begun(name))
                timer.cancel()
                timer.join()
                ends = (0, 128 + signal.SIGTERM) if self.commands[name].is_service else (0,)
                faults = [f"exit code {outcome.code}"] if outcome.code not in ends else []
            else:
                plan = {
                    "delay": delay, "signal": signal.SIGKILL, "target": "group", "draw": draw, "far": False,
                }  # fmt: skip
                _, fault = self._run(name, begun=False, plan=plan)
                set_back()
                faults = []
            faults += [fault] if fault else []
            faults += self._again(name)
        finally:
            self.clock = None
        said = (self.logs / "log.txt").read_text(errors="replace")
        negative = re.search(r"(?<![\w.])-\d[\d.]* ?(s|min|h)\b", said)
        return faults + ([f"says {negative[0]!r}"] if negative else [])

    def _again(self, name: str) -> list[str]:
        folder = self.place / self.commands[name].writes
        outcome, fault = self._run(name, self._is_begun(name))
        # If no work was left, a service is asked to end before it listens to signals.
        ended = (0, -signal.SIGTERM, 128 + signal.SIGTERM) if self.commands[name].is_service else (0,)
        if outcome.code not in ended:
            said = (self.logs / "log.txt").read_text(errors="replace")
            return [f"the same command again: exit code {outcome.code}: {said[-300:]!r}"]
        found, expected = known.contents(folder), self.reference[name]
        faults = [f"differs from the undisturbed run in {differing(found, expected)}"] if found != expected else []
        return faults + [f"left {left}" for left in known.leftovers(self.place)] + ([fault] if fault else [])


def shared_memory(size: int) -> None:
    """Limits shared memory of this process and those it starts to ``size`` bytes; others keep theirs."""
    new_mounts = 0x20000
    if ctypes.CDLL(None, use_errno=True).unshare(new_mounts):
        raise OSError(ctypes.get_errno(), "mounts of its own cannot be had")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"], check=True)


def with_quota(work: Path) -> None:
    """Starts this program again with quota.c loaded before the C library."""
    library = work.resolve() / "quota.so"
    if os.environ.get("LD_PRELOAD") == str(library):
        return
    library.parent.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("quota.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    os.environ["LD_PRELOAD"] = str(library)
    os.execv(sys.executable, [sys.executable, "-m", "tests.soak.surroundings", *sys.argv[1:]])


def _flipped(place: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


def _used(folder: Path) -> int:
    about = os.statvfs(folder)
    return (about.f_blocks - about.f_bfree) * about.f_frsize


def table(rows: list[dict[str, Any]]) -> str:
    """Faults by command and kind, as Markdown: how many were made, and how many were not answered as promised."""
    names = list(dict.fromkeys(row["command"] for row in rows))
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    lines = [f"| command | {' | '.join(kinds)} | all | answered otherwise |", "|---|" + "---|" * (len(kinds) + 2)]
    for name in [*names, "all"]:
        chosen = [row for row in rows if name in ("all", row["command"])]
        counts = Counter(row["kind"] for row in chosen)
        shown = [str(counts[kind]) if counts[kind] else "" for kind in kinds]
        failed = sum(bool(row["faults"]) for row in chosen)
        lines.append(f"| {name} | {' | '.join(shown)} | {len(chosen)} | {failed} |")
    return "\n".join(lines)


def main() -> int:
    """Makes every fault for every command; returns 1 if a fault was not answered by a line."""
    parser = parser_of("tests.soak.surroundings", __doc__, "build/soak")
    parser.add_argument("--commands", default="", help="names, separated by commas; all unless given")
    parser.add_argument("--faults", default="", help=f"of {', '.join(KINDS)}; all unless given")
    options = parser.parse_args()
    kinds = [kind for kind in options.faults.split(",") if kind] or list(KINDS)
    if "quota" in kinds and not options.table:
        with_quota(options.work)
    journal = options.work / "surroundings.jsonl"
    rows = read_rows(journal, options.seed)
    if not options.table:
        soak = Surroundings(options.work, options.seed, [name for name in options.commands.split(",") if name])
        done = {(row["command"], row["kind"], row["number"]) for row in rows}
        plan = soak.plan(kinds)
        rest = [step for step in plan if step not in done]
        if rest:
            prepared(soak)
        for step in rest:
            if is_used_up(options):
                break
            rows.append(soak.fault(*step))
            add_row(journal, rows[-1])
    sys.stdout.write(f"seed {options.seed}\n{table(rows)}\n")
    for row in rows:
        for fault in row["faults"]:
            sys.stdout.write(f"{row['command']}, {row['kind']} {row['number']}: {' '.join(fault.split())}\n")
    return int(any(row["faults"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
