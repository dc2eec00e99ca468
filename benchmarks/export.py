"""What an exported network costs on this machine: size, and the time of a film beside eager PyTorch in float32.

The engines take turns film by film, so that a busy machine slows them all alike; printed are medians, their ratio to
eager PyTorch, and the load average. Weights are random unless a checkpoint is given: they change no time, but what int8
loses is told by `gazelit export` on trained ones.

    python benchmarks/export.py [--network quick|paper] [--ckpt FILE] [--rounds 5] [--threads 1] [--formats onnx ...]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gazelit.checkpoints import stamps
from gazelit.deploy.engines import SUFFIXES, read_exported
from gazelit.deploy.inference import load_model
from gazelit.models import DualEncoderUNet, EncoderSpec
from gazelit.release.export import export
from gazelit.trust import trust

SIZES = {"quick": (128, 96), "paper": (640, 512)}


def network(name: str) -> DualEncoderUNet:
    """The network of a preset, with random weights."""
    if name == "paper":
        return DualEncoderUNet(EncoderSpec("paper-densenet201"), EncoderSpec("res-se"))
    small = EncoderSpec("res-se", options={"widths": [8, 16, 32, 48, 64], "reduction": 8})
    return DualEncoderUNet(EncoderSpec("densenet-small"), small, [48, 32, 24, 16, 8])


def write_random(path: Path, name: str) -> None:
    """A checkpoint that was never trained."""
    torch.manual_seed(0)
    built = network(name)
    data = {"size": list(SIZES[name]), "class_names": ["a", "b", "c"], "exclusive": True, "synthetic": True}
    stamp = stamps.make_stamp(stage="joint", network=built, data=data, seed=0, parent=None)
    state = {f"network.{key}": value for key, value in built.state_dict().items()}
    stamps.save_checkpoint({"state_dict": state, stamps.STAMP_KEY: stamp}, path)


def size_of(path: Path) -> float:
    """Megabytes, of OpenVINO with its weights."""
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return sum(file.stat().st_size for file in files) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=SIZES, default="quick")
    parser.add_argument("--ckpt", type=Path)
    parser.add_argument("--stage_config", type=Path, help="of a trained checkpoint: adds int8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--formats", nargs="+", choices=SUFFIXES, default=list(SUFFIXES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    trust("torch.export")
    with tempfile.TemporaryDirectory() as folder:
        path = options.ckpt or Path(folder) / "random.ckpt"
        if options.ckpt is None:
            write_random(path, options.network)
        model = load_model(path)
        sizes = {"eager PyTorch": sum(value.nbytes for value in model.network.state_dict().values()) / 1e6}
        engines: dict[str, Callable[[Tensor], object]] = {"eager PyTorch": model.network}
        for format in options.formats:
            precisions = ["float32"] + ["int8"] * (options.stage_config is not None and format != "torch-export")
            for precision in precisions:
                out = Path(folder) / f"{precision}{SUFFIXES[format]}"
                started = time.perf_counter()
                export(str(path), format, out, precision, options.stage_config)
                name = f"{format} {precision}"
                engines[name] = read_exported(out, torch.device("cpu")).network
                sizes[name] = size_of(out)
                print(f"{name}: exported in {time.perf_counter() - started:.0f} s", flush=True)
        image = torch.from_numpy(np.random.default_rng(0).random((1, 1, *model.size), dtype=np.float32))
        times: dict[str, list[float]] = {name: [] for name in engines}
        with torch.inference_mode():
            for round_number in range(options.rounds + 1):
                for name, engine in engines.items():
                    started = time.perf_counter()
                    engine(image)
                    # The first round warms up.
                    if round_number:
                        times[name].append(time.perf_counter() - started)
    load = os.getloadavg()
    print(f"\n{options.threads} thread(s), {os.cpu_count()} cores, load average {load[0]:.1f} {load[1]:.1f}; a film of")
    print(f"{model.size[0]} x {model.size[1]}, batch 1, {options.rounds} alternating rounds\n")
    base = times["eager PyTorch"]
    print(f"{'engine':<24}{'MB':>8}{'s a film':>11}{'of eager':>10}   (of each round)")
    for name, values in times.items():
        ratios = [taken / eager for taken, eager in zip(values, base, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        middle, ratio = statistics.median(values), statistics.median(ratios)
        print(f"{name:<24}{sizes[name]:>8.1f}{middle:>11.3f}{ratio:>10.2f}   {spread}")


if __name__ == "__main__":
    main()
