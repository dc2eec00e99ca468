"""Densities of the next fixation that do not use the film: baselines, in bits, for a model of films."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from gazelit.evaluation.scanpaths.trials import Path, Trials
from gazelit.metrics.scanpath import Conditional, Scores, conditional_scores

#: One training film in this many is held out for the choice.
HELD_OUT = 5
#: σ of the kernel in shares of the longer side.
SIGMAS = (0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16)
#: Share of the centre bias in a density that is learnt from few fixations.
SHARES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9)
#: Share of the uniform density, so that no pixel has density 0.
UNIFORM_SHARE = 0.01
#: Depths and radii (shares of the longer side) of the change near the last fixation.
DEPTHS = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 0.9)
RADII = (0.04, 0.08, 0.16)


class NextFixation(ABC):
    """A density of the next fixation, given the earlier fixations (n, 3) and the finding that is searched for."""

    @abstractmethod
    def log_density(self, finding: str, history: Path) -> NDArray[np.float64]:
        """(H, W) natural logarithm of the density over the pixels."""

    def log_likelihood(self, finding: str, history: Path, pixel: NDArray[np.int64]) -> float:
        """Natural logarithm of the density at a pixel (column, row)."""
        return float(self.log_density(finding, history)[pixel[1], pixel[0]])


def score(model: NextFixation, trials: Trials, baseline: NDArray[np.float64]) -> tuple[Conditional, NDArray[np.int64]]:
    """Conditional scores of all predicted fixations, and the scanpath of each."""
    parts, rows = [], []
    base = torch.from_numpy(baseline)
    for row, (finding, path) in enumerate(zip(trials.table["finding"], trials.paths, strict=True)):
        steps = range(trials.given, len(path))
        if not len(steps):
            continue
        maps = np.stack([model.log_density(finding, path[:step]) for step in steps])
        parts.append(conditional_scores(torch.from_numpy(maps), path[trials.given :], base))
        rows += [row] * len(steps)
    joined: dict[str, Any] = {}
    for name in Conditional._fields:
        scores: list[Scores] = [getattr(part, name) for part in parts]
        joined[name] = Scores(np.concatenate([part.values for part in scores]), scores[0].settings)
    return Conditional(**joined), np.array(rows, np.int64)


def mean_log_likelihood(model: NextFixation, trials: Trials) -> float:
    """Mean natural logarithm of the density at the predicted fixations."""
    total, count = 0.0, 0
    for finding, path in zip(trials.table["finding"], trials.paths, strict=True):
        for step in range(trials.given, len(path)):
            total += model.log_likelihood(finding, path[:step], pixels(path[step : step + 1], trials.size)[0])
            count += 1
    return total / max(1, count)


@dataclass(frozen=True)
class Static(NextFixation):
    """The same density for any history: uniform over the image, or the centre bias.

    Attributes:
        log: (H, W) natural logarithm of the density.
    """

    log: NDArray[np.float64]

    def log_density(self, finding: str, history: Path) -> NDArray[np.float64]:
        """See :class:`NextFixation`."""
        return self.log


@dataclass(frozen=True)
class ByFinding(NextFixation):
    """A density for each finding.

    Attributes:
        of_finding: (H, W) logarithm by finding.
        fallback: Density for a finding that was not learnt.
    """

    of_finding: dict[str, NDArray[np.float64]]
    fallback: NDArray[np.float64]

    def log_density(self, finding: str, history: Path) -> NDArray[np.float64]:
        """See :class:`NextFixation`."""
        return self.of_finding.get(finding, self.fallback)


@dataclass(frozen=True)
class ByStep(NextFixation):
    """A density for each step of the sequence.

    Attributes:
        of_step: (H, W) logarithm by the number of fixations before.
        fallback: Density for fixations later in the sequence.
    """

    of_step: dict[int, NDArray[np.float64]]
    fallback: NDArray[np.float64]

    def log_density(self, finding: str, history: Path) -> NDArray[np.float64]:
        """See :class:`NextFixation`."""
        return self.of_step.get(len(history), self.fallback)


@dataclass(frozen=True)
class AfterLast(NextFixation):
    """A static density, changed near the last fixation: a decrease is inhibition of return, an increase is staying.

    Attributes:
        log: (H, W) logarithm of the static density.
        depth: Share by which the last fixation lowers the density at its position, below 1; raises it if below 0.
        radius: σ of the change in pixels.
    """

    log: NDArray[np.float64]
    depth: float
    radius: float

    def log_density(self, finding: str, history: Path) -> NDArray[np.float64]:
        """See :class:`NextFixation`."""
        if not len(history):
            return self.log
        rows, columns = self._near(history[-1])
        return self.log + np.log1p(-self.depth * np.outer(rows, columns)) - self._log_total(rows, columns)

    def log_likelihood(self, finding: str, history: Path, pixel: NDArray[np.int64]) -> float:
        """See :class:`NextFixation`."""
        log = float(self.log[pixel[1], pixel[0]])
        if not len(history):
            return log
        rows, columns = self._near(history[-1])
        return log + math.log1p(-self.depth * rows[pixel[1]] * columns[pixel[0]]) - self._log_total(rows, columns)

    def factor(self, history: Path, pixels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Factor of the static density at (n, 2) pixels (column, row), up to a constant; at most 1."""
        if not len(history):
            return np.ones(len(pixels))
        rows, columns = self._near(history[-1])
        return (1 - self.depth * rows[pixels[:, 1]] * columns[pixels[:, 0]]) / max(1.0, 1 - self.depth)

    def _near(self, fixation: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """A Gaussian around a fixation, over rows and over columns."""
        return [
            np.exp(-((np.arange(side) + 0.5 - centre) ** 2) / (2 * self.radius**2))
            for side, centre in zip(self.log.shape, (fixation[1], fixation[0]), strict=True)
        ]

    def _log_total(self, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> float:
        return math.log1p(-self.depth * float(rows @ self._density @ columns))

    @cached_property
    def _density(self) -> NDArray[np.float64]:
        return np.exp(self.log)


def uniform(size: tuple[int, int]) -> Static:
    """The same density everywhere."""
    return Static(np.full(size[::-1], -math.log(size[0] * size[1])))


def fit_all(train: Trials) -> dict[str, NextFixation]:
    """The densities of the yardsticks.

    Kernel width, mixture and inhibition are chosen on a fifth of the training films, for densities learnt from the
    rest. Then the densities are learnt from all.

    Args:
        train: Scanpaths from whose fixations the densities are learnt.

    Returns:
        By name, in the order of a report; ``centre bias`` is the baseline of information gains.
    """
    films = train.table["film"]
    # An order by hash does not depend on the order of the file.
    order = sorted(films.unique(), key=lambda film: hashlib.sha256(str(film).encode()).digest())
    is_held_out = films.isin(order[: max(1, len(order) // HELD_OUT)]).to_numpy()
    rest, held_out = train.take(np.flatnonzero(~is_held_out)), train.take(np.flatnonzero(is_held_out))
    if not len(rest):
        rest = held_out
    sigma = _best(SIGMAS, lambda share: _centre(rest, share), held_out)
    families: dict[str, tuple[Sequence[Any], Callable[[Trials, Any], NextFixation]]] = {
        "density of the finding": (SHARES, lambda trials, share: _by_finding(trials, sigma, share)),
        "density of the step": (SHARES, lambda trials, share: _by_step(trials, sigma, share)),
        "centre bias, near the last fixation": (
            [(depth, radius) for depth in DEPTHS for radius in RADII],
            lambda trials, inhibition: _after_last(trials, sigma, *inhibition),
        ),
    }
    best = {name: fit(train, _best(options, partial(fit, rest), held_out)) for name, (options, fit) in families.items()}
    return {"uniform": uniform(train.size), "centre bias": _centre(train, sigma), **best}


def _best(options: Sequence[Any], fit: Callable[[Any], NextFixation], held_out: Trials) -> Any:
    return max(options, key=lambda option: mean_log_likelihood(fit(option), held_out))


def _centre(train: Trials, sigma: float) -> Static:
    return Static(_kernel(train.predicted(), train.size, sigma))


def _by_finding(train: Trials, sigma: float, share: float) -> ByFinding:
    paths, centre = train.predicted(), _centre(train, sigma)
    logs = {
        name: _kernel([paths[row] for row in train.rows_of(finding=name)], train.size, sigma)
        for name in sorted(train.table["finding"].unique())
    }
    return ByFinding(_mixed(logs, centre.log, share), centre.log)


def _by_step(train: Trials, sigma: float, share: float) -> ByStep:
    centre = _centre(train, sigma)
    logs = {
        step: _kernel([path[step : step + 1] for path in train.paths if len(path) > step], train.size, sigma)
        for step in range(train.given, max(map(len, train.paths)))
    }
    return ByStep(_mixed(logs, centre.log, share), centre.log)


def _after_last(train: Trials, sigma: float, depth: float, radius: float) -> AfterLast:
    return AfterLast(_centre(train, sigma).log, depth, radius * max(train.size))


def _mixed(logs: dict[Any, NDArray[np.float64]], centre: NDArray[np.float64], share: float) -> dict[Any, Any]:
    return {key: np.logaddexp(log + math.log(1 - share), centre + math.log(share)) for key, log in logs.items()}


def _kernel(paths: Sequence[Path], size: tuple[int, int], sigma: float) -> NDArray[np.float64]:
    """Logarithm of a kernel density of fixations; mass that the kernel moves off the image is put back."""
    points = np.concatenate([np.empty((0, 3)), *paths])
    column, row = pixels(points, size).T
    counts = np.zeros(size[::-1])
    np.add.at(counts, (row, column), 1.0)
    density = gaussian_filter(counts, sigma * max(size), mode="reflect")
    density = (1 - UNIFORM_SHARE) * density / max(density.sum(), 1e-300) + UNIFORM_SHARE / density.size
    return np.log(density / density.sum())


def pixels(points: Path, size: tuple[int, int]) -> NDArray[np.int64]:
    """(n, 2) column and row of the pixel under each fixation."""
    return np.clip(np.floor(points[:, :2]), 0, np.array(size) - 1).astype(np.int64)
