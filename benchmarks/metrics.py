"""CC, KLD, SIM and NSS of many maps against the loops of pysaliency over the same maps, in one run on the CPU.

python benchmarks/metrics.py [--maps 1000] [--threads 2]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from pysaliency.metrics import CC, NSS, SIM, MIT_KLDiv

from gazelit.metrics.fused import cc_kld_sim_nss

SIZE = (640, 512)
BATCH = 16


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
        prediction = torch.rand(BATCH, *SIZE, generator=generator) ** 3 + 1e-4
        target = torch.rand(BATCH, *SIZE, generator=generator) ** 2
        counts = (torch.rand(BATCH, *SIZE, generator=generator) < 1.5e-4).float()
        fixations = [np.nonzero(count.numpy()) for count in counts]

        start = time.perf_counter()
        values = cc_kld_sim_nss(prediction, target, counts)
        ours += time.perf_counter() - start

        start = time.perf_counter()
        loop = [
            (CC(p, g), MIT_KLDiv(p, g), SIM(p, g), NSS(p, x, y).mean())
            for p, g, (y, x) in zip(prediction.numpy(), target.numpy(), fixations, strict=True)
        ]
        theirs += time.perf_counter() - start
        both = torch.stack(list(values.values())).T - torch.tensor(np.array(loop, np.float64))
        error = max(error, float(both.abs().max()))
        done += BATCH
    print(f"{done} maps of {SIZE[0]} × {SIZE[1]}, float32, {options.threads} threads: CC, KLD, SIM and NSS together")
    print(f"pysaliency  {theirs / done * 1e3:7.3f} ms a map")
    print(f"gazelit     {ours / done * 1e3:7.3f} ms a map   {theirs / ours:.1f} times as fast")
    print(f"largest difference {error:.1e} (pysaliency computes in the maps' float32)")


if __name__ == "__main__":
    main()
