"""Names of results: by a hash of the film's identity, or by its file; all different."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from gazelit.data.images.dicom import MAX_PIXELS, is_dicom, read_film, read_header
from gazelit.deploy.dicom.origin import is_own_result
from gazelit.errors import InputError

#: Hexadecimal digits of a name: two of ten million films have the same with a probability of 1 in 300,000.
_DIGITS = 16
#: Record of how a folder of results was made; no film's results have this name.
RUN_FILE = "run.json"


@dataclass(frozen=True)
class NamedFilm:
    """A film to be read.

    Attributes:
        path: Its file.
        position: Its place among the films, from 1.
        name: Name of its results; empty if it cannot be read.
        fault: Why it cannot be read, if it is known already.
    """

    path: str
    position: int
    name: str
    fault: str = ""


def named_films(files: Sequence[str], by_file: bool, max_pixels: int = MAX_PIXELS, key: bytes = b"") -> list[NamedFilm]:
    """Names the results of films.

    Args:
        files: Their files.
        by_file: By the file's name; else by a hash of the SOPInstanceUID, or of a picture's bytes, so that no name of
            a file, which may hold a patient's, gets into the results.
        max_pixels: Files larger than a film of so many pixels are not read.
        key: Part of the hash, so that a name can be traced to its film only with the key.

    Returns:
        In the order of the files. Of the same name, the second is ``<name>_2`` and so on.
    """
    faults: dict[int, str] = {}
    stems = []
    for number, path in enumerate(files):
        try:
            header = _header(path) if is_dicom(path) else None
            stems.append(Path(path).stem if by_file else _hash_name(path, header, max_pixels, key))
        except InputError as error:
            faults[number] = str(error)
            stems.append("")
    names = _without_namesakes(stems)
    return [
        NamedFilm(path, number + 1, "" if number in faults else names[number], faults.get(number, ""))
        for number, path in enumerate(files)
    ]


def _hash_name(path: str, header: Dataset | None, max_pixels: int, key: bytes) -> str:
    uid = "" if header is None else str(header.get("SOPInstanceUID") or "")
    content = uid.encode() if uid else read_film(path, max_pixels)
    return hashlib.sha256(key + content).hexdigest()[:_DIGITS]


def _header(path: str) -> Dataset:
    """The film's header, if it may be read.

    Raises:
        InputError: It is no DICOM image, or a result of gazelit's own, which is not read again.
    """
    header = read_header(path)
    if is_own_result(header):
        raise InputError(f"{path}: is a result of gazelit's own, not a film")
    return header


def _without_namesakes(stems: Sequence[str]) -> list[str]:
    """The names, made different from each other, also for file systems that ignore case."""
    # A film's own name is never given to another film whose name is ambiguous.
    taken = {name.casefold() for name in stems}
    seen = {Path(RUN_FILE).stem}
    numbers: dict[str, int] = {}
    names = []
    for stem in stems:
        name = stem
        while name.casefold() in seen or (name != stem and name.casefold() in taken):
            numbers[stem] = numbers.get(stem, 1) + 1
            name = f"{stem}_{numbers[stem]}"
        seen.add(name.casefold())
        names.append(name)
    return names
