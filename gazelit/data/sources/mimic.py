"""MIMIC-CXR (DICOM) and MIMIC-CXR-JPG: images at scale, with report labels or none, without gaze."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from gazelit.data.images.dicom import image_size
from gazelit.data.store.schema import Recording, Source, is_synthetic
from gazelit.data.tables import find_table, numbers, read_text, sides, unique
from gazelit.errors import InputError
from gazelit.files import is_file

DATASET = "MIMIC-CXR 2.0.0 or MIMIC-CXR-JPG"
#: MIMIC-CXR's names of the splits, and ours.
OFFICIAL_SPLITS = {"train": "train", "validate": "val", "test": "test"}
FINDINGS = [
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
]
_LAYOUT = re.compile(r"files/p\d\d/p\d{8}/s\d{8}/[^/]+$")


class MIMICCXR(Source):
    """MIMIC-CXR: 377,110 chest X-rays of 65,379 patients, as DICOM files or JPEG.

    Format: ``files/pXX/pXXXXXXXX/sXXXXXXXX/<dicom_id>.dcm`` (or ``.jpg``) and tables ``mimic-cxr-2.0.0-metadata.csv``
    (JPG) or ``cxr-record-list.csv`` (DICOM), ``-split.csv``, ``-chexpert.csv``, ``-negbio.csv``, each plain or gzipped.
    Labels are of the study, from its report: 1 present, 0 absent, −1 uncertain, NaN not mentioned; the four are kept
    apart. Access: PhysioNet, credentialed. Citation: Johnson et al., Scientific Data 6, 317 (2019), doi
    10.1038/s41597-019-0322-0.

    JPG files are histogram-equalised: their intensities are not those of the DICOM files.

    Args:
        root: The folder of MIMIC-CXR or MIMIC-CXR-JPG.
        tables: Folder of the tables, if they lie elsewhere (the DICOM project has no labels and no splits).
        labels: ``chexpert``, ``negbio``, or ``none``.
        views: View positions to take; an empty list takes all, unknown ones included. Without the metadata table the
            view is unknown, and all images are taken.
    """

    name = "mimic-cxr"

    def __init__(
        self,
        root: str,
        tables: str | None = None,
        labels: Literal["chexpert", "negbio", "none"] = "chexpert",
        views: Sequence[str] = ("PA", "AP"),
    ) -> None:
        self.root = Path(root)
        self.tables = Path(tables) if tables is not None else self.root
        self.labels = labels
        self.views = list(views)

    def read(self) -> Recording:
        """See :class:`gazelit.data.store.schema.Source`."""
        require_folder(self.root, "MIMIC-CXR or MIMIC-CXR-JPG")
        require_folder(self.tables, "MIMIC-CXR-JPG's tables")
        images = self.listed()
        notes = {"images_listed": len(images)}
        if self.views and (images["view"] != "").any():
            has_view = images["view"].isin(self.views)
            notes["images_of_other_views"] = int((~has_view).sum())
            images = images[has_view].reset_index(drop=True)
        images, skipped = self.with_files(images)
        split = self._split()
        if split is not None:
            images["official_split"] = images["image_id"].map(split)
        labels = self._labels()
        if labels is not None:
            images = images.merge(labels, "left", on="study_id")
            notes["images_without_labels"] = int((~images["study_id"].isin(labels["study_id"])).sum())
        synthetic = is_synthetic(self.root)
        return Recording(
            images, FINDINGS if labels is not None else [], synthetic=synthetic, skipped=skipped, notes=notes
        )

    def listed(self) -> pd.DataFrame:
        """The images that the tables list, whether or not their files exist; sizes may be unknown.

        Raises:
            InputError: There is no table of images, or it cannot be used.
        """
        ids = ["dicom_id", "subject_id", "study_id"]
        names = ("mimic-cxr-2.0.0-metadata.csv", "cxr-record-list.csv")
        for name in names:
            try:
                path = find_table(self.tables, name, DATASET)
                break
            except InputError:
                continue
        else:
            raise InputError(
                f"{self.tables}: holds neither mimic-cxr-2.0.0-metadata.csv nor cxr-record-list.csv (nor with .gz); "
                "give the folder of MIMIC-CXR or MIMIC-CXR-JPG"
            )
        extra = ["ViewPosition", "Rows", "Columns"] if name == names[0] else []
        table = read_text(path, [*ids, *extra], DATASET)
        unique(path, table, "dicom_id")
        images = pd.DataFrame(
            {
                "image_id": table["dicom_id"],
                "patient_id": table["subject_id"],
                "study_id": table["study_id"],
                "source": self.name,
                "path": image_paths(table["subject_id"], table["study_id"], table["dicom_id"]),
                "height": sides(path, table, "Rows") if extra else np.nan,
                "width": sides(path, table, "Columns") if extra else np.nan,
                "view": table["ViewPosition"] if extra else "",
            }
        )
        wrong = np.flatnonzero(~images["path"].str.fullmatch(_LAYOUT.pattern))
        if len(wrong):
            raise InputError(f"{path}: record {wrong[0] + 1}: subject_id or study_id does not have eight digits")
        return images

    def with_files(self, images: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
        """The listed images that have a file, with path and size; and those left out, with the reason.

        Raises:
            InputError: No image has a file.
        """
        files = [image_file(self.root, published) for published in images["path"]]
        images = images.assign(path=[str(file) for file in files])
        skipped: list[tuple[str, str]] = []
        kept = np.ones(len(images), bool)
        sizes = images[["height", "width"]].to_numpy(np.float64, copy=True)
        for row, file in enumerate(files):
            try:
                if np.isnan(sizes[row]).any():
                    sizes[row] = image_size(file)
                elif not is_file(file):
                    raise InputError(f"{file}: no such file (nor with .jpg)")
            except InputError as error:
                skipped.append((images["image_id"].iloc[row], str(error)))
                kept[row] = False
        if not kept.any():
            reason = skipped[0][1] if skipped else f"no image is of view {', '.join(self.views)}"
            raise InputError(f"{self.root}: none of the {len(images)} images can be used; the first: {reason}")
        images[["height", "width"]] = np.where(kept[:, None], sizes, 0).astype(np.int64)
        return images[kept].reset_index(drop=True), skipped

    def _split(self) -> pd.Series | None:
        try:
            path = find_table(self.tables, "mimic-cxr-2.0.0-split.csv", DATASET)
        except InputError:
            return None
        table = read_text(path, ["dicom_id", "split"], DATASET)
        unique(path, table, "dicom_id")
        unknown = np.flatnonzero(~table["split"].isin(list(OFFICIAL_SPLITS)))
        if len(unknown):
            raise InputError(f"{path}: record {unknown[0] + 1}: split is none of {', '.join(OFFICIAL_SPLITS)}")
        return table.set_index("dicom_id")["split"].map(OFFICIAL_SPLITS)

    def _labels(self) -> pd.DataFrame | None:
        if self.labels == "none":
            return None
        path = find_table(self.tables, f"mimic-cxr-2.0.0-{self.labels}.csv", DATASET)
        table = read_text(path, ["subject_id", "study_id", *FINDINGS], DATASET)
        unique(path, table, "study_id")
        values = {name: numbers(path, table, name, blank=True) for name in FINDINGS}
        for name, column in values.items():
            wrong = np.flatnonzero(~np.isin(column, (0.0, 1.0, -1.0)) & ~np.isnan(column))
            if len(wrong):
                raise InputError(f"{path}: record {wrong[0] + 1}: {name} is none of 1, 0, -1 and blank")
        return pd.DataFrame({"study_id": table["study_id"], **values})


def image_paths(subjects: pd.Series, studies: pd.Series, images: pd.Series) -> pd.Series:
    """``files/pXX/pXXXXXXXX/sXXXXXXXX/<dicom_id>.dcm`` of ids as text."""
    subject, study = subjects.str.removeprefix("p"), studies.str.removeprefix("s")
    return "files/p" + subject.str[:2] + "/p" + subject + "/s" + study + "/" + images + ".dcm"


def image_file(root: Path, published: str) -> Path:
    """The file of an image; the path before the last ``files/p`` is ignored, a JPEG is preferred to a DICOM file."""
    start = published.rfind("files/p")
    path = root / published[max(start, 0) :]
    jpeg = path.with_suffix(".jpg")
    return jpeg if is_file(jpeg) else path


def require_folder(folder: Path, dataset: str) -> None:
    """Raises InputError if there is no such folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the root of {dataset}")
