"""The data module: prepared store in, batches with rendered fixation density out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from gazelit.data.dataset import (
    Example,
    GazeControl,
    GazeDataset,
    GazeKind,
    GazeOptions,
    Readings,
    SigmaUnit,
    WorkingGaze,
    check_downscale,
    collate,
)
from gazelit.data.gaze.centre_bias import CentreBiases, mean_map
from gazelit.data.gaze.events import Detection, TimeWindow
from gazelit.data.gaze.heatmap import fixation_density
from gazelit.data.images.regions import region_masks
from gazelit.data.images.transforms import Augmentation
from gazelit.data.labels import Uncertain, explain_unusable, read_labels
from gazelit.data.sampling import EpochSampler, Sampling
from gazelit.data.splits.by_patient import Method, SplitOptions
from gazelit.data.splits.case_split import split_cases
from gazelit.data.splits.identity import identity
from gazelit.data.splits.split_table import check_classes, count_split, format_table, warnings
from gazelit.data.store.schema import SPLITS
from gazelit.data.store.store import Store
from gazelit.density import CentreBias
from gazelit.errors import InputError
from gazelit.files import sha256_json

logger = logging.getLogger("gazelit")

Batch = dict[str, Tensor]
Split = Literal["train", "val", "test"]


class GazeDataModule(L.LightningDataModule):
    """Pairs chest X-rays with fixation heatmaps made from gaze.

    Heatmaps are rendered on the device, after augmentation, from the points of the batch. The order of training cases
    is a function of seed and epoch alone, and so is their augmentation, whatever the number of workers; every process
    of a distributed run sees its share.

    Args:
        store: Folder of the prepared store (``gazelit prepare``).
        labels: Label columns of the store: the classes; with none, images are unlabelled.
        exclusive: Whether exactly one label is 1 in every case; otherwise labels are multi-label with NaN for unknown.
        uncertain: What a label of −1 becomes when labels are not exclusive: ``unknown`` (NaN), ``positive`` or
            ``negative`` (U-Ignore, U-Ones and U-Zeros of Irvin et al., CheXpert, 2019).
        batch_size: Cases a process takes per step.
        num_workers: Processes that load.
        downscale: Integer factor between the store's resolution and the working one.
        augment: Whether training cases are augmented (see :class:`gazelit.data.images.transforms.Augmentation`).
        views: 2 adds ``other_view`` to each batch, another augmentation of the same images, for contrastive objectives
            that compare views; also to validation batches, there the same in every epoch.
        sampling: Order of the training cases: ``shuffled``, or ``balanced``: as many of every class, rarer ones
            repeated, in epochs of the same length.
        gaze_kind: Published ``fixation``, raw ``sample``, or fixations ``detected`` in the samples.
        weight: What a point counts: its ``duration``, or one each (``count``).
        sigma: Standard deviation of the heatmap's Gaussian.
        sigma_unit: ``deg`` of visual angle, ``px`` of the working image, or ``image_px`` of the original image.
        readings: Of an image with several readings: all points ``pooled``; every reading the same weight (``equal``);
            or in training one, ``drawn`` anew each epoch.
        window: The part of each reading that counts, such as its first seconds; all of it unless given.
        detection: Method and thresholds of ``detected``.
        gaze_control: What the training and validation cases are given as their gaze, to find out what a model learns
            from it: their own (``true``), that of another patient's film (``shuffled``), points drawn from all of
            them (``centre``), or ``none``. Test cases keep their own.
        gaze_cases: Number of training cases that keep their gaze, for learning curves; all unless given.
        train_cases: Number of cases of the training split that are trained on, drawn by ``seed``, for learning curves;
            all unless given. With one seed a larger number holds the smaller.
        split_method: ``patient``; ``official``, the dataset's own; or ``reference_image_level``, that of the paper's
            reference implementation, in which patients overlap (for comparison alone); or ``external``: every case is
            a test case of a model that was trained on other data.
        trained_on: With ``external``, the store that the model was trained on: its patients are left out.
        split_file: CSV with ``image_id`` and ``split``; without it patients are split by ``split_seed`` and fractions.
        split_seed: Seed of the split; runs that hand over to each other must share it.
        val_fraction: Share of patients for validation.
        test_fraction: Share of patients for the test.
        folds: Number of folds of patients instead of the two shares; fold ``fold`` is the test, the next validation.
        fold: Which fold is the test, from 0.
        stratify: Label columns whose prevalence is the same in every split, whatever ``labels`` the stage trains on;
            unless given, all the store's label columns that have a positive and no measurements. Stages that hand over
            to each other must share it.
        allow_empty: Go on although a class has no positive case in some split.
        predict_split: Which split `gazelit predict` reads.
        seed: Of order and augmentation, and of which cases ``train_cases`` draws.
    """

    def __init__(
        self,
        store: str = "stores/egd-cxr",
        labels: Sequence[str] = ("Normal", "CHF", "pneumonia"),
        exclusive: bool = True,
        uncertain: Uncertain = "unknown",
        batch_size: int = 16,
        num_workers: int = 2,
        downscale: int = 1,
        augment: bool = True,
        views: Literal[1, 2] = 1,
        sampling: Sampling = "shuffled",
        gaze_kind: GazeKind = "fixation",
        weight: Literal["duration", "count"] = "duration",
        sigma: float = 1.0,
        sigma_unit: SigmaUnit = "deg",
        readings: Readings = "pooled",
        window: TimeWindow | None = None,
        detection: Detection | None = None,
        gaze_control: GazeControl = "true",
        gaze_cases: int | None = None,
        train_cases: int | None = None,
        split_method: Method = "patient",
        trained_on: str | None = None,
        split_file: str | None = None,
        split_seed: int = 0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        folds: int | None = None,
        fold: int = 0,
        stratify: Sequence[str] | None = None,
        allow_empty: bool = False,
        predict_split: Split = "test",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.store_path = store
        self.class_names = list(labels)
        self.exclusive = exclusive
        self.uncertain = uncertain
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.downscale = downscale
        self.augment = augment
        self.views = views
        self.sampling = sampling
        if views == 2 and not augment:
            raise InputError("views: two views are two augmentations; set augment: true")
        if sampling == "balanced" and not exclusive:
            raise InputError("sampling: balanced needs exclusive classes; use shuffled")
        self.gaze = GazeOptions(
            gaze_kind, weight, sigma, sigma_unit, readings, window, Detection() if detection is None else detection
        )
        self.gaze_control = gaze_control
        self.gaze_cases = gaze_cases
        if gaze_cases is not None and gaze_cases < 0:
            raise InputError(f"gaze_cases: must be at least 0, not {gaze_cases}")
        self.train_cases = train_cases
        if train_cases is not None and train_cases < 1:
            raise InputError(f"train_cases: must be at least 1, not {train_cases}")
        self.split = SplitOptions(
            split_method, split_seed, val_fraction, test_fraction, folds, fold, stratify, split_file, trained_on
        )
        self.allow_empty = allow_empty
        if trained_on is not None and split_method != "external":
            raise InputError("trained_on: goes with split_method external; leave it out")
        self.predict_split = predict_split
        self.seed = seed
        self._store: Store | None = None
        self._regions: pd.DataFrame | None = None
        self._announced = False
        self._biases: CentreBiases | None = None

    def setup(self, stage: str | None = None) -> None:
        """Opens the store and splits it, cheap when called again; before training says what is in each split.

        Raises:
            InputError: The store, a label or the split cannot be used.
        """
        if self._store is None:
            self._open()
        if stage == "fit" and not self._announced:
            self._announced = True
            rank_zero_only(logger.info)("what is in each split:\n%s", format_table(self._counts))
            self._warn()

    def _open(self) -> None:
        store = Store.open(self.store_path)
        self._labels, usable = read_labels(store, self.class_names, self.exclusive, self.uncertain)
        self._split = split_cases(store, self.split, usable)
        self._of_case = self._drawn(self._split.of_case)
        cases = np.flatnonzero(self._split.of_case.notna())
        if not usable[cases].all():
            reason = explain_unusable(store, self.class_names, cases)
            raise InputError(f"labels: {reason}; set exclusive: false, or leave them out of a split_file")
        self._counts = count_split(store.cases, self._of_case, self._class_table())
        if self._split.settings["split_method"] == "external":
            self._warn(["test"])
        elif not self.allow_empty:
            check_classes(self._counts, self._split.remedy)
        check_downscale(store, self.downscale)
        self._own_gaze = WorkingGaze.of(store, self.gaze, self.downscale)
        self._gaze = self._controlled(self._own_gaze, store)
        self._store = store
        self._datasets = {split: self._make_dataset(split, training=split == "train") for split in SPLITS}

    def _drawn(self, of_case: pd.Series) -> pd.Series:
        """The split of each case that is used: of the training split ``train_cases`` drawn ones."""
        if self.train_cases is None:
            return of_case
        rows = np.flatnonzero(of_case == "train")
        if self.train_cases > len(rows):
            raise InputError(f"train_cases: {self.train_cases} are asked for, but the training split has {len(rows)}")
        left_out = np.random.default_rng(self.seed).permutation(rows)[self.train_cases :]
        return of_case.mask(np.isin(np.arange(len(of_case)), left_out))

    def _class_table(self) -> pd.DataFrame:
        """The classes of all rows, a column each: 1 for positive (of labels between, above a half) and 0 otherwise."""
        values = self._labels.numpy()
        if self.exclusive:
            values = (values[:, None] == np.arange(len(self.class_names))).astype(float)
        return pd.DataFrame(np.where(np.isnan(values), np.nan, values > 0.5), columns=self.class_names)

    @rank_zero_only
    def _warn(self, splits: Sequence[str] = SPLITS) -> None:
        for line in [*self._split.notes, *warnings(self._counts, splits)]:
            logger.warning("%s", line)

    def _controlled(self, gaze: WorkingGaze, store: Store) -> WorkingGaze:
        """The gaze as ``gaze_control`` and ``gaze_cases`` have it."""
        patients = identity(store.cases["patient_id"]).to_numpy()
        for number, split in enumerate(("train", "val")):
            rows = np.flatnonzero(self._of_case == split)
            gaze = gaze.controlled(self.gaze_control, rows, patients, self.split.seed + number)
            if split == "train" and self.gaze_cases is not None:
                # One order for all numbers, so that a larger training set holds the smaller.
                order = np.random.default_rng(self.split.seed).permutation(rows)
                gaze = gaze.controlled("none", np.sort(order[self.gaze_cases :]), patients, 0)
        return gaze

    @property
    def store(self) -> Store:
        """The opened store."""
        if self._store is None:
            self.setup()
        assert self._store is not None
        return self._store

    @property
    def datasets(self) -> dict[str, GazeDataset]:
        """The splits; the training one augmented if that is configured."""
        self.setup()
        return self._datasets

    @property
    def image_ids(self) -> pd.Series:
        """Image id by index."""
        return self.store.cases["image_id"]

    @property
    def labels(self) -> Tensor:
        """Labels by index: (N,) int64, or (N, K) float32 with NaN for unknown."""
        self.setup()
        return self._labels

    @property
    def size(self) -> tuple[int, int]:
        """Working resolution (H, W)."""
        return self.store.size[0] // self.downscale, self.store.size[1] // self.downscale

    @property
    def provenance(self) -> dict[str, Any]:
        """What checkpoints and reports record of the data, in primitives; no ids."""
        store = self.store
        sigma_px = self._sigma_px()
        assigned = {str(image): str(split) for image, split in zip(self.image_ids, self._split.of_case, strict=True)}
        return {
            "fingerprint": store.about["fingerprint"],
            "source": store.about["source"],
            "synthetic": bool(store.about["synthetic"]),
            "size": list(self.size),
            "class_names": self.class_names,
            "exclusive": self.exclusive,
            "gaze_kind": self.gaze.kind,
            "weight": self.gaze.weight,
            "sigma": self.gaze.sigma,
            "sigma_unit": self.gaze.sigma_unit,
            "sigma_px": sigma_px,
            "sigma_deg": self._sigma_deg(sigma_px),
            "readings": self.gaze.readings,
            "gaze_control": self.gaze_control,
            "gaze_cases": self.gaze_cases,
            "train_cases": self.train_cases,
            "window": None if self.gaze.window is None else asdict(self.gaze.window),
            "detection": asdict(self.gaze.detection) if self.gaze.kind == "detected" else None,
            "split_sha256": sha256_json(assigned),
            **self._split.settings,
            "n": {split: len(self.rows(split)) for split in SPLITS},
        }

    def _train_points(self) -> np.ndarray:
        """(M,) bool: which points of the readers' own gaze are of training cases, else, without any, of test cases."""
        is_train = np.zeros(len(self.store.cases), bool)
        is_train[self.rows("train" if len(self.rows("train")) else "test")] = True
        return np.repeat(is_train, np.diff(self._own_gaze.starts))

    def _sigma_px(self) -> list[float] | None:
        """Mean σ of the training cases in working pixels (x, y); None without gaze."""
        sigma = self._own_gaze.sigma[self._train_points()]
        return [round(float(value), 4) for value in sigma.mean(axis=0, dtype=np.float64)] if len(sigma) else None

    def _sigma_deg(self, sigma: list[float] | None) -> float | list[float] | None:
        """σ in degrees: as given, or by the store's mean pixels per degree (x, y); None where the angle is unknown."""
        degree = self.store.about["pixels_per_degree"]
        if self.gaze.sigma_unit == "deg":
            return self.gaze.sigma
        if degree is None or sigma is None:
            return None
        scale = np.mean([box.scale for box in self.store.letterboxes], axis=0) / self.downscale
        return [round(float(one), 4) for one in np.array(sigma) / (scale * degree)]

    def rows(self, split: str) -> np.ndarray:
        """The store's rows of a split."""
        if split not in SPLITS:
            raise InputError(f"split: '{split}' is none of {', '.join(SPLITS)}")
        self.setup()
        return np.flatnonzero(self._of_case == split)

    def mean_map(self, rows: NDArray[np.int64]) -> CentreBias:
        """Where some cases were looked at on average, by the readers' own gaze whatever ``gaze_control`` says."""
        self.setup()
        return mean_map(self._own_gaze, rows, self.size)

    def centre_bias(self, index: Tensor) -> CentreBias:
        """Where the training cases were looked at on average, for cases to be scored against it.

        It is that of the readers' own gaze, whatever ``gaze_control`` and ``gaze_cases`` say, and in an external test
        that of the other half of the patients; see :class:`gazelit.data.gaze.centre_bias.CentreBiases`.

        Args:
            index: (B,) the store's rows of the cases to be scored.

        Returns:
            Maps (B, H, W).
        """
        if self._biases is None:
            patients = identity(self.store.cases["patient_id"]).to_numpy()
            self._biases = CentreBiases(
                self._own_gaze, self.size, self.rows("train"), self.rows("test"), patients, self.split.seed
            )
        return self._biases(index)

    def valid_mask(self, row: int) -> Tensor:
        """(H, W) bool: which pixels of a case are no padding."""
        self.setup()
        return torch.from_numpy(self._datasets["test"].mask(row))

    def readings(self, row: int) -> list[tuple[Tensor, Tensor]]:
        """Every reading of a case apart: points (N, 3) and their σ (N, 2), in working pixels."""
        self.setup()
        part = slice(self._gaze.starts[row], self._gaze.starts[row + 1])
        reading = self._gaze.reading[part]
        return [
            (
                torch.from_numpy(self._gaze.points[part][reading == one]),
                torch.from_numpy(self._gaze.sigma[part][reading == one]),
            )
            for one in np.unique(reading)
        ]

    def regions(self, row: int) -> dict[str, Tensor]:
        """Boxes and ellipses of a case by name, (H, W) bool each; of all its readers together."""
        if self._regions is None:
            self._regions = self.store.table("regions")
        mine = self._regions[self._regions["row"] == row]
        masks = region_masks(mine, self.store.letterboxes[row], self.downscale)
        return {name: torch.from_numpy(mask) for name, mask in masks.items()}

    def dataset(self, split: str) -> GazeDataset:
        """A split's cases, without augmentation."""
        return self._make_dataset(split, training=False)

    def loader(self, split: str) -> DataLoader[Example]:
        """A split's cases in fixed order, without augmentation; batches still have to be rendered."""
        return self._loader(self.dataset(split), shuffle=False)

    def train_dataloader(self) -> DataLoader[Example]:
        """Training cases, shuffled by seed and epoch."""
        return self._loader(self.datasets["train"], shuffle=True)

    def val_dataloader(self) -> DataLoader[Example]:
        """Validation cases in fixed order."""
        return self._loader(self.datasets["val"], shuffle=False)

    def test_dataloader(self) -> DataLoader[Example]:
        """Test cases in fixed order."""
        return self._loader(self.datasets["test"], shuffle=False)

    def predict_dataloader(self) -> DataLoader[Example]:
        """The cases of ``predict_split`` in fixed order."""
        return self.loader(self.predict_split)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Renders the heatmaps on the device."""
        return self.render(batch)

    def render(self, batch: Batch) -> Batch:
        """Adds ``heatmap`` (B, 1, H, W), the points' fixation density; makes ``image`` float32 in [0, 1]."""
        image = batch["image"]
        density = fixation_density(batch["points"], (image.shape[-2], image.shape[-1]), batch["sigma"])
        names = ("image", "other_view")
        images: Batch = {key: _unit(batch[key]) for key in names if key in batch}
        return {**batch, **images, "heatmap": density[:, None]}

    def _make_dataset(self, split: str, training: bool) -> GazeDataset:
        return GazeDataset(
            self.store,
            self.rows(split),
            self._labels,
            self._gaze,
            self.downscale,
            Augmentation() if training and self.augment else None,
            training and self.gaze.readings == "drawn",
            self.seed,
            self.views == 2,
        )

    def _loader(self, dataset: GazeDataset, shuffle: bool) -> DataLoader[Example]:
        world_size = self.trainer.world_size if self.trainer else 1
        rank = self.trainer.global_rank if self.trainer else 0
        classes = self.labels[dataset.rows] if self.sampling == "balanced" else None
        # Lightning leaves a process without a batch out of an evaluation that others wait for: it gets an empty one.
        without_case = not shuffle and rank >= len(dataset) > 0
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=EpochSampler(
                dataset, shuffle, self.seed, world_size, 0 if without_case else rank, classes if shuffle else None
            ),
            num_workers=self.num_workers,
            collate_fn=_collate_none if without_case else collate,
            # A last batch of one or two cases would give BatchNorm poor statistics; another epoch drops other cases.
            drop_last=shuffle and len(dataset) >= self.batch_size * world_size,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


def _collate_none(examples: list[Example]) -> Batch:
    """A batch without cases, of the shape and type of one with."""
    return {key: value[:0] for key, value in collate(examples).items()}


def _unit(image: Tensor) -> Tensor:
    """float32 in [0, 1]."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image
