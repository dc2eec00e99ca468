"""Makes the DICOM objects of a reading, and their bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from gazelit.data.images.pictures import faults
from gazelit.deploy.dicom.evidence import Evidence
from gazelit.deploy.dicom.presentation import presentation_state
from gazelit.deploy.dicom.secondary_capture import secondary_capture
from gazelit.deploy.dicom.segmentation import binary_segmentation, fractional_segmentation
from gazelit.deploy.dicom.structured_report import structured_report

#: Writers by the name of the kind.
WRITERS: dict[str, Callable[[Evidence], Dataset]] = {
    "sr": structured_report,
    "sc": secondary_capture,
    "seg": binary_segmentation,
    "fractional": fractional_segmentation,
    "gsps": presentation_state,
}
#: Study attributes that results take over besides those that highdicom copies.
_OF_STUDY = (
    "StudyDescription", "ProcedureCodeSequence", "TimezoneOffsetFromUTC", "IssuerOfPatientID", "PatientIdentityRemoved",
    "DeidentificationMethod", "DeidentificationMethodCodeSequence",
)  # fmt: skip


def dicom_results(evidence: Evidence, kinds: Sequence[str]) -> dict[str, Dataset]:
    """Makes DICOM objects of a reading.

    Args:
        evidence: The film and its reading.
        kinds: Names of ``WRITERS``.

    Returns:
        By kind. The same film, checkpoint and time give the same bytes.

    Raises:
        InputError: The film's header cannot carry a result.
    """
    results = {}
    for kind in kinds:
        # Both libraries warn of values that a film has, and print them.
        with faults(str(kind), "no DICOM result can be made of this film's header"):
            results[kind] = _finished(WRITERS[kind](evidence), evidence)
    return results


def _finished(result: Dataset, evidence: Evidence) -> Dataset:
    """Adds what every result says: the study's attributes, the model, its notice and the time of the run."""
    origin, header = evidence.origin, evidence.header
    for name in _OF_STUDY:
        if name in header and name not in result:
            setattr(result, name, header[name].value)
    result.SpecificCharacterSet = "ISO_IR 192"
    result.ManufacturerModelName = origin.model_name
    result.SoftwareVersions = origin.version
    result.DeviceSerialNumber = origin.serial_number
    result.SeriesDescription = f"{origin.model_name}: {result.Modality}, not for clinical use"[:64]
    result.InstanceCreatorUID = origin.uid("device")
    # strftime gives the year 1, which stands for no date, fewer than four digits.
    date, time = origin.made.date().isoformat().replace("-", ""), origin.made.strftime("%H%M%S")
    _set_times(result, date, time)
    result.file_meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID
    return result


def _set_times(result: Dataset, date: str, time: str) -> None:
    """Puts the run's time where highdicom put the clock's; the film's own dates stay."""
    for prefix in ("Content", "InstanceCreation", "PresentationCreation"):
        for suffix, value in (("Date", date), ("Time", time)):
            if f"{prefix}{suffix}" in result:
                setattr(result, f"{prefix}{suffix}", value)
    if "DateOfSecondaryCapture" in result:
        result.DateOfSecondaryCapture, result.TimeOfSecondaryCapture = date, time
    for name in ("SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime"):
        # Of the film's series, not of the result's.
        if name in result:
            del result[name]
    for element in result:
        if isinstance(element.value, DicomSequence):
            for item in element.value:
                for name in ("ObservationDateTime", "ContributionDateTime"):
                    if name in item:
                        setattr(item, name, date + time)


def dicom_bytes(result: Dataset) -> bytes:
    """The file of a DICOM object."""
    file = io.BytesIO()
    result.save_as(file, enforce_file_format=True)
    return file.getvalue()
