"""Coded names of a model's classes and measurements."""

from __future__ import annotations

import hashlib

from highdicom.sr.coding import CodedConcept
from pydicom.sr.codedict import codes

#: Designator of codes that no vocabulary has; a private designator begins with 99 (PS3.3 section 8.2).
PRIVATE_SCHEME = "99GAZELIT"
#: SNOMED CT (version-free identifiers) of the labels of the chest data sets gazelit reads, by their names.
_FINDINGS = {
    ("normal", "nofinding"): ("17621005", "Normal"),
    ("chf", "congestiveheartfailure"): ("42343007", "Congestive heart failure"),
    ("pneumonia",): ("233604007", "Pneumonia"),
    ("atelectasis",): ("46621007", "Atelectasis"),
    ("cardiomegaly",): ("8186001", "Cardiomegaly"),
    ("consolidation",): ("95436008", "Lung consolidation"),
    ("edema", "pulmonaryedema"): ("19242006", "Pulmonary edema"),
    ("effusion", "pleuraleffusion"): ("60046008", "Pleural effusion"),
    ("pneumothorax",): ("36118008", "Pneumothorax"),
    ("fracture",): ("125605004", "Fracture of bone"),
}
_BY_NAME = {name: finding for names, finding in _FINDINGS.items() for name in names}

SALIENCY, PROBABILITY, COMMENT = codes.DCM.Saliency, codes.DCM.Probability, codes.DCM.Comment


def private(value: str, meaning: str) -> CodedConcept:
    """A concept of gazelit's own."""
    return CodedConcept(value=value, scheme_designator=PRIVATE_SCHEME, meaning=meaning)


MASS = private("MASS", "Share of the saliency map's mass inside")
DEVIATION = private("SD", "Standard deviation over networks")


def finding_code(label: str) -> CodedConcept:
    """The code of a class: of SNOMED CT if the name is a known label, else one of gazelit's own.

    Args:
        label: Name of the class.
    """
    simple = "".join(character for character in label.lower() if character.isalnum())
    if simple in _BY_NAME:
        value, meaning = _BY_NAME[simple]
        return CodedConcept(value=value, scheme_designator="SCT", meaning=meaning)
    # A code has 16 characters, and a name may have more: a hash distinguishes names with a common beginning.
    return private(hashlib.sha256(label.encode()).hexdigest()[:16].upper(), label[:64])
