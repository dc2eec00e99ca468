"""Gives hostile files to every reader: ``python -m tests.fuzz --minutes 5``.

The same command again goes on, up to ``--total``. Half of the inputs are mutations of whole inputs (input N of a kind
and seed is always the same), half are guided by coverage, if atheris is installed. Inputs that fail are kept in
``OUT/finds``; the table is that of all runs so far.

``python -m tests.fuzz --kind tables --start 41 --count 42`` reads single inputs again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.fuzz.driver import FAILURES, Outcome, Tally, run, scratch, tally_table
from tests.fuzz.kinds import MODULES, fuzzer, put_again

#: Shares of the inputs by kind and guidance: inputs that are read in a millisecond get more than those that take fifty.
SHARES = {
    ("films", "mutated"): 0.26, ("films", "guided"): 0.32, ("bombs", "mutated"): 0.002,
    ("tables", "mutated"): 0.018, ("tables", "guided"): 0.012, ("json", "mutated"): 0.014, ("json", "guided"): 0.01,
    ("configs", "mutated"): 0.15, ("configs", "guided"): 0.151,
    ("stores", "mutated"): 0.018, ("stores", "guided"): 0.014,
    ("checkpoints", "mutated"): 0.007, ("checkpoints", "guided"): 0.006,
    ("packages", "mutated"): 0.01, ("packages", "guided"): 0.008,
}  # fmt: skip
#: Seconds at a kind before the turn of the next kind; long enough that the start is a small part.
TURN = 110.0


@dataclass
class Part:
    """The progress of a kind, mutated or guided.

    Attributes:
        next: Number of the next mutated input, or of the next guided turn, which is its seed.
        rows: Counts by row of the table.
        finds: Failures, a line each.
    """

    next: int = 0
    rows: dict[str, Tally] = field(default_factory=dict)
    finds: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """Number of inputs so far."""
        return sum(sum(tally.counts.values()) for tally in self.rows.values())

    def save(self, path: Path) -> None:
        """Writes the part, whole or not at all."""
        rows = {name: tally.primitives() for name, tally in self.rows.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".writing")
        temporary.write_text(json.dumps({"next": self.next, "rows": rows, "finds": self.finds}, indent=1))
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Part:
        """Reads a part; empty if nothing was written yet."""
        if not path.is_file():
            return cls()
        about = json.loads(path.read_text())
        return cls(about["next"], {name: Tally(*row) for name, row in about["rows"].items()}, about["finds"])


def mutated(name: str, part: Part, seed: int, out: Path, end: float, most: int) -> None:
    """Tries mutated inputs until a time or a number of inputs is reached."""
    make, read = fuzzer(name)
    keep = out / "finds" / name
    for outcome in run(make, read, part.next + most, seed, start=part.next, keep=keep):
        part.rows.setdefault(outcome.kind, Tally()).add(outcome.result, outcome.seconds, outcome.megabytes)
        part.next = outcome.index + 1
        if outcome.result in FAILURES:
            _found(part, f"{name} {outcome.index}, seed {seed}", outcome)
        if time.monotonic() > end:
            return


def guided(name: str, part: Part, seed: int, out: Path, end: float) -> None:
    """Lets libFuzzer run until a time, and reads the inputs that it called failures again, each in a child."""
    folder = out / "guided" / name
    (folder / "finds").mkdir(parents=True, exist_ok=True)
    known = {path.name for path in (folder / "finds").iterdir()}
    progress = folder / "slice.json"
    progress.unlink(missing_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-", dir=scratch()) as memory,
        (folder / "log").open("ab") as log,
    ):
        command = [sys.executable, "-m", "tests.fuzz.guided", name, "--out", str(folder), "--scratch", memory]
        command += ["--seed", str(1000 * seed + part.next), "--seconds", str(max(1.0, end - time.monotonic()))]
        ended = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
    part.next += 1
    rows = json.loads(progress.read_text()) if progress.is_file() else {}
    for row, tally in rows.items():
        part.rows.setdefault(row, Tally())
        # This process has read thousands of inputs, so its judgement is rough; its finds are judged again below.
        counts, seconds, megabytes = tally
        sound = {result: number for result, number in counts.items() if result not in FAILURES}
        failed = sum(counts.values()) - sum(sound.values())
        part.rows[row].merge(Tally(sound if not failed else {**sound, "refused": sound.get("refused", 0)}))
        if not failed:
            part.rows[row].merge(Tally({}, seconds, megabytes))
    new = sorted(path for path in (folder / "finds").iterdir() if path.name not in known)
    if ended and not new:
        part.finds.append(f"{name}, guided: ended with {ended}; see {folder / 'log'}")
    for outcome in run(partial(put_again, name, new), fuzzer(name)[1], len(new)):
        part.rows.setdefault(outcome.kind, Tally()).add(outcome.result, outcome.seconds, outcome.megabytes)
        if outcome.result in FAILURES:
            _found(part, str(new[outcome.index]), outcome)


def _found(part: Part, where: str, outcome: Outcome) -> None:
    line = f"{where} ({outcome.kind}): {outcome.result}: {outcome.detail}"
    part.finds.append(line)
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def work(options: argparse.Namespace, paths: dict[tuple[str, str], Path]) -> None:
    """Gives turns to the parts that are furthest from their share, until the time or the inputs are used up."""
    end = time.monotonic() + 60 * options.minutes
    while (left := end - time.monotonic()) > 5:
        parts = {key: Part.load(path) for key, path in paths.items()}
        behind = {key: parts[key].tried / (SHARES[key] * options.total) for key in parts}
        key = min(behind, key=behind.__getitem__)
        if behind[key] >= 1:
            return
        name, way = key
        until = time.monotonic() + min(left, TURN)
        most = max(1, round(SHARES[key] * options.total) - parts[key].tried)
        if way == "mutated":
            mutated(name, parts[key], options.seed, options.out, until, most)
        else:
            guided(name, parts[key], options.seed, options.out, until)
        parts[key].save(paths[key])


def print_table(paths: dict[tuple[str, str], Path]) -> int:
    """Prints the table of all runs; returns the number of inputs that failed."""
    rows: dict[str, Tally] = {}
    finds = []
    for (name, way), path in paths.items():
        part = Part.load(path)
        finds += part.finds
        for tally in part.rows.values():
            rows.setdefault(f"{name}, {way}", Tally()).merge(tally)
    sys.stdout.write("".join(f"{line}\n" for line in finds) + tally_table(rows) + "\n")
    return len(finds)


def look(options: argparse.Namespace) -> int:
    """Reads mutated inputs of a kind again and prints the outcome of each row."""
    make, read = fuzzer(options.kind)
    tallies: dict[str, Tally] = {}
    part = Part()
    for outcome in run(
        make, read, options.count, options.seed, start=options.start, workers=options.workers,
        corpus=options.corpus, keep=options.out / "finds" / options.kind,
    ):  # fmt: skip
        tallies.setdefault(outcome.kind, Tally()).add(outcome.result, outcome.seconds, outcome.megabytes)
        if outcome.result in FAILURES:
            _found(part, f"{options.kind} {outcome.index}", outcome)
    sys.stdout.write(tally_table(tallies) + "\n")
    return len(part.finds)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 1 if any input failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--total", type=int, default=200_000, help="inputs after which there is nothing left to do")
    parser.add_argument("--minutes", type=float, default=5.0, help="time of this run; 0 prints the table")
    parser.add_argument("--only", default="", help="kinds, such as films,tables")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="counts, corpora and what failed")
    parser.add_argument("--kind", choices=sorted(MODULES), help="look at mutated inputs of a kind, apart from the runs")
    parser.add_argument("--start", type=int, default=0, help="with --kind: first input")
    parser.add_argument("--count", type=int, default=1000, help="with --kind: inputs, counted from 0")
    parser.add_argument("--workers", type=int, default=1, help="with --kind: processes")
    parser.add_argument("--corpus", type=Path, help="with --kind films: folder of real films to change as well")
    options = parser.parse_args(arguments)
    if options.kind:
        return int(look(options) > 0)
    names = set(options.only.split(",")) if options.only else set(MODULES)
    ways = ("mutated", "guided") if importlib.util.find_spec("atheris") else ("mutated",)
    every = {key: options.out / f"seed-{options.seed}" / f"{key[0]}-{key[1]}.json" for key in SHARES}
    paths = {key: path for key, path in every.items() if key[0] in names and key[1] in ways}
    work(options, paths)
    return int(print_table(every) > 0)


if __name__ == "__main__":
    sys.exit(main())
