"""Where a trained network of scanpaths falls short of the oracle's bits, by what is looked at and by what is known.

Each fixation of the first test films is scored by four densities, in bits over the centre bias: the oracle of its
reader, the oracle's map of any reader that knows no history, the network, and the network's static map. Fixations are
told apart by the spot of the film that they are likeliest about: a landmark, a finding or a distractor. Beside it, what
the oracle itself loses when a part of the readers' law is taken from it. For whoever explores: no intervals, one
training.

    python benchmarks/scanpath_gap.py RUN/scanpath [--films 30]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

from gazelit.data.cohort import Scanpath
from gazelit.data.gaze_data import GazeData
from gazelit.data.saved import saved_data
from gazelit.deploy.inference import load_model
from gazelit.evaluation.scanpaths.of_store import on_film, oracle_bits
from gazelit.models.scanpath_net import ScanpathNetwork
from gazelit.models.sequences import Sequences
from gazelit.reporting.tables import Table, number
from gazelit.synthetic import oracle as oracles
from gazelit.synthetic import search
from gazelit.synthetic.oracle import Floats, Oracle, for_case

SCORES = ["oracle", "oracle's map", "network", "network's map"]


class FilmReading(NamedTuple):
    """A reading of a test film, and what it is scored with.

    Attributes:
        reading: The reading.
        oracle: Of the film and any reader.
        bias: (H, W) the centre bias as a log-density.
        image: (1, 1, H, W) the film.
    """

    reading: Scanpath
    oracle: Oracle
    bias: torch.Tensor
    image: torch.Tensor


def film_readings(data: GazeData, count: int) -> list[FilmReading]:
    """The readings of the first test films; each film is rendered once."""
    readings, found = data.cohort.scanpaths("test"), []
    rows = list(dict.fromkeys(reading.row for reading in readings))[:count]
    for batch in data.loader("test"):
        images = dict(zip(batch["index"].tolist(), data.render(batch)["image"], strict=True))
        for row in (row for row in rows if row in images):
            case = data.store.cases.iloc[row]
            oracle = for_case(str(case["image_id"]), (int(case["height"]), int(case["width"])))
            bias = data.centre_bias(torch.tensor([row])).density[0].double().log()
            shared = oracle, on_film(bias, data.valid_mask(row)), images[row][None]
            found += [FilmReading(reading, *shared) for reading in readings if reading.row == row]
    return found


def by_fixation(data: GazeData, films: Sequence[FilmReading], network: ScanpathNetwork) -> pd.DataFrame:
    """The four scores of each fixation, and the kind of spot it is about."""
    parts = []
    for reading, oracle, bias, image in films:
        name = data.reader_names[reading.reader]
        column, row = np.clip(np.round(reading.path[:, :2]).astype(int), 0, np.array(data.size[::-1]) - 1).T
        base = bias.numpy()[row, column]
        static = oracle.mixture(400).on_canvas(data.store.letterboxes[reading.row], 0.0, False)
        path = torch.from_numpy(reading.path[None]).float()
        known = network.readers.index(name) + 1 if name in network.readers else 0
        sequence = Sequences.alone(path[..., :2], path[..., 2], torch.tensor([known]), torch.tensor([0]))
        with torch.inference_mode():
            found = network(image, sequence)
        assert oracle.film is not None
        values = {
            "oracle": oracle_bits(data, reading, Oracle.of(oracle.film, name), bias),
            "oracle's map": (np.log(static[row, column] / static.sum()) - base) / np.log(2),
            "network": (found["place"][0].numpy() - base) / np.log(2),
            "network's map": (found["static"][0].numpy() - base) / np.log(2),
        }
        xy = data.to_original(reading.row, reading.path[:, :2])
        parts.append(pd.DataFrame({**values, "about": kinds(oracle, xy)}))
    return pd.concat(parts, ignore_index=True)


def kinds(oracle: Oracle, xy: Floats) -> list[str]:
    """What each fixation, (n, 2) pixels of the original film, is likeliest about."""
    scene, marks = oracle.scene, len(search.NAMES)
    offset = (xy[:, None] - oracle.pixels(scene.spots)) * np.array(oracle.extent) / np.array(oracle.size[::-1])
    spot = ((offset**2).sum(2) / scene.spread**2 / 2 + 2 * np.log(scene.spread)).argmin(1)
    names = ["landmark"] * marks + ["finding" if finding else "distractor" for finding in scene.finding]
    return [names[each] for each in spot]


def without_turns() -> AbstractContextManager[object]:
    """The panel with no order of search: every landmark has its turn all the time."""
    panel = replace(search.whole_panel(), round=np.full(search.PANEL, 10**9), order=np.zeros((search.PANEL, 1)))
    return patch.object(search, "whole_panel", lambda: panel)


#: What is taken from the oracle's law, and how.
LOSSES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no inhibition of return": lambda: patch.multiple(search, RETURN=1.0),
    "no order of search": without_turns,
    "no preference for what is near": lambda: patch.multiple(search, SACCADE=1e9),
    "the tracker's error of a reading not followed": lambda: patch.multiple(oracles, BIAS_SPREAD=1e-6),
}


def oracle_without(data: GazeData, films: Sequence[FilmReading]) -> pd.Series:
    """Bits that the oracle loses without a part of the law, by part."""

    def mean() -> float:
        return float(np.mean(np.concatenate([
            oracle_bits(data, reading, Oracle.of(oracle.film, data.reader_names[reading.reader]), bias)
            for reading, oracle, bias, _ in films if oracle.film is not None
        ])))  # fmt: skip

    whole, lost = mean(), {}
    for name, taken in LOSSES.items():
        with taken():
            lost[name] = whole - mean()
    return pd.Series(lost)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the training, with config.yaml and checkpoints")
    parser.add_argument("--films", type=int, default=30)
    options = parser.parse_args()
    network = load_model(options.run / "checkpoints" / "best.ckpt").network
    assert isinstance(network, ScanpathNetwork)
    data = saved_data(options.run / "config.yaml")
    films = film_readings(data, options.films)
    table = by_fixation(data, films, network.eval())
    groups = [("all", table), *table.groupby("about")]
    cells = [
        [name, f"{len(part) / len(table):.3f}", *(number(part[score].mean()) for score in SCORES),
         number((part["oracle"] - part["network"]).sum() / len(table))]
        for name, part in groups
    ]  # fmt: skip
    print("\n".join(Table(["fixations about", "share", *SCORES, "of the gap"], cells).markdown()))
    losses = [[name, number(bits)] for name, bits in oracle_without(data, films).items()]
    print("\n".join(Table(["the oracle with", "bits lost"], losses).markdown()))


if __name__ == "__main__":
    main()
