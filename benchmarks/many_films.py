"""A thousand small films through `gazelit infer`: memory against films, bad films listed, a killed run resumed.

Films are simulated, five of them are damaged. A first run reads all of them; a second is killed (SIGKILL) when about
half is done and started again, and its results are compared with the first's byte by byte. While a run goes on, the
memory that its processes have allocated (without the libraries that they share) is noted with the number of films that
are done. The program goes on where it was interrupted when it is given the same --out; its exit code is 1 if something
is not as it should be.

    python benchmarks/many_films.py --out FOLDER [--films 1000]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from gazelit.checkpoints import stamps
from gazelit.models import DualEncoderUNet, EncoderSpec
from gazelit.synthetic.dicom_writer import uid, write_film

SIZE = (64, 64)
#: Shares of the films at which the damaged ones stand.
DAMAGED = (0.05, 0.3, 0.5, 0.7, 0.95)
#: Exit code of a run that could not read every film.
BAD_INPUT = 2
#: Memory may grow by so much over the films, MB: chance, and a list of names. Kept pictures of a film would be 150.
MOST_GROWTH = 30.0


def write_films(folder: Path, count: int) -> None:
    """Films of 96 × 80 pixels; those that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:96, :80]
    bad = {int(share * count) for share in DAMAGED}
    for number in range(count):
        path = folder / f"{number:05d}.dcm"
        if path.exists():
            continue
        chance = np.random.default_rng(number)
        phases = chance.uniform(0, 6, 2)
        film = 0.5 + 0.4 * np.sin(rows / 17 + phases[0]) * np.cos(columns / 13 + phases[1])
        beside = folder / f".{number}"
        uids = (uid(0, number), uid(1, number), uid(2, number))
        write_film(beside, film.astype(np.float32), 0.139, f"{number:08d}", uids, chance)
        if number in bad:
            content = beside.read_bytes()
            beside.write_bytes(content[: len(content) // 2])
        beside.rename(path)


def write_checkpoint(path: Path) -> None:
    """A tiny network that was never trained."""
    torch.manual_seed(0)
    small = EncoderSpec("res-se", options={"widths": [4, 4, 8, 8, 8], "reduction": 4})
    network = DualEncoderUNet(EncoderSpec("densenet-small"), small, [8, 8, 8, 4, 4])
    data = {"size": list(SIZE), "class_names": ["a", "b", "c"], "exclusive": True, "synthetic": True}
    stamp = stamps.make_stamp(stage="joint", network=network, data=data, seed=0, parent=None)
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    stamps.save_checkpoint({"state_dict": state, stamps.STAMP_KEY: stamp}, path)


def processes(root: int) -> Iterator[int]:
    """A process and those that it started."""
    yield root
    for thread in Path(f"/proc/{root}/task").glob("*/children"):
        for child in thread.read_text().split():
            yield from processes(int(child))


def megabytes(root: int) -> tuple[float, float]:
    """What a process and those that it started have allocated; nothing of what ends meanwhile."""
    found = []
    for number in processes(root):
        try:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        found += [int(line.split()[1]) / 1024 for line in lines if line.startswith("Anonymous:")][:1]
    return (found or [0.0])[0], sum(found[1:])


def read_all(films: Path, ckpt: Path, out: Path, kill_at: int | None = None) -> list[tuple[int, float, float]]:
    """Runs `gazelit infer`; returns films that were done, with the memory of it and of its decoder then (MB)."""
    command = [sys.executable, "-m", "gazelit", "infer", str(films), f"--ckpt={ckpt}", f"--out={out}"]
    noted = []
    with (out.parent / f"{out.name}.log").open("ab") as log:
        process = subprocess.Popen(command, stderr=log)
        while process.poll() is None:
            done = sum(1 for _ in out.glob("*.json")) if out.is_dir() else 0
            noted.append((done, *megabytes(process.pid)))
            if kill_at is not None and done >= kill_at:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.5)
    expected = BAD_INPUT if kill_at is None else -signal.SIGKILL
    if process.returncode != expected:
        raise SystemExit(f"{out.name}: gazelit infer ended with {process.returncode}; see {log.name}")
    return noted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--films", type=int, default=1000)
    options = parser.parse_args()
    films, ckpt = options.out / "films", options.out / "tiny.ckpt"
    write_films(films, options.films)
    if not ckpt.exists():
        write_checkpoint(ckpt)
    whole, resumed = options.out / "whole", options.out / "resumed"
    memory = options.out / "memory.json"
    if not memory.exists():
        memory.write_text(json.dumps(read_all(films, ckpt, whole)))
    noted = [tuple(entry) for entry in json.loads(memory.read_text())]
    if not (resumed / "predictions.csv").exists():
        read_all(films, ckpt, resumed, kill_at=options.films // 2)
        print(f"killed with {sum(1 for _ in resumed.glob('*.json')) - 1} films done")
        read_all(films, ckpt, resumed)
    wrong = report(noted, whole, resumed, options.films)
    print("\n".join(wrong) or "all as it should be")
    return int(bool(wrong))


def report(noted: list[tuple[int, float, float]], whole: Path, resumed: Path, count: int) -> list[str]:
    """Prints memory against films; returns what is not as it should be."""
    wrong = []
    # Without those before the decoder has begun and after it has ended.
    running = [entry for entry in noted if entry[2]]
    print(f"load {os.getloadavg()[0]:.1f}\nfilms done   infer MB   decoder MB")
    for share in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0):
        until = [entry for entry in running if entry[0] <= share * count + 1]
        if until:
            print(f"{until[-1][0]:10d}   {until[-1][1]:8.0f}   {until[-1][2]:10.0f}")
    after_start = [(done, infer + decoder) for done, infer, decoder in running if done > count / 10]
    slope = np.polyfit(*zip(*after_start, strict=True), 1)[0]
    print(f"growth after the first tenth, by least squares: {slope * count:+.1f} MB over {count} films")
    if slope * count > MOST_GROWTH:
        wrong.append("memory grew")
    with (whole / "failed.csv").open() as file:
        listed = [int(row["position"]) for row in csv.DictReader(file)]
    print(f"listed as damaged: {listed}")
    if listed != [int(share * count) + 1 for share in DAMAGED]:
        wrong.append("the damaged films are not those that are listed")
    files = {path.name: path for path in whole.iterdir() if path.name != "run.json"}
    again = {path.name: path for path in resumed.iterdir() if path.name != "run.json" and not path.name.startswith(".")}
    differing = [
        name
        for name in files.keys() | again.keys()
        if name not in files or name not in again or files[name].read_bytes() != again[name].read_bytes()
    ]
    print(f"{len(files)} files; {len(differing)} of them differ after the kill")
    if differing:
        wrong.append(f"differ: {', '.join(sorted(differing)[:5])}")
    return wrong


if __name__ == "__main__":
    raise SystemExit(main())
