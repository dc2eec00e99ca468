"""What a network with an eighth of the operations costs in AUC and CC, on synthetic films.

Trains the three stages of each network with the same seeds, passes and rate, tests them on the same films, and judges
the lean ones against the first: non-inferior where the whole interval of the difference, over patients and seeds, lies
above the margin (0.02 of the macro AUC, 0.01 of CC). One run folder of ``gazelit run``: the same command goes on after
an end at any moment.

    python benchmarks/lean.py --out runs/lean [--size quick|reduced|full] [--seeds 5] [--jobs 5] [--networks paper …]
    python benchmarks/lean.py --out runs/lean --report

Networks that are named have a run folder of their own, so that several commands train at the same time.
``quick`` compares the quick preset's network with its lean one. ``reduced`` has the paper's network, the lean one and
the small one at 128 × 96, with maps so wide (2°, 6 pixels) that they stand to the map's stride as at full size: hours
on two cores. ``full`` is 640 × 512, for a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

# Of the benchmark of the claims, which lies beside this one.
from claims import CLASSES, difference_text, gazelit
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from gazelit.configs import find_config, read_config
from gazelit.evaluation.crossed import crossed_difference
from gazelit.evaluation.statistics import (
    Estimate,
    Floats,
    Statistic,
    auroc_of,
    average_of,
    bootstrap_weights,
    drawn,
    mean_of,
    percentile,
)
from gazelit.files import read_json
from gazelit.models import DualEncoderUNet
from gazelit.reporting.folders import read_run
from gazelit.reporting.tables import Table, with_interval

COHORT_SEED = 21
#: How far below the first network another may be.
MARGINS = {"macro AUC": 0.02, "CC": 0.01}
#: By network, its preset and the configurations that it is laid together from.
NETWORKS: dict[str, tuple[str, list[str]]] = {
    "paper": ("paper", ["stage3.yaml"]),
    "lean": ("paper", ["stage3.yaml", "networks/lean.yaml"]),
    "small": ("paper", ["stage3.yaml", "networks/small_encoder.yaml", "networks/lean.yaml"]),
    "quick": ("quick", ["stage3.yaml"]),
    "quick_lean": ("quick", ["stage3.yaml", "networks/lean.yaml"]),
}


@dataclass(frozen=True)
class Size:
    """How large the experiment is.

    Attributes:
        networks: What is compared, with the first.
        resolution: Height and width of the working images.
        sigma: Of the maps, in degrees.
        passes: Over the training cases, of the three stages.
        rate: Of the optimiser, at the beginning of half a cosine.
        precision: Of the training.
        max_side: Of the simulated films, in pixels.
    """

    networks: list[str]
    resolution: tuple[int, int]
    sigma: float
    passes: tuple[int, int, int]
    rate: float
    precision: str
    max_side: int


SIZES = {
    "quick": Size(["quick", "quick_lean"], (128, 96), 1.0, (12, 10, 14), 2e-3, "32-true", 256),
    "reduced": Size(["paper", "lean", "small"], (128, 96), 2.0, (6, 6, 12), 1e-3, "bf16-mixed", 256),
    "full": Size(["paper", "lean", "small"], (640, 512), 1.0, (12, 10, 14), 3e-4, "bf16-mixed", 1024),
}


def network_of(name: str) -> dict[str, Any]:
    """A network's arguments by the shipped configurations, with random weights."""
    preset, configs = NETWORKS[name]
    arguments: dict[str, Any] = {"encoder": {}}
    for config in configs:
        network = read_config(find_config(config, preset))["model"]["init_args"]["network"]["init_args"]
        encoder = {"options": {}, **arguments["encoder"], **network.get("encoder", {}), "weights": None}
        arguments |= {**network, "encoder": encoder}
    return {"decoder_widths": [512, 256, 128, 64, 64], **arguments}


def operations_of(name: str, size: tuple[int, int]) -> float:
    """Floating-point operations of a forward pass of one film, by torch's own count."""
    with FakeTensorMode():
        network = DualEncoderUNet(**network_of(name)).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 1, *size))
    return float(counter.get_total_flops())


class Experiment:
    """The cohort, the store and the run, in one folder.

    Args:
        out: The folder.
        size: How large the experiment is.
        cases: Number of simulated films.
        train_cases: Number of films that each training has.
        options: Further options of every stage.
    """

    def __init__(self, out: Path, size: Size, cases: int, train_cases: int, options: list[str]) -> None:
        self.out, self.size, self.cases, self.train_cases, self.options = out, size, cases, train_cases, options

    def prepare(self) -> None:
        """Makes cohort and store, unless they are there."""
        cohort, store = self.out / "cohort", self.out / "store"
        if not cohort.is_dir():
            cohort_options = ["--difficulty=hard", "--format=manifest", f"--max_side={self.size.max_side}"]
            gazelit("synth", f"--cases={self.cases}", f"--seed={COHORT_SEED}", *cohort_options, f"--out={cohort}")
        if store.is_dir():
            return
        tables = [f"--source.{name}={cohort / 'manifest' / f'{name}.csv'}" for name in ("images", "gaze")]
        labels = [f"--source.labels=[{','.join(CLASSES)}]", "--source.coordinates=normalised"]
        size = f"--size={list(self.size.resolution)}"
        gazelit("prepare", "--source=Manifest", *tables, *labels, size, "--require_gaze=false", f"--out={store}")

    def stages(self, name: str) -> list[dict[str, Any]]:
        """The three stages of a network."""
        network = network_of(name)
        parts = {key: f"--model.network.{key}={json.dumps(value)}" for key, value in network.items()}
        stages: list[dict[str, Any]] = []
        for number, (what, passes) in enumerate(
            zip(("contrastive", "saliency", "joint"), self.size.passes, strict=True), start=1
        ):
            own = [parts["encoder"]] if number == 1 else [part for key, part in parts.items() if key != "classes"]
            schedule = [f"--trainer.max_epochs={passes}", f"--model.lr_scheduler.T_max={passes}"]
            stages.append(
                {
                    "name": f"{name}_{what}",
                    "config": f"presets/quick/stage{number}.yaml",
                    "after": stages[-1]["name"] if stages else None,
                    "overrides": [*own, *schedule, *self.options],
                }
            )
        return stages

    def run(self, networks: list[str], seeds: int, jobs: int) -> None:
        """Trains and tests, or goes on with it; ``jobs`` seeds at the same time."""
        stages: list[dict[str, Any]] = []
        first: dict[str, str] = {}
        for name in networks:
            of_network = self.stages(name)
            # Stage 1 has the encoder alone: networks of the same encoder share it.
            encoder = of_network[0]["overrides"][0]
            of_network[1]["after"] = first.setdefault(encoder, of_network[0]["name"])
            stages += of_network if of_network[1]["after"] == of_network[0]["name"] else of_network[1:]
        pipeline = {
            "stages": stages,
            "arms": {name: f"{name}_joint" for name in networks},
            "seeds": seeds,
            # Nothing is selected: every network makes the same passes.
            "checkpoint": "last",
            "overrides": [
                "--data.split.test_fraction=0.6",
                "--data.split.val_fraction=0.08",
                f"--data.split.train_cases={self.train_cases}",
                f"--data.gaze.sigma={self.size.sigma}",
                "--data.loader.num_workers=0",
                f"--model.optimizer.lr={self.size.rate}",
                f"--trainer.precision={self.size.precision}",
                "--trainer.check_val_every_n_epoch=3",
            ],
        }
        folder = self.out / ("run" if networks == self.size.networks else f"run_{'_'.join(networks)}")
        file = folder.with_suffix(".yaml")
        file.write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
        gazelit("run", file, f"--store={self.out / 'store'}", f"--out={folder}", f"--jobs={jobs}")


def statistics(table: pd.DataFrame) -> dict[str, Statistic]:
    """What the networks are judged by."""
    chance = table[[f"p_{name}" for name in CLASSES]].to_numpy(np.float64)
    label = table["label"].to_numpy()
    return {
        "macro AUC": average_of([auroc_of(chance[:, k], label == k) for k in range(len(CLASSES))]),
        "CC": mean_of(table["cc"].to_numpy(np.float64)),
    }


def verdict(difference: Estimate, margin: float) -> str:
    """What an interval says of a margin."""
    if difference.low > -margin:
        return "non-inferior"
    return "inferior" if difference.high < -margin else "open"


def write_tables(out: Path, size: Size) -> None:
    """Writes ``lean.md`` and ``lean.json`` of a run that is finished."""
    results = [result for file in sorted(out.glob("run*/run.json")) for result in read_run(file.parent).results]
    first = results[0].predictions
    patients = first["patient"].nunique()
    weights = bootstrap_weights(first["patient"].to_numpy())
    whole = np.ones((1, len(first)))
    values: dict[tuple[str, str], Floats] = {}
    draws: dict[tuple[str, str], Floats] = {}
    seconds: dict[str, float] = {}
    for name in size.networks:
        of_seed = [statistics(result.predictions) for result in results if result.arm == name]
        for metric in MARGINS:
            values[name, metric] = np.array([each[metric](whole)[0] for each in of_seed])
            draws[name, metric] = np.stack([drawn(each[metric], weights) for each in of_seed])
        # The stages that a network shares with no other.
        done = [file for what in ("saliency", "joint") for file in out.glob(f"run*/**/{name}_{what}/done.json")]
        seconds[name] = sum(read_json(file)["cpu_seconds"] for file in done)
    reference = size.networks[0]
    seeds = len(values[reference, "CC"])
    operations = {name: operations_of(name, size.resolution) for name in size.networks}
    rows: list[list[object]] = []
    judged: list[list[object]] = []
    found: dict[str, Any] = {"load": os.getloadavg()[0], "seeds": seeds, "patients": patients, "networks": {}}
    for name in size.networks:
        estimates = {m: percentile(float(values[name, m].mean()), draws[name, m].mean(axis=0)) for m in MARGINS}
        fewer = operations[reference] / operations[name]
        cells = [with_interval(estimates[metric]) for metric in MARGINS]
        rows.append([name, f"{operations[name] / 1e9:.2f}", f"{fewer:.1f}", f"{seconds[name]:.0f}", *cells])
        found["networks"][name] = {"operations": operations[name], "cpu_seconds": seconds[name]}
        found["networks"][name] |= {metric: values[name, metric].tolist() for metric in MARGINS}
        if name == reference:
            continue
        for metric, margin in MARGINS.items():
            keys = (name, metric), (reference, metric)
            difference = crossed_difference(
                (values[keys[0]], values[keys[1]]), (draws[keys[0]], draws[keys[1]]), patients, paired=True
            )
            result = verdict(difference, margin)
            judged.append([name, metric, difference_text(difference), f"{margin:.2f}", result])
            found["networks"][name][f"{metric} less {reference}"] = [difference.value, difference.low, difference.high]
    heads = ["network", "operations of a forward pass (10⁹)", "fewer", "CPU s of stages 2 and 3, all seeds", *MARGINS]
    lines = [
        f"{len(first):,} synthetic test films of {patients:,} patients, {size.resolution[0]} × {size.resolution[1]}, "
        f"σ {size.sigma:g}°, {seeds} seeds.",
        "",
        *Table(heads, rows).markdown(),
        "",
        *Table(["network", "metric", f"less {reference}", "margin", "verdict"], judged).markdown(),
    ]
    (out / "lean.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (out / "lean.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=list(SIZES), default="reduced")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="seeds that are trained at the same time")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), help="which to train; all of the size")
    parser.add_argument("--cases", type=int, default=1600, help="simulated films: 60 %% are tested, 8 %% validated")
    parser.add_argument("--train-cases", type=int, default=240)
    parser.add_argument("--option", action="append", default=[], help="a further option of every stage; repeatable")
    parser.add_argument("--report", action="store_true", help="write the tables of what is finished, and train nothing")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    size = SIZES[options.size]
    if not options.report:
        experiment = Experiment(options.out, size, options.cases, options.train_cases, options.option)
        experiment.prepare()
        experiment.run(options.networks or size.networks, options.seeds, options.jobs)
    if options.report or not options.networks:
        write_tables(options.out, size)


if __name__ == "__main__":
    main()
