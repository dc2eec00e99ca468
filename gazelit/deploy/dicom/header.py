"""The attributes that a result takes over from its film's header."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian

from gazelit.data.images.pictures import faults
from gazelit.errors import InputError

#: Without these a result could name neither its patient nor its film (PS3.3, type 1).
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
#: Present in every result, empty if the film does not have them (type 2).
_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "ReferringPhysicianName", "StudyID",
)  # fmt: skip
_BYTES = ("OB", "OW", "OF", "OD", "OL", "OV", "UN")
_LAST_GROUP, _LONGEST = 0x0040, 4096


def header_for_results(dataset: Dataset) -> Dataset:
    """The part of a film's header that results are made from: no pixels, tables, overlays or private elements.

    Args:
        dataset: The film.
    """
    header = Dataset()
    with faults("film", "its header cannot be read"):
        for element in dataset:
            if element.tag.is_private or element.tag.group > _LAST_GROUP or element.VR in _BYTES:
                continue
            if element.VR != "SQ" and len(str(element.value)) > _LONGEST:
                continue
            header.add(DataElement(element.tag, element.VR, _value(element)))
        # Results are written in UTF-8, whatever the film's character set.
        header.SpecificCharacterSet = "ISO_IR 192"
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = dataset.file_meta.get("TransferSyntaxUID", ExplicitVRLittleEndian)
    return header


def _value(element: DataElement) -> Any:
    if element.VR == "PN":
        # Decoded, because a name keeps the bytes of the film's character set.
        names = element.value if isinstance(element.value, MultiValue) else [element.value]
        return [str(name) for name in names]
    return deepcopy(element.value)


def completed(header: Dataset) -> Dataset:
    """The header with every attribute that results need, empty if the film does not have it.

    Raises:
        InputError: The film lacks a UID.
    """
    missing = [name for name in _NEEDED if not header.get(name)]
    if missing:
        raise InputError(f"no DICOM result: the film's header lacks {', '.join(missing)}")
    filled = deepcopy(header)
    for name in _EMPTY:
        if name not in filled:
            setattr(filled, name, "")
    return filled
