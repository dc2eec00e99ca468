"""The overlay as a Secondary Capture: the picture that every viewer shows."""

from __future__ import annotations

import textwrap

import cv2
import imagecodecs
import numpy as np
from highdicom import PhotometricInterpretationValues
from highdicom.sc import SCImage
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from gazelit.deploy.dicom.evidence import Evidence
from gazelit.deploy.overlay import blend, over_uniform, scale_end

_SERIES_NUMBER = 9002
#: Height of a line of text, as a share of the film's longer side, and the least in pixels.
_LINE_SHARE, _LEAST_LINE = 0.02, 12


def secondary_capture(evidence: Evidence) -> Dataset:
    """The film with the map over it, pixel upon pixel of the film, and the reading in words below.

    Args:
        evidence: The film and its reading.

    Returns:
        RGB, JPEG 2000 lossless. The first rows are those of the film; the text adds rows below them.
    """
    header, film = evidence.header, evidence.film
    picture = film[..., None].repeat(3, axis=2)
    if evidence.density is not None:
        box = evidence.box
        multiples = over_uniform(box.crop(evidence.density))
        enlarged = cv2.resize(multiples, (box.width, box.height), interpolation=cv2.INTER_LINEAR)
        picture = blend(film, enlarged.astype(np.float32, copy=False), scale_end(multiples))
    picture = np.concatenate([picture, _words(evidence.lines(), picture.shape[1], max(film.shape))])
    result = SCImage(
        pixel_array=picture,
        photometric_interpretation=PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=str(header.StudyInstanceUID),
        **evidence.identity("sc", _SERIES_NUMBER),
        patient_id=header.PatientID,
        patient_name=header.PatientName,
        patient_birth_date=header.PatientBirthDate or None,
        patient_sex=header.PatientSex or None,
        accession_number=header.AccessionNumber,
        study_id=header.StudyID,
        study_date=header.StudyDate or None,
        study_time=header.StudyTime or None,
        referring_physician_name=header.ReferringPhysicianName,
        # highdicom accepts no empty value; the film's value is set afterwards.
        patient_orientation=("L", "F"),
    )
    result.PatientOrientation = list(header.get("PatientOrientation") or [])
    # Type 2C; empty, because the map has no side.
    result.Laterality = header.get("Laterality", "")
    result.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    # The text below identifies no patient; the film's header says whether its pixels do.
    if "BurnedInAnnotation" in header:
        result.BurnedInAnnotation = header.BurnedInAnnotation
    result.ConversionType = "WSD"
    _reference(result, header)
    _compress(result, picture)
    return result


def _reference(result: Dataset, header: Dataset) -> None:
    """Says of which film it is derived (PS3.3 C.7.6.1.1.4)."""
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    result.SourceImageSequence = [source]
    result.DerivationDescription = "film with a predicted saliency map over it"


def _compress(result: Dataset, picture: NDArray[np.uint8]) -> None:
    stream = imagecodecs.jpeg2k_encode(picture, codecformat="j2k", reversible=True, mct=True)
    result.PixelData = encapsulate([bytes(stream)])
    result["PixelData"].VR = "OB"
    result["PixelData"].is_undefined_length = True
    # The reversible colour transform is part of the codestream (PS3.5 8.2.4).
    result.PhotometricInterpretation = "YBR_RCT"
    result.file_meta.TransferSyntaxUID = JPEG2000Lossless


def _words(lines: list[str], width: int, longest: int) -> NDArray[np.uint8]:
    """Lines of white text on black, as wide as the film and as high as they need."""
    height = max(_LEAST_LINE, round(_LINE_SHARE * longest))
    font = ImageFont.load_default(0.75 * height)
    letters = max(8, int(width / max(font.getlength("n"), 1)))
    wrapped = [piece for line in lines for piece in textwrap.wrap(line, letters)]
    strip = Image.new("RGB", (width, height * len(wrapped) + height // 2))
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(wrapped):
        draw.text((height // 2, height * number + height // 4), line, fill="white", font=font)
    return np.asarray(strip)
