"""How the benchmarks measure: named workloads, each against a named alternative, in rounds that alternate them.

What counts is the CPU time of the process, with one thread: other programs on the machine change it least. A ratio is
that of one round, so that a machine that slows down slows both; of several rounds the median stands with its extremes.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Workload:
    """The same work done in several ways.

    Attributes:
        name: What is done.
        alternatives: By name, what does it; the first is what the others are compared with.
        difference: The largest difference between the first's results and the others', where they shall be equal.
        allowed: How large it may be.
    """

    name: str
    alternatives: Mapping[str, Callable[[], object]]
    difference: Callable[[], float] | None = None
    allowed: float = 0.0


@dataclass(frozen=True)
class Ratio:
    """How many times less an alternative takes than the first.

    Attributes:
        median: Over rounds.
        low: The smallest of them.
        high: The largest.
        rounds: Their number.
    """

    median: float
    low: float
    high: float
    rounds: int


@dataclass
class Found:
    """What a workload gave.

    Attributes:
        ratios: By alternative.
        seconds: By alternative, the median CPU seconds of a call.
        load: Runnable processes of the machine while it was measured.
        difference: See :class:`Workload`.
    """

    ratios: dict[str, Ratio]
    seconds: dict[str, float]
    load: float
    difference: float | None = None
    moved: list[str] = field(default_factory=list)


def cpu_seconds(function: Callable[[], object]) -> float:
    """What a call costs this process and those that it waits for, whatever else runs on the machine."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    before = [resource.getrusage(kind) for kind in kinds]
    function()
    after = [resource.getrusage(kind) for kind in kinds]
    return sum(b.ru_utime - a.ru_utime + b.ru_stime - a.ru_stime for a, b in zip(before, after, strict=True))


def measured(workload: Workload, rounds: int, least: float = 0.05) -> Found:
    """Measures a workload in alternating rounds, after a call of each that is not counted.

    Args:
        workload: What is measured.
        rounds: How often each is called.
        least: CPU seconds that a measurement takes at least: short calls are repeated.

    Raises:
        ValueError: The alternatives' results differ by more than is allowed.
    """
    difference = None if workload.difference is None else workload.difference()
    if difference is not None and not difference <= workload.allowed:
        raise ValueError(f"{workload.name}: results differ by {difference:.1e}, allowed are {workload.allowed:.1e}")
    repeats = {}
    for name, call in workload.alternatives.items():
        call()
        repeats[name] = max(1, round(least / max(cpu_seconds(call), 1e-6)))
    seconds: dict[str, list[float]] = {name: [] for name in workload.alternatives}
    for _ in range(rounds):
        for name, call in workload.alternatives.items():
            count = repeats[name]
            seconds[name].append(cpu_seconds(lambda call=call, count=count: [call() for _ in range(count)]) / count)
    plain = next(iter(seconds.values()))
    ratios = {}
    for name, taken in list(seconds.items())[1:]:
        each = [first / own for first, own in zip(plain, taken, strict=True)]
        ratios[name] = Ratio(statistics.median(each), min(each), max(each), rounds)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    return Found(ratios, medians, os.getloadavg()[0], difference)


def machine() -> dict[str, Any]:
    """What ran it."""
    cpu = [line.partition(":")[2].strip() for line in _text("/proc/cpuinfo").splitlines() if "model name" in line]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": cpu[0] if cpu else platform.processor(),
        "processors": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "opencv-python-headless")},
    }


def verdict(ratio: Ratio, committed: Ratio) -> str | None:
    """Whether a ratio has moved: ``slower`` or ``faster`` where the extremes of both do not meet, None otherwise."""
    if ratio.high < committed.low:
        return "slower"
    return "faster" if ratio.low > committed.high else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
