"""A store's films and fixations in the HDF5 files of pysaliency, which other models of gaze read."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit import __version__
from gazelit.data.store.store import Store
from gazelit.errors import InputError
from gazelit.files import building_folder, is_free

logger = logging.getLogger("gazelit")

FIXATIONS, STIMULI = "fixations.hdf5", "stimuli.hdf5"
#: The attribute of both files that says what they were written from, as JSON.
ORIGIN = "gazelit"


def require_h5py() -> Any:
    """h5py, which is installed with the extra ``pysaliency``.

    Raises:
        InputError: It is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError("h5py is not installed; pip install 'gazelit[pysaliency]'") from error
    return h5py


def export_pysaliency(store: str, out: Path) -> None:
    """Writes a store's films and fixations as pysaliency reads them.

    ``fixations.hdf5`` holds ``FixationTrains`` 1.2: one scanpath a reading, positions in pixels of the films written,
    from their upper left corner, starts and ``durations`` in s. A subject is a reader; if readers are not known, it is
    a reading's number on its film. ``stimuli.hdf5`` holds ``FileStimuli`` 2.1, the PNG files in ``films/``: the store's
    films without their padding, in 8 bits. They hold films and gaze, and must stay where the data are.

    Args:
        store: The prepared store.
        out: The folder; it appears when it is complete.

    Raises:
        InputError: The store has no fixations, or ``out`` holds something.
    """
    h5py = require_h5py()
    opened = Store.open(store)
    if not is_free(out):
        raise InputError(f"{out}: exists; choose another --out")
    gaze = opened.gaze("fixation")
    if gaze.empty:
        raise InputError(f"{store}: has no fixations; pysaliency takes no samples")
    trains = _trains(opened, gaze)
    with building_folder(Path(out)) as building:
        sizes = _write_films(opened, building / "films")
        origin = {"version": __version__, "source": opened.about["source"], "synthetic": opened.about["synthetic"]}
        with h5py.File(building / STIMULI, "w") as file:
            _write_stimuli(h5py, file, sizes)
            file.attrs[ORIGIN] = json.dumps(origin)
        with h5py.File(building / FIXATIONS, "w") as file:
            _write_trains(file, trains)
            file.attrs[ORIGIN] = json.dumps(origin)
    logger.info("%s: %d scanpaths over %d films", out, len(trains["train_ns"]), len(sizes))


def _trains(store: Store, gaze: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """Fixations as arrays with a row for each reading, padded with NaN."""
    row = gaze["row"].to_numpy()
    scale = store.letterboxes.scale[row]
    # From pixel centres at integers to the corner's frame, in the film as it was written.
    xy = (gaze[["x", "y"]].to_numpy(np.float64) + 0.5) * scale
    reading = gaze["reading_id"].astype("category").cat.codes.to_numpy()
    is_new = (np.diff(row, prepend=-1) != 0) | (np.diff(reading, prepend=-1) != 0)
    train = np.cumsum(is_new) - 1
    first = np.flatnonzero(is_new)
    step = np.arange(len(gaze)) - first[train]
    columns = {
        "train_xs": xy[:, 0],
        "train_ys": xy[:, 1],
        "train_ts": gaze["t"].to_numpy(np.float64),
        "durations": gaze["duration"].to_numpy(np.float64),
    }
    arrays: dict[str, NDArray[Any]] = {}
    for name, values in columns.items():
        arrays[name] = np.full((len(first), int(step.max()) + 1), np.nan)
        arrays[name][train, step] = values
    arrays["train_ns"] = row[first].astype(np.int64)
    readers = gaze["reader_id"].astype("str").to_numpy()[first]
    on_film = pd.Series(np.ones(len(first), int)).groupby(arrays["train_ns"]).cumsum().to_numpy() - 1
    known = pd.Series(readers).replace("", np.nan).astype("category").cat.codes.to_numpy()
    # Readers come first, then the numbers of readings whose reader is not known.
    arrays["train_subjects"] = np.where(known >= 0, known, known.max(initial=-1) + 1 + on_film).astype(np.int64)
    return arrays


def _write_films(store: Store, folder: Path) -> list[tuple[int, int]]:
    folder.mkdir()
    images, sizes = store.images(), []
    for row, box in enumerate(store.letterboxes):
        film = box.crop(images[row])
        grey = np.rint(film.astype(np.float64) * (255 / store.largest)).astype(np.uint8)
        if not cv2.imwrite(str(folder / f"{row:06d}.png"), grey):
            raise InputError(f"cannot write {folder}: is the disk full?")
        sizes.append(box.inner)
    return sizes


def _write_stimuli(h5py: Any, file: Any, sizes: list[tuple[int, int]]) -> None:
    file.attrs["type"], file.attrs["version"] = np.bytes_("FileStimuli"), np.bytes_("2.1")
    names = [f"films/{row:06d}.png" for row in range(len(sizes))]
    file.create_dataset("filenames", data=names, dtype=h5py.special_dtype(vlen=str))
    shapes = file.create_dataset("shapes", (len(sizes),), dtype=h5py.special_dtype(vlen=np.dtype("int64")))
    for row, size in enumerate(sizes):
        shapes[row] = np.array(size, np.int64)
    file.attrs["__attributes__"] = np.bytes_("[]")
    file.attrs["size"] = len(sizes)


def _write_trains(file: Any, trains: dict[str, NDArray[Any]]) -> None:
    file.attrs["type"], file.attrs["version"] = np.bytes_("FixationTrains"), np.bytes_("1.2")
    for name in ("train_xs", "train_ys", "train_ts", "train_ns", "train_subjects"):
        file.create_dataset(name, data=trains[name])
    file.attrs["__attributes__"] = np.bytes_(json.dumps(["subjects", "scanpath_index"]))
    file.attrs["scanpath_attribute_mapping"] = np.bytes_(json.dumps({"durations": "duration"}))
    file.create_group("scanpath_attributes").attrs["__attributes__"] = np.bytes_("[]")
    group = file.create_group("scanpath_fixation_attributes")
    group.create_dataset("durations", data=trains["durations"])
    group.attrs["__attributes__"] = np.bytes_(json.dumps(["durations"]))
