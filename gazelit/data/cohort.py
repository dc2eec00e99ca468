"""The cases of a store as a training sees them: their labels, their split and their gaze."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gazelit.data.dataset import check_downscale
from gazelit.data.gaze.centre_bias import CentreBiases, mean_maps
from gazelit.data.gaze.events import TimeWindow
from gazelit.data.gaze.sequences import Events
from gazelit.data.images.regions import region_masks
from gazelit.data.labels import Uncertain, explain_unusable, read_labels
from gazelit.data.options import GazeOptions, SplitOptions
from gazelit.data.splits.case_split import split_cases
from gazelit.data.splits.identity import identity
from gazelit.data.splits.split_table import check_classes, count_split, format_table, warnings
from gazelit.data.store.schema import SPLITS
from gazelit.data.store.store import Store
from gazelit.data.working_gaze import Gaze, WorkingGaze, gaze_in_order
from gazelit.density import CentreBias
from gazelit.errors import InputError
from gazelit.files import sha256_json


class Scanpath(NamedTuple):
    """A reading as a sequence of fixations.

    Attributes:
        row: The store's row of its film.
        reader: Number in the data module's ``reader_names``; −1 if the reader is unknown.
        path: (n, 3) x, y in working pixels (centres at integers) and s.
    """

    row: int
    reader: int
    path: NDArray[np.float64]


class Cohort:
    """The cases of a store with their labels, their split and their gaze.

    Many arguments, because all but the last are options of a configuration.

    Args:
        store: Folder of the prepared store.
        class_names: Label columns of the store; with none, images are unlabelled.
        exclusive: Whether exactly one label is 1 in every case.
        uncertain: What a label of −1 becomes when labels are not exclusive.
        downscale: Integer factor between the store's resolution and the working one.
        gaze: How gaze becomes points with a weight and a σ.
        split: How cases are split.
        seed: Seed of the cases that ``split.train_cases`` draws.
        in_order: Whether cases are taken in the store's order; then only a part of the gaze is in memory at a time.

    Attributes:
        store: The opened store.
        labels: (N,) int64, or (N, K) float32 with NaN for unknown.
        split: The split of every case, and the options that decided it.
        gaze: The gaze of the cases.
        size: Working resolution (H, W).

    Raises:
        InputError: The store, a label or the split cannot be used.
    """

    def __init__(
        self,
        store: str,
        class_names: Sequence[str],
        exclusive: bool,
        uncertain: Uncertain,
        downscale: int,
        gaze: GazeOptions,
        split: SplitOptions,
        seed: int,
        in_order: bool = False,
    ) -> None:
        self.store = Store.open(store)
        self.class_names = list(class_names)
        self.exclusive = exclusive
        self.downscale = downscale
        self.gaze_options = gaze
        self.split_options = split
        self.labels, usable = read_labels(self.store, self.class_names, exclusive, uncertain)
        self.split = split_cases(self.store, split, usable)
        self._of_case = self._drawn(seed)
        cases = np.flatnonzero(self.split.of_case.notna())
        if not usable[cases].all():
            reason = explain_unusable(self.store, self.class_names, cases)
            raise InputError(f"labels: {reason}; set exclusive: false, or leave them out of a split.file")
        self._counts = count_split(self.store.cases, self._of_case, self._class_table())
        self.is_external = self.split.settings["split_method"] == "external"
        if not (self.is_external or split.allow_empty):
            check_classes(self._counts, self.split.remedy)
        check_downscale(self.store, downscale)
        self.size = (self.store.size[0] // downscale, self.store.size[1] // downscale)
        self.patients = identity(self.store.cases["patient_id"]).to_numpy()
        is_changed = gaze.control != "true" or gaze.cases is not None or gaze.leave_out is not None
        read = gaze_in_order if in_order and not is_changed else WorkingGaze.of
        self._own_gaze = self._known_readers(read(self.store, gaze, downscale))
        self.gaze = self._given_gaze()
        self._biases: CentreBiases | None = None

    def _drawn(self, seed: int) -> pd.Series:
        """The split of each case that is used; of the training split only ``train_cases`` drawn ones."""
        of_case, count = self.split.of_case, self.split_options.train_cases
        if count is None:
            return of_case
        rows = np.flatnonzero(of_case == "train")
        if count > len(rows):
            raise InputError(f"split.train_cases: {count} cases, but the training split has only {len(rows)}")
        left_out = np.random.default_rng(seed).permutation(rows)[count:]
        return of_case.mask(np.isin(np.arange(len(of_case)), left_out))

    def _class_table(self) -> pd.DataFrame:
        """The classes of all rows, a column each: 1 for positive (of labels between, above a half) and 0 otherwise."""
        values = self.labels.numpy()
        if self.exclusive:
            values = (values[:, None] == np.arange(len(self.class_names))).astype(float)
        return pd.DataFrame(np.where(np.isnan(values), np.nan, values > 0.5), columns=self.class_names)

    def _known_readers(self, gaze: Gaze) -> Gaze:
        """The gaze without the reader that is left out; the test has only that reader's gaze.

        The mean maps that models are scored against must not include that reader either.
        """
        name = self.gaze_options.leave_out
        if name is None:
            return gaze
        gaze = gaze.whole
        names = gaze.events.reader_names
        if name not in names:
            known = f"the store's readers are {', '.join(names)}" if names else "the store names no reader"
            raise InputError(f"gaze.leave_out: no reader '{name}'; {known}")
        is_test = np.zeros(len(self.store.cases), bool)
        is_test[self.rows("test")] = True
        of_reader = gaze.events.reader == names.index(name)
        return gaze.without(of_reader != np.repeat(is_test, np.diff(gaze.starts)))

    def _given_gaze(self) -> Gaze:
        """The gaze after ``gaze.control`` and ``gaze.cases`` are applied."""
        options, seed = self.gaze_options, self.split_options.seed
        if options.control == "true" and options.cases is None:
            return self._own_gaze
        gaze = self._own_gaze.whole
        for number, split in enumerate(("train", "val")):
            rows = self.rows(split)
            gaze = gaze.controlled(options.control, rows, self.patients, seed + number)
            if split == "train" and options.cases is not None:
                # The same order for every number of cases, so that a larger training set holds the smaller one.
                order = np.random.default_rng(seed).permutation(rows)
                gaze = gaze.controlled("none", np.sort(order[options.cases :]), self.patients, 0)
        return gaze

    @property
    def counts(self) -> str:
        """The content of each split, as a table to print."""
        return format_table(self._counts)

    def notes(self, splits: Sequence[str] = SPLITS) -> list[str]:
        """Warnings about the split and the classes of these splits."""
        return [*self.split.notes, *warnings(self._counts, splits)]

    def rows(self, split: str) -> NDArray[np.int64]:
        """The store's rows of a split.

        Raises:
            InputError: There is no such split.
        """
        if split not in SPLITS:
            raise InputError(f"split: '{split}' is none of {', '.join(SPLITS)}")
        return np.flatnonzero(self._of_case == split)

    def targets_first(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Some of the store's rows in an order in which the first few show whether a stage finds its targets.

        First come cases with gaze and a known label, then those with one of both, then the others. Within each group
        the combinations of labels take turns.
        """
        labels = self.labels[rows].reshape(len(rows), -1).numpy()
        is_known = (labels >= 0).any(1)
        is_seen = np.diff(self.gaze.whole.starts)[rows] > 0
        alike = pd.DataFrame(labels).assign(is_seen=is_seen)
        turn = alike.groupby(list(alike.columns), dropna=False).cumcount().to_numpy()
        return rows[np.lexsort((~is_seen, turn, -(is_seen.astype(int) + is_known)))]

    def mean_maps(self, *groups: NDArray[np.int64]) -> list[CentreBias]:
        """Mean maps of cases, from the readers' own gaze, whatever ``gaze.control`` says."""
        return mean_maps(self._own_gaze, groups, self.size)

    def centre_bias(self, index: Tensor) -> CentreBias:
        """The centre bias against which cases are scored: the mean map of the training cases.

        It is made from the readers' own gaze, whatever ``gaze.control`` and ``gaze.cases`` say. In an external test it
        is the mean map of the other half of the patients; see :class:`gazelit.data.gaze.centre_bias.CentreBiases`.

        Args:
            index: (B,) the store's rows of the cases to be scored.

        Returns:
            Maps (B, H, W).
        """
        if self._biases is None:
            rows = self.rows("train"), self.rows("test")
            self._biases = CentreBiases(self._own_gaze, self.size, *rows, self.patients, self.split_options.seed)
        return self._biases(index)

    def readings(self, row: int) -> list[tuple[Tensor, Tensor]]:
        """Each reading of a case separately: points (N, 3) and their σ (N, 2), in working pixels."""
        points, sigma, reading = self.gaze.of_case(row)
        return [
            (torch.from_numpy(points[reading == number]), torch.from_numpy(sigma[reading == number]))
            for number in np.unique(reading)
        ]

    def events(self, split: str) -> Events:
        """The events of a split's cases, from the readers' own gaze, whatever ``gaze.control`` says."""
        gaze = self._own_gaze.whole
        return gaze.events.take(np.flatnonzero(np.repeat(self._of_case == split, np.diff(gaze.starts))))

    def scanpaths(self, split: str) -> list[Scanpath]:
        """Every reading of a split's cases, from the readers' own gaze, whatever ``gaze.control`` says."""
        gaze, found = self._own_gaze.whole, []
        for row in self.rows(split):
            part = slice(gaze.starts[row], gaze.starts[row + 1])
            for number in np.unique(gaze.reading[part]):
                taken = np.arange(part.start, part.stop)[gaze.reading[part] == number]
                path = np.column_stack([gaze.points[taken, :2], gaze.events.times[taken, 1]]).astype(np.float64)
                found.append(Scanpath(int(row), int(gaze.events.reader[taken[0]]), path))
        return found

    def regions(self, row: int) -> dict[str, Tensor]:
        """Boxes and ellipses of a case by name, (H, W) bool each; of all its readers together."""
        masks = region_masks(self.store.table_of("regions", row), self.store.letterboxes[row], self.downscale)
        return {name: torch.from_numpy(mask) for name, mask in masks.items()}

    @property
    def provenance(self) -> dict[str, Any]:
        """The description of the data that checkpoints and reports record, in primitives; no ids.

        The keys are those of the first checkpoints, so that all can be compared.
        """
        gaze, about = self.gaze_options, self.store.about
        sigma_px = self._sigma_px
        images = self.store.cases["image_id"]
        assigned = {str(image): str(split) for image, split in zip(images, self.split.of_case, strict=True)}
        return {
            "fingerprint": about["fingerprint"],
            "source": about["source"],
            "synthetic": bool(about["synthetic"]),
            "size": list(self.size),
            "class_names": self.class_names,
            "exclusive": self.exclusive,
            "gaze_kind": gaze.kind,
            "weight": gaze.weight,
            "sigma": gaze.sigma,
            "sigma_unit": gaze.sigma_unit,
            "sigma_px": sigma_px,
            "sigma_deg": self._sigma_deg(sigma_px),
            "readings": gaze.readings,
            "gaze_control": gaze.control,
            "gaze_cases": gaze.cases,
            **({} if not gaze.phrases else {"phrases": dict(gaze.phrases), "phrase_lag": gaze.phrase_lag}),
            # Without the reader's name, and only if it is set: earlier stamps have no such entry.
            **({} if gaze.leave_out is None else {"reader_left_out": sha256_json(gaze.leave_out)[:12]}),
            "train_cases": self.split_options.train_cases,
            "window": None if gaze.window is None else _window(gaze.window),
            "detection": asdict(gaze.detection) if gaze.kind == "detected" else None,
            "split_sha256": sha256_json(assigned),
            **self.split.settings,
            "n": {split: len(self.rows(split)) for split in SPLITS},
        }

    @cached_property
    def _sigma_px(self) -> list[float] | None:
        """Mean σ of the readers' own gaze of the training cases, else of the test cases, in working pixels (x, y)."""
        total, count = np.zeros((1, 2)), 0
        for row in self.rows("train" if len(self.rows("train")) else "test"):
            sigma = self._own_gaze.of_case(row).sigma
            # Summed one by one, so that the result does not depend on which cases are read together.
            total = np.concatenate([total, sigma]).sum(axis=0, keepdims=True)
            count += len(sigma)
        return [round(float(value), 4) for value in total[0] / count] if count else None

    def _sigma_deg(self, sigma: list[float] | None) -> float | list[float] | None:
        """σ in degrees: as given, or by the store's mean pixels per degree (x, y); None where the angle is unknown."""
        degree = self.store.about["pixels_per_degree"]
        if self.gaze_options.sigma_unit == "deg":
            return self.gaze_options.sigma
        if degree is None or sigma is None:
            return None
        scale = self.store.letterboxes.scale.mean(axis=0) / self.downscale
        return [round(float(value), 4) for value in np.array(sigma) / (scale * degree)]


def _window(window: TimeWindow) -> dict[str, Any]:
    """A window as the provenance records it; without a lag in the form of earlier versions."""
    return {name: value for name, value in asdict(window).items() if name != "lag" or value}
