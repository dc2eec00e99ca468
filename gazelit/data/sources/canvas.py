"""Converts fixations on a canvas that shows a whole film to pixels of the film, and puts them end to end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from gazelit.data.images.geometry import on_image


def begin_times(duration: ArrayLike) -> NDArray[np.float64]:
    """Begins of (n,) fixations that are put end to end (s).

    They never decrease; a difference of the ends and the durations does, by rounding.
    """
    return np.concatenate([[0.0], np.asarray(duration, np.float64)])[:-1].cumsum()


def on_films(gaze: pd.DataFrame, films: pd.DataFrame, canvas: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Gaze rows of films that fill their canvas, film by film.

    The beginnings of fixations are not given: those of a reading are put end to end, in the order of their rows.

    Args:
        gaze: ``image_id``, ``reading_id``, ``reader_id``, ``x`` and ``y`` (pixels of the canvas, whose corners are at
            whole numbers), ``duration`` (s).
        films: ``image_id``, ``width`` and ``height`` in pixels; all films of ``gaze``.
        canvas: By ``image_id``, ``width`` and ``height`` of the canvas.

    Yields:
        The fixations of one film, by reading and time; positions are those of pixels' centres.
    """
    sizes = films.set_index("image_id")
    for image, part in gaze.groupby("image_id", sort=False):
        (width, height), shown = sizes.loc[image, ["width", "height"]], canvas.loc[image]
        with np.errstate(over="ignore"):
            # Infinite positions are off the film.
            x = part["x"].to_numpy() * width / shown["width"] - 0.5
            y = part["y"].to_numpy() * height / shown["height"] - 0.5
        rows = part[["image_id", "reading_id", "reader_id", "duration"]].assign(
            recording_id=part["reading_id"],
            kind="fixation",
            t=part.groupby("reading_id")["duration"].transform(begin_times),
            x=x,
            y=y,
            valid=on_image(x, y, width, height),
        )
        yield rows.sort_values(["reading_id", "t"], kind="stable")
