"""Scanpaths that are predicted without the film: baselines for a model of films."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.evaluation.scanpaths.densities import AfterLast, Static
from gazelit.evaluation.scanpaths.trials import Path, Trials
from gazelit.metrics.scanpath.summary import most_typical

#: Number of rejected proposals after which the last is taken, because a small film may be inhibited everywhere.
MOST_PROPOSALS = 1000
#: A yardstick predicts the fixations after the given ones for the rows of a table with ``film`` and ``finding``.
Yardstick = Callable[[pd.DataFrame, np.random.Generator], list[Path]]


def drawn(train: Trials, model: Static | AfterLast, inhibition: float = 0.0) -> Yardstick:
    """Fixations drawn from a density one after the other; lengths and durations are those of training scanpaths.

    Args:
        train: The training scanpaths.
        model: The density.
        inhibition: Radius in pixels about earlier fixations within which nothing is drawn, as in published decoders.
    """
    lengths = np.array([len(path) - train.given for path in train.paths])
    durations = np.concatenate(train.predicted())[:, 2]
    cumulative = np.exp(model.log).cumsum()

    def draw_pixels(generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        """(count, 2) columns and rows from the static density."""
        draws = np.searchsorted(cumulative, generator.uniform(0, cumulative[-1], count))
        rows, columns = np.divmod(np.minimum(draws, len(cumulative) - 1), model.log.shape[1])
        return np.column_stack([columns, rows])

    def next_position(path: Path, generator: np.random.Generator) -> NDArray[np.float64]:
        # Proposals come from the static density; the earlier fixations decide the probability of acceptance.
        for _ in range(MOST_PROPOSALS):
            pixel = draw_pixels(generator, 1)
            xy = pixel[0] + generator.uniform(size=2)
            is_taken = not isinstance(model, AfterLast) or generator.uniform() <= model.factor(path, pixel)[0]
            if is_taken and (np.linalg.norm(path[:, :2] - xy, axis=1) >= inhibition).all():
                break
        return xy

    def predict(table: pd.DataFrame, generator: np.random.Generator) -> list[Path]:
        paths = []
        for _ in range(len(table)):
            path = train.paths[0][: train.given]
            for _ in range(generator.choice(lengths)):
                xy = next_position(path, generator)
                path = np.concatenate([path, [[*xy, generator.choice(durations)]]])
            paths.append(path[train.given :])
        return paths

    return predict


def random_path(train: Trials, same_finding: bool) -> Yardstick:
    """A random training scanpath, of the same finding or of any finding."""

    def predict(table: pd.DataFrame, generator: np.random.Generator) -> list[Path]:
        paths = train.predicted()
        all_rows = np.arange(len(paths))
        pools = {name: train.rows_of(finding=name) if same_finding else all_rows for name in table["finding"].unique()}
        return [paths[generator.choice(pools[name] if len(pools[name]) else all_rows)] for name in table["finding"]]

    return predict


def mean_path(train: Trials) -> Yardstick:
    """The mean, fixation by fixation, of the finding's training scanpaths that have the most frequent length."""

    def mean(paths: Sequence[Path]) -> Path:
        lengths, counts = np.unique([len(path) for path in paths], return_counts=True)
        return np.mean([path for path in paths if len(path) == lengths[counts.argmax()]], axis=0)

    return _by_finding(train, mean)


def medoid(train: Trials) -> Yardstick:
    """The finding's training scanpath that is most like the others, by ScanMatch 16 × 12 without durations."""
    return _by_finding(train, lambda paths: paths[most_typical(paths, train.size)])


def same_film(train: Trials, otherwise: Yardstick) -> Yardstick:
    """The first training scanpath of the same film for another finding, which a leaky split lets a model remember."""

    def predict(table: pd.DataFrame, generator: np.random.Generator) -> list[Path]:
        paths, first = train.predicted(), dict[str, Path]()
        for row, film in enumerate(train.table["film"]):
            first.setdefault(film, paths[row])
        return [first.get(film, path) for film, path in zip(table["film"], otherwise(table, generator), strict=True)]

    return predict


def other_reader(test: Trials) -> tuple[NDArray[np.int64], list[Path]]:
    """Another reader's scanpath of the same film and finding, for the rows that have one.

    Returns:
        Rows of ``test`` and the other's path for each; every ordered pair of readers once.
    """
    rows, paths = [], []
    for group in test.table.groupby(["film", "finding"]).indices.values():
        for row in group:
            for partner in group[group != row]:
                rows.append(row)
                paths.append(test.predicted()[partner])
    return np.array(rows, np.int64), paths


def _by_finding(train: Trials, choose: Callable[[Sequence[Path]], Path]) -> Yardstick:
    paths = train.predicted()
    chosen = {
        name: choose([paths[row] for row in train.rows_of(finding=name)]) for name in train.table["finding"].unique()
    }

    def predict(table: pd.DataFrame, generator: np.random.Generator) -> list[Path]:
        # A finding without training scanpaths has that of the most frequent finding.
        frequent = train.table["finding"].mode().iloc[0]
        return [chosen.get(name, chosen[frequent]) for name in table["finding"]]

    return predict
