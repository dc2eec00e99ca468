"""Full and read-only disks, inputs that vanish or are damaged: one line each, and the same command again goes on.

``python -m tests.soak.surroundings --seed 0`` needs the right to mount a tmpfs, and says so where it has none.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.soak import commands as known
from tests.soak.__main__ import Soak, differing, prepared

#: Shares of what the undisturbed command writes that there is room for.
ROOM = (0.0, 0.05, 0.3, 0.6, 0.9)
#: A service does not end by itself, so that a full disk is tried in its own tests.
_WITHOUT = ("serve-dicom",)


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Callable[[str], None]]:
    """A file system of so many bytes at a folder; yields what changes its options."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True) and None
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


class Surroundings(Soak):
    """Faults around a command instead of signals to it."""

    def fault(self, name: str, kind: str, number: int) -> dict[str, Any]:
        """Plays one fault and compares what the same command again ends in."""
        self.undisturbed(name)
        draw = random.Random(f"{self.seed}/{name}/{kind}/{number}")
        known.clear(self.place)
        (self.logs / "log.txt").unlink(missing_ok=True)
        written = sum(path.stat().st_size for path in (self.at_hand / name).rglob("*") if path.is_file())
        faults: list[str] = []
        if kind in ("full disk", "read-only disk"):
            room = max(4096, int(written * ROOM[number % len(ROOM)]))
            with disk(self.place, room if kind == "full disk" else 2**29) as remount:
                if kind == "read-only disk":
                    remount("ro")
                faults += self._ends_with_a_line(name)
                remount("size=512m,rw")
                faults += self._again(name)
        else:
            faults += self._without_an_input(name, kind, draw)
            faults += self._again(name)
        return {"seed": self.seed, "command": name, "kind": kind, "number": number, "faults": faults}

    def _ends_with_a_line(self, name: str) -> list[str]:
        outcome, fault = self._run(name, begun=False)
        said = (self.logs / "log.txt").read_text(errors="replace")
        errors = [line for line in said.splitlines() if line.startswith("gazelit: error:")]
        found = [fault] if fault else []
        if outcome.code == 0:
            return found
        if outcome.code != 2 or len(errors) != 1 or "Traceback" in said:
            found.append(f"exit code {outcome.code}, {len(errors)} lines of error: {said[-300:]!r}")
        return found + known.torn(self.place)

    def _without_an_input(self, name: str, kind: str, draw: random.Random) -> list[str]:
        """An input is away, from the beginning or from some moment on, or a byte of it is another."""
        needed = self.commands[name].needs
        source = self.at_hand / needed[-1] if needed else self.at_hand / "cohort"
        hidden = source.with_name("hidden")
        if kind == "damaged input":
            files = [path for path in source.rglob("*") if path.suffix in (".ckpt", ".parquet", ".npy")]
            if not files:
                return []
            path = draw.choice(sorted(files))
            content = path.read_bytes()
            place = draw.randrange(len(content))
            # Without the time of writing, by which it would be noticed.
            about = path.stat()
            path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
            os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
            try:
                return self._ends_with_a_line(name)
            finally:
                path.write_bytes(content)
                os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
        timer = threading.Timer(0.0 if kind == "missing input" else draw.uniform(0, self.seconds[name]), lambda: None)
        timer.function = lambda: source.rename(hidden)
        if kind == "missing input":
            source.rename(hidden)
        else:
            timer.start()
        try:
            return self._ends_with_a_line(name)
        finally:
            timer.cancel()
            if timer.is_alive():
                timer.join()
            if hidden.exists():
                hidden.rename(source)

    def _again(self, name: str) -> list[str]:
        folder = self.place / self.commands[name].writes
        begun = (folder / "checkpoints" / "last.ckpt").is_file() if "fit" in name else True
        outcome, fault = self._run(name, begun)
        if outcome.code != 0:
            return [f"the same command again: exit code {outcome.code}"]
        found, expected = known.contents(folder), self.reference[name]
        faults = [f"differs from the undisturbed run in {differing(found, expected)}"] if found != expected else []
        return faults + [f"left {left}" for left in known.leftovers(self.place)] + ([fault] if fault else [])


def main() -> int:
    """Plays every fault on every command; 1 if one was answered otherwise than by a line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.surroundings", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default="", help="names, separated by commas; all unless given")
    parser.add_argument("--work", type=Path, default=Path("build/soak"))
    parser.add_argument("--cpu-minutes", type=float, default=1e9)
    options = parser.parse_args()
    soak = Surroundings(options.work, options.seed, [name for name in options.commands.split(",") if name])
    prepared(soak)
    journal = options.work / "surroundings.jsonl"
    rows = [json.loads(line) for line in journal.read_text().splitlines()] if journal.is_file() else []
    rows = [row for row in rows if row["seed"] == options.seed]
    done = {(row["command"], row["kind"], row["number"]) for row in rows}
    kinds = {"full disk": len(ROOM), "read-only disk": 1, "missing input": 1, "vanishing input": 3, "damaged input": 3}
    plan = [
        (name, kind, number)
        for kind, count in kinds.items()
        for number in range(count)
        for name in soak.names
        if name not in _WITHOUT
    ]
    for step in plan:
        if step in done or sum(os.times()[:4]) / 60 > options.cpu_minutes:
            continue
        rows.append(soak.fault(*step))
        with journal.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    tried, failed = Counter(row["kind"] for row in rows), Counter(row["kind"] for row in rows if row["faults"])
    sys.stdout.write(f"seed {options.seed}\n| fault | tried | answered otherwise |\n|---|---|---|\n")
    sys.stdout.write("".join(f"| {kind} | {tried[kind]} | {failed[kind]} |\n" for kind in kinds))
    for row in rows:
        for fault in row["faults"]:
            sys.stdout.write(f"{row['command']}, {row['kind']} {row['number']}: {' '.join(fault.split())}\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
