"""The reading as a Comprehensive 3D SR of template TID 1500 (PS3.16)."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    ImageRegion,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
)
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from gazelit.deploy.dicom.codes import COMMENT, DEVIATION, MASS, PROBABILITY, SALIENCY, finding_code
from gazelit.deploy.dicom.evidence import Evidence
from gazelit.deploy.dicom.origin import MANUFACTURER

_SERIES_NUMBER = 9001
#: Placeholder for the procedure if the film's header names none; removed from the finished report.
_NO_PROCEDURE = CodedConcept(value="NONE", scheme_designator="99GAZELIT", meaning="not named by the film")


def structured_report(evidence: Evidence) -> Dataset:
    """Probability of each class, outline of the map's peak, model, version, checkpoint, warnings and notice.

    Args:
        evidence: The film and its reading.

    Returns:
        A Comprehensive 3D SR, which any viewer of SR can show as text.
    """
    origin, header = evidence.origin, evidence.header
    algorithm = AlgorithmIdentification(
        name=origin.model_name,
        version=origin.version,
        parameters=[f"checkpoint SHA-256 {origin.checkpoint}"],
        manufacturer=MANUFACTURER,
    )
    device = DeviceObserverIdentifyingAttributes(
        uid=origin.uid("device"),
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=origin.model_name,
        serial_number=origin.serial_number,
    )
    observer = ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    groups: list[MeasurementsAndQualitativeEvaluations | PlanarROIMeasurementsAndQualitativeEvaluations]
    groups = [_probability(evidence, label, algorithm) for label in evidence.probabilities]
    if evidence.outline is not None:
        groups.append(_outline(evidence, algorithm))
    procedures = _procedures(header)
    report = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=procedures or [_NO_PROCEDURE],
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    if not procedures:
        content = report[0].ContentSequence
        del content[next(position for position, item in enumerate(content) if item.name == codes.DCM.ProcedureReported)]
    for line in evidence.lines():
        report[0].ContentSequence.append(
            TextContentItem(name=COMMENT, value=line, relationship_type=RelationshipTypeValues.CONTAINS)
        )
    return Comprehensive3DSR(
        evidence=[header],
        content=report[0],
        **evidence.identity("sr", _SERIES_NUMBER),
        is_complete=True,
        is_final=False,
        is_verified=False,
    )


def _procedures(header: Dataset) -> list[CodedConcept]:
    """Codes of the procedure as the film's header gives them."""
    coded = header.get("ProcedureCodeSequence") or []
    whole = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
    return [
        CodedConcept(str(item.CodeValue), str(item.CodingSchemeDesignator), str(item.CodeMeaning))
        for item in coded
        if all(item.get(name) for name in whole)
    ]


def _probability(
    evidence: Evidence, label: str, algorithm: AlgorithmIdentification
) -> MeasurementsAndQualitativeEvaluations:
    measurements = [Measurement(PROBABILITY, float(evidence.probabilities[label]), codes.UCUM.NoUnits)]
    if label in evidence.deviations:
        measurements.append(Measurement(DEVIATION, float(evidence.deviations[label]), codes.UCUM.NoUnits))
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(hd.UID(evidence.uid("sr", "class", label)), identifier=label),
        finding_type=finding_code(label),
        algorithm_id=algorithm,
        measurements=measurements,
        source_images=[SourceImageForMeasurementGroup.from_source_image(evidence.header)],
    )


def _outline(evidence: Evidence, algorithm: AlgorithmIdentification) -> PlanarROIMeasurementsAndQualitativeEvaluations:
    assert evidence.outline is not None
    region = ImageRegion(
        graphic_type="POLYLINE",
        graphic_data=np.asarray(evidence.outline, np.float32),
        source_image=SourceImageForRegion.from_source_image(evidence.header),
    )
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(hd.UID(evidence.uid("sr", "saliency")), identifier="saliency"),
        referenced_region=region,
        finding_type=SALIENCY,
        algorithm_id=algorithm,
        # The region's share; the part around the peak has at most this share.
        measurements=[Measurement(MASS, float(evidence.share), codes.UCUM.NoUnits)],
    )
