"""Whether a DICOM image is a radiograph: one projection, of one sample per pixel."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import Dataset

from gazelit.errors import InputError

#: Modalities of sections, and of images made without X-rays (PS3.3 C.7.3.1.1.1). Others that are no radiograph's are
#: read with a warning (:mod:`gazelit.data.images.film_warnings`), because vendors use various ones for films.
_NO_RADIOGRAPHS = ("CT", "MR", "PT", "NM", "US", "OPT", "IVUS")
_PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")


def refuse_other_images(dataset: Dataset, path: str | Path) -> None:
    """Refuses other imaging than radiography, several frames, and colour.

    Args:
        dataset: The header.
        path: Its name, for messages.

    Raises:
        InputError: It is no radiograph.
    """
    modality = str(dataset.get("Modality") or "").strip().upper()
    if modality in _NO_RADIOGRAPHS:
        raise InputError(f"{path}: is of a {modality} series; radiographs (CR, DX) are read")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise InputError(f"{path}: has several frames; a radiograph has one")
    if int(dataset.get("SamplesPerPixel", 1)) != 1:
        raise InputError(f"{path}: is a colour image; a radiograph has one sample per pixel")
    if photometric_of(dataset) not in _PHOTOMETRIC:
        raise InputError(f"{path}: its photometric interpretation is none of one sample per pixel")


def photometric_of(dataset: Dataset) -> str:
    """The photometric interpretation; MONOCHROME2 where the header does not say."""
    return str(dataset.get("PhotometricInterpretation") or "MONOCHROME2")
