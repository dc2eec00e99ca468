"""All workloads of this folder: ratios to their alternatives, and which of them moved since they were committed.

    python benchmarks/bench.py [--only heatmap network] [--rounds 5] [--json build/bench.json]
    python benchmarks/bench.py --check [--json build/bench.json]
    python benchmarks/bench.py --commit [--json build/bench.json]

``--check`` compares what was measured last with ``benchmarks/ratios.json``, and ends with 1 where something is slower
by more than the spread of both; ``--commit`` writes that file from it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from measure import Found, Ratio, machine, measured, verdict

#: The files of this folder that have workloads.
MODULES = ["heatmap", "metrics", "triplet", "scanpaths", "statistics_blocks", "network", "data_path"]
COMMITTED = Path(__file__).with_name("ratios.json")


def run(modules: list[str], rounds: int) -> dict[str, Any]:
    """Measures the workloads of the modules, and prints each as it is done."""
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    print("| workload | alternative | times faster than | median (least to most) | load |")
    print("|---|---|---|---|---|")
    for module in modules:
        for workload in importlib.import_module(module).workloads():
            found = measured(workload, rounds)
            first = next(iter(workload.alternatives))
            for name, ratio in found.ratios.items():
                spread = f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
                print(f"| {workload.name} | {name} | {first} | {spread} | {found.load:.1f} |", flush=True)
            rows[workload.name] = record(found, first)
    return {"machine": machine(), "workloads": rows}


def record(found: Found, first: str) -> dict[str, Any]:
    """What is written of a workload."""
    return {
        "against": first,
        "load": round(found.load, 2),
        "difference": found.difference,
        "seconds": {name: round(value, 6) for name, value in found.seconds.items()},
        "ratios": {name: {key: round(value, 3) for key, value in asdict(ratio).items()}
                   for name, ratio in found.ratios.items()},
    }  # fmt: skip


def moved(new: dict[str, Any], committed: dict[str, Any]) -> list[tuple[str, str]]:
    """By workload and alternative, what moved by more than the spread of both: ``slower`` or ``faster``, and a line."""
    lines = []
    for workload, row in new["workloads"].items():
        known = committed["workloads"].get(workload)
        if known is None or known["against"] != row["against"]:
            continue
        for name, values in row["ratios"].items():
            if name not in known["ratios"]:
                continue
            now, before = Ratio(**values), Ratio(**known["ratios"][name])
            how = verdict(now, before)
            if how is not None:
                spans = [f"{each.median:.2f} ({each.low:.2f} to {each.high:.2f})" for each in (now, before)]
                loads = f"load {row['load']}, then {known['load']}"
                lines.append((how, f"{workload}, {name}: {how}, {spans[0]} times, committed {spans[1]}; {loads}"))
    return lines


def check(new: dict[str, Any], committed: dict[str, Any]) -> int:
    """Prints what moved; 1 where something became slower."""
    if new["machine"] != committed["machine"]:
        print(f"another machine: {new['machine']}, committed on {committed['machine']}")
    lines = moved(new, committed)
    compared = sum(len(row["ratios"]) for row in new["workloads"].values())
    print(*(line for _, line in lines), f"{len(lines)} of {compared} ratios moved by more than their spread", sep="\n")
    return int(any(how == "slower" for how, _ in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MODULES, default=MODULES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"))
    parser.add_argument("--check", action="store_true", help="compare what was measured with the committed ratios")
    parser.add_argument("--commit", action="store_true", help="make what was measured the committed ratios")
    options = parser.parse_args()
    if options.check or options.commit:
        if not options.json.is_file():
            sys.exit(f"{options.json}: no such file; measure first (make bench)")
        new = json.loads(options.json.read_text(encoding="utf-8"))
        if options.commit:
            COMMITTED.write_text(json.dumps(new, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            return
        if not COMMITTED.is_file():
            sys.exit(f"{COMMITTED}: no ratios are committed; python benchmarks/bench.py --commit")
        sys.exit(check(new, json.loads(COMMITTED.read_text(encoding="utf-8"))))
    found = run(options.only, options.rounds)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
