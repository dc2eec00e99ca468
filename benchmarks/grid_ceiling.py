"""What a grid of splines loses of the oracle's bits, by the side of its cells: the ceiling of a network of scanpaths.

Readings of films of the hard cohort are simulated; before every eighth of their fixations the oracle's density is
fitted by chances of the cells (:mod:`gazelit.models.density_grid`) as closely as they can, by expectation maximisation.
The Kullback-Leibler divergence that is left is what no training gains.

    python benchmarks/grid_ceiling.py [--size 96 64] [--films 12] [--strides 2 4 8]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch

from gazelit.data.images.geometry import Letterbox
from gazelit.models.density_grid import splines
from gazelit.synthetic.case import plan_cohort
from gazelit.synthetic.hard_case import render
from gazelit.synthetic.oracle import Floats, Oracle, ParticleFilter
from gazelit.synthetic.search import PANEL, panel_reader

#: Of a reading: one fixation in so many is fitted, up to the last one.
EVERY, LAST = 8, 40
PARTICLES, ROUNDS = 200, 150
COHORT_SEED = 17


def densities(oracle: Oracle, box: Letterbox, seed: int) -> Iterator[tuple[Floats, float]]:
    """The oracle's densities of fixations of a simulated reading.

    Yields:
        The density at every half pixel of the film, (2h, 2w), sum 1; and the spread about its targets in pixels.
    """
    reading = oracle.simulate(1, seed)
    particles = ParticleFilter(oracle, PARTICLES, np.random.default_rng(seed))
    half = np.array(oracle.extent) / 2
    across, down = (
        ((np.arange(2 * cells) + 0.5) / (2 * cells) * 2 - 1) * side
        for cells, side in zip(box.inner[::-1], half, strict=True)
    )
    for number, (point, duration) in enumerate(zip(reading.tracked[0][:LAST], reading.duration[0], strict=False)):
        if number % EVERY == EVERY // 2:
            chance, centre, spread = particles.predictive()
            chance = chance * np.exp(particles.log_weight)[:, None]
            columns, rows = (
                np.exp(-0.5 * ((axis - centre[..., k, None]) / spread[..., None]) ** 2) / spread[..., None]
                for k, axis in enumerate((across, down))
            )
            found = np.einsum("pt,pty,ptx->yx", chance, rows, columns)
            yield found / found.sum(), float((chance * spread).sum() / chance.sum() / (2 * half[1]) * box.inner[0])
        inside = bool((np.abs(point) < half).all())
        particles.step(point if inside else np.full(2, np.nan), float(duration))


def lost(density: Floats, box: Letterbox, stride: int) -> float:
    """Bits between a density on the film and the nearest that a grid has there."""
    axes = ((box.top, box.inner[0], box.size[0]), (box.left, box.inner[1], box.size[1]))
    down, across = (
        splines(torch.from_numpy(start - 0.25 + np.arange(2 * cells) / 2), size // stride, stride).numpy()
        for start, cells, size in axes
    )
    on_film = np.outer(down.sum(axis=0), across.sum(axis=0))
    chances = np.where(on_film > 0, 1.0, 0.0)

    def fitted() -> Floats:
        found = down @ chances @ across.T
        return np.maximum(found / found.sum(), 1e-300)

    for _ in range(ROUNDS):
        chances = chances * (down.T @ (density / fitted()) @ across) / np.where(on_film > 0, on_film, 1.0)
        chances /= (chances * on_film).sum()
    known = density > 0
    return float((density[known] * np.log2(density[known] / fitted()[known])).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(96, 64), help="working height and width")
    parser.add_argument("--films", type=int, default=12)
    parser.add_argument("--strides", type=int, nargs="+", default=(2, 4, 8))
    options = parser.parse_args()
    spreads: list[float] = []
    bits: dict[int, list[float]] = {stride: [] for stride in options.strides}
    for plan in plan_cohort(options.films, COHORT_SEED, 128, "hard"):
        oracle = Oracle.of(render(plan), panel_reader(plan.number % PANEL).name)
        box = Letterbox.fit(*oracle.size, tuple(options.size))
        for density, spread in densities(oracle, box, plan.number):
            spreads.append(spread)
            for stride, losses in bits.items():
                losses.append(lost(density, box, stride))
    print(f"{len(spreads)} fixations of {options.films} films; spread about a target {np.mean(spreads):.2f} pixels")
    for stride, losses in bits.items():
        error = np.std(losses, ddof=1) / np.sqrt(len(losses))
        print(f"stride {stride}: {np.mean(losses):.3f} ± {error:.3f} bits a fixation lost")


if __name__ == "__main__":
    main()
