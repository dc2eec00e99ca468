"""The data module: prepared store in, batches with rendered fixation density out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import lightning as L
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from gazelit.data.dataset import Example, GazeDataset, GazeOptions, SigmaUnit, collate
from gazelit.data.heatmap import fixation_density
from gazelit.data.splits import SPLITS, load_split, split_by_patient
from gazelit.data.store import Store
from gazelit.data.transforms import Augmentation
from gazelit.errors import InputError
from gazelit.files import sha256_json

Batch = dict[str, Tensor]


class GazeDataModule(L.LightningDataModule):
    """Pairs chest X-rays with fixation heatmaps made from gaze.

    Heatmaps are rendered on the device, after augmentation, from the points of the batch. The order of training cases
    is a function of seed and epoch alone, and so is their augmentation, whatever the number of workers; every process
    of a distributed run sees its share.

    Args:
        store: Folder of the prepared store (``gazelit prepare``).
        labels: Label columns of the store: the classes.
        exclusive: Whether exactly one label is 1 in every case; otherwise labels are multi-label with NaN for unknown.
        batch_size: Cases a process takes per step.
        num_workers: Processes that load.
        downscale: Integer factor between the store's resolution and the working one.
        augment: Whether training cases are augmented (see :class:`gazelit.data.transforms.Augmentation`).
        gaze_kind: ``fixation``, or raw ``sample``.
        weight: What a point counts: its ``duration``, or one each (``count``).
        sigma: Standard deviation of the heatmap's Gaussian.
        sigma_unit: ``deg`` of visual angle, ``px`` of the working image, or ``image_px`` of the original image.
        split_file: CSV with ``image_id`` and ``split``; without it patients are split by ``split_seed`` and fractions.
        split_seed: Seed of the split; runs that hand over to each other must share it.
        val_fraction: Share of patients for validation.
        test_fraction: Share of patients for the test.
        seed: Of order and augmentation.
    """

    def __init__(
        self,
        store: str = "stores/egd-cxr",
        labels: Sequence[str] = ("Normal", "CHF", "pneumonia"),
        exclusive: bool = True,
        batch_size: int = 16,
        num_workers: int = 2,
        downscale: int = 1,
        augment: bool = True,
        gaze_kind: Literal["fixation", "sample"] = "fixation",
        weight: Literal["duration", "count"] = "duration",
        sigma: float = 1.0,
        sigma_unit: SigmaUnit = "deg",
        split_file: str | None = None,
        split_seed: int = 0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.store_path = store
        self.class_names = list(labels)
        self.exclusive = exclusive
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.downscale = downscale
        self.augment = augment
        self.gaze = GazeOptions(gaze_kind, weight, sigma, sigma_unit)
        self.split_file = split_file
        self.split_seed = split_seed
        self.fractions = (val_fraction, test_fraction)
        self.seed = seed
        self._store: Store | None = None

    def setup(self, stage: str | None = None) -> None:
        """Opens the store and splits it; cheap when called again.

        Raises:
            InputError: The store, a label or the split cannot be used.
        """
        if self._store is not None:
            return
        store = Store.open(self.store_path)
        self._labels = _labels(store, self.class_names, self.exclusive)
        if self.split_file is not None:
            self._split = load_split(self.split_file, store.cases)
        else:
            strata = self._labels.tolist() if self.exclusive else [""] * len(store.cases)
            self._split = split_by_patient(store.cases, strata, *self.fractions, self.split_seed)
        self._store = store
        self._datasets = {
            split: self._make_dataset(split, augment=self.augment and split == "train") for split in SPLITS
        }

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
    def size(self) -> tuple[int, int]:
        """Working resolution (H, W)."""
        return self.store.size[0] // self.downscale, self.store.size[1] // self.downscale

    @property
    def provenance(self) -> dict[str, Any]:
        """What checkpoints and reports record of the data, in primitives; no ids."""
        store = self.store
        assigned = {str(image): str(split) for image, split in zip(self.image_ids, self._split, strict=True)}
        sigma = self.datasets["train"].sigma[self.rows("train")].mean(axis=0)
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
            "sigma_px": [round(float(value), 4) for value in sigma],
            "split_sha256": sha256_json(assigned),
            "split_seed": self.split_seed if self.split_file is None else None,
            "n": {split: len(self.rows(split)) for split in SPLITS},
        }

    def rows(self, split: str) -> np.ndarray:
        """The store's rows of a split."""
        if split not in SPLITS:
            raise InputError(f"split: '{split}' is none of {', '.join(SPLITS)}")
        self.setup()
        return np.flatnonzero(self._split == split)

    def dataset(self, split: str) -> GazeDataset:
        """A split's cases, without augmentation."""
        return self._make_dataset(split, augment=False)

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
        """The test cases."""
        return self.test_dataloader()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Renders the heatmaps on the device."""
        return self.render(batch)

    def render(self, batch: Batch) -> Batch:
        """Adds ``heatmap`` (B, 1, H, W), the fixation density of the batch's points."""
        size = (batch["image"].shape[-2], batch["image"].shape[-1])
        density = fixation_density(batch["points"], size, batch["sigma"])
        return {**batch, "heatmap": density[:, None]}

    def _make_dataset(self, split: str, augment: bool) -> GazeDataset:
        augmentation = Augmentation() if augment else None
        return GazeDataset(
            self.store, self.rows(split), self._labels, self.gaze, self.downscale, augmentation, self.seed
        )

    def _loader(self, dataset: GazeDataset, shuffle: bool) -> DataLoader[Example]:
        world_size = self.trainer.world_size if self.trainer else 1
        rank = self.trainer.global_rank if self.trainer else 0
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=EpochSampler(dataset, shuffle, self.seed, world_size, rank),
            num_workers=self.num_workers,
            collate_fn=collate,
            # A last batch of one or two cases would give BatchNorm poor statistics; another epoch drops other cases.
            drop_last=shuffle and len(dataset) >= self.batch_size * world_size,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


class EpochSampler(DistributedSampler[Any]):
    """Yields (epoch, position), so that workers that live for several epochs know the epoch.

    Training shares are padded to equal length, as gradients need it; others are not, so that no case is evaluated
    twice.

    Args:
        dataset: What to sample.
        shuffle: Whether to shuffle by seed and epoch, for training.
        seed: Of the order.
        world_size: Number of processes.
        rank: Of this process.
    """

    def __init__(self, dataset: GazeDataset, shuffle: bool, seed: int, world_size: int, rank: int) -> None:
        super().__init__(dataset, world_size, rank, shuffle=shuffle, seed=seed)
        self._fixed = None if shuffle else range(rank, len(dataset), world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        positions = super().__iter__() if self._fixed is None else iter(self._fixed)
        return ((self.epoch, position) for position in positions)

    def __len__(self) -> int:
        return super().__len__() if self._fixed is None else len(self._fixed)


def _labels(store: Store, names: Sequence[str], exclusive: bool) -> Tensor:
    known = store.about["label_columns"]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"labels: the store has no label {', '.join(unknown)}; it has {', '.join(known)}")
    values = torch.from_numpy(store.cases[list(names)].to_numpy(np.float32, copy=True))
    if not exclusive:
        return values
    bad = int((torch.nan_to_num(values, nan=-1.0).sum(dim=1) != 1).sum())
    if bad:
        raise InputError(f"labels: {bad} cases do not have exactly one of {', '.join(names)}; set exclusive: false")
    return values.argmax(dim=1)
