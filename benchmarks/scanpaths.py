"""Scanpath metrics over many pairs against plain Python loops over the same pairs, in one run, by the time of one core.

python benchmarks/scanpaths.py [--pairs 3000] [--fixations 40]

The loops do for each pair what the definition says, in Python's own numbers, as copies in circulation do; MultiMatch
is compared with multimatch-gaze. What packing the lists costs is in gazelit's time, what compiling costs is not: it is
done once and kept on disk.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import multimatch_gaze
import numpy as np
from measure import Workload

from gazelit.metrics.scanpath import cross_recurrence, dtw, frechet, hausdorff, multimatch, scanmatch, sed, tde

SIZE = (512, 640)
BINS = (16, 12)


def cells(path: list[list[float]], columns: int, rows: int) -> list[tuple[int, int]]:
    return [(int(x * columns / SIZE[0]), int(y * rows / SIZE[1])) for x, y, _ in path]


def repeated(path: list[list[float]], time_bin: float) -> list[list[float]]:
    return [point for point in path for _ in range(math.floor(point[2] / time_bin + 0.5))]


def loop_scanmatch(a: list[list[float]], b: list[list[float]]) -> float:
    letters_a, letters_b = cells(a, *BINS), cells(b, *BINS)
    table = [[0.0] * (len(letters_b) + 1) for _ in range(len(letters_a) + 1)]
    for i, (x, y) in enumerate(letters_a, start=1):
        for j, (u, v) in enumerate(letters_b, start=1):
            match = table[i - 1][j - 1] + 3.5 - math.hypot(x - u, y - v)
            table[i][j] = max(match, table[i - 1][j], table[i][j - 1])
    return table[-1][-1] / (3.5 * max(len(letters_a), len(letters_b)))


def loop_timed_scanmatch(a: list[list[float]], b: list[list[float]]) -> float:
    return loop_scanmatch(repeated(a, 0.05), repeated(b, 0.05))


def loop_sed(a: list[list[float]], b: list[list[float]]) -> float:
    letters_a, letters_b = cells(a, 5, 5), cells(b, 5, 5)
    table = [[i + j for j in range(len(letters_b) + 1)] for i in range(len(letters_a) + 1)]
    for i, letter in enumerate(letters_a, start=1):
        for j, further in enumerate(letters_b, start=1):
            changed = table[i - 1][j - 1] + (letter != further)
            table[i][j] = min(changed, table[i - 1][j] + 1, table[i][j - 1] + 1)
    return table[-1][-1]


def loop_warp(a: list[list[float]], b: list[list[float]], combine: Callable[[float, float], float]) -> float:
    table = [[math.inf] * (len(b) + 1) for _ in range(len(a) + 1)]
    table[0][0] = 0.0
    for i, (x, y, _) in enumerate(a, start=1):
        for j, (u, v, _) in enumerate(b, start=1):
            before = min(table[i - 1][j - 1], table[i - 1][j], table[i][j - 1])
            table[i][j] = combine(math.hypot(x - u, y - v), before)
    return table[-1][-1]


def loop_dtw(a: list[list[float]], b: list[list[float]]) -> float:
    return loop_warp(a, b, lambda cost, before: cost + before)


def loop_frechet(a: list[list[float]], b: list[list[float]]) -> float:
    return loop_warp(a, b, max)


def loop_hausdorff(a: list[list[float]], b: list[list[float]]) -> float:
    pairs = ((a, b), (b, a))
    return max(max(min(math.hypot(x - u, y - v) for u, v, _ in q) for x, y, _ in p) for p, q in pairs)


def loop_tde(a: list[list[float]], b: list[list[float]]) -> float:
    nearest = []
    for i in range(len(a) - 2):
        distances = (
            sum(math.hypot(a[i + k][0] - b[j + k][0], a[i + k][1] - b[j + k][1]) for k in range(3))
            for j in range(len(b) - 2)
        )
        nearest.append(min(distances) / 3)
    return sum(nearest) / len(nearest)


def runs(line: list[bool]) -> int:
    total = run = 0
    for value in [*line, False]:
        if value:
            run += 1
        else:
            total += run if run >= 2 else 0
            run = 0
    return total


def loop_recurrence(a: list[list[float]], b: list[list[float]]) -> tuple[float, ...]:
    near = [[math.hypot(x - u, y - v) <= 60 for u, v, _ in b] for x, y, _ in a]
    n, m = len(a), len(b)
    total = sum(map(sum, near))
    diagonals = sum(runs([near[i][i + offset] for i in range(n) if 0 <= i + offset < m]) for offset in range(1 - n, m))
    straight = sum(map(runs, near)) + sum(runs([near[i][j] for i in range(n)]) for j in range(m))
    lag = sum((j - i) * near[i][j] for i in range(n) for j in range(m))
    if not total:
        return 0.0, math.nan, math.nan, math.nan
    return 100 * total / (n * m), 100 * diagonals / total, 50 * straight / total, 100 * lag / (max(n, m) - 1) / total


def loop_multimatch(a: list[list[float]], b: list[list[float]]) -> tuple[float, ...]:
    names = [("start_x", float), ("start_y", float), ("duration", float)]
    records = [np.array([tuple(point) for point in path], names) for path in (a, b)]
    return tuple(np.ravel(multimatch_gaze.docomparison(*records, SIZE)))


METRICS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "ScanMatch 16×12": (lambda a, b: scanmatch(a, b, size=SIZE), loop_scanmatch),
    "ScanMatch 16×12 50 ms": (lambda a, b: scanmatch(a, b, size=SIZE, time_bin=0.05), loop_timed_scanmatch),
    "SED 5×5": (lambda a, b: sed(a, b, size=SIZE), loop_sed),
    "DTW": (dtw, loop_dtw),
    "Fréchet": (frechet, loop_frechet),
    "Hausdorff": (hausdorff, loop_hausdorff),
    "TDE, k = 3": (tde, loop_tde),
    "cross-recurrence, all four": (lambda a, b: np.array(cross_recurrence(a, b, radius=60)).T, loop_recurrence),
    "MultiMatch (multimatch-gaze)": (lambda a, b: np.array(multimatch(a, b, size=SIZE)).T, loop_multimatch),
}


def scanpaths(pairs: int, fixations: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pairs of scanpaths (x, y, duration) of so many fixations on average."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(max(3, fixations // 2), fixations * 3 // 2 + 1, (2, pairs))
    first, second = (
        [np.column_stack([generator.uniform(0, SIZE, (n, 2)), generator.gamma(2, 0.15, n)]) for n in side]
        for side in lengths
    )
    return first, second


def workloads() -> list[Workload]:
    """Sixty pairs, by the metrics that people compute most."""
    a, b = scanpaths(60, 40)
    lists = [(x.tolist(), y.tolist()) for x, y in zip(a, b, strict=True)]

    def of(name: str) -> Workload:
        ours, plain = METRICS[name]
        ways: dict[str, Callable[[], object]] = {
            "loop over fixations": lambda: [plain(x, y) for x, y in lists],
            "gazelit": lambda: ours(a, b),
        }
        # A loop rounds otherwise.
        return Workload(
            f"scanpaths: {name}", ways, lambda: _difference(ours(a, b), [plain(x, y) for x, y in lists]), 1e-6
        )

    return [of(name) for name in ("ScanMatch 16×12", "SED 5×5", "DTW", "MultiMatch (multimatch-gaze)")]


def _difference(values: object, expected: list[Any]) -> float:
    return float(np.nanmax(np.abs(np.asarray(values, float) - np.array(expected, float))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--fixations", type=int, default=40, help="mean length of a scanpath")
    parser.add_argument("--loop-pairs", type=int, default=3000, help="pairs that the loops do, where all take too long")
    options = parser.parse_args()
    a, b = scanpaths(options.pairs, options.fixations)
    print(f"{options.pairs} pairs of scanpaths of {options.fixations} fixations on average, one core")
    print(f"{'':36}{'loop':>12}{'gazelit':>12}{'ratio':>9}{'difference':>13}")
    for name, (ours, loop) in METRICS.items():
        ours(a[:2], b[:2])
        times = []
        for _ in range(15):
            start = time.process_time()
            values = np.asarray(ours(a, b))
            times.append((time.process_time() - start) / options.pairs)
        lists = [(x.tolist(), y.tolist()) for x, y in zip(a, b, strict=True)][: options.loop_pairs]
        slow = math.inf
        # The least of both: other programs on the machine only add to a time.
        for part in range(5):
            some = lists[part::5]
            start = time.process_time()
            for x, y in some:
                loop(x, y)
            slow = min(slow, (time.process_time() - start) / max(1, len(some)))
        expected = [loop(x, y) for x, y in lists[:100]]
        error = _difference(values[: len(expected)], expected)
        fast = min(times)
        print(f"{name:36}{slow * 1e6:9.1f} µs{fast * 1e6:9.2f} µs{slow / fast:8.0f}×{error:13.1e}")


if __name__ == "__main__":
    main()
