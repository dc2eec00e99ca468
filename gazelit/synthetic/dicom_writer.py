"""Films as DICOM files: digital radiography for presentation, 12 bits stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    RLELossless,
)

from gazelit.synthetic.case import SyntheticCase

#: Root of UIDs made from UUIDs (PS3.5 B.2); the numbers below it are computed from seed and case.
_UID_ROOT = "2.25"
_TOP = 4095
#: Share of films with a window.
_WINDOWED = 0.9


def uid(*numbers: int) -> UID:
    """A UID that is a function of its numbers."""
    value = int(np.random.SeedSequence(numbers).generate_state(2, np.uint64)[0])
    return UID(f"{_UID_ROOT}.{value}")


def write_case_film(path: Path, case: SyntheticCase, patient_id: str, seed: int, rng: Generator) -> None:
    """Writes a case's film with UIDs that are functions of seed, patient and case."""
    uids = (uid(seed, 6, case.plan.patient), uid(seed, 7, case.plan.patient), uid(seed, 8, case.plan.number))
    write_film(path, case.film, case.spacing, patient_id, uids, rng)


def write_film(
    path: Path,
    film: NDArray[np.float32],
    spacing: float,
    patient_id: str,
    uids: tuple[UID, UID, UID],
    rng: Generator,
) -> None:
    """Writes a film.

    Most films are DX and valid by the standard. Films that break the rules for DX are written as CR. About a fifth are
    MONOCHROME1, stored inverted as such films are; some have a rescale, several windows or none, or are RLE-compressed.

    Args:
        path: The file.
        film: (H, W) float32 in [0, 1], bright = dense.
        spacing: Pixel spacing (mm).
        patient_id: Eight digits.
        uids: Study, series and instance UID.
        rng: Draws the variant.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPInstanceUID = uids[2]
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(f"{_UID_ROOT}.1")
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    inverted = rng.random() < 0.2
    # The grey values leave headroom at both ends, as the windows of real films do.
    low, high = int(rng.integers(0, 300)), int(rng.integers(3600, _TOP + 1))
    values = low + film * (high - low)
    stored = np.round(_TOP - values if inverted else values).clip(0, _TOP).astype(np.uint16)
    dataset.SOPInstanceUID = uids[2]
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uids[0], uids[1]
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "21500101"
    dataset.StudyTime = dataset.ContentTime = "120000"
    dataset.AccessionNumber = dataset.StudyID = dataset.ReferringPhysicianName = ""
    dataset.PatientName, dataset.PatientID = "", patient_id
    dataset.PatientBirthDate, dataset.PatientSex = "", ""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "synthetic: there is no patient"
    dataset.BodyPartExamined, dataset.ViewPosition = "CHEST", "PA"
    dataset.PatientOrientation = ["L", "F"]
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.Manufacturer = "gazelit synthetic"
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = 1 if inverted else -1
    dataset.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.ImagerPixelSpacing = [round(spacing, 5), round(spacing, 5)]
    slope, intercept = (0.5, 100) if rng.random() < 0.15 else (1, 0)
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = slope, intercept, "US"
    ends = sorted((_TOP - low, _TOP - high)) if inverted else [low, high]
    centre, width = slope * (ends[0] + ends[1]) / 2 + intercept, slope * (ends[1] - ends[0])
    variant = rng.random()
    if variant < 0.7:
        dataset.WindowCenter, dataset.WindowWidth = round(centre, 1), round(width, 1)
    elif variant < _WINDOWED:
        dataset.WindowCenter = [round(centre, 1), round(centre * 0.8, 1)]
        dataset.WindowWidth = [round(width, 1), round(width * 0.6, 1)]
        dataset.WindowCenterWidthExplanation = ["NORMAL", "HARDER"]
    # A DX film must have a window and no rescale (PS3.3 C.8.11.3); a CR film may have a rescale and no window.
    if slope == 1 and variant < _WINDOWED:
        _describe_dx(dataset)
    else:
        dataset.SOPClassUID, dataset.Modality = ComputedRadiographyImageStorage, "CR"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    if rng.random() < 0.05:
        dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def _describe_dx(dataset: FileDataset) -> None:
    """Adds the attributes that a DX film must have and a CR film must not."""
    dataset.SOPClassUID, dataset.Modality = DigitalXRayImageStorageForPresentation, "DX"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageLaterality = "U"
    chest = Dataset()
    chest.CodeValue, chest.CodingSchemeDesignator, chest.CodeMeaning = "51185008", "SCT", "Chest"
    dataset.AnatomicRegionSequence = [chest]
    dataset.DetectorType = dataset.PositionerType = ""
    dataset.AcquisitionContextSequence = []
