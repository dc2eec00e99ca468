"""CC, KLD, SIM and NSS of many maps in two passes over them.

The four functions of :mod:`gazelit.metrics.functional` define the metrics; here they are computed at the speed of the
memory. On a CPU, code that numba compiles gathers the maps' sums, moments and logarithms block by block, while a block
is in the cache. On other devices the four functions are called.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gazelit.metrics import functional

#: Least number of pixels of a map for which compiled code is faster, its start included.
_LARGE = 2**15


def cc_kld_sim_nss(prediction: Tensor, target: Tensor, counts: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """The four metrics together; each equals its function of the same name to 1e-6.

    Args:
        prediction: Predicted densities (B, H, W).
        target: Fixation densities (B, H, W).
        counts: Fixation counts (B, H, W).
        mask: Pixels that count (B, H, W) bool; all unless given.

    Returns:
        ``cc``, ``kld``, ``sim`` and ``nss``, each (B,) float64.

    Raises:
        ValueError: Shapes differ, or counts are not whole numbers.
    """
    maps = (prediction, target, counts)
    is_small = prediction.ndim != 3 or prediction[:1].numel() < _LARGE
    if is_small or prediction.device.type != "cpu" or any(each.dtype == torch.float64 for each in maps):
        pairs = (("cc", target), ("kld", target), ("sim", target), ("nss", counts))
        return {name: getattr(functional, name)(prediction, truth, mask) for name, truth in pairs}
    if not prediction.shape == target.shape == counts.shape:
        raise ValueError(f"maps must all be (B, H, W), not {', '.join(str(tuple(each.shape)) for each in maps)}")
    # numba takes 50 MB, which small maps do not need.
    import numba
    from numba.core.config import NUMBA_NUM_THREADS  # type: ignore[attr-defined]

    from gazelit.metrics.fused_loops import values_of_maps

    rows = [each.detach().float().flatten(1).contiguous().numpy() for each in maps]
    valid = np.empty((0, 0), bool) if mask is None or bool(mask.all()) else mask.flatten(1).contiguous().numpy()
    table = np.empty((len(prediction), 4))
    # At most as many threads as Lightning or the user gave torch, because other processes may train on the machine.
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, NUMBA_NUM_THREADS))
    try:
        values_of_maps(*rows, valid, table)
    finally:
        # When numba starts, it sets the number of threads in the OpenMP library that torch uses too. Training would
        # go on with other rounding.
        torch.set_num_threads(threads)
    if np.isinf(table[:, 3]).any():
        raise ValueError("nss: counts must be whole numbers of fixations, not a blurred map")
    return {name: torch.from_numpy(table[:, column].copy()) for column, name in enumerate(("cc", "kld", "sim", "nss"))}
