"""Users' own data: a table of images and one of gaze, as CSV or Parquet."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.images.dicom import image_size
from gazelit.data.images.geometry import on_image
from gazelit.data.sources.manifest_gaze import ManifestGaze
from gazelit.data.sources.manifest_tables import fault_rows, has_columns, numbers, read_manifest_table
from gazelit.data.sources.plausible import DoubtsAboutUnits
from gazelit.data.sources.views import view_position
from gazelit.data.store.schema import (
    IMAGE_COLUMNS,
    SPLITS,
    SYNTHETIC_MARKER,
    GazeTable,
    Recording,
    Source,
    check_label_names,
    is_synthetic,
    no_gaze,
)
from gazelit.data.store.source_files import SourceFiles
from gazelit.errors import InputError

logger = logging.getLogger("gazelit")

Coordinates = Literal["pixel", "normalised", "screen"]
IMAGE_NEEDED = ("image_id", "patient_id", "path")
#: Outer edges of the whole image on the screen, in screen pixels.
SCREEN_COLUMNS = ("screen_left", "screen_top", "screen_right", "screen_bottom")
#: Columns by which a report groups cases. Besides these, those above and the labels, no column goes into a store.
GROUP_COLUMNS = ("sex", "gender", "age", "anchor_age")
#: Number of faults that an error message names; `gazelit validate-manifest` lists all.
SHOWN_FAULTS = 5


def film_paths(images: Path, paths: pd.Series) -> list[str]:
    """The films of a table of images; a relative ``path`` starts from the table's folder."""
    return [str(images.parent / path) for path in paths]


class ManifestFiles(SourceFiles):
    """The tables of a manifest. Films are found by their records, so that a store holds no name of a user's film.

    Args:
        images: The table of images.
        gaze: The table of gaze, if there is one.
    """

    def __init__(self, images: Path, gaze: Path | None) -> None:
        self._images = images
        marker = images.parent / SYNTHETIC_MARKER
        self.tables = [images, *([gaze] if gaze is not None else []), *([marker] if marker.is_file() else [])]

    def keys(self, films: Sequence[str]) -> list[Any] | None:
        """See :class:`gazelit.data.store.source_files.SourceFiles`."""
        record = {path: number for number, path in enumerate(self._paths())}
        # The table may have changed since it was read.
        return [record[film] for film in films] if record.keys() >= set(films) else None

    def paths(self, keys: Sequence[Any]) -> list[str]:
        """See :class:`gazelit.data.store.source_files.SourceFiles`."""
        known = self._paths()
        return [known[record] for record in keys]

    def _paths(self) -> list[str]:
        return film_paths(self._images, read_manifest_table(self._images)["path"])


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

    def files(self) -> ManifestFiles:
        """See :class:`gazelit.data.store.schema.Source`."""
        return ManifestFiles(self.images, self.gaze)

    def read(self) -> Recording:
        """See :class:`gazelit.data.store.schema.Source`."""
        faults: list[str] = []
        images = self._image_table(faults)
        gaze = self._gaze_table(images, faults) if self.gaze is not None else None
        _raise(faults)
        assert images is not None
        images, skipped = self._with_sizes(images)
        notes: dict[str, int] = {}
        readings = pd.DataFrame(columns=["image_id", "reading_id", "reader_id"])
        read_gaze: Callable[[], Iterator[GazeTable]] = no_gaze
        if gaze is not None:
            readings, left_out, doubts = self._looked_over(gaze, images)
            _raise(doubts)
            notes["gaze_rows_of_images_left_out"] = left_out
            read_gaze = partial(self._on_images, gaze, images)
        synthetic = is_synthetic(self.images.parent)
        shown = images.drop(columns=[name for name in SCREEN_COLUMNS if name in images])
        return Recording(shown, self.labels, read_gaze, synthetic, skipped, notes, readings=readings)

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
                faults += self._looked_over(gaze, images)[2]
        return faults

    def _image_table(self, faults: list[str]) -> pd.DataFrame | None:
        path = self.images
        try:
            table = read_manifest_table(path)
        except InputError as error:
            faults.append(str(error))
            return None
        screen = SCREEN_COLUMNS if self.coordinates == "screen" and self.gaze is not None else ()
        if not has_columns(path, table, (*IMAGE_NEEDED, *screen, *self.labels), faults):
            return None
        if table.empty:
            faults.append(f"{path}: lists no image")
        for column in IMAGE_NEEDED:
            fault_rows(path, table[column].str.strip() == "", f"{column} is empty", faults)
        fault_rows(path, table["image_id"].duplicated(), "image_id was listed before", faults)
        for column in self.labels:
            table[column] = table[column].str.strip().replace({"True": "1", "true": "1", "TRUE": "1"})
            table[column] = table[column].replace({"False": "0", "false": "0", "FALSE": "0"})
        for column in (*self.labels, *screen):
            table[column] = numbers(path, table, column, column in self.labels, faults)
        if screen and not faults:
            for low, high in (screen[0::2], screen[1::2]):
                fault_rows(path, table[high] <= table[low], f"{high} is not above {low}", faults)
        for column in self.labels:
            # Values that are not numbers were reported before.
            wrong = ~table[column].isin((0.0, 1.0, -1.0)) & np.isfinite(table[column])
            fault_rows(path, wrong, f"{column} is none of 1, 0, -1 and blank", faults)
        if "official_split" in table:
            wrong = ~table["official_split"].isin((*SPLITS, ""))
            fault_rows(path, wrong, f"official_split is none of {', '.join(SPLITS)}", faults)
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
        files = film_paths(self.images, paths)
        for row, file in enumerate(files):
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

    def _looked_over(self, gaze: ManifestGaze, images: pd.DataFrame) -> tuple[pd.DataFrame, int, list[str]]:
        """The readings of these images, how many rows are of others, and the reasons to doubt the units."""
        doubts = DoubtsAboutUnits(self.coordinates)
        readings = [pd.DataFrame(columns=["image_id", "reading_id", "reader_id"], dtype="str")]
        left_out = gaze.rows
        for table, geometry in self._with_geometry(gaze, images):
            doubts.add(table, geometry[:, :2])
            readings.append(table[list(readings[0])].drop_duplicates("reading_id"))
            left_out -= len(table)
        found = pd.concat(readings, ignore_index=True)
        return found, left_out, [f"{self.gaze}: {doubt}" for doubt in doubts.lines()]

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

    def _gaze_table(self, images: pd.DataFrame | None, faults: list[str]) -> ManifestGaze | None:
        assert self.gaze is not None
        return ManifestGaze.read(self.gaze, images, self.images.name, faults)

    def _with_geometry(
        self, gaze: ManifestGaze, images: pd.DataFrame
    ) -> Iterator[tuple[pd.DataFrame, NDArray[np.float64]]]:
        """Tables of the gaze on these images, and (width, height) of each row's image, with screen edges if needed."""
        columns = ["width", "height", *(SCREEN_COLUMNS if self.coordinates == "screen" else ())]
        geometry_of_images = images.set_index("image_id")[columns].reindex(gaze.image_ids).to_numpy(np.float64)
        for table in gaze.tables():
            geometry = geometry_of_images[table["image"]]
            opened = np.isfinite(geometry[:, 0])
            if opened.any():
                yield table[opened], geometry[opened]

    def _on_images(self, gaze: ManifestGaze, images: pd.DataFrame) -> Iterator[Iterator[pd.DataFrame]]:
        """The gaze in pixels of its images, one table in pieces; rows off the image are not valid."""
        yield (self._on_image(table, geometry) for table, geometry in self._with_geometry(gaze, images))

    def _on_image(self, gaze: pd.DataFrame, geometry: NDArray[np.float64]) -> pd.DataFrame:
        width, height = geometry[:, 0], geometry[:, 1]
        x, y = gaze["x"].to_numpy(), gaze["y"].to_numpy()
        if self.coordinates == "screen":
            left, top, right, bottom = geometry[:, 2:].T
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
