"""How visible things are on a rendered film: local contrast against local noise, as a reader sees it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from gazelit.synthetic.findings import Depicted
from gazelit.synthetic.projection import Image
from gazelit.synthetic.radiograph import Exposure, Projection, develop

#: A reader takes in this many rows of a film.
SEEN_ROWS = 384
#: How far around a thing the noise is measured (cm), beyond its radius, and below which size structure is noise (cm).
REACH, STRUCTURE = 4.0, 0.9
#: Ratio of heart to chest that is as wide as normal, and how well the eye tells it.
LARGE_HEART, HEART_ACUITY = 0.462, 0.024
#: Contrast that counts as a visibility of 1, in spreads of the structure around.
UNIT = 3.0
#: What the radius of a thing must be for its contrast to count in full (cm): small ones need more.
FULL_RADIUS = 0.8
#: Visibility of what lies off the film, where no reader notices it.
OFF_FILM = -20.0


def show_without(projection: Projection, exposure: Exposure, film_height: float) -> tuple[Image, Image]:
    """The film as a reader takes it in, free of quantum noise, with and without findings and distractors.

    Args:
        projection: What the rays meet.
        exposure: How the film is taken and shown.
        film_height: Of the film (cm).

    Returns:
        Two films (h, w) in [0, 1] of at most ``SEEN_ROWS`` rows.
    """
    rows, columns = projection.integral.shape
    scale = min(1.0, SEEN_ROWS / rows)
    size = (max(2, round(columns * scale)), max(2, round(rows * scale)))
    films = []
    for integral in (projection.integral, projection.integral - projection.added):
        small = cv2.resize(integral, size, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
        films.append(develop(small, small.shape, exposure, film_height, None))
    return films[0], films[1]


def visibility(
    film: Image,
    clean: tuple[Image, Image],
    lungs: NDArray[np.bool_],
    patient: Depicted,
    points: NDArray[np.float64],
    cm: float,
) -> NDArray[np.float64]:
    """Local contrast over local noise of each of a patient's items on a film.

    The contrast is what the item changes within its radius less what it changes in a ring about it, on the film's own
    grey scale. The noise is the spread (1.4826 × the median absolute deviation) of the film's structure below a
    centimetre in the lung around: ribs, vessels, markings, grain. The size of the heart is no local contrast; it is
    seen as its excess over a normal heart, against the eye's acuity for it.

    Args:
        film: (H, W) rendered film in [0, 1].
        clean: The film with and without the items, as :func:`show_without` gives them.
        lungs: (H, W) bool, where there is lung.
        patient: Whose ``items`` are looked for.
        points: (J, 2) x and y of the items in pixels of ``film``, from its left and upper edge.
        cm: Size of a pixel of ``film`` (cm).

    Returns:
        (J,) ratio; 0 or below for what does not stand out, ``OFF_FILM`` for what is not on the film.
    """
    shape = clean[0].shape
    scale = shape[0] / film.shape[0]
    cm = cm / scale
    seen = cv2.resize(film, shape[::-1], interpolation=cv2.INTER_AREA)
    lung = cv2.resize(lungs.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    structure = seen - cv2.GaussianBlur(seen, (0, 0), STRUCTURE / cm)
    change = clean[0] - clean[1]
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    values = np.zeros(len(patient.items))
    for number, (item, (x, y)) in enumerate(zip(patient.items, points, strict=True)):
        if item.kind == "heart":
            values[number] = (patient.heart_ratio - LARGE_HEART) / HEART_ACUITY
            continue
        if not (0 <= x < film.shape[1] and 0 <= y < film.shape[0]):
            values[number] = OFF_FILM
            continue
        radius = item.radius / cm
        distance = np.hypot(columns - (x * scale - 0.5), rows - (y * scale - 0.5))
        within, ring = distance <= max(0.6 * radius, 0.8), (distance > 1.3 * radius) & (distance < 2 * radius + 2)
        around = (distance > radius) & (distance < radius + REACH / cm)
        # A lead on the shoulder has no lung around it.
        around = around & lung if (around & lung).sum() >= 20 else around
        noise = 1.4826 * float(np.median(np.abs(structure[around] - np.median(structure[around])))) + 1e-4
        # Of a thin line only the upper part of the changes within its radius is line.
        contrast = float(np.percentile(change[within], 75) - np.median(change[ring]))
        values[number] = contrast / (UNIT * noise) * min(1.0, item.radius / FULL_RADIUS) ** 0.5
    return values
