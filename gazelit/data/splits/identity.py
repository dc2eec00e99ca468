"""Finds films of the same patient: by ids, whatever their spelling, and by equal pixels."""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gazelit.data.images.geometry import Letterbox
from gazelit.data.store.store import Store
from gazelit.errors import InputError
from gazelit.files import atomic_path

logger = logging.getLogger("gazelit")

_NUMBER = re.compile(r"0*([0-9]+)(?:\.0+)?")
#: Bytes of pixels from which on reading them is logged, because it takes a while.
_LARGE = 2**31


def identity(ids: pd.Series) -> pd.Series:
    """Normalises ids, so that different spellings of an id are equal.

    Surrounding blanks are removed. Letters are in Unicode's NFC and lower case. A number loses leading zeros, which
    spreadsheets remove, and a trailing ``.0``, which they add. Two patients whose ids differ only in this are kept
    together, which does no harm; one patient in two splits would make a test worthless.

    Args:
        ids: Ids as they are in a table.

    Returns:
        Text, indexed as ``ids``.
    """
    values = ids.astype(str)
    return values.map({value: _normalised(value) for value in values.unique()})


def _normalised(value: str) -> str:
    text = unicodedata.normalize("NFC", value).strip().lower()
    number = _NUMBER.fullmatch(text)
    return number[1] if number else text


@dataclass(frozen=True)
class People:
    """Which films belong together.

    Attributes:
        groups: (N,) the group of each film, from 0: films of one patient, and of patients who share a film's pixels.
        keys: (G,) a name of each group that depends on its patients alone.
        patients: (N,) normalised id of each film's patient.
        spellings: Number of patients with ids in several spellings, in words; empty if there is none.
        twins: Number of films with the pixels of another patient's film, in words; empty if there is none.
    """

    groups: NDArray[np.int64]
    keys: list[str]
    patients: NDArray[np.object_]
    spellings: str
    twins: str

    def of(self, rows: NDArray[np.bool_]) -> People:
        """The same for some of the films, which include at least one of each group."""
        return replace(self, groups=self.groups[rows], patients=self.patients[rows])


def find_people(images: pd.DataFrame, pixels: NDArray[np.bytes_] | None = None) -> People:
    """Groups films that must not be in two splits.

    Args:
        images: Table with ``patient_id`` and ``image_id``; an image may be listed twice.
        pixels: (N,) hash of each film's pixels, empty for films without content; see :func:`pixel_hashes`.
    """
    patients = identity(images["patient_id"])
    number, names = pd.factorize(patients, sort=True)
    links = [pd.factorize(images["image_id"].astype(str))[0]]
    if pixels is not None:
        codes = pd.factorize(pixels)[0]
        # Films without content show no patient: each stays alone.
        blank = pixels == b""
        codes[blank] = codes.max(initial=0) + 1 + np.arange(blank.sum())
        links.append(codes)
    rows, columns, width = [], [], len(names)
    for codes in links:
        rows.append(number)
        columns.append(codes + width)
        width += int(codes.max(initial=-1)) + 1
    graph = coo_array(
        (np.ones(len(links) * len(images), np.int8), (np.concatenate(rows), np.concatenate(columns))), (width, width)
    )
    of_node = connected_components(graph, directed=False)[1]
    # Numbered by their first patient in alphabetical order, whatever the order of the table.
    of_patient = pd.factorize(of_node[: len(names)])[0]
    keys = [str(names[position]) for position in np.unique(of_patient, return_index=True)[1]]
    patient_of_film = patients.to_numpy(object)
    twins = "" if pixels is None else _twins(patient_of_film, pixels)
    return People(of_patient[number], keys, patient_of_film, _spellings(images["patient_id"], patient_of_film), twins)


def _spellings(ids: pd.Series, patients: NDArray[np.object_]) -> str:
    spellings = ids.astype(str).groupby(patients).nunique()
    several = spellings[spellings > 1]
    if not len(several):
        return ""
    return f"{len(several)} patients have ids in several spellings ({several.sum()}); each counts as one patient"


def _twins(patients: NDArray[np.object_], pixels: NDArray[np.bytes_]) -> str:
    table = pd.DataFrame({"pixels": pixels, "patient": patients})[pixels != b""]
    shared = table[table.groupby("pixels")["patient"].transform("nunique") > 1]
    if shared.empty:
        return ""
    patients_in_it = shared["patient"].nunique()
    return f"{len(shared)} films have the same pixels as a film of another patient ({patients_in_it} patients)"


def pixel_hashes(store: Store) -> NDArray[np.bytes_]:
    """A hash of each film's stored pixels; empty for a film of one grey value, which shows no patient.

    The pixels are read once, film by film; the hashes are kept in the store's folder under a name with its
    fingerprint. Films that differ in size or in the store's resolution have different hashes.

    Args:
        store: The store.

    Returns:
        (N,) 32 hexadecimal digits (BLAKE2b) or nothing.
    """
    path = store.path / f"pixel-hashes-{store.about['fingerprint'][:16]}.npy"
    kept = _read(path, len(store.cases))
    if kept is not None:
        return kept
    images = store.images()
    if images.nbytes >= _LARGE:
        logger.info(
            "%s: reads the pixels of %d films once, to find films that are in it twice", store.path, len(images)
        )
    hashes = np.array([_hash(image, box) for image, box in zip(images, store.letterboxes, strict=True)], "S32")
    try:
        with atomic_path(path) as temporary:
            np.save(temporary, hashes)
    except (InputError, OSError):
        logger.info("%s: cannot be written, so that the hashes of its films are computed again next time", store.path)
    return hashes


def _hash(image: NDArray[np.unsignedinteger], box: Letterbox) -> bytes:
    content = box.crop(image)
    if (content == content[0, 0]).all():
        return b""
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).hexdigest().encode()


def _read(path: Path, count: int) -> NDArray[np.bytes_] | None:
    try:
        hashes = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return hashes if hashes.shape == (count,) and hashes.dtype == np.dtype("S32") else None
