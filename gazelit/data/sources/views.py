"""The view position (direction of the rays) in a film's header."""

from __future__ import annotations

from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from gazelit.data.images.dicom import is_dicom
from gazelit.errors import InputError


def view_position(path: str | Path, unknown: str = "") -> str:
    """ViewPosition (0018,5101) of a DICOM file.

    Args:
        path: The film; its header has been found readable.
        unknown: Value for a file that does not say it, or is no DICOM file.
    """
    try:
        # A deflated file would have to be inflated whole for one tag.
        if not is_dicom(Path(path)) or _is_deflated(path):
            return unknown
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["ViewPosition"])
        view = str(header.get("ViewPosition") or "").strip().upper()
    except (InputError, OSError, ValueError, TypeError, AttributeError, LookupError, NotImplementedError):
        return unknown
    # A code string has at most 16 characters; a longer one is something else.
    return view if 0 < len(view) <= 16 and view.isascii() and view.isprintable() else unknown


def _is_deflated(path: str | Path) -> bool:
    try:
        return read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    except InvalidDicomError:
        return False
