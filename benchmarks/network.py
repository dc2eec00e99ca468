"""The networks against the paper's plain one, in one run: operations, a training step, a forward pass.

Every figure is a ratio of CPU seconds of this process to those of the plain network of the same round; rounds alternate
the variants. Prints a table with the median and the extremes over rounds, and the machine's load; writes JSON.

    python benchmarks/network.py [--size 256 160] [--rounds 3] [--threads 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import Workload, cpu_seconds
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gazelit.configs import find_config, read_config
from gazelit.density import log_density
from gazelit.models import DualEncoderUNet, EncoderSpec
from gazelit.models.execution import Execution, apply_execution

#: As shipped: configs/networks/lean.yaml.
LEAN: dict[str, Any] = read_config(find_config("networks/lean.yaml"))["model"]["init_args"]["network"]["init_args"]
PAPER: dict[str, Any] = {"saliency_encoder": EncoderSpec("res-se")}


@dataclass(frozen=True)
class Variant:
    """A network and how it is run."""

    encoder: str
    arguments: dict[str, Any]
    execution: Execution
    bfloat16: bool = False


VARIANTS = {
    "paper": Variant("paper-densenet201", PAPER, Execution()),
    "paper, doubling merged": Variant("paper-densenet201", PAPER, Execution(merge_doubling=True)),
    "paper, bfloat16, channels last": Variant("paper-densenet201", PAPER, Execution(channels_last=True), True),
    "lean": Variant("paper-densenet201", LEAN, Execution(merge_doubling=True)),
    "lean, bfloat16, channels last": Variant(
        "paper-densenet201", LEAN, Execution(merge_doubling=True, channels_last=True), True
    ),
    "small": Variant("efficientnet-b0", LEAN, Execution(merge_doubling=True)),
}


class Runner:
    """A variant, ready to be timed."""

    def __init__(self, variant: Variant, size: tuple[int, int]) -> None:
        torch.manual_seed(0)
        self.variant = variant
        self.network = DualEncoderUNet(EncoderSpec(variant.encoder), **variant.arguments)
        apply_execution(self.network, variant.execution, (64, 64))
        self.image = torch.rand(1, 1, *size)
        if variant.execution.channels_last:
            self.image = self.image.to(memory_format=torch.channels_last)

    def _outputs(self) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.variant.bfloat16):
            return self.network(self.image)

    def forward(self) -> None:
        """A forward pass in evaluation mode."""
        self.network.eval()
        with torch.inference_mode():
            self._outputs()

    def step(self) -> None:
        """A forward and a backward pass; batch statistics of one image are enough to be timed."""
        self.network.train()
        outputs = self._outputs()
        loss = -log_density(outputs["saliency_logits"]).mean() + outputs["logits"].float().logsumexp(1).mean()
        loss.backward()
        self.network.zero_grad(set_to_none=True)

    def operations(self) -> float:
        """Of a forward pass."""
        with FlopCounterMode(display=False) as counter:
            self.forward()
        return float(counter.get_total_flops())


def workloads() -> list[Workload]:
    """Forward passes and steps at 256 × 160, and the optimiser's step of the paper's network."""
    runners = {name: Runner(variant, (256, 160)) for name, variant in VARIANTS.items()}
    found = [
        Workload(f"network: {what}", {name: getattr(runner, what) for name, runner in runners.items()})
        for what in ("forward", "step")
    ]
    parameters = list(runners["paper"].network.parameters())
    optimisers = {}
    for name, options in (("one tensor at a time", {"foreach": False}), ("fused", {"fused": True})):
        copies = [parameter.detach().clone().requires_grad_() for parameter in parameters]
        for copy in copies:
            copy.grad = torch.full_like(copy, 1e-3)
        optimisers[name] = torch.optim.Adam(copies, lr=1e-4, **options).step
    return [*found, Workload("Adam's step of the paper's network", optimisers)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 160))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runners = {name: Runner(variant, tuple(options.size)) for name, variant in VARIANTS.items()}
    seconds: dict[str, dict[str, list[float]]] = {name: {"forward": [], "step": []} for name in runners}
    for runner in runners.values():
        runner.forward()
    for _ in range(options.rounds):
        for name, runner in runners.items():
            for what in ("forward", "step"):
                seconds[name][what].append(cpu_seconds(getattr(runner, what)))
    operations = {name: runner.operations() for name, runner in runners.items()}
    load = os.getloadavg()[0]
    found: dict[str, Any] = {"size": list(options.size), "threads": options.threads, "load": load, "rows": {}}
    print(f"{options.size[0]} × {options.size[1]}, batch 1, {options.threads} thread(s), load {load:.1f}")
    print("| network | operations (10⁹) | fewer | forward, times faster | step, times faster |")
    print("|---|---|---|---|---|")
    for name, times in seconds.items():
        ratios = {
            what: [plain / value for plain, value in zip(seconds["paper"][what], times[what], strict=True)]
            for what in times
        }
        fewer = operations["paper"] / operations[name]
        found["rows"][name] = {"operations": operations[name], **ratios}
        cells = [f"{statistics.median(part):.2f} ({min(part):.2f} to {max(part):.2f})" for part in ratios.values()]
        print(f"| {name} | {operations[name] / 1e9:.1f} | {fewer:.1f} | {' | '.join(cells)} |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
