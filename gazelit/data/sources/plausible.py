"""Checks whether gaze can be in the given units."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

#: With fewer rows units are not checked.
FEWEST_ROWS = 10
#: From this share of rows on a unit is doubted.
MOST = 0.9
#: Neither fixations nor the samples of a tracker last so long at the median (s).
LONGEST = {"fixation": 10.0, "sample": 0.5}
#: Times that are so many durations apart are in another unit than the durations.
FARTHEST = 100


def doubts_about_units(gaze: pd.DataFrame, size: NDArray[np.float64], coordinates: str) -> list[str]:
    """Reasons to doubt the units of a table of gaze, a line each.

    Args:
        gaze: ``x``, ``y``, ``duration`` and ``kind``, perhaps ``t`` and ``reading_id``, as they were given; rows of a
            reading in order.
        size: (N, 2) width and height of each row's image.
        coordinates: ``pixel``, ``normalised`` or ``screen``.
    """
    found = []
    xy = gaze[["x", "y"]].to_numpy(np.float64)
    seen = np.isfinite(xy).all(axis=1)
    if seen.sum() >= FEWEST_ROWS:
        found += _about_places(xy[seen], size[seen], coordinates)
    for kind, longest in LONGEST.items():
        duration = gaze.loc[gaze["kind"] == kind, "duration"]
        if len(duration) >= FEWEST_ROWS and duration.median() > longest:
            found.append(
                f"half of the {kind}s last longer than {longest:g} s: are these milliseconds? duration is in seconds"
            )
    if not found and "t" in gaze and "reading_id" in gaze and len(gaze) >= FEWEST_ROWS:
        same = gaze["reading_id"].eq(gaze["reading_id"].shift(-1)) & gaze["kind"].eq(gaze["kind"].shift(-1))
        step = (gaze["t"].shift(-1) - gaze["t"])[same & (gaze["duration"] > 0)]
        if len(step) and (step / gaze["duration"].loc[step.index]).median() > FARTHEST:
            found.append(
                f"half of the rows begin over {FARTHEST} durations apart: is t in milliseconds? t is in seconds"
            )
    return found


def _about_places(xy: NDArray[np.float64], size: NDArray[np.float64], coordinates: str) -> list[str]:
    if coordinates == "pixel":
        small = [float((np.abs(values) <= 1).mean()) for values in xy.T]
        if min(small) >= MOST:
            return [
                f"{small[0]:.0%} of x and {small[1]:.0%} of y lie between -1 and 1: are these fractions? Give "
                "coordinates: normalised"
            ]
        if (xy <= 100).all() and (xy >= 0).all() and np.median(size) >= 500 and len(xy) >= 5 * FEWEST_ROWS:
            return [
                f"no x or y is above 100, on images {np.median(size[:, 0]):.0f} pixels wide: are these percent? Divide "
                "by 100 and give coordinates: normalised"
            ]
        beside = float(((xy < -0.5) | (xy >= size - 0.5)).any(axis=1).mean())
        if beside >= MOST:
            return [
                f"{beside:.0%} of the rows lie beside their image: are x and y pixels of the screen, or of the image "
                "in another size? pixel means pixels of the image file; see coordinates"
            ]
    if coordinates == "normalised":
        large = float((xy > 1.5).any(axis=1).mean())
        if large >= 0.5:
            unit = "percent (divide by 100)" if np.quantile(xy, 0.99) <= 110 else "pixels (give coordinates: pixel)"
            return [f"{large:.0%} of the rows have x or y above 1.5: are these {unit}? normalised is 0 to 1"]
    return []
