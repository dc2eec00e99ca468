"""What about a predicted map makes it doubtful."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gazelit.data.images.geometry import Letterbox
from gazelit.deploy.overlay import PERCENTILE, is_nearly_flat, over_uniform


def map_warnings(density: NDArray[np.float32], box: Letterbox) -> list[str]:
    """Says that a map (H, W) at working resolution hardly prefers any place of the film, if it does not."""
    inner = density[box.top : box.top + box.inner[0], box.left : box.left + box.inner[1]]
    multiples = over_uniform(inner)
    if not is_nearly_flat(multiples):
        return []
    highest = float(np.percentile(multiples, PERCENTILE))
    return [f"flat map: {PERCENTILE:g} % of it is below {highest:.1f} times the uniform level"]
