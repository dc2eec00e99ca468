"""What a model has to beat: maps that know nothing of the image they are scored on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.heatmap import fixation_counts, fixation_density
from gazelit.metrics.saliency import CentreBias, SaliencyMetrics, names_at_test, values_at_test

#: A Gaussian centre has this share of the image's height and width as its standard deviation.
CENTRE_SHARE = 0.2


def yardsticks(datamodule: GazeDataModule, split: str = "test") -> dict[str, float]:
    """Scores baselines on a split as a model is scored.

    ``centre`` is the mean training map, ``gaussian`` a Gaussian in the middle of the image, ``uniform`` says nothing.

    Args:
        datamodule: The data.
        split: Which split to score on.

    Returns:
        ``baseline/<name>/<metric>``, those of :func:`another_reader`, and 0.5 as ``baseline/chance/auroc_macro``.
    """
    height, width = datamodule.size
    bias = datamodule.centre_bias()
    middle = torch.tensor([[(width - 1) / 2, (height - 1) / 2, 1.0]])
    maps = {
        "centre": bias.density,
        "gaussian": fixation_density(middle, (height, width), (CENTRE_SHARE * width, CENTRE_SHARE * height)),
        "uniform": torch.full((height, width), 1 / (height * width)),
    }
    scores = score_maps(maps, (datamodule.render(batch) for batch in datamodule.loader(split)), bias)
    flat = {f"baseline/{name}/{metric}": value for name, values in scores.items() for metric, value in values.items()}
    return {**flat, **another_reader(datamodule, split), "baseline/chance/auroc_macro": 0.5}


def another_reader(datamodule: GazeDataModule, split: str = "test") -> dict[str, float]:
    """How well the other readers' pooled map predicts each reader's: the human ceiling, where films were read twice.

    Args:
        datamodule: The data.
        split: Which split to score on.

    Returns:
        ``baseline/reader/<metric>``, the mean over readings, and ``baseline/reader/n``, their number; empty where no
        film of the split has two readings.
    """
    bias, size = datamodule.centre_bias(), datamodule.size
    metrics = SaliencyMetrics(names_at_test(()))
    count = 0
    for row in datamodule.rows(split):
        readings = datamodule.readings(int(row))
        if len(readings) < 2:
            continue
        mask = datamodule.valid_mask(int(row))[None]
        maps = [fixation_density(points[None], size, sigma[None]) for points, sigma in readings]
        for place, (points, _) in enumerate(readings):
            others = torch.stack([one for number, one in enumerate(maps) if number != place]).mean(0)
            counts = fixation_counts(points[None], size)
            metrics.update(values_at_test(others, maps[place], counts, mask, bias))
            count += 1
    if not count:
        return {}
    values = {key: float(value) for key, value in metrics.compute().items() if not key.startswith("n_")}
    return {**{f"baseline/reader/{key}": value for key, value in values.items()}, "baseline/reader/n": float(count)}


def share_of_the_way(value: float, centre: float, reader: float | None) -> float | None:
    """How far a score is from the centre bias (0) to another reader (1); None where there is no such way."""
    if reader is None or reader == centre:
        return None
    return (value - centre) / (reader - centre)


def score_maps(
    maps: dict[str, Tensor], batches: Iterable[dict[str, Tensor]], bias: CentreBias
) -> dict[str, dict[str, float]]:
    """Scores fixed maps (H, W) on rendered batches: by map, the mean of every saliency metric."""
    metrics = {name: SaliencyMetrics(names_at_test(())) for name in maps}
    for batch in batches:
        target, mask = batch["heatmap"][:, 0], batch["valid_mask"][:, 0]
        counts = fixation_counts(batch["points"], (target.shape[1], target.shape[2]))
        for name, one in maps.items():
            metrics[name].update(values_at_test(one.expand_as(target), target, counts, mask, bias))
    return {
        name: {key: float(value) for key, value in metric.compute().items() if not key.startswith("n_")}
        for name, metric in metrics.items()
    }
