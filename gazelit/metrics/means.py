"""Means over images, exact over processes."""

from __future__ import annotations

from torch import Tensor, nn
from torchmetrics import MeanMetric


class ImageMeans(nn.Module):
    """Means of named values over images.

    Lightning's own mean over processes truncates the mean number of images a process to an integer (2.6.6), so that
    shares of 3 and 2 images count as 2 and 2.
    """

    def __init__(self) -> None:
        super().__init__()
        # Made where their values are, so they need not move with a module.
        self._means: dict[str, MeanMetric] = {}

    def update(self, values: dict[str, Tensor], images: int) -> None:
        """Adds a batch: by name, a scalar mean over ``images`` images."""
        for name, value in values.items():
            if name not in self._means:
                self._means[name] = MeanMetric().to(value.device)
            self._means[name].update(value.detach().float(), images)

    def compute(self) -> dict[str, Tensor]:
        """The means by name."""
        return {name: mean.compute() for name, mean in self._means.items()}

    def reset(self) -> None:
        """Forgets everything."""
        for mean in self._means.values():
            mean.reset()
