"""How a prediction of a store's case agrees with its labels and its readers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gazelit.data.gaze.heatmap import fixation_counts
from gazelit.data.store.store import Store
from gazelit.deploy.app.reader_gaze import ReaderGaze
from gazelit.deploy.app.reading_room import inner_map
from gazelit.deploy.reading import Reading
from gazelit.metrics.functional import cc, nss


def score(reading: Reading, store: Store, row: int, classes: Sequence[str], gaze: ReaderGaze) -> dict[str, float]:
    """Compares a prediction with its case's labels and gaze.

    Args:
        reading: The model's reading.
        store: The store.
        row: The case.
        classes: Those of the model that are labels of the store.
        gaze: The readers'.

    Returns:
        ``p_<class>``; ``distance``, the largest of the differences between probability and label; ``cc`` with the
        readers' map and ``nss`` at their points; each only if there is something to compare with.
    """
    found = {f"p_{name}": value for name, value in reading.probabilities.items()}
    if classes:
        labels = store.cases[list(classes)].iloc[row].to_numpy(np.float64)
        known = (labels == 0) | (labels == 1)
        if known.any():
            values = np.array([reading.probabilities[name] for name in classes])
            found["distance"] = float(np.abs(values - labels)[known].max())
    predicted, target = inner_map(reading), gaze.density(row)
    if predicted is not None and target is not None:
        points, _ = gaze.points(row)
        density = _tensor(cv2.resize(predicted, target.shape[::-1], interpolation=cv2.INTER_LINEAR))
        counts = _tensor(store.letterboxes[row].crop(fixation_counts(points, store.size).numpy()))
        found |= {"cc": float(cc(density, _tensor(target))[0]), "nss": float(nss(density, counts)[0])}
    return {name: round(value, 4) for name, value in found.items() if np.isfinite(value)}


def _tensor(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]
