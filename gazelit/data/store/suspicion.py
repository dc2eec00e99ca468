"""Suspicious cases of a store, each with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from gazelit.data.images.film_warnings import FLAT_IMAGE, LATERAL_VIEWS
from gazelit.data.store.store import Store

#: Kinds of suspicion.
LEAST_VALID = 0.3
MOST_OFF_IMAGE = 0.3
SHORTEST_READING = 2.0
FEWEST_FIXATIONS = 5
#: A fixation, or a time between two samples, of this length is not plausible: times in another unit, or a lost tracker
#: (s).
LONGEST_FIXATION = 15.0
LONGEST_SAMPLE = 1.0
#: Gaze that never leaves this share of the film, in both directions, is in another unit or of no reader.
SMALLEST_EXTENT = 0.02


class Suspicion(NamedTuple):
    """What is suspicious about a case.

    Attributes:
        row: The store's row.
        kind: Kind of the suspicion.
        what: Details of this case.
    """

    row: int
    kind: str
    what: str


def suspicions(store: Store, readings: pd.DataFrame) -> list[Suspicion]:
    """All suspicious cases of a store, by kind and row.

    Args:
        store: The prepared store.
        readings: One row a reading and kind of gaze, from :func:`gazelit.data.store.inspect.examine`.
    """
    found = [*_of_views(store), *_of_images(store), *_of_readings(store, readings)]
    return sorted(found, key=lambda suspicion: (suspicion.kind, suspicion.row))


def _of_views(store: Store) -> Iterator[Suspicion]:
    for row, view in enumerate(store.cases["view"].fillna("").astype(str)):
        if view.strip().upper() in LATERAL_VIEWS:
            yield Suspicion(row, "lateral view", f"view is {view}")


def _of_images(store: Store) -> Iterator[Suspicion]:
    images = store.images()
    patients = store.cases["patient_id"].astype(str)
    seen: dict[bytes, int] = {}
    for row in range(len(images)):
        image = images[row]
        box = store.letterboxes[row]
        inner = box.crop(image)
        contrast = inner.std() / store.largest
        if contrast < FLAT_IMAGE:
            yield Suspicion(row, "image without contrast", f"image has hardly any contrast (SD {contrast:.3f})")
        digest = hashlib.sha256(image.tobytes()).digest()
        first = seen.setdefault(digest, row)
        if first != row:
            same = patients.iloc[first] == patients.iloc[row]
            kind = f"same pixels, {'same patient' if same else 'other patient'}"
            yield Suspicion(row, kind, f"same pixels as row {first}")


def _of_readings(store: Store, readings: pd.DataFrame) -> Iterator[Suspicion]:
    size = store.cases[["width", "height"]].to_numpy(float)
    for reading in readings.itertuples():
        row, rows, gaze = int(reading.row), int(reading.rows), f"{reading.kind}s"
        if reading.valid < LEAST_VALID * rows:
            yield Suspicion(row, f"{gaze}: few valid", f"{gaze}: {reading.valid / rows:.0%} valid")
        if reading.off_image > MOST_OFF_IMAGE * rows:
            yield Suspicion(row, f"{gaze}: off the image", f"{gaze}: {reading.off_image / rows:.0%} off the image")
        if reading.length < SHORTEST_READING:
            yield Suspicion(row, f"{gaze}: short reading", f"{gaze}: reading of {reading.length:.1f} s")
        if reading.kind == "fixation" and rows < FEWEST_FIXATIONS:
            yield Suspicion(row, "few fixations", f"{rows} fixations")
        if reading.longest > (LONGEST_FIXATION if reading.kind == "fixation" else LONGEST_SAMPLE):
            yield Suspicion(row, f"{gaze}: too long", f"{gaze}: one of {reading.longest:.1f} s; are times in seconds?")
        extent = max(reading.extent_x / size[row, 0], reading.extent_y / size[row, 1])
        if rows >= FEWEST_FIXATIONS and extent < SMALLEST_EXTENT:
            yield Suspicion(
                row, f"{gaze}: all in one spot", f"{gaze}: all within {extent:.1%} of the film; are x and y in pixels?"
            )
