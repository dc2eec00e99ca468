"""What a model has to beat: maps that know nothing of the image they are scored on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.heatmap import fixation_counts, fixation_density
from gazelit.metrics.saliency import CentreBias, SaliencyMetrics, names_at_test, values_at_test

#: A Gaussian centre has this share of the image's height and width as its standard deviation.
CENTRE_SHARE = 0.2


def yardsticks(datamodule: GazeDataModule, split: str = "test") -> dict[str, float]:
    """Scores baselines on a split as a model is scored.

    ``centre`` is the mean training map; ``class_centre`` the mean map of the training cases of the case's own class,
    which is told the diagnosis and sees nothing else; ``gaussian`` a Gaussian in the middle of the image; ``uniform``
    says nothing.

    Args:
        datamodule: The data.
        split: Which split to score on.

    Returns:
        ``baseline/<name>/<metric>``, those of :func:`another_reader`, and 0.5 as ``baseline/chance/auroc_macro``.
    """
    height, width = datamodule.size
    middle = torch.tensor([[(width - 1) / 2, (height - 1) / 2, 1.0]])
    gaussian = fixation_density(middle, (height, width), (CENTRE_SHARE * width, CENTRE_SHARE * height))
    uniform = torch.full((height, width), 1 / (height * width))
    by_class = _class_maps(datamodule)

    def maps(batch: dict[str, Tensor], bias: CentreBias) -> dict[str, Tensor]:
        same = {"centre": bias.density, "gaussian": gaussian, "uniform": uniform}
        return same if by_class is None else {**same, "class_centre": by_class[batch["label"]]}

    scores = score_maps(datamodule, maps, split)
    flat = {f"baseline/{name}/{metric}": value for name, values in scores.items() for metric, value in values.items()}
    return {**flat, **another_reader(datamodule, split), "baseline/chance/auroc_macro": 0.5}


def _class_maps(datamodule: GazeDataModule) -> Tensor | None:
    """The mean training map of each class (K, H, W); None without exclusive classes that all have training gaze."""
    if not datamodule.exclusive:
        return None
    rows = datamodule.rows("train")
    labels = datamodule.labels.numpy()[rows]
    maps = [datamodule.mean_map(rows[labels == one]) for one in range(len(datamodule.class_names))]
    return torch.stack([one.density for one in maps]) if all(bool(one.counts.any()) for one in maps) else None


def another_reader(datamodule: GazeDataModule, split: str = "test") -> dict[str, float]:
    """How well the other readers' pooled map predicts each reader's: the human ceiling, where films were read twice.

    Args:
        datamodule: The data.
        split: Which split to score on.

    Returns:
        ``baseline/reader/<metric>``, the mean over readings, and ``baseline/reader/n``, their number; empty where no
        film of the split has two readings.
    """
    size = datamodule.size
    metrics = SaliencyMetrics(names_at_test(()))
    count = 0
    for row in datamodule.rows(split):
        readings = datamodule.readings(int(row))
        if len(readings) < 2:
            continue
        mask = datamodule.valid_mask(int(row))[None]
        bias = datamodule.centre_bias(torch.tensor([int(row)]))
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
    datamodule: GazeDataModule, maps: Callable[[dict[str, Tensor], CentreBias], dict[str, Tensor]], split: str = "test"
) -> dict[str, dict[str, float]]:
    """Scores maps on a split as a model is scored.

    Args:
        datamodule: The data.
        maps: From a rendered batch and its centre bias to maps by name, each (H, W) or (B, H, W).
        split: Which split to score on.

    Returns:
        By name, the mean of every saliency metric.
    """
    metrics: dict[str, SaliencyMetrics] = {}
    for loaded in datamodule.loader(split):
        batch = datamodule.render(loaded)
        bias = datamodule.centre_bias(batch["index"])
        target, mask = batch["heatmap"][:, 0], batch["valid_mask"][:, 0]
        counts = fixation_counts(batch["points"], (target.shape[1], target.shape[2]))
        for name, one in maps(batch, bias).items():
            values = values_at_test(one.expand_as(target), target, counts, mask, bias)
            metrics.setdefault(name, SaliencyMetrics(names_at_test(()))).update(values)
    return {
        name: {key: float(value) for key, value in metric.compute().items() if not key.startswith("n_")}
        for name, metric in metrics.items()
    }
