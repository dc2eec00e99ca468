"""The canonical tables that every source returns; nothing else knows file formats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from gazelit.data.store.source_files import SourceFiles
from gazelit.errors import InputError

#: Columns of the table of images, before the source's labels and further columns. If a dataset has an official split, a
#: further column ``official_split`` holds ``train``, ``val`` or ``test``.
IMAGE_COLUMNS = ("image_id", "patient_id", "study_id", "source", "path", "height", "width", "view")
#: Columns of the table of gaze with the value for unknown (None: must be given). ``t`` and ``duration`` in s from
#: the start of the reading; ``x`` and ``y`` in pixels of the original image (centres at integers); ``recording_id``
#: names the run of the tracker; ``ppd_x`` and ``ppd_y`` are pixels of the original image per degree of visual angle;
#: ``pupil`` is in the source's unit; ``shown_*`` is the part of the image that was on the screen, in its pixels.
GAZE_COLUMNS: dict[str, str | float | None] = {
    "image_id": None,
    "reading_id": None,
    "reader_id": "",
    "recording_id": "",
    "t": None,
    "duration": None,
    "x": None,
    "y": None,
    "valid": None,
    "kind": None,
    "ppd_x": np.nan,
    "ppd_y": np.nan,
    "pupil": np.nan,
    "shown_x1": np.nan,
    "shown_y1": np.nan,
    "shown_x2": np.nan,
    "shown_y2": np.nan,
}
GAZE_TEXT = ("image_id", "reading_id", "reader_id", "recording_id", "kind")
#: Fixations of further readers of the same film: a yardstick for models, never trained on.
PEER = "peer"
GAZE_KINDS = ("sample", "fixation", PEER)
SPLITS = ("train", "val", "test")
#: Marks a dataset's folder as simulated; the mark is passed on to every measurement.
SYNTHETIC_MARKER = "SYNTHETIC.json"
#: Further tables, each possibly empty. Regions: a ``box`` or an ``ellipse`` inscribed in it, in pixels of the original
#: image, with the reader's certainty (NaN = not given). Phrases: dictated text with begin and end, in s on the clock of
#: the gaze. Masks: files with a pixel for each pixel of the image. Readings: the reader of each reading, and that
#: reader's own labels. Recordings: runs of the tracker, with their error on calibration targets (degrees).
REGION_COLUMNS = ("image_id", "reading_id", "name", "shape", "x1", "y1", "x2", "y2", "certainty")
PHRASE_COLUMNS = ("image_id", "reading_id", "text", "begin", "end")
MASK_COLUMNS = ("image_id", "name", "path")
READING_COLUMNS = ("image_id", "reading_id", "reader_id")
RECORDING_COLUMNS = ("recording_id", "calibration_samples", "calibration_error")


#: Columns of the letterbox: how a case was fitted into the working resolution. A store's table of cases has them
#: besides the images' columns.
LETTERBOX_COLUMNS = ("inner_height", "inner_width", "top", "left")
#: Columns that a store writes itself: a label of such a name would be overwritten, or would overwrite them.
RESERVED_COLUMNS = (*IMAGE_COLUMNS, *LETTERBOX_COLUMNS, "official_split", "photometric", "row", "bytes")


def check_label_names(labels: Sequence[str]) -> None:
    """Raises InputError if a label's name repeats, or is that of a column that a store writes itself."""
    twice = sorted({name for name in labels if labels.count(name) > 1})
    if twice:
        raise InputError(f"labels: {', '.join(twice)} is named more than once")
    reserved = [name for name in labels if name in RESERVED_COLUMNS]
    if reserved:
        raise InputError(
            f"labels: {', '.join(reserved)} is a column that every store has; rename the label, "
            f"for example to {reserved[0]}_label"
        )


def _empty(columns: tuple[str, ...]) -> Callable[[], pd.DataFrame]:
    return lambda: pd.DataFrame(columns=list(columns))


#: A table of gaze, or its pieces in their order.
GazeTable: TypeAlias = "pd.DataFrame | Iterator[pd.DataFrame]"


def no_gaze() -> Iterator[GazeTable]:
    """No gaze, for sources of images alone."""
    return iter(())


@dataclass
class Recording:
    """The content of a source, in canonical tables.

    Attributes:
        images: One row an image: ``IMAGE_COLUMNS``, then labels (float, NaN = unknown, −1 = uncertain) and further
            columns.
        label_columns: The columns of ``images`` that are labels.
        read_gaze: Reads the gaze part by part, so that a log may be larger than memory: tables with ``GAZE_COLUMNS``,
            each with whole readings of one kind, ordered by time within a reading. A table that is too large for memory
            comes as an iterator over its pieces. May be called again.
        synthetic: Whether the data were simulated.
        skipped: Cases or readings left out, each with its reason; reading the gaze may add to it.
        notes: Warnings for the user, such as counts of rows left out.
        regions: Boxes and ellipses.
        phrases: Dictated phrases with their times.
        masks: Files with a pixel for each pixel of the image.
        readings: The reader and labels of each reading.
    """

    images: pd.DataFrame
    label_columns: list[str]
    read_gaze: Callable[[], Iterator[GazeTable]] = no_gaze
    synthetic: bool = False
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    regions: pd.DataFrame = field(default_factory=_empty(REGION_COLUMNS))
    phrases: pd.DataFrame = field(default_factory=_empty(PHRASE_COLUMNS))
    masks: pd.DataFrame = field(default_factory=_empty(MASK_COLUMNS))
    readings: pd.DataFrame = field(default_factory=_empty(READING_COLUMNS))
    recordings: pd.DataFrame = field(default_factory=_empty(RECORDING_COLUMNS))

    def check(self) -> None:
        """Checks the tables, except the gaze, against the schema.

        Raises:
            InputError: A column is missing, a label's name repeats or is taken, an image id repeats, or a row belongs
                to no image.
        """
        _require("images", self.images, IMAGE_COLUMNS)
        check_label_names(self.label_columns)
        missing = [column for column in self.label_columns if column not in self.images]
        if missing:
            raise InputError(f"table of images: label column {', '.join(missing)} is missing; the source must give it")
        if self.images["image_id"].duplicated().any():
            count = int(self.images["image_id"].duplicated().sum())
            raise InputError(f"table of images: {count} image_id repeat; every image needs its own")
        for name, table, columns in (
            ("regions", self.regions, REGION_COLUMNS),
            ("phrases", self.phrases, PHRASE_COLUMNS),
            ("masks", self.masks, MASK_COLUMNS),
            ("readings", self.readings, READING_COLUMNS),
        ):
            _require(name, table, columns)
            if not table["image_id"].isin(self.images["image_id"]).all():
                raise InputError(f"table of {name}: some rows belong to no image; leave them out in the source")
        _require("recordings", self.recordings, RECORDING_COLUMNS)

    def gaze_tables(self) -> Iterator[Iterator[pd.DataFrame]]:
        """The gaze table by table, each in pieces, completed and checked.

        Raises:
            InputError: A piece breaks the schema.
        """
        known = pd.Index(self.images["image_id"])
        for table in self.read_gaze():
            pieces = iter([table]) if isinstance(table, pd.DataFrame) else table
            yield (complete_gaze(piece, known) for piece in pieces)

    def gaze_parts(self) -> Iterator[pd.DataFrame]:
        """All tables' pieces, completed and checked.

        Raises:
            InputError: A piece breaks the schema.
        """
        return chain.from_iterable(self.gaze_tables())

    def gaze(self) -> pd.DataFrame:
        """The whole table of gaze, ordered by image, reading, kind and time; for data that fit into memory."""
        parts = list(self.gaze_parts()) or [complete_gaze(pd.DataFrame(columns=list(GAZE_COLUMNS)), pd.Index([]))]
        order = ["image_id", "reading_id", "kind", "t"]
        return pd.concat(parts, ignore_index=True).sort_values(order, kind="stable", ignore_index=True)


class Source(ABC):
    """A dataset in its published format. A new dataset takes one file: a subclass that reads its format."""

    #: Short name, recorded with every image.
    name: str

    @abstractmethod
    def read(self) -> Recording:
        """Reads the tables. Gaze is read only by ``read_gaze``, and pixels later from each image's ``path``.

        Raises:
            InputError: A file or column is missing or unreadable.
        """

    def files(self) -> SourceFiles | None:
        """Where its files are, so that `gazelit prepare` finds a store up to date without reading them; None if not."""
        return None

    def options(self) -> dict[str, Any]:
        """The source's options, in primitives and without paths; the store records them."""
        return {name: value for name, value in vars(self).items() if isinstance(value, (str, int, float, list, tuple))}


def is_synthetic(folder: Path) -> bool:
    """Whether a dataset's folder is marked as simulated."""
    return (folder / SYNTHETIC_MARKER).is_file()


def complete_gaze(part: pd.DataFrame, images: pd.Index) -> pd.DataFrame:
    """A table of gaze with every column, in the schema's types.

    Args:
        part: At least the columns without a default.
        images: Known image ids.

    Raises:
        InputError: A column is missing; a kind or image is unknown; a time or duration is impossible.
    """
    _require("gaze", part, tuple(name for name, default in GAZE_COLUMNS.items() if default is None))
    columns = {}
    for name, default in GAZE_COLUMNS.items():
        values = part[name] if name in part else pd.Series(default, index=part.index)
        columns[name] = values.astype("str" if name in GAZE_TEXT else "bool" if name == "valid" else "float64")
    table = pd.DataFrame(columns)
    if not table["kind"].isin(GAZE_KINDS).all():
        raise InputError(f"table of gaze: kind must be one of {', '.join(GAZE_KINDS)}")
    if not table["image_id"].isin(images).all():
        raise InputError("table of gaze: some rows belong to no image; leave them out in the source")
    if not np.isfinite(table[["t", "duration"]].to_numpy()).all() or (table["duration"] < 0).any():
        raise InputError("table of gaze: times must be numbers and durations not negative; the source must see to it")
    if not np.isfinite(table.loc[table["valid"], ["x", "y"]].to_numpy()).all():
        raise InputError("table of gaze: a valid row needs finite x and y; the source must see to it")
    return table


def _require(name: str, table: pd.DataFrame, columns: tuple[str, ...]) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(f"table of {name}: column {', '.join(missing)} is missing; the source must give it")
