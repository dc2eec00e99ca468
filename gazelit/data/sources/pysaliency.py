"""pysaliency's HDF5 files: stimuli as image files, and scanpaths over them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazelit.data.images.dicom import image_size
from gazelit.data.images.geometry import on_image
from gazelit.data.sources.canvas import begin_times
from gazelit.data.sources.plausible import require_seconds
from gazelit.data.store.pysaliency import ORIGIN, require_h5py
from gazelit.data.store.schema import Recording, Source, is_synthetic
from gazelit.errors import InputError

#: Types of files of scanpaths, and the versions of each that are read.
SCANPATHS = {"FixationTrains": ("1.0", "1.1", "1.2", "1.3"), "ScanpathFixations": ("1.0",)}
#: Greatest number of values for each byte of a file, which may be compressed.
LARGEST_RATIO = 100
STIMULI = {"FileStimuli": ("2.0", "2.1")}


class Pysaliency(Source):
    """Scanpaths and stimuli in the HDF5 files of pysaliency (Kümmerer; MIT).

    Format: scanpaths as ``FixationTrains`` or ``ScanpathFixations``, positions in pixels from the upper left corner;
    stimuli as ``FileStimuli``, whose file names are relative to the file's folder. Durations are the fixation attribute
    ``durations`` (s); without it a fixation lasts until the next one begins, and the last as long as the median. Where
    times are only the fixations' numbers (0, 1, 2, …), fixations are put end to end, and durations must be given.

    The data are simulated if either file was exported from a simulated store or lies in a simulated dataset's folder.

    The patient of a stimulus is not known: each stimulus counts as a patient, so that a split by patient is one by
    image.

    Args:
        fixations: The file of scanpaths.
        stimuli: The file of stimuli.
        name: Name of the dataset, recorded with every image.
    """

    def __init__(self, fixations: str, stimuli: str, name: str = "pysaliency") -> None:
        self.fixations = Path(fixations)
        self.stimuli = Path(stimuli)
        self.name = name

    def options(self) -> dict[str, Any]:
        """See :class:`gazelit.data.store.schema.Source`."""
        return {"name": self.name}

    def read(self) -> Recording:
        """See :class:`gazelit.data.store.schema.Source`."""
        files = _stimuli(self.stimuli)
        trains = _scanpaths(self.fixations, len(files))
        skipped: list[tuple[str, str]] = []
        rows = []
        for number, file in enumerate(files):
            image = f"{number:06d}"
            try:
                height, width = image_size(file)
            except InputError as error:
                skipped.append((image, str(error)))
                continue
            rows.append((image, image, "", self.name, str(file), height, width, ""))
        if not rows:
            raise InputError(f"{self.stimuli}: none of its {len(files)} image files can be read: {skipped[0][1]}")
        columns = ["image_id", "patient_id", "study_id", "source", "path", "height", "width", "view"]
        images = pd.DataFrame(rows, columns=columns)
        sizes = {image: (height, width) for image, *_, height, width, _ in rows}
        kept = [(number, train) for number, train in enumerate(trains) if f"{train.stimulus:06d}" in sizes]
        return Recording(
            images,
            [],
            partial(_gaze, [train for _, train in kept], sizes, [number for number, _ in kept]),
            synthetic=_is_simulated(self.fixations, SCANPATHS) or _is_simulated(self.stimuli, STIMULI),
            skipped=skipped,
            readings=pd.DataFrame(
                {
                    "image_id": [f"{train.stimulus:06d}" for _, train in kept],
                    "reading_id": [f"{number:06d}" for number, _ in kept],
                    "reader_id": [str(train.subject) for _, train in kept],
                }
            ),
        )


class _Train:
    """One scanpath: columns x, y, start, duration (n, 4), its stimulus and its subject."""

    def __init__(self, fixations: NDArray[np.float64], stimulus: int, subject: int) -> None:
        self.fixations = fixations
        self.stimulus = stimulus
        self.subject = subject


def _open(path: Path, kinds: Mapping[str, tuple[str, ...]]) -> Any:
    """The file, opened, if it is of one of some types and versions."""
    h5py = require_h5py()
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with _damage(path):
        file = h5py.File(path, "r")
        kind, version = (_text(file.attrs.get(key, "")) for key in ("type", "version"))
    if kind == "Stimuli":
        raise InputError(f"{path}: holds the pixels themselves; write the stimuli as image files with FileStimuli")
    if version not in kinds.get(kind, ()):
        known = "; ".join(f"{name} {', '.join(versions)}" for name, versions in kinds.items())
        raise InputError(f"{path}: is {kind or 'nothing'} {version}; what can be read is {known}")
    return file


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _is_simulated(path: Path, kinds: Mapping[str, tuple[str, ...]]) -> bool:
    with _open(path, kinds) as file, _damage(path):
        origin = json.loads(_text(file.attrs.get(ORIGIN, "{}")))
        return bool(origin.get("synthetic", False)) or is_synthetic(path.parent)


def _stimuli(path: Path) -> list[Path]:
    with _open(path, STIMULI) as file, _damage(path):
        if "filenames" not in file:
            raise InputError(f"{path}: filenames is missing; was it written by pysaliency?")
        return [path.parent / _text(name) for name in np.atleast_1d(_array(path, file["filenames"]))]


def _scanpaths(path: Path, stimuli: int) -> list[_Train]:
    with _open(path, SCANPATHS) as file, _damage(path):
        trains = _padded(path, file)
    for number, train in enumerate(trains, start=1):
        if not 0 <= train.stimulus < stimuli:
            raise InputError(f"{path}: scanpath {number} is of stimulus {train.stimulus}, but there are {stimuli}")
        if not np.isfinite(train.fixations).all() or (train.fixations[:, 3] < 0).any():
            raise InputError(f"{path}: scanpath {number} holds what is not finite, or a time that runs backwards")
    if trains:
        require_seconds(path, np.concatenate([train.fixations[:, 3] for train in trains]), "their time")
    return trains


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turns errors of HDF5 and NumPy about a damaged or foreign file into one that names the file."""
    try:
        yield
    except InputError:
        raise
    except (
        OSError,
        RuntimeError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        reason = " ".join(str(error.args[0] if error.args else type(error).__name__).split())
        raise InputError(f"{path}: cannot be read as HDF5 ({reason}); was it written by pysaliency?") from error


def _array(path: Path, stored: Any) -> Any:
    """A dataset's values, unless it claims far more than its file can hold: HDF5 fills in what was never written."""
    if stored.size > LARGEST_RATIO * path.stat().st_size:
        raise InputError(f"{path}: claims {stored.size} values, more than a file of its size holds")
    return stored[...]


def _padded(path: Path, file: Any) -> list[_Train]:
    """Scanpaths of either type, from rows padded after their length."""
    group = file.get("scanpaths", file)
    is_trains = "train_xs" in group
    names = ("train_xs", "train_ys", "train_ts") if is_trains else ("xs", "ys", "fixation_attributes/ts")
    x, y, t = (np.asarray(_array(path, group[name]), np.float64) for name in names)
    stimulus = _array(path, group["train_ns" if is_trains else "n"])
    subject = _array(path, group["train_subjects" if is_trains else "scanpath_attributes/subject"])
    further = group.get("scanpath_fixation_attributes" if is_trains else "fixation_attributes", {})
    lengths = next(
        (_array(path, group[name]) for name in ("train_lengths", "lengths", "length") if name in group), None
    )
    if lengths is None:
        lengths = (~np.isnan(x)).sum(axis=1)
    if not len(x) == len(y) == len(t) == len(stimulus) == len(subject) == len(lengths):
        raise ValueError("its arrays differ in length")
    durations = next(
        (np.asarray(_array(path, further[name])) for name in ("durations", "duration") if name in further), None
    )
    times = [row[:length] for row, length in zip(t, lengths, strict=True)]
    # Datasets without times number the fixations instead.
    are_numbers = len(times) > 0 and all(np.array_equal(row, np.arange(len(row))) for row in times)
    if durations is None:
        if are_numbers:
            raise InputError(
                f"{path}: its times are only the numbers of the fixations (0, 1, 2, …), and durations are missing; "
                "write them (s) as the fixation attribute durations"
            )
        durations = np.diff(t, axis=1, append=np.nan)
        durations = np.where(np.isnan(durations), np.nanmedian(durations) if durations.size else 0.0, durations)
    trains = []
    for row, length in enumerate(lengths):
        duration = durations[row, :length]
        start = begin_times(duration) if are_numbers else times[row]
        fixations = np.column_stack([x[row, :length], y[row, :length], start, duration])
        trains.append(_Train(fixations, int(stimulus[row]), int(subject[row])))
    return trains


def _gaze(trains: list[_Train], sizes: dict[str, tuple[int, int]], numbers: list[int]) -> Iterator[pd.DataFrame]:
    for number, train in zip(numbers, trains, strict=True):
        image = f"{train.stimulus:06d}"
        height, width = sizes[image]
        # Here pixel centres are at integers.
        x, y = train.fixations[:, 0] - 0.5, train.fixations[:, 1] - 0.5
        yield pd.DataFrame(
            {
                "image_id": image,
                "reading_id": f"{number:06d}",
                "reader_id": str(train.subject),
                "recording_id": f"{number:06d}",
                "t": train.fixations[:, 2],
                "duration": train.fixations[:, 3],
                "x": x,
                "y": y,
                "valid": on_image(x, y, width, height),
                "kind": "fixation",
            }
        )
