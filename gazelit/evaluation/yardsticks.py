"""Yardsticks for models: scores of maps that do not depend on the image."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from gazelit.data.gaze.heatmap import fixation_counts, fixation_density
from gazelit.data.gaze_data import GazeData
from gazelit.data.store.schema import PEER
from gazelit.data.working_gaze import CaseGaze, Gaze, gaze_in_order
from gazelit.density import CentreBias
from gazelit.metrics.map_values import values_at_test

#: Standard deviation of the Gaussian centre, as a share of the image's height and width.
CENTRE_SHARE = 0.2
#: Greatest number of choices of readers for the mean maps of several readers.
MOST_CHOICES = 3


def yardsticks(data: GazeData, split: str = "test") -> dict[str, float]:
    """Scores baselines on a split as a model is scored.

    ``centre`` is the mean training map. ``class_centre`` is the mean map of the training cases of the case's true
    class. ``gaussian`` is a Gaussian in the middle of the image; ``uniform`` is the uniform density.

    Args:
        data: The data.
        split: Which split to score on.

    Returns:
        ``baseline/<name>/<metric>``, those of :func:`reader_ceiling`, and 0.5 as ``baseline/chance/auroc_macro``.
    """
    height, width = data.size
    middle = torch.tensor([[(width - 1) / 2, (height - 1) / 2, 1.0]])
    gaussian = fixation_density(middle, (height, width), (CENTRE_SHARE * width, CENTRE_SHARE * height))
    uniform = torch.full((height, width), 1 / (height * width))
    by_class = _class_maps(data)

    def maps(batch: dict[str, Tensor], bias: CentreBias) -> dict[str, Tensor]:
        same = {"centre": bias.density, "gaussian": gaussian, "uniform": uniform}
        return same if by_class is None else {**same, "class_centre": by_class[batch["label"]]}

    scores = score_maps(data, maps, split)
    flat = {f"baseline/{name}/{metric}": value for name, values in scores.items() for metric, value in values.items()}
    return {**flat, **reader_ceiling(data, split), "baseline/chance/auroc_macro": 0.5}


def _class_maps(data: GazeData) -> Tensor | None:
    """The mean training map of each class (K, H, W); None without exclusive classes that all have training gaze."""
    if not data.exclusive:
        return None
    rows = data.rows("train")
    labels = data.labels.numpy()[rows]
    maps = data.cohort.mean_maps(*(rows[labels == label] for label in range(len(data.class_names))))
    return torch.stack([bias.density for bias in maps]) if all(bool(bias.counts.any()) for bias in maps) else None


def reader_ceiling(data: GazeData, split: str = "test") -> dict[str, float]:
    """How well the mean map of the other readers predicts a reader's gaze, by the number of other readers.

    If the store has gaze of kind ``peer`` (drawn by the simulator that drew the case's own reader), the peers are the
    other readers, and the target is the case's own gaze, as for the model. Otherwise each reading of a film with
    several readings is the target in turn. Each reader's map is normalised before the mean.

    Args:
        data: The data.
        split: Which split to score on.

    Returns:
        For several numbers k of other readers: ``baseline/reader_<k>/<metric>``, the mean over targets, and
        ``baseline/reader_<k>/n``, the number of targets; with peers also ``baseline/reader/simulated``. Empty if no
        film of the split has another reader.
    """
    peers = _peers(data)
    metrics: dict[int, _Means] = {}
    for case in data.rows(split).tolist():
        readings = data.readings(case)
        further = [] if peers is None else _readings_of(peers.of_case(case))
        if further and readings:
            targets = [(_joined(readings), further)]
        else:
            targets = [(reading, readings[:order] + readings[order + 1 :]) for order, reading in enumerate(readings)]
        mask = data.valid_mask(case)[None]
        for (points, sigma), predictors in targets:
            if not predictors:
                continue
            bias = data.centre_bias(torch.tensor([case]))
            target = fixation_density(points[None], data.size, sigma[None])
            counts = fixation_counts(points[None], data.size)
            maps = torch.cat([fixation_density(xy[None], data.size, each[None]) for xy, each in predictors])
            # As for a model's map: a Gaussian is never zero, but in float32 it can be, and a KLD would be infinite.
            maps = maps.clamp(min=torch.finfo(torch.float32).tiny)
            for size in _sizes(len(maps)):
                values = [
                    values_at_test(maps[chosen].mean(0, keepdim=True), target, counts, mask, bias)
                    for chosen in _choices(len(maps), size)
                ]
                mean = {name: torch.stack([value[name] for value in values]).mean(0) for name in values[0]}
                metrics.setdefault(size, _Means()).update(mean)
    found: dict[str, float] = {}
    for size, metric in sorted(metrics.items()):
        found |= {f"baseline/reader_{size}/{key}": float(value) for key, value in metric.compute().items()}
        found[f"baseline/reader_{size}/n"] = float(metric.images)
    return found | ({"baseline/reader/simulated": 1.0} if found and peers is not None else {})


def reader_sizes(metrics: Mapping[str, object]) -> list[int]:
    """The numbers of other readers that yardsticks were computed for."""
    found = (re.fullmatch(r"baseline/reader_(\d+)/n", key) for key in metrics)
    return sorted(int(match[1]) for match in found if match)


Reading = tuple[Tensor, Tensor]


def _peers(data: GazeData) -> Gaze | None:
    """Gaze of peers, on which no model is trained, with the options of the targets; None if there is none."""
    if data.store.about["counts"].get("peers", 0) == 0:
        return None
    options = replace(data.gaze, kind=PEER, window=None)  # type: ignore[arg-type]
    return gaze_in_order(data.store, options, data.downscale)


def _readings_of(gaze: CaseGaze) -> list[Reading]:
    points, sigma, reading = map(torch.from_numpy, gaze)
    return [(points[reading == number], sigma[reading == number]) for number in reading.unique()]


def _joined(readings: list[Reading]) -> Reading:
    points, sigma = zip(*readings, strict=True)
    return torch.cat(points), torch.cat(sigma)


def _sizes(readers: int) -> list[int]:
    """One other reader, all of them, and some numbers between."""
    return sorted({size for size in (1, 2, 5, 10) if size < readers} | {readers})


def _choices(readers: int, size: int) -> list[list[int]]:
    """Readers for mean maps: each reader alone, or a few runs of neighbours in which all occur equally often."""
    if size == readers:
        return [list(range(readers))]
    count = readers if size == 1 else min(readers, MOST_CHOICES)
    begins = [order * readers // count for order in range(count)]
    return [[(begin + step) % readers for step in range(size)] for begin in begins]


def share_of_the_way(value: float, centre: float | None, reader: float | None) -> float | None:
    """Position of a score between the centre bias (0) and another reader (1); None if the two do not differ."""
    if reader is None or centre is None or not all(map(math.isfinite, (value, centre, reader))) or reader == centre:
        return None
    return (value - centre) / (reader - centre)


class _Means:
    """Means of each metric over the images that have it (importing torchmetrics takes 300 MB)."""

    def __init__(self) -> None:
        self.images = 0
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Adds (B,) values by metric."""
        for name, value in values.items():
            total, count = self._sums.get(
                name, (torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))
            )
            defined = ~value.isnan()
            self._sums[name] = total + torch.where(defined, value.double(), 0.0).sum(), count + defined.sum()
        self.images += max(map(len, values.values()))

    def compute(self) -> dict[str, Tensor]:
        """By metric, the mean; NaN where no image has it."""
        return {name: total / count for name, (total, count) in self._sums.items()}


#: From a rendered batch and its centre bias to maps by name, each (H, W) or (B, H, W).
Maps = Callable[[dict[str, Tensor], CentreBias], dict[str, Tensor]]


def score_maps(data: GazeData, maps: Maps, split: str = "test") -> dict[str, dict[str, float]]:
    """Scores maps on a split as a model is scored.

    Args:
        data: The data.
        maps: See :data:`Maps`.
        split: Which split to score on.

    Returns:
        By name, the mean of every saliency metric.
    """
    metrics: dict[str, _Means] = {}
    for _, scored in map_values(data, maps, split):
        for name, values in scored.items():
            metrics.setdefault(name, _Means()).update(values)
    return {name: {key: float(value) for key, value in metric.compute().items()} for name, metric in metrics.items()}


def map_values(
    data: GazeData, maps: Maps, split: str = "test"
) -> Iterator[tuple[Tensor, dict[str, dict[str, Tensor]]]]:
    """Batch by batch, the store's rows of the cases (B,) and, by the maps' name and metric, their values (B,)."""
    for loaded in data.loader(split, with_films=False):
        batch = data.render(loaded)
        bias = data.centre_bias(batch["index"])
        target, mask = batch["heatmap"][:, 0], batch["valid_mask"][:, 0]
        counts = fixation_counts(batch["points"], (target.shape[1], target.shape[2]))
        yield (
            batch["index"],
            {
                name: values_at_test(density.expand_as(target), target, counts, mask, bias)
                for name, density in maps(batch, bias).items()
            },
        )
