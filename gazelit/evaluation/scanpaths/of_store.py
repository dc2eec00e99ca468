"""Yardsticks for scanpath models of a store's films, scored like the models.

Each fixation is predicted given the true fixations before it, the first fixation too. Densities are conditional on the
fixation lying on the film.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from gazelit.data.cohort import Scanpath
from gazelit.data.gaze_data import GazeData
from gazelit.density import log_density
from gazelit.evaluation.explainable import law_of
from gazelit.evaluation.scanpaths import yardsticks
from gazelit.evaluation.scanpaths.densities import DEPTHS, RADII, AfterLast, NextFixation, fit_all
from gazelit.evaluation.scanpaths.trials import Path, Trials
from gazelit.metrics.scanpath import conditional_scores
from gazelit.metrics.scanpath.summary import path_scores
from gazelit.models.network import Network
from gazelit.models.scanpath_net import ScanpathNetwork
from gazelit.synthetic.oracle import Oracle, for_case

logger = logging.getLogger("gazelit")

#: Number of training readings that are compared with each other for the medoid.
MOST_FOR_MEDOID = 200
#: Numbers of test films for the oracle's particle filter, and of validation films for the choice of the inhibition.
MOST_ORACLE_FILMS, MOST_CHOSEN_ON = 100, 20
#: Number of draws of random yardsticks.
DRAWS = 5
#: Names of rows.
ORACLE, ORACLE_OF_READER = "oracle, reader unknown", "oracle, reader known"
IID, INHIBITED = "static map of the model (IID saliency)", "static map with inhibition of return"

_Density = Callable[[Scanpath], NDArray[np.float64]]


@dataclass(frozen=True)
class Yardstick:
    """A predictor for comparison with the models under test.

    Attributes:
        name: Name in reports.
        films: A row for each film: ``index``, and the metrics of
            :data:`gazelit.metrics.catalogue.SCANPATH_METRICS`.
    """

    name: str
    films: pd.DataFrame


def scanpath_yardsticks(data: GazeData, network: Network | None = None, seed: int = 0) -> list[Yardstick]:
    """Scores yardsticks on the test films.

    Densities are the uniform density; the training fixations' kernel density over all steps, by step, and changed near
    the last fixation (:func:`gazelit.evaluation.scanpaths.densities.fit_all`); the network's static map, unchanged and
    changed near the last fixation (chosen on validation films); and the oracle of a hard synthetic cohort. Paths are
    the training readings' medoid, a random training reading, a path drawn from the centre bias, and the reading of
    another reader of the same film.

    Args:
        data: The data.
        network: Network that gives ``saliency_logits`` of a film; without it there is no static map. Only the
            fixations that a network of scanpaths sees are scored.
        seed: Seed of the draws.
    """
    readings = _test_readings(data, network)
    train, test = _trials(data, data.cohort.scanpaths("train")), _trials(data, readings)
    if not len(train) or not readings:
        return []
    bases = _Bases(data)
    learnt = fit_all(train)
    # These readings do not search for a finding, so the density by finding is the centre bias.
    models = {name: model for name, model in learnt.items() if name != "density of the finding"}
    found = [
        Yardstick("centre bias, kernel density" if name == "centre bias" else name, _conditional(readings, bases, each))
        for name, each in ((name, _given_history(model)) for name, model in models.items())
    ]
    if network is not None:
        found += static_map_yardsticks(data, network)
    found += _oracles(data, readings, bases)
    generator = np.random.default_rng(seed)
    centre = models["centre bias"]
    subset = train.take(generator.permutation(len(train))[:MOST_FOR_MEDOID])
    paths: dict[str, tuple[yardsticks.Yardstick, int]] = {
        "medoid of the training readings": (yardsticks.medoid(subset), 1),
        "a training reading at random": (yardsticks.random_path(train, same_finding=False), DRAWS),
        "drawn from the centre bias": (yardsticks.drawn(train, centre), DRAWS),  # type: ignore[arg-type]
    }
    for name, (predict, draws) in paths.items():
        drawn = [predict(test.table, generator) for _ in range(draws)]
        found.append(Yardstick(name, _mean_scores(data, readings, list(range(len(readings))), drawn)))
    rows, repeated = yardsticks.other_reader(test)
    if len(rows):
        table = _mean_scores(data, readings, rows.tolist(), [repeated])
        found.append(Yardstick("same film's other reader", table))
    return found


def _test_readings(data: GazeData, network: Network | None) -> list[Scanpath]:
    """The test readings, with the fixations that a network of scanpaths is tested on: the first ones."""
    longest = network.longest if isinstance(network, ScanpathNetwork) else None
    return [reading._replace(path=reading.path[:longest]) for reading in data.cohort.scanpaths("test")]


class _Bases:
    """The base of information gains and the mask of the film, film by film."""

    def __init__(self, data: GazeData) -> None:
        self._data = data
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-density of the centre bias on the film (H, W), and the mask of the film's pixels."""
        if row not in self._kept:
            mask = self._data.valid_mask(row)
            density = self._data.centre_bias(torch.tensor([row])).density[0].double()
            self._kept = {row: (on_film(density.log(), mask), mask)}
        return self._kept[row]


def on_film(log: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A log-density (…, H, W) given that the fixation is on the film."""
    kept = log.masked_fill(~mask, -torch.inf)
    return kept - kept.flatten(-2).logsumexp(-1)[..., None, None]


def _trials(data: GazeData, readings: Sequence[Scanpath]) -> Trials:
    """Readings with positions from the image's upper left corner, as the yardsticks take them."""
    height, width = data.size
    paths = []
    for reading in readings:
        xy = np.clip(reading.path[:, :2] + 0.5, 0, (width, height))
        paths.append(np.column_stack([xy, reading.path[:, 2]]))
    table = pd.DataFrame({"film": [str(reading.row) for reading in readings], "finding": ""})
    return Trials(table, paths, (width, height), given=0)


def _given_history(model: NextFixation) -> _Density:
    def densities(reading: Scanpath) -> NDArray[np.float64]:
        path = _corner(reading.path)
        return np.stack([model.log_density("", path[:step]) for step in range(len(path))])

    return densities


def _corner(path: Path) -> Path:
    return path + np.array([0.5, 0.5, 0.0])


def _conditional(readings: Sequence[Scanpath], bases: _Bases, densities: _Density) -> pd.DataFrame:
    """Bits, conditional NSS and AUC by film of log-densities (n, H, W) of each fixation of a reading."""
    rows = []
    for reading in readings:
        base, mask = bases(reading.row)
        log = on_film(torch.from_numpy(densities(reading)), mask)
        scores = conditional_scores(log, _corner(reading.path), base)
        for bits, cnss, cauc in zip(*(score.values for score in scores), strict=True):
            rows.append((reading.row, bits, cnss, cauc))
    table = pd.DataFrame(rows, columns=["index", "scanpath_bits", "scanpath_cnss", "scanpath_cauc"])
    return table.groupby("index", as_index=False).mean()


def static_map_yardsticks(data: GazeData, network: Network) -> list[Yardstick]:
    """Of :func:`scanpath_yardsticks`, those that depend on the network: its map of each film.

    Fixations do not depend on each other, or they depend on the last.
    """
    readings, bases = _test_readings(data, network), _Bases(data)
    maps = dict(_maps(data, network, "test"))
    if not maps:
        return []
    alone = _conditional(readings, bases, lambda reading: np.broadcast_to(
        maps[reading.row], (len(reading.path), *maps[reading.row].shape)
    ).copy())  # fmt: skip
    found = [Yardstick(IID, alone)]
    chosen_on = data.cohort.scanpaths("val")[:MOST_CHOSEN_ON]
    if chosen_on:
        of_validation = dict(_maps(data, network, "val", {reading.row for reading in chosen_on}))
        longest = max(data.size)
        options = [(depth, radius * longest) for depth in DEPTHS for radius in RADII]

        def worth(option: tuple[float, float]) -> float:
            total = 0.0
            for reading in chosen_on:
                model, path = AfterLast(of_validation[reading.row], *option), _corner(reading.path)
                pixel = np.clip(np.floor(path[:, :2]), 0, np.array(data.size[::-1]) - 1).astype(np.int64)
                total += sum(model.log_likelihood("", path[:step], pixel[step]) for step in range(len(path)))
            return total

        best = max(options, key=worth)
        table = _conditional(
            readings, bases, lambda reading: _given_history(AfterLast(maps[reading.row], *best))(reading)
        )
        found.append(Yardstick(INHIBITED, table))
    return found


def _maps(
    data: GazeData, network: Network, split: str, rows: set[int] | None = None
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The network's log-density of each film (H, W)."""
    for batch in data.loader(split):
        rendered = data.render(batch)
        if rows is not None and not rows & set(batch["index"].tolist()):
            continue
        with torch.inference_mode():
            outputs = network(rendered["image"])
        if "saliency_logits" not in outputs:
            return
        logs = log_density(outputs["saliency_logits"])[:, 0].double().numpy()
        yield from zip(batch["index"].tolist(), logs, strict=True)


def _oracles(data: GazeData, readings: Sequence[Scanpath], bases: _Bases) -> list[Yardstick]:
    """The oracle's bits on the first films; none unless the readers' law is known."""
    law = law_of(data.store)
    if law is None or data.gaze.kind != "fixation" or data.gaze.window is not None:
        return []
    films = list(dict.fromkeys(reading.row for reading in readings))[:MOST_ORACLE_FILMS]
    logger.info("oracle: the particle filter of the readings of %d test films", len(films))
    by_reader: dict[bool, list[tuple[int, float]]] = {False: [], True: []}
    for row in films:
        # Films are rendered once for all their readers.
        case = data.store.cases.iloc[row]
        film = for_case(str(case["image_id"]), (int(case["height"]), int(case["width"]))).film
        assert film is not None
        for reading in readings:
            if reading.row != row:
                continue
            name = data.reader_names[reading.reader] if reading.reader >= 0 else law.reader
            for known in (False, True):
                if known and name is None:
                    continue
                oracle = Oracle.of(film, name if known else law.reader)
                bits = oracle_bits(data, reading, oracle, bases(row)[0])
                by_reader[known] += [(row, value) for value in bits if np.isfinite(value)]
    tables = {
        name: pd.DataFrame(by_reader[known], columns=["index", "scanpath_bits"])
        for name, known in ((ORACLE, False), (ORACLE_OF_READER, True))
        if by_reader[known]
    }
    return [Yardstick(name, table.groupby("index", as_index=False).mean()) for name, table in tables.items()]


def oracle_bits(data: GazeData, reading: Scanpath, oracle: Oracle, base: torch.Tensor) -> NDArray[np.float64]:
    """Bits that the oracle gains over a log-density (H, W) at each fixation of a reading.

    Args:
        data: The data, of a hard synthetic cohort.
        reading: The reading.
        oracle: The oracle of its film, and of its reader if the reader is known.
        base: The log-density over which bits are gained.
    """
    xy = data.to_original(reading.row, reading.path[:, :2])
    log = oracle.log_density(xy[:, 0], xy[:, 1], reading.path[:, 2])
    # The density is converted from per cm² to per working pixel.
    inner = np.array(data.store.letterboxes[reading.row].inner[::-1]) / data.downscale
    log = log + np.log(np.prod(np.array(oracle.extent) / inner))
    column, row = np.clip(np.round(reading.path[:, :2]).astype(int), 0, np.array(data.size[::-1]) - 1).T
    gained: NDArray[np.float64] = (log - base.numpy()[row, column]) / np.log(2)
    return gained


def _mean_scores(
    data: GazeData, readings: Sequence[Scanpath], rows: Sequence[int], drawn: Sequence[Sequence[Path]]
) -> pd.DataFrame:
    """By film, scores of predicted paths (from the upper left corner) against readings: means of draws with a value."""
    size = data.size[::-1]
    read = [readings[row].path for row in rows]
    parts: list[Mapping[str, NDArray[np.float64]]] = []
    for paths in drawn:
        centred = [path - np.array([0.5, 0.5, 0.0]) for path in paths]
        parts.append({name: score.values for name, score in path_scores(centred, read, size).items()})
    columns = {f"scanpath_{name}": pd.DataFrame([part[name] for part in parts]).mean() for name in parts[0]}
    table = pd.DataFrame({"index": [readings[row].row for row in rows], **columns})
    return table.groupby("index", as_index=False).mean()
