"""Boxes and ellipses as masks on the working grid."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.images.geometry import Letterbox


def region_masks(regions: pd.DataFrame, letterbox: Letterbox, downscale: int = 1) -> dict[str, NDArray[np.bool_]]:
    """The regions of one case by name; several of one name, of one reader or of several, are united.

    A pixel belongs to a region if its centre does; a region that holds no centre is the pixel nearest to its middle.

    Args:
        regions: Rows of the case (``gazelit.data.store.schema.REGION_COLUMNS``), in pixels of the original image.
        letterbox: How the image was fitted into the store's resolution.
        downscale: Integer factor between the store's resolution and the working one.

    Returns:
        By name, (H, W) bool.
    """
    height, width = (side // downscale for side in letterbox.size)
    y, x = np.mgrid[:height, :width]
    centres = (np.stack([x, y], axis=-1) + 0.5) * downscale - 0.5
    original = letterbox.to_original(centres)
    masks: dict[str, NDArray[np.bool_]] = {}
    for region in regions.itertuples():
        middle = np.array([region.x1 + region.x2, region.y1 + region.y2]) / 2
        # Half a pixel more, so that a box from x1 to x2 holds both of these pixels whole.
        reach = np.array([region.x2 - region.x1, region.y2 - region.y1]) / 2 + 0.5
        distance = np.abs(original - middle) / reach
        inside = (distance <= 1).all(-1) if region.shape == "box" else (distance**2).sum(-1) <= 1
        if not inside.any():
            inside = np.linalg.norm(original - middle, axis=-1)
            inside = inside == inside.min()
        name = str(region.name)
        masks[name] = np.logical_or(masks.get(name, False), inside)
    return masks
