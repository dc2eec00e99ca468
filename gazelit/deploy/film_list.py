"""The films of a command: files, folders, patterns and DICOMDIRs as one list of files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydicom.fileset import FileSet

from gazelit.data.images.dicom import is_dicom
from gazelit.data.images.pictures import faults
from gazelit.errors import InputError

DICOMDIR = "DICOMDIR"
_PICTURES = (".png", ".jpg", ".jpeg")


def film_files(given: Iterable[str]) -> list[str]:
    """Expands the arguments into files, each once, in the order given and within a folder by name.

    Args:
        given: A file; a folder, for every DICOM, PNG and JPEG file below it except hidden ones; a pattern such as
            ``films/**/*.dcm``; or a DICOMDIR, for its images.

    Returns:
        Files; those named one by one may not exist.

    Raises:
        InputError: A folder, pattern or DICOMDIR holds no film.
    """
    found: dict[str, None] = {}
    for name in given:
        files = list(_expanded(name))
        if not files:
            raise InputError(f"{name}: holds no DICOM, PNG or JPEG file")
        found.update(dict.fromkeys(files))
    return list(found)


def _expanded(name: str) -> Iterator[str]:
    path = Path(name)
    if path.is_dir():
        yield from _in_folder(path)
    elif path.name.upper() == DICOMDIR and path.is_file():
        yield from _in_dicomdir(path)
    elif glob.has_magic(name) and not path.exists():
        for match in sorted(glob.glob(name, recursive=True)):
            yield from _in_folder(Path(match)) if os.path.isdir(match) else [match]
    else:
        yield name


def _in_folder(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent) / name
            if name.startswith(".") or name.upper() == DICOMDIR:
                continue
            if path.suffix.lower() in _PICTURES or _looks_like_dicom(path):
                yield str(path)


def _looks_like_dicom(path: Path) -> bool:
    try:
        return is_dicom(path)
    except InputError:
        # Empty, or no file; not one that was named.
        return False


def _in_dicomdir(path: Path) -> Iterator[str]:
    root = path.parent.resolve()
    with faults(path, "not a readable DICOMDIR"):
        records = [Path(instance.path) for instance in FileSet(path) if instance.DirectoryRecordType == "IMAGE"]
    for record in records:
        if not record.resolve().is_relative_to(root):
            raise InputError(f"{path}: names a file outside its own folder")
        yield str(record)
