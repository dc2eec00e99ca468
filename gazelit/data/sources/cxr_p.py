"""CXR-P: radiologist gaze over the pneumothorax images of the SIIM-ACR challenge."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gazelit.data.images.dicom import image_size, is_dicom, read_header
from gazelit.data.images.geometry import on_image
from gazelit.data.sources.mimic import require_folder
from gazelit.data.sources.views import view_position
from gazelit.data.store.schema import Recording, Source
from gazelit.data.tables import is_text, read_text
from gazelit.errors import InputError
from gazelit.files import read_json

#: Samples of the Tobii Pro Nano per second; the file's times count them.
RATE = 60.0
SUFFIXES = (".dcm", ".png", ".jpg", ".jpeg")
KEYS = ("image_id", "gaze_x", "gaze_y", "time")


class CXRP(Source):
    """CXR-P: the gaze of a radiologist over SIIM-ACR pneumothorax chest X-rays, openly licensed (Apache-2.0).

    Format: a JSON list of records ``image_id`` (the SOP instance UID), ``gaze_x`` and ``gaze_y`` as fractions of the
    image, and ``time`` in tracker samples; images as ``<image_id>.dcm`` (or PNG, JPEG) anywhere under a folder. The
    authors removed blinks and off-image samples. Some points are nevertheless outside the image; these are not valid.
    Labels: ``Pneumothorax`` from the challenge's table, if given. The patient is taken from the DICOM file; otherwise
    each image counts as a patient.
    Citation: Saab et al., Observational Supervision for Medical Image Classification Using Gaze Data, MICCAI 2021.

    Args:
        gaze: The JSON file.
        images: Folder of the images.
        labels: The challenge's ``train-rle.csv`` (``ImageId``, ``EncodedPixels``; −1 is none), if at hand.
    """

    name = "cxr-p"

    def __init__(self, gaze: str, images: str, labels: str | None = None) -> None:
        self.gaze = Path(gaze)
        self.images = Path(images)
        self.labels = Path(labels) if labels is not None else None

    def read(self) -> Recording:
        """See :class:`gazelit.data.store.schema.Source`."""
        require_folder(self.images, "the SIIM-ACR images")
        records = read_cxr_p(self.gaze)
        files = {path.stem: path for path in sorted(self.images.rglob("*")) if path.suffix.lower() in SUFFIXES}
        skipped: list[tuple[str, str]] = []
        rows = []
        for record in records:
            image = record["image_id"]
            try:
                if image not in files:
                    raise InputError(f"{self.images}: no image of that id")
                height, width = image_size(files[image])
                patient = _patient(files[image]) or image
            except InputError as error:
                skipped.append((image, str(error)))
                continue
            rows.append(
                (image, patient, image, self.name, str(files[image]), height, width, view_position(files[image]))
            )
        if not rows:
            raise InputError(
                f"{self.images}: holds none of the {len(records)} images of {self.gaze}; they are named after image_id"
            )
        columns = ["image_id", "patient_id", "study_id", "source", "path", "height", "width", "view"]
        table = pd.DataFrame(rows, columns=columns)
        if self.labels is not None:
            table["Pneumothorax"] = table["image_id"].map(self._pneumothorax()).astype("float64")
        sizes = {image: (height, width) for image, *_, height, width, _ in rows}
        return Recording(
            table,
            ["Pneumothorax"] if self.labels is not None else [],
            partial(_gaze, [record for record in records if record["image_id"] in sizes], sizes),
            skipped=skipped,
            readings=pd.DataFrame(
                {"image_id": table["image_id"], "reading_id": table["image_id"], "reader_id": "cxr-p-1"}
            ),
        )

    def _pneumothorax(self) -> pd.Series:
        assert self.labels is not None
        table = read_text(self.labels, [], "SIIM-ACR's train-rle.csv").rename(columns=str.strip)
        missing = [name for name in ("ImageId", "EncodedPixels") if name not in table]
        if missing:
            raise InputError(
                f"{self.labels}: column {', '.join(missing)} is missing; is this SIIM-ACR's train-rle.csv?"
            )
        return (table["EncodedPixels"].str.strip() != "-1").groupby(table["ImageId"]).any()


def read_cxr_p(path: Path) -> list[dict[str, Any]]:
    """The records of a CXR-P file.

    Raises:
        InputError: The file is no list of records, or a record's lists differ in length, hold what is no number, or a
            negative time; an image that is listed twice.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise InputError(f"{path}: must hold a list of records with {', '.join(KEYS)}")
    for number, record in enumerate(content, start=1):
        if not isinstance(record, dict) or any(key not in record for key in KEYS):
            raise InputError(f"{path}: record {number}: must have {', '.join(KEYS)}")
        lists = [record[key] for key in KEYS[1:]]
        if not all(isinstance(values, list) for values in lists) or len({len(values) for values in lists}) != 1:
            raise InputError(f"{path}: record {number}: gaze_x, gaze_y and time must be lists of one length")
        if not is_text(record["image_id"]):
            raise InputError(f"{path}: record {number}: image_id is not text")
        try:
            values = np.array(lists, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{path}: record {number}: holds a value that is not a number") from error
        if values.ndim != 2:
            raise InputError(f"{path}: record {number}: holds a list where a number belongs")
        if not np.isfinite(values).all() or (values[2] < 0).any():
            raise InputError(f"{path}: record {number}: holds an infinite value or a negative time")
    ids = {record["image_id"] for record in content}
    if len(ids) < len(content):
        raise InputError(f"{path}: {len(content) - len(ids)} image_id are listed more than once")
    return content


def _gaze(records: list[dict[str, Any]], sizes: dict[str, tuple[int, int]]) -> Iterator[pd.DataFrame]:
    for record in records:
        height, width = sizes[record["image_id"]]
        duration = np.array(record["time"], np.float64) / RATE
        x = np.array(record["gaze_x"], np.float64) * width - 0.5
        y = np.array(record["gaze_y"], np.float64) * height - 0.5
        yield pd.DataFrame(
            {
                "image_id": record["image_id"],
                "reading_id": record["image_id"],
                "reader_id": "cxr-p-1",
                "t": np.cumsum(duration) - duration,
                "duration": duration,
                "x": x,
                "y": y,
                "valid": on_image(x, y, width, height),
                "kind": "sample",
            }
        )


def _patient(path: Path) -> str:
    if not is_dicom(path):
        return ""
    return str(read_header(path).get("PatientID", ""))
