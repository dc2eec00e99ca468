"""Fixation density against the reference method, on the CPU, in one run; of each the fastest of several repeats.

python benchmarks/heatmap.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch
from measure import Workload

from gazelit.data.gaze.heatmap import fixation_density
from gazelit.data.images.geometry import Letterbox

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


def workloads() -> list[Workload]:
    """A film's 1,800 samples: counts on the film's pixels, blurred, against the sum of Gaussians."""
    samples, points = one_film()
    ways = {"blur at full size": lambda: reference(samples), "gazelit": lambda: fixation_density(points, SIZE, 15.1)}
    return [Workload("fixation map", ways)]


def one_film() -> tuple[np.ndarray, torch.Tensor]:
    """Samples (1800, 2) on the film, and the same on the working image, each of weight 1."""
    rng = np.random.default_rng(0)
    samples = np.column_stack([rng.uniform(0, FILM[1] - 1, 1800), rng.uniform(0, FILM[0] - 1, 1800)])
    working = np.column_stack([Letterbox.fit(*FILM, SIZE).to_working(samples), np.ones(1800)]).astype(np.float32)
    return samples, torch.from_numpy(working)


def main() -> None:
    samples, points = one_film()
    ours = least_seconds(lambda: fixation_density(points, SIZE, 15.1), 100)
    theirs = least_seconds(lambda: reference(samples), 5)
    print(f"1,800 samples: reference {theirs * 1e3:.1f} ms, gazelit {ours * 1e3:.2f} ms: {theirs / ours:.0f} times")

    many = torch.rand(50_000, 3) * torch.tensor([SIZE[1], SIZE[0], 1.0])
    sigma = 15.1 * torch.empty(50_000, 2).uniform_(0.85, 1.15)
    seconds = [least_seconds(partial(fixation_density, many, SIZE, width), 5) for width in (15.1, sigma)]
    print(f"50,000 samples: {seconds[0] * 1e3:.0f} ms, with a sigma each {seconds[1] * 1e3:.0f} ms")

    batch = torch.rand(32, 45, 3) * torch.tensor([SIZE[1], SIZE[0], 1.0])
    seconds = least_seconds(lambda: fixation_density(batch, SIZE, 15.1), 50)
    print(f"32 images of 45 fixations: {32 / seconds:.0f} images/s on {torch.get_num_threads()} threads")

    if torch.cuda.is_available():
        on_gpu(batch)


def on_gpu(batch: torch.Tensor) -> None:
    """The same batch on the GPU: speed, and the largest relative error to the sum in float64."""
    points = batch.cuda()

    def render() -> torch.Tensor:
        density = fixation_density(points, SIZE, 15.1)
        torch.cuda.synchronize()
        return density

    seconds = least_seconds(render, 50)
    xs, ys = torch.arange(SIZE[1], device="cuda").double(), torch.arange(SIZE[0], device="cuda").double()
    x, y, weight = points.double().unbind(-1)
    rows, columns = ((-0.5 * ((grid - place[..., None]) / 15.1) ** 2).exp() for grid, place in ((ys, y), (xs, x)))
    exact = torch.einsum("bn,bnh,bnw->bhw", weight, rows, columns)
    exact /= exact.sum((1, 2), keepdim=True)
    seen = exact > 1e-30
    error = (render().double()[seen] / exact[seen] - 1).abs().max()
    name = torch.cuda.get_device_name()
    print(f"{name}: {len(batch) / seconds:.0f} images/s, largest relative error {error:.1e}")


if __name__ == "__main__":
    main()
