"""Users' own data: a table of images and one of gaze, as CSV or Parquet."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gazelit.data.images.dicom import image_size
from gazelit.data.images.geometry import on_image
from gazelit.data.sources.plausible import doubts_about_units
from gazelit.data.sources.views import view_position
from gazelit.data.store.schema import (
    GAZE_KINDS,
    IMAGE_COLUMNS,
    SPLITS,
    Recording,
    Source,
    check_label_names,
    is_synthetic,
)
from gazelit.data.tables import number_hint, read_text, separator_hint
from gazelit.errors import InputError

logger = logging.getLogger("gazelit")

Coordinates = Literal["pixel", "normalised", "screen"]
IMAGE_NEEDED = ("image_id", "patient_id", "path")
GAZE_NEEDED = ("image_id", "x", "y", "duration")
#: Outer edges of the whole image on the screen, in screen pixels.
SCREEN_COLUMNS = ("screen_left", "screen_top", "screen_right", "screen_bottom")
#: Columns by which a report groups cases. Besides these, those above and the labels, no column goes into a store.
GROUP_COLUMNS = ("sex", "gender", "age", "anchor_age")
_NUMBERS = ("t", "ppd_x", "ppd_y", "pupil")
_FALSE = ("0", "0.0", "false")
_TRUE = ("1", "1.0", "true", "")
#: Number of faults that an error message names; `gazelit validate-manifest` lists all.
SHOWN_FAULTS = 5
#: Rows of a Parquet file that are accepted even if it is small.
MOST_ROWS = 100_000


class Manifest(Source):
    """Images and gaze listed in two tables; ``docs/data.md`` describes every column.

    ``images`` needs ``image_id``, ``patient_id`` and ``path``; it may have ``study_id``, ``view``, ``official_split``
    (train, val, test), ``sex`` and ``age`` (for subgroups), and label columns. Further columns stay out of the store.
    ``gaze`` needs ``image_id``, ``x``, ``y`` and ``duration`` (s); it may have ``t`` (s; without it, rows are in order
    and end to end), ``reading_id``, ``reader_id``, ``recording_id``, ``kind`` (``fixation`` unless given, or
    ``sample``), ``valid``, ``ppd_x``, ``ppd_y`` and ``pupil``.

    Args:
        images: The table of images, ``.csv``, ``.csv.gz`` or ``.parquet``.
        gaze: The table of gaze, likewise; none for images alone.
        labels: Columns of ``images`` that are labels: 1 or True, 0 or False, −1 uncertain, blank unknown.
        coordinates: Of ``x`` and ``y``: ``pixel`` of the image (centres at integers), ``normalised`` (0 and 1 are the
            image's outer edges), or ``screen`` pixels; these need ``screen_left``, ``screen_top``, ``screen_right``
            and ``screen_bottom`` in ``images``, the edges of the whole image on the screen.
        name: Short name of the dataset.
        root: Folder in which every image must lie, links followed; the folder of ``images`` unless given. A relative
            ``path`` starts from the folder of ``images``, an absolute one may name any file within ``root``.
    """

    def __init__(
        self,
        images: str,
        gaze: str | None = None,
        labels: Sequence[str] = (),
        coordinates: Coordinates = "pixel",
        name: str = "manifest",
        root: str | None = None,
    ) -> None:
        self.images = Path(images)
        self.gaze = Path(gaze) if gaze is not None else None
        self.labels = list(labels)
        self.coordinates = coordinates
        self.name = name
        self.root = Path(root) if root is not None else self.images.parent
        check_label_names(self.labels)

    def read(self) -> Recording:
        """See :class:`gazelit.data.store.schema.Source`."""
        faults: list[str] = []
        images = self._image_table(faults)
        gaze = self._gaze_table(images, faults) if self.gaze is not None else None
        _raise(faults)
        assert images is not None
        images, skipped = self._with_sizes(images)
        if gaze is not None:
            _raise(self._doubts(gaze, images))
        notes = {}
        readings = pd.DataFrame(columns=["image_id", "reading_id", "reader_id"])
        if gaze is not None:
            notes["gaze_rows_of_images_left_out"] = int((~gaze["image_id"].isin(images["image_id"])).sum())
            gaze = self._on_images(gaze[gaze["image_id"].isin(images["image_id"])], images)
            readings = gaze[["image_id", "reading_id", "reader_id"]].drop_duplicates("reading_id", ignore_index=True)
        synthetic = is_synthetic(self.images.parent)
        images = images.drop(columns=[name for name in SCREEN_COLUMNS if name in images])
        read_gaze = partial(_parts, gaze)
        return Recording(images, self.labels, read_gaze, synthetic, skipped, notes, readings=readings)

    def faults(self) -> list[str]:
        """All faults of the two tables, a line each; of the images only the size is read."""
        faults: list[str] = []
        images = self._image_table(faults)
        gaze = self._gaze_table(images, faults) if self.gaze is not None else None
        if images is not None and not faults:
            images, skipped = self._with_sizes(images)
            if skipped:
                logger.warning("%d images cannot be used and would be left out; the first: %s", *_first(skipped))
            if gaze is not None:
                faults += self._doubts(gaze, images)
        return faults

    def _image_table(self, faults: list[str]) -> pd.DataFrame | None:
        path = self.images
        table = _read(path, faults)
        screen = SCREEN_COLUMNS if self.coordinates == "screen" and self.gaze is not None else ()
        if table is None or not _has_columns(path, table, (*IMAGE_NEEDED, *screen, *self.labels), faults):
            return None
        if table.empty:
            faults.append(f"{path}: lists no image")
        for column in IMAGE_NEEDED:
            _fault_rows(path, table[column].str.strip() == "", f"{column} is empty", faults)
        _fault_rows(path, table["image_id"].duplicated(), "image_id was listed before", faults)
        for column in self.labels:
            table[column] = table[column].str.strip().replace({"True": "1", "true": "1", "TRUE": "1"})
            table[column] = table[column].replace({"False": "0", "false": "0", "FALSE": "0"})
        for column in (*self.labels, *screen):
            table[column] = _numbers(path, table, column, column in self.labels, faults)
        if screen and not faults:
            for low, high in (screen[0::2], screen[1::2]):
                _fault_rows(path, table[high] <= table[low], f"{high} is not above {low}", faults)
        for column in self.labels:
            # Values that are not numbers were reported before.
            wrong = ~table[column].isin((0.0, 1.0, -1.0)) & np.isfinite(table[column])
            _fault_rows(path, wrong, f"{column} is none of 1, 0, -1 and blank", faults)
        if "official_split" in table:
            wrong = ~table["official_split"].isin((*SPLITS, ""))
            _fault_rows(path, wrong, f"official_split is none of {', '.join(SPLITS)}", faults)
            table["official_split"] = table["official_split"].replace("", None)
        table["path"] = self._files(table["path"], faults)
        for column, default in (("study_id", table["image_id"]), ("view", "")):
            if column not in table:
                table[column] = default
        known = {*IMAGE_COLUMNS, "official_split", *GROUP_COLUMNS, *screen, *self.labels}
        return table[[name for name in table if name in known]].assign(source=self.name)

    def _files(self, paths: pd.Series, faults: list[str]) -> list[str]:
        """Every image's file; it must be in the root after links are followed."""
        root = os.path.realpath(self.root)
        files = []
        for row, path in enumerate(paths):
            file = str(self.images.parent / path)
            files.append(file)
            try:
                inside = Path(os.path.realpath(file)).is_relative_to(root)
            except (OSError, ValueError):
                faults.append(f"{self.images}: record {row + 1}: path is no file name")
                continue
            if not inside:
                faults.append(
                    f"{self.images}: record {row + 1}: path leads out of {self.root} (by .., as an absolute path, or "
                    "by a link); give the folder that holds all images as root"
                )
        return files

    def _doubts(self, gaze: pd.DataFrame, images: pd.DataFrame) -> list[str]:
        size = images.set_index("image_id")[["width", "height"]].reindex(gaze["image_id"]).to_numpy(np.float64)
        opened = np.isfinite(size).all(axis=1)
        found = doubts_about_units(gaze[opened].reset_index(drop=True), size[opened], self.coordinates)
        return [f"{self.gaze}: {doubt}" for doubt in found]

    def _with_sizes(self, table: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
        """The images that can be opened, with their sizes, and the others with the reason."""
        skipped: list[tuple[str, str]] = []
        sizes: list[tuple[int, int] | None] = []
        for image, file in zip(table["image_id"], table["path"], strict=True):
            try:
                sizes.append(image_size(file))
            except InputError as error:
                sizes.append(None)
                skipped.append((image, str(error)))
        kept = np.array([size is not None for size in sizes])
        table = table[kept].reset_index(drop=True)
        if table.empty:
            raise InputError(f"{self.images}: none of the {len(sizes)} images can be used; the first: {skipped[0][1]}")
        found = [size for size in sizes if size is not None]
        heights, widths = zip(*found, strict=True)
        view = [str(view) or view_position(path) for view, path in zip(table["view"], table["path"], strict=True)]
        return table.assign(height=heights, width=widths, view=view), skipped

    def _gaze_table(self, images: pd.DataFrame | None, faults: list[str]) -> pd.DataFrame | None:
        path = self.gaze
        assert path is not None
        table = _read(path, faults)
        if table is None or not _has_columns(path, table, GAZE_NEEDED, faults):
            return None
        before = len(faults)
        # A lost eye has no position; such rows are kept as not valid.
        x, y = (_numbers(path, table, column, True, faults) for column in ("x", "y"))
        duration = _numbers(path, table, "duration", False, faults)
        _fault_rows(path, duration < 0, "duration is negative", faults)
        gaze = pd.DataFrame({"image_id": table["image_id"], "duration": duration})
        for column in _NUMBERS:
            if column in table:
                gaze[column] = _numbers(path, table, column, column != "t", faults)
        for column in ("ppd_x", "ppd_y"):
            if column in table:
                _fault_rows(path, gaze[column] <= 0, f"{column} is not above 0", faults)
        gaze["kind"] = table["kind"].replace("", "fixation") if "kind" in table else "fixation"
        _fault_rows(path, ~gaze["kind"].isin(GAZE_KINDS), f"kind is none of {', '.join(GAZE_KINDS)}", faults)
        valid = table["valid"].str.lower() if "valid" in table else pd.Series("1", index=table.index)
        _fault_rows(path, ~valid.isin([*_TRUE, *_FALSE]), "valid is neither 1 nor 0", faults)
        gaze["reading_id"] = (
            table["reading_id"].where(table["reading_id"] != "", table["image_id"])
            if "reading_id" in table
            else table["image_id"]
        )
        for column in ("reader_id", "recording_id"):
            gaze[column] = table.get(column, "")
        apart = gaze.groupby("reading_id")["image_id"].transform("nunique") > 1
        _fault_rows(path, apart, "reading_id belongs to several images", faults)
        if images is not None:
            _fault_rows(
                path, ~gaze["image_id"].isin(images["image_id"]), f"image_id is not in {self.images.name}", faults
            )
        if images is None or len(faults) > before:
            return None
        gaze["x"], gaze["y"], gaze["valid"] = x, y, valid.isin(_TRUE)
        if "t" not in gaze:
            gaze["t"] = gaze.groupby(["reading_id", "kind"])["duration"].cumsum() - gaze["duration"]
        return gaze.sort_values(["reading_id", "kind", "t"], kind="stable", ignore_index=True)

    def _on_images(self, gaze: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
        """The gaze in pixels of its images; rows off the image are not valid."""
        image = images.set_index("image_id").loc[gaze["image_id"]]
        width, height = image["width"].to_numpy(float), image["height"].to_numpy(float)
        x, y = gaze["x"].to_numpy(), gaze["y"].to_numpy()
        if self.coordinates == "screen":
            left, top, right, bottom = image[list(SCREEN_COLUMNS)].to_numpy(float).T
            x, y = (x - left) / (right - left), (y - top) / (bottom - top)
        if self.coordinates != "pixel":
            x, y = x * width - 0.5, y * height - 0.5
        return gaze.assign(x=x, y=y, valid=gaze["valid"].to_numpy() & on_image(x, y, width, height))


def validate(
    images: str,
    gaze: str | None = None,
    labels: list[str] | None = None,
    coordinates: Coordinates = "pixel",
    root: str | None = None,
) -> None:
    """Checks a manifest and lists every fault by file and row.

    Gaze is compared with the sizes of its images and with plausible durations, so that fractions, percent, screen
    pixels and milliseconds are noticed.

    Args:
        images: The table of images.
        gaze: The table of gaze.
        labels: Columns of ``images`` that are labels.
        coordinates: Of the gaze: ``pixel``, ``normalised`` or ``screen``.
        root: Folder that every image must lie in; that of ``images`` unless given.

    Raises:
        InputError: There are faults; the message has their number.
    """
    faults = Manifest(images, gaze, labels or (), coordinates, root=root).faults()
    for fault in faults:
        logger.error("%s", fault)
    if faults:
        raise InputError(f"{len(faults)} faults, listed above; mend them and validate again")
    logger.info("%s: no fault found", images if gaze is None else f"{images}, {gaze}")


def _first(skipped: list[tuple[str, str]]) -> tuple[int, str]:
    return len(skipped), skipped[0][1]


def _raise(faults: list[str]) -> None:
    """Raises InputError with the first faults, if there are any."""
    if not faults:
        return
    more = len(faults) - SHOWN_FAULTS
    rest = f"; {more} more: `gazelit validate-manifest` lists them" if more > 0 else ""
    raise InputError("; ".join(faults[:SHOWN_FAULTS]) + rest)


def _parts(gaze: pd.DataFrame | None) -> Iterator[pd.DataFrame]:
    if gaze is not None and len(gaze):
        yield gaze


def _read(path: Path, faults: list[str]) -> pd.DataFrame | None:
    """A table as text, or None and a fault."""
    try:
        if path.suffix == ".parquet":
            return _read_parquet(path)
        return read_text(path, [], "a manifest")
    except InputError as error:
        faults.append(str(error))
        return None


def _read_parquet(path: Path) -> pd.DataFrame:
    """A table as the text a CSV would hold, so that both are checked alike."""
    # A pipe would be waited for.
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no file")
    try:
        # Equal values take no space, so that a small file may hold any number of rows.
        if pq.read_metadata(path).num_rows > MOST_ROWS + path.stat().st_size:
            raise InputError(f"{path}: claims more rows than it has bytes, as no table does")
        table = pq.read_table(path).to_pandas(ignore_metadata=True)
        # Bytes that are no text are only noticed here.
        return table.astype(object).where(table.notna(), "").astype(str)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError, LookupError, MemoryError, OverflowError, TypeError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error.__class__.__name__})") from error


def _has_columns(path: Path, table: pd.DataFrame, needed: Sequence[str], faults: list[str]) -> bool:
    missing = [name for name in needed if name not in table]
    if missing:
        cause = separator_hint(table.columns)
        faults.append(f"{path}: column {', '.join(missing)} is missing{cause} (see Manifest in docs/data.md)")
    return not missing


def _numbers(path: Path, table: pd.DataFrame, column: str, blank: bool, faults: list[str]) -> NDArray[np.float64]:
    text = table[column].str.strip()
    values = pd.to_numeric(text, errors="coerce").to_numpy(np.float64, copy=True)
    allowed = (blank & text.str.lower().isin(("", "nan"))).to_numpy()
    for row in np.flatnonzero(~np.isfinite(values) & ~allowed):
        faults.append(f"{path}: record {row + 1}: {column} is not a number{number_hint(text.iloc[row])}")
    return values


def _fault_rows(path: Path, wrong: pd.Series | NDArray[np.bool_], fault: str, faults: list[str]) -> None:
    faults += [f"{path}: record {row + 1}: {fault}" for row in np.flatnonzero(wrong)]
