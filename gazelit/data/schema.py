"""The two canonical tables that every source returns; nothing else knows file formats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import pandas as pd

from gazelit.errors import InputError

#: Columns of the table of images, before the source's labels and further columns.
IMAGE_COLUMNS = ("image_id", "patient_id", "study_id", "source", "path", "height", "width", "view")
#: Columns of the table of gaze; ``t`` and ``duration`` in s, ``x`` and ``y`` in pixels of the original image (centres
#: at
#: integers), ``ppd_x`` and ``ppd_y`` in pixels of the original image per degree of visual angle (NaN = unknown).
GAZE_COLUMNS = {
    "image_id": "str",
    "reading_id": "str",
    "reader_id": "str",
    "t": "float64",
    "duration": "float64",
    "x": "float64",
    "y": "float64",
    "valid": "bool",
    "kind": "str",
    "ppd_x": "float64",
    "ppd_y": "float64",
}
GAZE_KINDS = ("sample", "fixation")


@dataclass
class Recording:
    """What a source gives.

    Attributes:
        images: One row an image: ``IMAGE_COLUMNS``, then labels (float, NaN = unknown) and further columns.
        gaze: One row a sample or fixation: ``GAZE_COLUMNS``, ordered by image, reading, kind and time.
        label_columns: Which of the images' columns are labels.
        synthetic: Whether the data were simulated.
        skipped: Cases left out, each with its reason.
    """

    images: pd.DataFrame
    gaze: pd.DataFrame
    label_columns: list[str]
    synthetic: bool = False
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def check(self) -> None:
        """Checks the tables against the schema.

        Raises:
            InputError: A column is missing, an image id repeats, or gaze belongs to no image.
        """
        for name, table, columns in (
            ("images", self.images, IMAGE_COLUMNS),
            ("gaze", self.gaze, GAZE_COLUMNS),
        ):
            missing = [column for column in (*columns,) if column not in table]
            if missing:
                raise InputError(f"table of {name}: column {', '.join(missing)} is missing; the source must give it")
        missing = [column for column in self.label_columns if column not in self.images]
        if missing:
            raise InputError(f"table of images: label column {', '.join(missing)} is missing; the source must give it")
        if self.images["image_id"].duplicated().any():
            count = int(self.images["image_id"].duplicated().sum())
            raise InputError(f"table of images: {count} image_id repeat; every image needs its own")
        if not self.gaze["kind"].isin(GAZE_KINDS).all():
            raise InputError(f"table of gaze: kind must be one of {', '.join(GAZE_KINDS)}")
        if not self.gaze["image_id"].isin(self.images["image_id"]).all():
            raise InputError("table of gaze: some rows belong to no image; leave them out in the source")


class Source(ABC):
    """A dataset as it lies on disk. A new one takes one file: a subclass that reads its own formats."""

    #: Short name, recorded with every image.
    name: str

    @abstractmethod
    def read(self) -> Recording:
        """Reads the tables; pixels are read later, from each image's ``path``.

        Raises:
            InputError: A file or column is missing or unreadable.
        """
