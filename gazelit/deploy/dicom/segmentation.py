"""The map as a Segmentation: where it has a share of its mass, or its height in 255 steps."""

from __future__ import annotations

import highdicom as hd
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sr.codedict import codes
from pydicom.uid import JPEG2000Lossless

from gazelit.deploy.dicom.codes import SALIENCY
from gazelit.deploy.dicom.evidence import Evidence
from gazelit.errors import InputError

_BINARY_NUMBER, _FRACTIONAL_NUMBER = 9003, 9004
_LARGEST = 255


def binary_segmentation(evidence: Evidence) -> Dataset:
    """The part of the film where the map has a share of its mass.

    Args:
        evidence: The film and its reading.

    Returns:
        A BINARY Segmentation of the film's rows and columns.

    Raises:
        InputError: The model predicts no map.
    """
    if evidence.region is None:
        raise InputError("seg: the model predicts no saliency map; leave seg out of --dicom")
    label = f"saliency: {evidence.share:.0%} of the map"
    return _segmentation(evidence, evidence.region.astype(np.uint8), "BINARY", label, "seg", _BINARY_NUMBER)


def fractional_segmentation(evidence: Evidence) -> Dataset:
    """The map in 255 steps of its largest value.

    Args:
        evidence: The film and its reading.

    Returns:
        A FRACTIONAL Segmentation of type OCCUPANCY of the film's rows and columns, JPEG 2000 lossless. It is no
        probability: a map is relative to its largest value.

    Raises:
        InputError: The model predicts no map.
    """
    if evidence.density is None:
        raise InputError("fractional: the model predicts no saliency map; leave it out of --dicom")
    largest = max(float(evidence.box.crop(evidence.density).max()), 1e-30)
    height = evidence.box.restore(evidence.density / np.float32(largest))
    return _segmentation(
        evidence, np.clip(height, 0, 1).astype(np.float32), "FRACTIONAL", "saliency: share of its largest value",
        "fractional", _FRACTIONAL_NUMBER,
    )  # fmt: skip


def _segmentation(
    evidence: Evidence, pixels: NDArray[np.generic], kind: str, label: str, role: str, series_number: int
) -> Dataset:
    """Writes a map as a Segmentation of one segment; the parameters are what the two kinds differ in."""
    header, origin = evidence.header, evidence.origin
    algorithm = hd.AlgorithmIdentificationSequence(
        name=origin.model_name,
        family=codes.DCM.ArtificialIntelligence,
        version=origin.version,
        parameters={"checkpoint_sha256": origin.checkpoint},
    )
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=label,
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=SALIENCY,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=evidence.uid(role, "segment"),
        tracking_id=label,
    )
    result = hd.seg.Segmentation(
        source_images=[header],
        pixel_array=pixels[None],
        segmentation_type=kind,
        segment_descriptions=[segment],
        **evidence.identity(role, series_number),
        **origin.equipment(),
        content_label="SALIENCY",
        content_description=origin.notice[:64],
        fractional_type="OCCUPANCY",
        max_fractional_value=_LARGEST,
        omit_empty_frames=False,
    )
    _repair(result, header)
    organisation = evidence.uid(role, "dimensions")
    for item in (*result.DimensionOrganizationSequence, *result.DimensionIndexSequence):
        item.DimensionOrganizationUID = organisation
    if kind == "FRACTIONAL":
        stored = np.frombuffer(result.PixelData, np.uint8)[: pixels.size].reshape(pixels.shape)
        result.PixelData = encapsulate([bytes(imagecodecs.jpeg2k_encode(stored, codecformat="j2k", reversible=True))])
        result["PixelData"].VR = "OB"
        result["PixelData"].is_undefined_length = True
        result.file_meta.TransferSyntaxUID = JPEG2000Lossless
    return result


def _repair(result: Dataset, header: Dataset) -> None:
    """What a projection film's Segmentation may and must not have.

    highdicom writes pixel measures with an empty slice thickness, which a film does not have: the standard and its own
    reader refuse them.
    """
    result.PatientOrientation = list(header.get("PatientOrientation") or [])
    if "Laterality" in result:
        del result.Laterality
    for functions in (*result.SharedFunctionalGroupsSequence, *result.get("PerFrameFunctionalGroupsSequence", [])):
        for measures in functions.get("PixelMeasuresSequence", []):
            if not measures.get("SliceThickness"):
                del functions.PixelMeasuresSequence
                break
