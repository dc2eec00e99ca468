"""How visible things are on a rendered film: local contrast against local noise, as a reader sees it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from gazelit.synthetic.findings import Item
from gazelit.synthetic.patient import Patient
from gazelit.synthetic.projection import Image

#: A reader takes in this many rows of a film.
SEEN_ROWS = 384
#: Widths of the centre and the surround of the filter, in radii of what is looked for.
CENTRE, SURROUND = 0.55, 1.5
#: How far around a thing the noise is measured (cm), beyond twice its radius.
REACH = 4.0
#: Ratio of heart to chest that is as wide as normal, and how well the eye tells it (cm of heart over cm of chest).
LARGE_HEART, HEART_ACUITY = 0.475, 0.022


def visibility(
    film: Image, lungs: NDArray[np.bool_], patient: Patient, x: NDArray[np.float64], y: NDArray[np.float64], cm: float
) -> NDArray[np.float64]:
    """Local contrast over local noise of each of a patient's items.

    The film is filtered by a difference of Gaussians of the item's size. The contrast is the response at the item less
    the median response around it; the noise is the responses' spread there (1.4826 × the median absolute deviation),
    which anatomy, scatter and quanta make together. The size of the heart is no local contrast; it is seen as its
    excess over a normal heart, against the eye's acuity for it.

    Args:
        film: (H, W) rendered film in [0, 1].
        lungs: (H, W) bool, where there is lung.
        patient: Whose ``items`` are looked for.
        x: (J,) of the items, in pixels from the film's left edge.
        y: (J,) of the items, in pixels from the film's upper edge.
        cm: Size of a pixel (cm).

    Returns:
        (J,) ratio; 0 or below for what does not stand out.
    """
    scale = min(1.0, SEEN_ROWS / film.shape[0])
    shape = (max(2, round(film.shape[1] * scale)), max(2, round(film.shape[0] * scale)))
    seen = cv2.resize(film, shape, interpolation=cv2.INTER_AREA)
    lung = cv2.resize(lungs.astype(np.uint8), shape, interpolation=cv2.INTER_NEAREST) > 0
    cm = cm / scale
    rows, columns = np.ogrid[: seen.shape[0], : seen.shape[1]]
    values = np.zeros(len(patient.items))
    for number, item in enumerate(patient.items):
        if item.kind == "heart":
            values[number] = (patient.heart_ratio - LARGE_HEART) / HEART_ACUITY
            continue
        radius = item.radius / cm
        response = cv2.GaussianBlur(seen, (0, 0), max(0.5, CENTRE * radius)) - cv2.GaussianBlur(
            seen, (0, 0), max(1.0, SURROUND * radius)
        )
        distance = np.hypot(columns - (x[number] * scale - 0.5), rows - (y[number] * scale - 0.5))
        around = (distance > 2 * radius) & (distance < 2 * radius + REACH / cm) & lung
        at = distance <= max(0.35 * radius, 0.8)
        if around.sum() < 20 or not at.any():
            continue
        values[number] = _contrast(item, response, at, around)
    return values


def _contrast(item: Item, response: Image, at: NDArray[np.bool_], around: NDArray[np.bool_]) -> float:
    middle = np.median(response[around])
    noise = 1.4826 * np.median(np.abs(response[around] - middle)) + 1e-4
    return float((response[at].mean() - middle) / noise)
