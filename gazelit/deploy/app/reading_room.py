"""The model at work for the page: films that are dropped on it, and examples of nobody."""

from __future__ import annotations

import io
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gazelit.data.images.film_intake import Film, FilmIntake
from gazelit.deploy.app.pictures import film_values, map_values
from gazelit.deploy.inference import LoadedModel, Reading
from gazelit.deploy.overlay import shrunk
from gazelit.synthetic.case import Plan, plan_cohort
from gazelit.synthetic.hard_case import render

#: What was read last can be downloaded; earlier films are forgotten.
KEPT = 4
#: The seed of the examples, of which there is one of each class, and their longest side (pixels).
EXAMPLE_SEED, EXAMPLE_SIDE = 11, 768


class ReadingRoom:
    """Reads films one after the other, and keeps the last readings in memory; nothing is written.

    Args:
        model: What reads them.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self._network = threading.Lock()
        self._intake = FilmIntake(model.max_pixels)
        self._kept: OrderedDict[str, Reading] = OrderedDict()
        self._plans = plan_cohort(3, EXAMPLE_SEED, EXAMPLE_SIDE, "hard")
        self._examples: dict[int, NDArray[np.float32]] = {}

    @property
    def example_names(self) -> list[str]:
        """What each example shows."""
        return [plan.label for plan in self._plans]

    def about(self) -> dict[str, Any]:
        """What the page says of the model; no path."""
        stamp, data = self.model.stamp, self.model.stamp["data"]
        return {
            "stage": stamp["stage"],
            "size": list(self.model.size),
            "classes": list(self.model.class_names),
            "exclusive": bool(data.get("exclusive", True)),
            "source": data.get("source"),
            "sha256": self.model.sha256,
            "notice": self.model.notice,
        }

    def predict(self, films: Sequence[Film]) -> list[Reading]:
        """Reads films; one caller at a time has the network.

        Raises:
            InputError: A film cannot be read.
        """
        with self._network:
            return self.model.predict(films)

    def read(self, content: bytes) -> dict[str, Any]:
        """Reads the content of a DICOM, PNG or JPEG file.

        Returns:
            ``film``, ``maps`` and ``prediction``, and the ``id`` that the reading is kept under.

        Raises:
            InputError: It cannot be read.
        """
        film = self._intake.read(content)
        with self._network:
            reading = self.model.predict(content)
        return self._keep(shrunk(film.pixels), reading)

    def read_example(self, number: int) -> dict[str, Any]:
        """Reads a simulated film; see :meth:`read`."""
        if number not in self._examples:
            self._examples[number] = _example(self._plans[number])
        film = self._examples[number]
        return self._keep(shrunk(film), self.predict([film])[0])

    def overlay(self, name: str) -> bytes | None:
        """The overlay of a reading that is kept, as a PNG file; None if it is not, or has no map."""
        reading = self._kept.get(name)
        if reading is None or inner_map(reading) is None:
            return None
        file = io.BytesIO()
        reading.overlay().save(file, "PNG")
        return file.getvalue()

    def _keep(self, film: NDArray[np.float32], reading: Reading) -> dict[str, Any]:
        name = secrets.token_urlsafe(12)
        self._kept[name] = reading
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        maps = map_values(film.shape, predicted=inner_map(reading))
        return {"id": name, "film": film_values(film), "maps": maps, "prediction": words(reading)}


def _example(plan: Plan) -> NDArray[np.float32]:
    return np.clip(render(plan).pixels, 0, 1).astype(np.float32)


def words(reading: Reading) -> dict[str, Any]:
    """What a reading says in numbers and words."""
    return {
        "probabilities": reading.probabilities,
        "warnings": list(reading.warnings),
        "height": reading.shape[0],
        "width": reading.shape[1],
    }


def inner_map(reading: Reading) -> NDArray[np.float32] | None:
    """The predicted map at working resolution without the padding, (h, w) float32; None without a saliency head."""
    if reading._density is None:
        return None
    box = reading._letterbox
    return reading._density[box.top : box.top + box.inner[0], box.left : box.left + box.inner[1]]
