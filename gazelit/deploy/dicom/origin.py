"""The origin of a result: attributes in every DICOM object of gazelit, by which these are recognised."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset

from gazelit import __version__

#: Manufacturer of results; a film of this manufacturer is one of our own results and is not read again.
MANUFACTURER = "gazelit"
#: Largest length of a DICOM value of a few kinds (PS3.5 table 6.2-1).
_LO = 64


@dataclass(frozen=True)
class Origin:
    """The model and run that make a result.

    Attributes:
        checkpoint: SHA-256 of the checkpoint, 64 hexadecimal digits; of several checkpoints that of their hashes.
        stage: The stage that trained it.
        notice: What the model must not be used for.
        made: Start of the run; all results of a run have this time, even if it was interrupted.
    """

    checkpoint: str
    stage: str
    notice: str
    made: datetime

    @property
    def model_name(self) -> str:
        """Name of the model in results."""
        return f"gazelit {self.stage}"[:_LO]

    @property
    def version(self) -> str:
        """Version of the software in results."""
        return __version__

    @property
    def serial_number(self) -> str:
        """In place of a device's number: the checkpoint."""
        return self.checkpoint[:_LO]

    def equipment(self) -> dict[str, Any]:
        """Model, version and serial number of a result's origin, for highdicom's constructors."""
        return {
            "manufacturer_model_name": self.model_name,
            "software_versions": self.version,
            "device_serial_number": self.serial_number,
        }

    def uid(self, source: str, *role: str) -> str:
        """A UID that is a function of the film's UID, the checkpoint and what it names.

        The same film read by the same checkpoint gives the same UIDs, so that a receiver keeps only one copy of a
        result that is sent twice. UIDs under the root 2.25 are UUIDs (PS3.5 B.2); this one is a hash, like UUIDs of
        version 5 (RFC 9562).

        Args:
            source: SOPInstanceUID of the film.
            role: What the UID names, such as ``sr``, ``series``.
        """
        digest = hashlib.sha256("\0".join((source, self.checkpoint, *role)).encode()).digest()
        return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def is_own_result(header: Dataset) -> bool:
    """Whether a DICOM object is a result of gazelit's."""
    return str(header.get("Manufacturer") or "").strip() == MANUFACTURER
