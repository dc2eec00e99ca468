"""CC, KLD, SIM and NSS of many maps against the loops of pysaliency over the same maps, in one run on the CPU.

python benchmarks/metrics.py [--maps 1000] [--threads 2]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from measure import Workload
from pysaliency.metrics import CC, NSS, SIM, MIT_KLDiv

from gazelit.metrics.fused import cc_kld_sim_nss

SIZE = (640, 512)
BATCH = 16


def pysaliency_values(prediction: torch.Tensor, target: torch.Tensor, counts: torch.Tensor) -> np.ndarray:
    """The four metrics of every map, by pysaliency's functions."""
    fixations = [np.nonzero(each.numpy()) for each in counts]
    return np.array(
        [
            (CC(p, g), MIT_KLDiv(p, g), SIM(p, g), NSS(p, x, y).mean())
            for p, g, (y, x) in zip(prediction.numpy(), target.numpy(), fixations, strict=True)
        ],
        np.float64,
    )


def maps(generator: torch.Generator, count: int = BATCH) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predictions, targets and counts of fixations."""
    prediction = torch.rand(count, *SIZE, generator=generator) ** 3 + 1e-4
    target = torch.rand(count, *SIZE, generator=generator) ** 2
    return prediction, target, (torch.rand(count, *SIZE, generator=generator) < 1.5e-4).float()


def workloads() -> list[Workload]:
    """Four maps against pysaliency's loops, which compute in the maps' float32."""
    given = maps(torch.Generator().manual_seed(0), 4)

    def difference() -> float:
        ours = torch.stack(list(cc_kld_sim_nss(*given).values())).T
        return float((ours - torch.tensor(pysaliency_values(*given))).abs().max())

    ways = {"pysaliency": lambda: pysaliency_values(*given), "gazelit": lambda: cc_kld_sim_nss(*given)}
    return [Workload("CC, KLD, SIM and NSS", ways, difference, 1e-4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    ours = theirs = error = 0.0
    done = 0
    # Compiles, or loads what an earlier process compiled.
    cc_kld_sim_nss(*torch.rand(2, 1, *SIZE), torch.zeros(1, *SIZE))
    while done < options.maps:
        given = maps(generator)
        start = time.perf_counter()
        values = cc_kld_sim_nss(*given)
        ours += time.perf_counter() - start

        start = time.perf_counter()
        loop = pysaliency_values(*given)
        theirs += time.perf_counter() - start
        both = torch.stack(list(values.values())).T - torch.tensor(loop)
        error = max(error, float(both.abs().max()))
        done += BATCH
    print(f"{done} maps of {SIZE[0]} × {SIZE[1]}, float32, {options.threads} threads: CC, KLD, SIM and NSS together")
    print(f"pysaliency  {theirs / done * 1e3:7.3f} ms a map")
    print(f"gazelit     {ours / done * 1e3:7.3f} ms a map   {theirs / ours:.1f} times as fast")
    print(f"largest difference {error:.1e} (pysaliency computes in the maps' float32)")


if __name__ == "__main__":
    main()
