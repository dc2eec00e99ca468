"""The screen of EGD-CXR's tracker: the part that a film took, the times at which it was shown, pixels per degree."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

#: The screen that the tracker's fractions refer to (width, height); films were padded to 1920 × 1024.
SCREEN = (1920, 1080)
#: Screen pixels per degree at 28 inches from a 27-inch 1920 × 1080 screen; EGD-CXR publishes no angular column.
SCREEN_PIXELS_PER_DEGREE = 39.87
#: Columns of the master sheet: the black padding around a film.
PADS = ["image_top_pad", "image_bottom_pad", "image_left_pad", "image_right_pad"]
#: Samples per second, for films with too few samples to measure it.
RATE = 60
#: A gap between samples longer than this is lost tracking, not looking (s).
LONGEST_SAMPLE = 0.1


def is_calibration(dicom_id: pd.Series) -> pd.Series:
    """Whether an id is a calibration screen's: an image's less its last five characters, or with a suffix."""
    return (dicom_id.str.len() == 39) | dicom_id.str.endswith("_calibration").fillna(False)


def screen_to_image(
    fpog: NDArray[np.float64],
    pads: NDArray[np.float64],
    width: NDArray[np.float64],
    height: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Tracker fractions to pixels of the film.

    Follows the published mapping, which subtracts the padding of the 1920 × 1024 canvas from coordinates on the
    1920 × 1080 screen and scales what is left to the film, odd sizes rounded up. The published integers name the pixel
    whose area holds the point; here pixel centres are at integers, hence half a pixel less.

    Args:
        fpog: (N, 2) FPOGX, FPOGY.
        pads: (N, 4) top, bottom, left, right padding.
        width: (N,) of the film.
        height: (N,) of the film.

    Returns:
        (N, 2) float x, y on the film; outside [−0.5, size − 0.5] off it.
    """
    top, bottom, left, right = pads.T
    x = (fpog[:, 0] * SCREEN[0] - left) * (width + width % 2) / (SCREEN[0] - left - right)
    y = (fpog[:, 1] * SCREEN[1] - top) * (height + height % 2) / (SCREEN[1] - top - bottom)
    return np.stack([x, y], axis=1) - 0.5


def whole_screens(chunks: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Chunks cut where the image changes, so that none holds half a reading."""
    rest: pd.DataFrame | None = None
    for chunk in chunks:
        table = chunk if rest is None else pd.concat([rest, chunk])
        ids = table["DICOM_ID"].to_numpy()
        changes = np.flatnonzero(ids != ids[-1]) if len(ids) else ids
        last = int(changes[-1]) + 1 if len(changes) else 0
        rest = table.iloc[last:]
        if last:
            yield table.iloc[:last]
    if rest is not None:
        yield rest


def sample_times(rows: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Time, and time to the image's next sample; the image's usual interval after its last and before a gap."""
    time, image = rows["Time (in secs)"].to_numpy(), rows["DICOM_ID"].to_numpy()
    interval = np.diff(time, append=np.nan)
    regular = np.append(image[1:] == image[:-1], False)[: len(time)] & (interval <= LONGEST_SAMPLE)
    usual = pd.Series(interval).where(regular).groupby(image).transform("median").fillna(1 / RATE)
    return time, np.where(regular, interval, usual)


def pixels_per_degree(films: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels per degree of every row's film, as it was shown on the screen (x, y)."""
    top, bottom, left, right = films[PADS].to_numpy(float).T
    width, height = films["width"].to_numpy(float), films["height"].to_numpy(float)
    return (
        SCREEN_PIXELS_PER_DEGREE * width / (SCREEN[0] - left - right),
        SCREEN_PIXELS_PER_DEGREE * height / (SCREEN[1] - top - bottom),
    )
