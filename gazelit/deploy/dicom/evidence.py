"""The data that DICOM results are made from: the film's header and display, the reading, and its origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from gazelit.data.images.geometry import Letterbox
from gazelit.deploy.dicom.origin import MANUFACTURER, Origin
from gazelit.deploy.region import SHARE, mass_region, peak_of, peak_outline


@dataclass(frozen=True)
class Evidence:
    """One film and a model's reading of it.

    Attributes:
        header: Header of the film, after :func:`gazelit.deploy.dicom.header.completed`.
        film: (H, W) uint8, as displayed, dense tissue bright.
        probabilities: By class.
        deviations: By class, standard deviation over several networks; empty for one.
        warnings: Reasons why the reading is doubtful.
        density: (h, w) map at working resolution; None without a saliency head.
        box: How the film lies in it.
        origin: The model and run that made it.
        share: Share of the map's mass that the region and outline hold.
    """

    header: Dataset
    film: NDArray[np.uint8]
    probabilities: Mapping[str, float]
    deviations: Mapping[str, float]
    warnings: tuple[str, ...]
    density: NDArray[np.float32] | None
    box: Letterbox
    origin: Origin
    share: float = SHARE

    @cached_property
    def region(self) -> NDArray[np.bool_] | None:
        """(H, W), where the map has ``share`` of its mass; None without a map."""
        return None if self.density is None else mass_region(self.density, self.box, self.share)

    @cached_property
    def outline(self) -> NDArray[np.float64] | None:
        """(N, 2) x, y of the part of the region around the map's peak; None without a map."""
        if self.density is None or self.region is None:
            return None
        return peak_outline(self.region, peak_of(self.density, self.box))

    def uid(self, *role: str) -> str:
        """See :meth:`gazelit.deploy.dicom.origin.Origin.uid`."""
        return self.origin.uid(str(self.header.SOPInstanceUID), *role)

    def identity(self, role: str, series_number: int) -> dict[str, Any]:
        """Series, instance and manufacturer of a result, as highdicom's constructors take them.

        Args:
            role: Kind of the result, such as ``sr``.
            series_number: Of its series.
        """
        return {
            "series_instance_uid": self.uid(role, "series"),
            "series_number": series_number,
            "sop_instance_uid": self.uid(role),
            "instance_number": 1,
            "manufacturer": MANUFACTURER,
        }

    def lines(self) -> list[str]:
        """The reading in words: notice, probabilities, warnings."""
        words = [self.origin.notice]
        for label, value in self.probabilities.items():
            spread = f" (SD {self.deviations[label]:.3f})" if label in self.deviations else ""
            words.append(f"{label}: {value:.3f}{spread}")
        return [*words, *(f"warning: {warning}" for warning in self.warnings)]
