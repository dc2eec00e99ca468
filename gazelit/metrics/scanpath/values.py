"""Scores of scanpaths with the settings on which they depend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Settings:
    """The settings on which a score of scanpaths depends; without them two scores cannot be compared.

    Attributes:
        metric: Name of the metric.
        size: Width and height of the image in pixels, if the metric needs them.
        grid: Columns and rows of the grid, if positions are binned.
        time_bin: Seconds for which a letter stands, if letters are repeated by duration.
        gap: Score of a gap in the alignment, if there is an alignment.
        length_rule: How paths of different lengths are treated.
        parameters: Further parameters by name.
    """

    metric: str
    size: tuple[float, float] | None = None
    grid: tuple[int, int] | None = None
    time_bin: float | None = None
    gap: float | None = None
    length_rule: str = "none"
    parameters: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        parts = [] if self.grid is None else [f"{self.grid[0]} × {self.grid[1]}"]
        parts += [] if self.time_bin is None else [f"{self.time_bin * 1000:g} ms"]
        parts += [] if self.gap is None else [f"gap {self.gap:g}"]
        parts += [f"{name} {value}" for name, value in self.parameters if value is not None]
        parts += [self.length_rule]
        parts += [] if self.size is None else [f"of {self.size[0]:g} × {self.size[1]:g} px"]
        return f"{self.metric} ({', '.join(parts)})"


class Score(float):
    """The score of a pair: a float with its settings.

    Attributes:
        settings: The settings on which it depends.
    """

    settings: Settings

    def __new__(cls, value: float, settings: Settings) -> Score:
        """A number with settings."""
        score = super().__new__(cls, value)
        score.settings = settings
        return score

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (float(self), self.settings)


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of many pairs.

    Attributes:
        values: (N,) float64; NaN where the metric is undefined.
        settings: The settings on which they depend.
    """

    values: NDArray[np.float64]
    settings: Settings

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Score]:
        return (Score(value, self.settings) for value in self.values)

    def __getitem__(self, index: int) -> Score:
        return Score(self.values[index], self.settings)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=copy)

    @property
    def undefined(self) -> int:
        """Number of pairs without a value."""
        return int(np.isnan(self.values).sum())

    def mean(self) -> Score:
        """The mean of the pairs that have a value; NaN if none has."""
        defined = self.values[~np.isnan(self.values)]
        return Score(float(defined.mean()) if len(defined) else float("nan"), self.settings)


def wrap(values: NDArray[np.float64], settings: Settings, is_single: bool) -> Any:
    """A :class:`Score` for one pair, :class:`Scores` for a batch."""
    return Score(float(values[0]), settings) if is_single else Scores(values, settings)
