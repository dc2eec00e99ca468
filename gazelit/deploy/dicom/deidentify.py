"""Removes from headers what identifies a patient, before any result is made of them.

Results copy from their film's header and add nothing about the patient. Therefore the header is cleaned: then all parts
of a result are clean, also in sequences. The actions are those of table E.1-1 of PS3.15 as dicom-anonymizer (BSD) has
them; of the kept libraries it is the one that is built from that table (deid applies recipes that one writes, dicognito
gives other names and dates but knows no profile).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from dicomanonymizer.simpledicomanonymizer import anonymize_dataset, initialize_actions_2024b, replace_UID
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes

from gazelit.data.images.pictures import faults
from gazelit.errors import InputError

_METHOD = "PS3.15 basic profile; pixels not cleaned"


def deidentified(header: Dataset, key: bytes) -> Dataset:
    """A film's header after the basic profile: no names, dates, places and numbers; UIDs replaced consistently.

    Args:
        header: The header; it is left as it is.
        key: Of the new UIDs.

    Raises:
        InputError: The header says that the pixels may identify the patient.
    """
    if str(header.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        raise InputError("the pixels hold annotations that may identify the patient, and no profile takes them out")
    clean = deepcopy(header)
    actions: dict[Any, Callable[..., None]] = initialize_actions_2024b()
    replacing = {tag: _replace_uid(key) for tag, action in actions.items() if action is replace_UID}
    with faults("film", "its header cannot be de-identified"):
        anonymize_dataset(clean, extra_anonymization_rules=replacing, delete_private_tags=True,
                          base_rules_gen=initialize_actions_2024b)  # fmt: skip
    clean.SpecificCharacterSet = header.SpecificCharacterSet
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = _METHOD
    method = Dataset()
    code = codes.DCM.BasicApplicationConfidentialityProfile
    method.CodeValue, method.CodingSchemeDesignator, method.CodeMeaning = (
        code.value,
        code.scheme_designator,
        code.meaning,
    )
    clean.DeidentificationMethodCodeSequence = [method]
    return clean


def new_uid(uid: str, key: bytes) -> str:
    """The UID that replaces another one, under the root of UUIDs (PS3.5 B.2)."""
    digest = hashlib.blake2b(uid.encode(), key=key, digest_size=16).digest()
    return f"2.25.{uuid.UUID(bytes=digest, version=5).int}"


def _replace_uid(key: bytes) -> Callable[[Dataset, Any], None]:
    def replace(dataset: Dataset, tag: Any) -> None:
        element = dataset.get(tag)
        if element is None or not element.value:
            return
        if isinstance(element.value, MultiValue):
            element.value = [new_uid(str(uid), key) for uid in element.value]
        else:
            element.value = new_uid(str(element.value), key)

    return replace
