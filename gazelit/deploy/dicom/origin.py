"""Who made a result: what every DICOM object of gazelit's says, and by which one recognises them."""

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
    """What makes a result.

    Attributes:
        checkpoint: SHA-256 of the checkpoint, 64 hexadecimal digits; of several, of their hashes.
        stage: The stage that trained it.
        notice: What the model may not be used for.
        made: When the run began: results of one run, interrupted or not, have the same time.
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
        """Model, version and number of what made a result, as highdicom's constructors take them."""
        return {
            "manufacturer_model_name": self.model_name,
            "software_versions": self.version,
            "device_serial_number": self.serial_number,
        }

    def uid(self, source: str, *role: str) -> str:
        """A UID that is a function of the film's UID, the checkpoint and what it names.

        The same film read by the same checkpoint gives the same UIDs, so that whoever receives a result twice keeps
        one. Under the root 2.25 stand UUIDs (PS3.5 B.2); this one is a hash, as those of version 5 are (RFC 9562).

        Args:
            source: SOPInstanceUID of the film.
            role: What the UID names, such as ``sr``, ``series``.
        """
        digest = hashlib.sha256("\0".join((source, self.checkpoint, *role)).encode()).digest()
        return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def is_own_result(header: Dataset) -> bool:
    """Whether a DICOM object is a result of gazelit's."""
    return str(header.get("Manufacturer") or "").strip() == MANUFACTURER
