"""What gazelit's commands cost against the number of cases: CPU seconds and peak memory, a process each.

Simulates nothing: films are 64 × 64 grey pictures with 40 fixations each, the network is tiny, so that what is seen is
gazelit's own cost and not that of films or convolutions. Three quarters of the cases are the test split, so that a
report of 100,000 cases is over 75,000. What is measured is kept in ``scale.json``, and measured no more; the table and
the plot are written from it.

    python benchmarks/scale.py --out runs/scale [--cases 1000 10000 100000]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from measure import machine

FIXATIONS = 40
CLASSES = ["Normal", "CHF", "pneumonia"]
STEPS = ["prepare", "prepare again", "fit, an epoch", "test", "report"]
#: A process that runs a command, and tells its processor time and peak memory (resident), with those of its workers,
#: and how much of its own memory at most was anonymous (Linux): libraries and mapped films are not.
SCRIPT = """
import resource, sys, threading, time
from pathlib import Path
from gazelit.cli.main import main
anonymous = [0]
def watch():
    status = Path("/proc/self/status")
    while status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        anonymous.append(max(anonymous.pop(), int(fields["RssAnon"].split()[0])))
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
code = main(sys.argv[1:])
usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
seconds, peak = sum(part.ru_utime + part.ru_stime for part in usage), max(part.ru_maxrss for part in usage)
print("cost", seconds, peak / 1024, anonymous[0] / 1024)
sys.exit(code)
"""


def write_cases(folder: Path, count: int) -> None:
    """Pictures, and the tables that name them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, count)
    rows = []
    for number in range(count):
        part = folder / f"{number // 1000:03d}"
        part.mkdir(exist_ok=True)
        picture = (rng.random((64, 64)) * 120 + 60 * label[number] * (rng.random() < 0.7)).astype(np.uint8)
        cv2.imwrite(str(part / f"{number}.png"), picture)
        rows.append((f"i{number}", f"p{number}", f"{part.name}/{number}.png", *(np.arange(3) == label[number]) * 1))
    pd.DataFrame(rows, columns=["image_id", "patient_id", "path", *CLASSES]).to_csv(folder / "images.csv", index=False)
    for start in range(0, count, 10_000):
        ids = np.repeat([f"i{number}" for number in range(start, min(start + 10_000, count))], FIXATIONS)
        gaze = pd.DataFrame(
            {
                "image_id": ids,
                "x": rng.uniform(0, 63, len(ids)).round(2),
                "y": rng.uniform(0, 63, len(ids)).round(2),
                "duration": 0.25,
                "ppd_x": 6.0,
                "ppd_y": 6.0,
            }
        )
        gaze.to_csv(folder / "gaze.csv", index=False, mode="a" if start else "w", header=not start)


def measure(out: Path, count: int, known: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds and megabytes of each step, of those that are not known yet."""
    folder = out / str(count)
    if not (folder / "gaze.csv").is_file():
        write_cases(folder, count)
    prepare = [
        *("prepare", "--source=Manifest", f"--source.images={folder}/images.csv", f"--source.gaze={folder}/gaze.csv"),
        *(f"--source.labels=[{','.join(CLASSES)}]", "--size=[64, 64]", "--workers=1", f"--out={folder / 'store'}"),
    ]
    network = [
        "--model.network.encoder={name: res-se, options: {widths: [4, 4, 8, 8], reduction: 4}}",
        "--model.network.decoder_widths=[8, 8, 4]",
    ]
    run = folder / "run"
    commands = {
        "prepare": prepare,
        "prepare again": prepare,
        "fit, an epoch": [
            *("fit", "--config=presets/quick/stage3.yaml", "--config=ablations/one_encoder.yaml", *network),
            f"--data.store={folder / 'store'}",
            *("--data.split.test_fraction=0.75", "--data.split.val_fraction=0.05", "--data.loader.batch_size=64"),
            *("--data.loader.num_workers=0", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"),
            *(f"--trainer.default_root_dir={run}", f"--checkpoint.dirpath={run / 'checkpoints'}"),
        ],
        "test": [
            *("test", f"--config={run / 'config.yaml'}", f"--trainer.default_root_dir={run / 'test'}"),
            "--trainer.logger=false",
        ],
        "report": ["report", str(run / "test")],
    }
    for step, command in commands.items():
        if step in known:
            continue
        process = subprocess.run([sys.executable, "-c", SCRIPT, *command], capture_output=True, text=True, check=False)
        if process.returncode:
            sys.exit(f"{count}, {step}: {process.stderr[-2000:]}")
        seconds, memory, anonymous = map(float, process.stdout.splitlines()[-1].split()[1:])
        load = os.getloadavg()[0]
        known[step] = {"cpu_seconds": seconds, "mb": memory, "anonymous_mb": anonymous, "load": load}
        measured = f"{seconds:8.1f} CPU s {memory:8.0f} MB, {anonymous:.0f} of them anonymous"
        print(f"{count:>8} {step:<14} {measured}", flush=True)
        keep(out, count, known)
    return known


def keep(out: Path, count: int, known: dict[str, Any]) -> None:
    """Keeps what was measured."""
    file = out / "scale.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"machine": machine(), "cases": {}}
    found["cases"][str(count)] = known
    file.write_text(json.dumps(found, indent=2), encoding="utf-8")


def write_results(out: Path) -> None:
    """Writes ``scale.md`` and ``scale.png``."""
    found = json.loads((out / "scale.json").read_text(encoding="utf-8"))["cases"]
    counts = sorted(map(int, found))
    lines = ["| cases | " + " | ".join(STEPS) + " |", "|---" * (len(STEPS) + 1) + "|"]
    for count in counts:
        cells = [found[str(count)].get(step) for step in STEPS]
        texts = ["–" if cell is None else f"{cell['cpu_seconds']:.1f} s, {cell['mb']:.0f} MB" for cell in cells]
        lines.append(f"| {count:,} | " + " | ".join(texts) + " |")
    (out / "scale.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, key, label in zip(axes, ("cpu_seconds", "mb"), ("CPU seconds", "peak memory, MB"), strict=True):
        for step in STEPS:
            known = [(count, found[str(count)][step][key]) for count in counts if step in found[str(count)]]
            if known:
                axis.plot(*zip(*known, strict=True), marker="o", label=step)
        axis.set(xscale="log", yscale="log", xlabel="cases", ylabel=label)
        axis.grid(True, which="major", alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(out / "scale.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, nargs="+", default=[1000, 10_000])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "scale.json"
    for count in options.cases:
        found = json.loads(file.read_text(encoding="utf-8"))["cases"] if file.is_file() else {}
        measure(options.out.resolve(), count, found.get(str(count), {}))
    write_results(options.out)


if __name__ == "__main__":
    main()
