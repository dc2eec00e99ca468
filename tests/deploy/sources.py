"""Films and models for tests of deployment: models with a known map, and DICOM films as a modality writes them."""

from dataclasses import replace

import numpy as np
import torch
from pydicom.uid import ComputedRadiographyImageStorage, generate_uid
from torch import nn

from gazelit.deploy.inference import LoadedModel
from tests.data.film_writers import film

SHA = "ab" * 32
STAMP = {"stage": "joint", "data": {"size": [128, 96], "class_names": ["CHF", "other finding"], "synthetic": True}}
PATIENT = {"PatientName": "Müller^Änne", "PatientID": "PAT-4711", "PatientBirthDate": "19400305", "PatientSex": "F"}


class Bright(nn.Module):
    """A network whose map is high where the film is bright, and whose probability is the share of bright pixels."""

    classes = 2

    def forward(self, x):
        bright = (x > 0.75).float()
        share = bright.mean((1, 2, 3))
        return {"logits": torch.stack([share, -share], 1), "saliency_logits": 12 * bright}


def model(**changes):
    return replace(LoadedModel(Bright(), STAMP, SHA, torch.ones(2)), **changes)


def chest(shape, square, *, inverted=False, **attributes):
    """A CR film of 12 bits, dark but for a bright square, whose edges are top, bottom, left and right."""
    height, width = shape
    top, bottom, left, right = square
    rows, columns = np.mgrid[:height, :width]
    pixels = (600 + 400 * np.sin(rows / 31) * np.cos(columns / 23)).astype(np.uint16)
    pixels[top:bottom, left:right] = 3900
    if inverted:
        pixels = 4095 - pixels
        attributes = {"PhotometricInterpretation": "MONOCHROME1", **attributes}
    defaults = {
        "SpecificCharacterSet": "ISO_IR 100", "StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(),
        "StudyDate": "20240102", "StudyTime": "101112", "AccessionNumber": "ACC-1", "StudyID": "7",
        "ReferringPhysicianName": "Doc^Tor", "Modality": "CR", "BodyPartExamined": "CHEST", "ViewPosition": "PA",
        "StudyDescription": "THORAX", "SeriesNumber": 1, "InstanceNumber": 1, "PatientOrientation": ["L", "F"],
        "Manufacturer": "Maker", "WindowCenter": 2048, "WindowWidth": 4096, **PATIENT,
    }  # fmt: skip
    dataset = film(pixels, **{**defaults, **attributes})
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = attributes.get(
        "SOPInstanceUID", generate_uid()
    )
    return dataset


def save(path, dataset):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path
