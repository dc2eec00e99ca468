"""Visibility of items on a rendered film: local contrast over local noise, at the resolution of a reader."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from gazelit.synthetic.findings import Depicted
from gazelit.synthetic.projection import Image
from gazelit.synthetic.radiograph import Exposure, Projection, develop

#: Number of rows of a film at the resolution of a reader.
SEEN_ROWS = 384
#: How far beyond the radius of an item noise is measured (cm), and the size below which structure is noise (cm).
REACH, STRUCTURE = 4.0, 0.9
#: Ratio of heart to chest of a heart of visibility 0, and the ratio above it that adds 1.
LARGE_HEART, HEART_ACUITY = 0.462, 0.024
#: Contrast that counts as a visibility of 1, in spreads of the structure around.
UNIT = 3.0
#: Least radius of an item whose contrast counts in full (cm); smaller items need more contrast.
FULL_RADIUS = 0.8
#: Visibility of an item off the film, which no reader notices.
OFF_FILM = -20.0


def show_without(projection: Projection, exposure: Exposure, film_height: float) -> tuple[Image, Image]:
    """The film at a reader's resolution, without quantum noise, with and without findings and distractors.

    Args:
        projection: Line integrals of the film.
        exposure: How the film is exposed and shown.
        film_height: Height of the film (cm).

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

    The contrast is the change by the item within its radius less the change in a ring about it, on the film's own grey
    scale. The noise is the spread (1.4826 × the median absolute deviation) of structure below a centimetre in the lung
    around the item: ribs, vessels, markings, grain. The size of the heart is not a local contrast; its visibility is
    its excess over a normal heart, over the eye's acuity for it.

    Args:
        film: (H, W) rendered film in [0, 1].
        clean: The film with and without the items, as :func:`show_without` gives them.
        lungs: (H, W) bool, where there is lung.
        patient: The patient with the ``items``.
        points: (J, 2) x and y of the items in pixels of ``film``, from its left and upper edge.
        cm: Size of a pixel of ``film`` (cm).

    Returns:
        (J,) ratio; 0 or below for an item that does not stand out, ``OFF_FILM`` for an item that is not on the film.
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
        # A thin line fills only part of the disc of its radius, so the upper quartile of the changes is taken.
        contrast = float(np.percentile(change[within], 75) - np.median(change[ring]))
        values[number] = contrast / (UNIT * noise) * min(1.0, item.radius / FULL_RADIUS) ** 0.5
    return values
