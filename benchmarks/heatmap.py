"""Fixation density against the reference method, on the CPU, in one run; of each the fastest of several repeats.

python benchmarks/heatmap.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np
import torch

from gazelit.data.geometry import Letterbox
from gazelit.data.heatmap import fixation_density

FILM = (3056, 2544)
SIZE = (640, 512)


def least_seconds(function: Callable[[], object], repeats: int) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def reference(points: np.ndarray) -> np.ndarray:
    counts = np.zeros(FILM, np.float32)
    np.add.at(counts, (points[:, 1].astype(int), points[:, 0].astype(int)), 1)
    return cv2.GaussianBlur(counts, (501, 501), 0)[::5, ::5]


def main() -> None:
    rng = np.random.default_rng(0)
    samples = np.column_stack([rng.uniform(0, FILM[1] - 1, 1800), rng.uniform(0, FILM[0] - 1, 1800)])
    letterbox = Letterbox.fit(*FILM, SIZE)
    working = np.column_stack([letterbox.to_working(samples), np.ones(1800)]).astype(np.float32)
    points = torch.from_numpy(working)
    ours = least_seconds(lambda: fixation_density(points, SIZE, 15.1), 100)
    theirs = least_seconds(lambda: reference(samples), 5)
    print(f"1,800 samples: reference {theirs * 1e3:.1f} ms, gazelit {ours * 1e3:.2f} ms: {theirs / ours:.0f} times")

    batch = torch.rand(32, 45, 3) * torch.tensor([SIZE[1], SIZE[0], 1.0])
    seconds = least_seconds(lambda: fixation_density(batch, SIZE, 15.1), 50)
    print(f"32 images of 45 fixations: {32 / seconds:.0f} images/s on {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
