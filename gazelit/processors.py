"""How many processors there are for this process, what they can do, and how threads wait on them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gazelit.errors import InputError

_ROOT = Path("/")
#: With these Lightning turns every batch into the weights' type before heatmaps are rendered. In bfloat16 a gaze
#: position of 600 pixels is off by up to two.
_RETYPED = ("bf16-true", "16-true", "64-true", "64", "transformer-engine", "transformer-engine-float16")


def usable(root: Path = _ROOT) -> int:
    """Processors that this process may use: by its affinity, and by the quota of its control groups.

    In a container with a quota of two, ``os.cpu_count()`` tells of all the machine's processors; as many threads or
    workers would wait for each other.

    Args:
        root: Where ``proc`` and ``sys`` are mounted.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Quotas in processors, of the process's control group and those above it (versions 1 and 2 of the kernel's)."""
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        is_second = number == "0" and not controllers
        if not is_second and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("" if is_second else controllers)
        group = Path(path.lstrip("/"))
        # Inside a container the path may be the host's, which is not mounted there: its own group is the mount then.
        for folder in {mount, *(mount / parent for parent in (group, *group.parents))}:
            if is_second:
                quota, _, period = (_read(folder / "cpu.max") or "").strip().partition(" ")
            else:
                quota, period = ((_read(folder / f"cpu.cfs_{part}_us") or "").strip() for part in ("quota", "period"))
            if quota.isdigit() and period.isdigit() and int(period) > 0:
                yield int(quota) / int(period)


def takes_bfloat16(root: Path = _ROOT) -> bool:
    """Whether the CPU multiplies bfloat16 itself.

    Args:
        root: Where ``proc`` is mounted.
    """
    flags = set((_read(root / "proc/cpuinfo") or "").split())
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def check_precision(precision: str) -> None:
    """Checks that gaze stays in float32.

    Args:
        precision: Of Lightning's trainer.

    Raises:
        InputError: The precision changes the type of each batch, gaze positions among them.
    """
    if precision in _RETYPED:
        raise InputError(
            f"trainer.precision: {precision} would change the type of the gaze positions of each batch; set 32-true, "
            "bf16-mixed or 16-mixed"
        )


def has_bfloat16(may_use_gpu: bool = True) -> bool:
    """Whether the device that a training would run on multiplies bfloat16 itself.

    Args:
        may_use_gpu: Whether a GPU counts.
    """
    # Whoever asks how many processors there are does not wait for it.
    import torch

    if may_use_gpu and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return takes_bfloat16()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


#: Variables that were set here and not by the user.
_SETTLED: set[str] = set()


def settle_threads() -> None:
    """Has the threads of numerical libraries sleep while they wait, and no more of them than there are processors.

    OpenMP's threads spin at barriers by default: trainings side by side on the same processors slow each other several
    times (docs/performance.md). What the user set stays. Must be called before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    count = usable()
    if count < (os.cpu_count() or 1) and "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(count)
        _SETTLED.add("OMP_NUM_THREADS")


@contextmanager
def threads_divided(among: int) -> Iterator[None]:
    """Has the processes that are started within share the processors, unless the user set the number of threads.

    Args:
        among: How many of them run at the same time.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    if before is not None and "OMP_NUM_THREADS" not in _SETTLED:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, usable() // among))
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def opencv_in_one_thread() -> None:
    """For a pool's processes. To pickle OpenCV's own function, every imported module would be searched for its name."""
    import cv2

    cv2.setNumThreads(1)
