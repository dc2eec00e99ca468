"""What only a machine with GPUs can tell: speed and agreement of bfloat16, compilation, layouts, recomputation.

Trains the joint network at 640 × 512 on random films for a few steps each way, in one run. Every row is a ratio to
plain float32 of the same run; "loss" is the relative difference of the loss after the same steps. Prints one table.

    python benchmarks/gpu.py [--batch 6] [--steps 12]
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from gazelit.losses import FixedWeighting, KLDivergenceLoss
from gazelit.losses.diagnosis import DiagnosisLoss
from gazelit.models import DualEncoderUNet, EncoderSpec
from gazelit.models.execution import Execution, apply_execution

SIZE = (640, 512)
EVERY = ["encoder", "saliency_encoder", "decoder", "saliency_head"]


def train(
    execution: Execution, precision: torch.dtype, batch: int, steps: int, device: torch.device
) -> tuple[float, float, float]:
    """Seconds a step, peak memory in GB, last loss."""
    torch.manual_seed(0)
    network = DualEncoderUNet(EncoderSpec("paper-densenet201"), EncoderSpec("res-se"), dropout=0.0).train()
    apply_execution(network, execution, (64, 64))
    network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(batch, 1, *SIZE, generator=generator).to(device)
    if execution.channels_last:
        image = image.to(memory_format=torch.channels_last)
    target = torch.rand(batch, 1, *SIZE, generator=generator).to(device)
    target = target / target.sum(dim=(1, 2, 3), keepdim=True)
    targets = {
        "heatmap": target,
        "label": torch.arange(batch, device=device) % 3,
        "has_gaze": torch.ones(batch, dtype=torch.bool, device=device),
    }
    weighting, diagnosis, saliency = FixedWeighting(), DiagnosisLoss(), KLDivergenceLoss()
    torch.cuda.reset_peak_memory_stats()
    loss = torch.zeros(())
    start = 0.0

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cuda", precision, enabled=precision != torch.float32):
            outputs = network(image)
        total: Tensor = weighting(
            {
                "diagnosis": diagnosis(outputs, targets),
                "saliency": saliency(outputs, targets),
            }
        )
        total.backward()
        optimizer.step()
        return total.detach()

    for number in range(steps):
        if number == steps // 3:
            torch.cuda.synchronize()
            start = time.perf_counter()
        loss = step()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / (steps - steps // 3)
    return seconds, torch.cuda.max_memory_allocated() / 1e9, float(loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py needs a GPU; there is none here")
    device = torch.device("cuda")
    ways = {
        "float32": (Execution(), torch.float32),
        "bfloat16": (Execution(), torch.bfloat16),
        "bfloat16, channels last": (Execution(channels_last=True), torch.bfloat16),
        "bfloat16, compiled": (Execution(compile=EVERY), torch.bfloat16),
        "bfloat16, compiled, channels last": (Execution(compile=EVERY, channels_last=True), torch.bfloat16),
        "bfloat16, recomputed": (Execution(recompute=EVERY[:3]), torch.bfloat16),
    }
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batch {options.batch} at {SIZE[0]} × {SIZE[1]}")
    print(f"{'':36} {'s/step':>8} {'speed':>7} {'GB':>7} {'loss':>9}")
    plain: tuple[float, float, float] | None = None
    for name, (execution, precision) in ways.items():
        result = train(execution, precision, options.batch, options.steps, device)
        plain = plain or result
        difference = abs(result[2] - plain[2]) / abs(plain[2])
        print(f"{name:36} {result[0]:8.3f} {plain[0] / result[0]:6.2f}x {result[1]:7.1f} {difference:9.1e}")


if __name__ == "__main__":
    main()
