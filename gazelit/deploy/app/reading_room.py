"""The model for the page: reads films that are dropped on it, and simulated examples."""

from __future__ import annotations

import importlib.util
import io
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gazelit.data.images.film_intake import Film, FilmIntake
from gazelit.deploy.app.film_for_page import FilmForPage, PagePreparation
from gazelit.deploy.app.pictures import film_values, map_values
from gazelit.deploy.inference import LoadedModel
from gazelit.deploy.objects import OF_MAPS, DicomOptions, Kind, objects_of
from gazelit.deploy.preparing import Prepared
from gazelit.deploy.reading import Reading
from gazelit.synthetic.case import Plan, plan_cohort
from gazelit.synthetic.hard_case import render

#: Number of readings that can be downloaded, the last ones; earlier films are discarded.
KEPT = 4
#: The seed of the examples, of which there is one of each class, and their longest side (pixels).
EXAMPLE_SEED, EXAMPLE_SIDE = 11, 768
#: DICOM results that can be downloaded, with their names.
OBJECTS: dict[Kind, str] = {
    "sr": "Structured report",
    "sc": "Secondary capture",
    "seg": "Segmentation",
    "gsps": "Presentation state",
}


class ReadingRoom:
    """Reads films one after the other, and keeps the last readings in memory; nothing is written.

    Args:
        model: What reads them.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        # The page's user chooses a reader after the film was read.
        self._with_paths = replace(model, readers=tuple(getattr(model.network, "readers", ())))
        self._network = threading.Lock()
        self._intake: FilmIntake[FilmForPage] = FilmIntake(PagePreparation(model.size), model.max_pixels)
        self._kept: OrderedDict[str, Reading] = OrderedDict()
        self._plans = plan_cohort(3, EXAMPLE_SEED, EXAMPLE_SIDE, "hard")
        self._examples: dict[int, NDArray[np.float32]] = {}
        # De-identified results of one start of the server belong together; another start gives other UIDs.
        self._key = secrets.token_bytes(32)

    @property
    def example_names(self) -> list[str]:
        """Names of the examples by what they show."""
        return [plan.label for plan in self._plans]

    def about(self) -> dict[str, Any]:
        """The description of the model for the page; no path."""
        stamp, conformal = self.model.stamp, self.model.guards.conformal if self.model.guards else None
        return {
            "stage": stamp["stage"],
            "size": list(self.model.size),
            "classes": list(self.model.class_names),
            "sha256": self.model.sha256,
            "notice": self.model.notice,
            "coverage": None if conformal is None else conformal.coverage,
        }

    def predict(self, films: Sequence[Prepared], with_paths: bool = False) -> list[Reading]:
        """Reads films that are prepared; one caller at a time has the network.

        Args:
            films: Films that are prepared for the network.
            with_paths: Whether a model of scanpaths gives the expected ones, of an unknown and of each known reader.

        Raises:
            InputError: The model predicts nothing of a film.
        """
        model = self._with_paths if with_paths else self.model
        with self._network:
            return [reading for reading in model.read(films) if isinstance(reading, Reading)]

    def read(self, film: Film) -> dict[str, Any]:
        """Reads a film, such as the content of a DICOM, PNG or JPEG file.

        Returns:
            ``film``, ``maps`` and ``prediction``; the ``id`` that the reading is kept under, and the DICOM ``objects``
            that can be made of it.

        Raises:
            InputError: It cannot be read.
        """
        given = self._intake.read(film)
        (reading,) = self.predict([given.prepared], with_paths=True)
        name = secrets.token_urlsafe(12)
        self._kept[name] = reading
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return {
            "id": name,
            "film": film_values(given.picture),
            "maps": map_values(given.picture.shape, predicted=inner_map(reading)),
            "prediction": words(reading),
            "objects": _objects(reading),
        }

    def read_example(self, number: int) -> dict[str, Any]:
        """Reads a simulated film; see :meth:`read`."""
        if number not in self._examples:
            self._examples[number] = _example(self._plans[number])
        return self.read(self._examples[number])

    def overlay(self, name: str) -> bytes | None:
        """The overlay of a reading that is kept, as a PNG file; None if it is not, or has no map."""
        reading = self._kept.get(name)
        if reading is None or inner_map(reading) is None:
            return None
        file = io.BytesIO()
        reading.overlay().save(file, "PNG")
        return file.getvalue()

    def dicom_object(self, name: str, kind: str, is_deidentified: bool) -> bytes | None:
        """A DICOM file of a reading that is kept; None if it is not, or has none of this kind.

        Args:
            name: The reading's.
            kind: One of :data:`OBJECTS`.
            is_deidentified: Whether the attributes of PS3.15's basic profile are removed.

        Raises:
            InputError: The film's header cannot carry a result.
        """
        reading = self._kept.get(name)
        chosen = None if reading is None else next((each for each in _objects(reading) if each == kind), None)
        if reading is None or chosen is None:
            return None
        made = datetime.now().replace(microsecond=0)
        options = DicomOptions((chosen,), made=made, key=self._key if is_deidentified else b"")
        return objects_of(self.model, reading, options)[chosen]


def _example(plan: Plan) -> NDArray[np.float32]:
    return np.clip(render(plan).pixels, 0, 1).astype(np.float32)


def _objects(reading: Reading) -> dict[Kind, str]:
    """The DICOM results that can be made of a reading."""
    if reading.film.header is None or importlib.util.find_spec("highdicom") is None:
        return {}
    return {kind: name for kind, name in OBJECTS.items() if kind not in OF_MAPS or inner_map(reading) is not None}


def words(reading: Reading) -> dict[str, Any]:
    """A reading in numbers and words."""
    return {
        "probabilities": reading.probabilities,
        "spread": None if reading.spread is None else asdict(reading.spread),
        "prediction_set": reading.prediction_set,
        "warnings": list(reading.warnings),
        "scanpaths": [scanpath.primitives() for scanpath in reading.scanpaths],
        "height": reading.shape[0],
        "width": reading.shape[1],
    }


def inner_map(reading: Reading) -> NDArray[np.float32] | None:
    """The predicted map at working resolution without the padding, (h, w) float32; None without a saliency head."""
    density, box = reading.working_saliency, reading.letterbox
    return None if density is None else box.crop(density)
