"""What only a machine with GPUs can tell: speed and agreement of bfloat16, compilation, layouts, recomputation.

Trains the joint network at 640 × 512 on random films for a few steps each way, in one run. Every row is a ratio to
plain float32 of the same run; "of peak" is the share of what a large bfloat16 matrix product reaches on the same
device, with three forward passes' operations a step; "loss" is the relative difference of the loss after the same
steps. Then the operators that take the fastest way's time. Prints tables, and writes ``gpu.json`` to ``--out``.

    python benchmarks/gpu.py [--network paper lean] [--batch 6 24] [--steps 12] [--ways float32 bfloat16 …] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lean import network_of, operations_of
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gazelit.losses import FixedWeighting, KLDivergenceLoss
from gazelit.losses.diagnosis import DiagnosisLoss
from gazelit.models import DualEncoderUNet
from gazelit.models.execution import Execution, apply_execution

SIZE = (640, 512)
EVERY = ["encoder", "saliency_encoder", "decoder", "saliency_head"]
WAYS: dict[str, tuple[Execution, torch.dtype]] = {
    "float32": (Execution(), torch.float32),
    "bfloat16": (Execution(), torch.bfloat16),
    "bfloat16, channels last": (Execution(channels_last=True), torch.bfloat16),
    "bfloat16, compiled": (Execution(compile=EVERY), torch.bfloat16),
    "bfloat16, compiled, channels last": (Execution(compile=EVERY, channels_last=True), torch.bfloat16),
    "bfloat16, recomputed": (Execution(recompute=EVERY[:3]), torch.bfloat16),
}
#: Words of a kernel's name by what it does; the first that fits counts.
KINDS = {
    "convolution, matrix product": ("conv", "gemm", "xmma", "cutlass", "wgrad", "dgrad", "fprop", "nchwTonhwc", "sm90"),
    "batch normalisation": ("batch_norm", "bn_fw", "bn_bw", "batchnorm"),
    "concatenation and copies": ("Cat", "copy", "Memcpy", "Memset", "Fill"),
    "compiled, fused": ("triton",),
    "optimiser": ("multi_tensor", "adam"),
    "pooling and resizing": ("pool", "upsample"),
}


@dataclass(frozen=True)
class Measured:
    """What a way of training took.

    Attributes:
        seconds: A step, without the first third of the steps.
        gigabytes: Peak of the device's memory.
        loss: After the last step.
        share: Of the bfloat16 peak.
    """

    seconds: float
    gigabytes: float
    loss: float
    share: float


def stepper(name: str, way: str, batch: int, device: torch.device) -> Callable[[], Tensor]:
    """A function that makes a training step of stage 3 and returns its loss."""
    execution, precision = WAYS[way]
    torch.manual_seed(0)
    network = DualEncoderUNet(**network_of(name), dropout=0.0).train()
    apply_execution(network, execution, (64, 64))
    network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(batch, 1, *SIZE, generator=generator).to(device)
    if execution.channels_last:
        image = image.to(memory_format=torch.channels_last)
    target = torch.rand(batch, 1, *SIZE, generator=generator).to(device)
    targets = {
        "heatmap": target / target.sum(dim=(1, 2, 3), keepdim=True),
        "label": torch.arange(batch, device=device) % 3,
        "has_gaze": torch.ones(batch, dtype=torch.bool, device=device),
    }
    weighting, diagnosis, saliency = FixedWeighting(), DiagnosisLoss(), KLDivergenceLoss()

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cuda", precision, enabled=precision != torch.float32):
            outputs = network(image)
        losses = {"diagnosis": diagnosis(outputs, targets), "saliency": saliency(outputs, targets)}
        total: Tensor = weighting(losses)
        total.backward()
        optimizer.step()
        return total.detach()

    return step


def measure(step: Callable[[], Tensor], steps: int, operations: float, peak: float) -> Measured:
    """Times steps; ``operations`` are those of a step, ``peak`` is in operations a second."""
    torch.cuda.reset_peak_memory_stats()
    start, loss = 0.0, torch.zeros(())
    for number in range(steps):
        if number == steps // 3:
            torch.cuda.synchronize()
            start = time.perf_counter()
        loss = step()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / (steps - steps // 3)
    return Measured(seconds, torch.cuda.max_memory_allocated() / 1e9, float(loss), operations / seconds / peak)


def measured_peak(device: torch.device) -> float:
    """Operations a second of a bfloat16 matrix product of 8192 × 8192 × 8192, random numbers; the best of ten."""
    left, right = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(13):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        left @ right
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return 2 * 8192**3 / min(seconds[3:])


def kinds_of_kernels(step: Callable[[], Tensor]) -> tuple[dict[str, float], list[tuple[str, float]], float]:
    """Shares of the device's time by kind of kernel, the ten longest kernels, and how much of the step it was busy."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        step()
        torch.cuda.synchronize()
        wall = time.perf_counter() - start
    kernels: Counter[str] = Counter()
    for event in found.key_averages():
        kernels[event.key] += event.self_device_time_total
    total = sum(kernels.values())
    kinds: Counter[str] = Counter()
    for name, microseconds in kernels.items():
        lower = name.lower()
        kind = next((kind for kind, words in KINDS.items() if any(word.lower() in lower for word in words)), "the rest")
        kinds[kind] += microseconds / total
    longest = [(name[:90], microseconds / total) for name, microseconds in kernels.most_common(10)]
    return dict(kinds.most_common()), longest, total / 1e6 / wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=["paper", "lean", "small"], default=["paper"])
    parser.add_argument("--batch", nargs="+", type=int, default=[6])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--out", type=Path, default=Path("build"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py needs a GPU; there is none here")
    device = torch.device("cuda")
    peak = measured_peak(device)
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "peak": peak}
    print(f"{found['device']}, torch {torch.__version__}, bfloat16 peak {peak / 1e12:.0f} · 10¹² a second")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.network:
        operations = operations_of(name, SIZE)
        for batch in options.batch:
            print(f"\n{name}, batch {batch} at {SIZE[0]} × {SIZE[1]}, {operations / 1e9:.0f} · 10⁹ operations a pass")
            print(f"{'':36} {'s/step':>8} {'speed':>7} {'of peak':>8} {'GB':>7} {'loss':>9}")
            measured: dict[str, Measured] = {}
            for way in options.ways:
                torch.cuda.empty_cache()
                result = measure(stepper(name, way, batch, device), options.steps, 3 * batch * operations, peak)
                measured[way] = result
                plain = measured[options.ways[0]]
                print(
                    f"{way:36} {result.seconds:8.3f} {plain.seconds / result.seconds:6.2f}x {result.share:8.1%} "
                    f"{result.gigabytes:7.1f} {abs(result.loss - plain.loss) / abs(plain.loss):9.1e}",
                    flush=True,
                )
            fastest = min(measured, key=lambda way: measured[way].seconds)
            step = stepper(name, fastest, batch, device)
            for _ in range(3):
                step()
            kinds, longest, busy = kinds_of_kernels(step)
            print(f"{fastest}: the device is busy {busy:.0%} of a profiled step")
            for text, share in [*kinds.items(), *longest]:
                print(f"  {share:6.1%} {text}")
            found[f"{name} {batch}"] = {
                "ways": {way: asdict(result) for way, result in measured.items()},
                "kinds": kinds, "longest": longest, "busy": busy,
            }  # fmt: skip
            (options.out / "gpu.json").write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
