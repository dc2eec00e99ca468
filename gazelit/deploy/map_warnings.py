"""Warnings that a predicted map is doubtful."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gazelit.data.images.geometry import Letterbox
from gazelit.deploy.overlay import NEARLY_FLAT, PERCENTILE, over_uniform, strength


def map_warnings(density: NDArray[np.float32], box: Letterbox) -> list[str]:
    """A warning if a map (H, W) at working resolution is nearly uniform over the film."""
    highest = strength(over_uniform(box.crop(density)))
    if highest >= NEARLY_FLAT:
        return []
    return [f"flat map: {PERCENTILE:g} % of it is below {highest:.1f} times the uniform level"]
