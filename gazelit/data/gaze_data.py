"""The data of a training: prepared store in, batches with rendered fixation density out, without Lightning."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from gazelit.data.cohort import Cohort
from gazelit.data.dataset import Draws, Example, GazeDataset, collate, collate_none, unit_range
from gazelit.data.gaze.heatmap import fixation_density
from gazelit.data.labels import Uncertain
from gazelit.data.options import AugmentationOptions, GazeOptions, LoaderOptions, SplitOptions
from gazelit.data.sampling import (
    EpochLoader,
    EpochSampler,
    Processes,
    check_shared_memory,
    ends_with_interpreter,
    outlive_signals,
)
from gazelit.data.store.schema import SPLITS
from gazelit.data.store.store import Store
from gazelit.density import CentreBias
from gazelit.errors import InputError

logger = logging.getLogger("gazelit")

Batch = dict[str, Tensor]
_GAZE, _SPLIT, _LOADER, _AUGMENTATION = GazeOptions(), SplitOptions(), LoaderOptions(), AugmentationOptions()


class GazeData:
    """Pairs chest X-rays with fixation heatmaps made from gaze.

    Heatmaps are rendered on the device, after augmentation, from the points of the batch. The order of training cases
    is a function of seed and epoch alone, and so is their augmentation, whatever the number of workers; every process
    of a distributed run sees its share.

    Reports and agreements use it directly; :class:`gazelit.data.datamodule.GazeDataModule` gives it to a trainer.

    Many arguments, because each is an option of a configuration, or a group of them (``--data.gaze.sigma``).

    Args:
        store: Folder of the prepared store (``gazelit prepare``).
        labels: Label columns of the store: the classes; with none, images are unlabelled.
        exclusive: Whether exactly one label is 1 in every case; otherwise labels are multi-label with NaN for unknown.
        uncertain: What a label of −1 becomes when labels are not exclusive: ``unknown`` (NaN), ``positive`` or
            ``negative`` (U-Ignore, U-Ones and U-Zeros of Irvin et al., CheXpert, 2019).
        downscale: Integer factor between the store's resolution and the working one.
        gaze: How gaze becomes heatmaps.
        split: How cases are split.
        loader: How cases are loaded.
        augmentation: How training cases are augmented.
        seed: Seed of order and augmentation, and of the cases that ``split.train_cases`` draws.
    """

    #: Whether cases are taken in the store's order; a trainer shuffles them.
    in_order = True

    def __init__(
        self,
        store: str = "stores/egd-cxr",
        labels: Sequence[str] = ("Normal", "CHF", "pneumonia"),
        exclusive: bool = True,
        uncertain: Uncertain = "unknown",
        downscale: int = 1,
        gaze: GazeOptions = _GAZE,
        split: SplitOptions = _SPLIT,
        loader: LoaderOptions = _LOADER,
        augmentation: AugmentationOptions = _AUGMENTATION,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if loader.sampling == "balanced" and not exclusive:
            raise InputError("loader.sampling: balanced needs exclusive classes; use shuffled")
        self.store_path = store
        self.class_names = list(labels)
        self.exclusive = exclusive
        self.uncertain = uncertain
        self.downscale = downscale
        self.gaze = gaze
        self.split = split
        self.loading = loader
        self.predict_split = loader.predict_split
        self.augmentation = augmentation
        self.seed = seed
        self._cohort: Cohort | None = None
        #: Whether batches have events even if no stage needs them.
        self.with_events = False
        #: Whether cases in fixed order begin with those that have targets, for a trial with few cases.
        self.targets_first = False

    def setup(self, stage: str | None = None) -> None:
        """Opens the store and splits it, cheap when called again.

        Args:
            stage: Lightning's name of what the trainer will do.

        Raises:
            InputError: The store, a label or the split cannot be used.
        """
        self.cohort  # noqa: B018 - opened when it is first used

    def warn(self, notes: Sequence[str]) -> None:
        """Logs warnings about the data."""
        for note in notes:
            logger.warning("%s", note)

    @property
    def cohort(self) -> Cohort:
        """The store's cases with their labels, split and gaze."""
        if self._cohort is None:
            labels = self.class_names, self.exclusive, self.uncertain
            cohort = Cohort(self.store_path, *labels, self.downscale, self.gaze, self.split, self.seed, self.in_order)
            if cohort.is_external:
                self.warn(cohort.notes(["test"]))
            self._cohort = cohort
            self._datasets = {split: self._make_dataset(split, training=split == "train") for split in SPLITS}
        return self._cohort

    @property
    def store(self) -> Store:
        """The opened store."""
        return self.cohort.store

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
        return self.cohort.labels

    @property
    def size(self) -> tuple[int, int]:
        """Working resolution (H, W)."""
        return self.cohort.size

    @property
    def provenance(self) -> dict[str, Any]:
        """The description of the data that checkpoints and reports record, in primitives; no ids."""
        return self.cohort.provenance

    @property
    def reader_names(self) -> tuple[str, ...]:
        """The store's readers; ``reader`` in a batch is a number in this list."""
        return self.cohort.gaze.whole.events.reader_names

    @property
    def finding_names(self) -> tuple[str, ...]:
        """The findings that the store's readers searched for; ``finding`` in a batch is a number in this list."""
        return self.cohort.gaze.whole.events.finding_names

    def rows(self, split: str) -> NDArray[np.int64]:
        """The store's rows of a split."""
        return self.cohort.rows(split)

    def mean_map(self, rows: NDArray[np.int64]) -> CentreBias:
        """The mean map of some cases, from the readers' own gaze, whatever ``gaze.control`` says."""
        return self.cohort.mean_maps(rows)[0]

    def centre_bias(self, index: Tensor) -> CentreBias:
        """The centre bias against which cases are scored: the mean map of the training cases.

        See :class:`gazelit.data.gaze.centre_bias.CentreBiases`.

        Args:
            index: (B,) the store's rows of the cases to be scored.

        Returns:
            Maps (B, H, W).
        """
        return self.cohort.centre_bias(index)

    def valid_mask(self, row: int) -> Tensor:
        """(H, W) bool, false on the padding of a case."""
        return torch.from_numpy(self.datasets["test"].mask(row))

    def readings(self, row: int) -> list[tuple[Tensor, Tensor]]:
        """Each reading of a case separately: points (N, 3) and their σ (N, 2), in working pixels."""
        return self.cohort.readings(row)

    def to_original(self, row: int, xy: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, 2) x and y in working pixels of a case to pixels of its original film."""
        in_store = (np.asarray(xy, np.float64) + 0.5) * self.downscale - 0.5
        return self.store.letterboxes[row].to_original(in_store)

    def regions(self, row: int) -> dict[str, Tensor]:
        """Boxes and ellipses of a case by name, (H, W) bool each; of all its readers together."""
        return self.cohort.regions(row)

    def dataset(self, split: str) -> GazeDataset:
        """A split's cases, without augmentation."""
        return self._make_dataset(split, training=False)

    def loader(self, split: str, with_films: bool = True) -> DataLoader[Example]:
        """A split's cases in fixed order, without augmentation; batches still have to be rendered.

        Args:
            split: The split.
            with_films: Whether films are read; otherwise they are black.
        """
        dataset = self.dataset(split)
        dataset.without_films = not with_films
        return self._loader(dataset, shuffle=False)

    def render(self, batch: Batch) -> Batch:
        """Adds ``heatmap`` (B, 1, H, W), the points' fixation density; makes ``image`` float32 in [0, 1]."""
        image = batch["image"]
        density = fixation_density(batch["points"], (image.shape[-2], image.shape[-1]), batch["sigma"])
        images: Batch = {key: unit_range(batch[key]) for key in ("image", "other_view") if key in batch}
        return {**batch, **images, "heatmap": density[:, None]}

    def _make_dataset(self, split: str, training: bool) -> GazeDataset:
        augmentation = self.augmentation.build() if self.augmentation.enabled else None
        draws = Draws(
            augmentation if training else None,
            augmentation if self.augmentation.views == 2 else None,
            training and self.gaze.readings == "drawn",
            self.seed,
        )
        return GazeDataset(self.store, self.rows(split), self.labels, self.cohort.gaze, self.downscale, draws)

    def _suit(self, dataset: GazeDataset) -> None:
        """Sets the content of examples before workers start, for as long as this loader is used."""
        dataset.with_events = self.with_events

    def _processes(self, shuffle: bool) -> Processes:
        """The processes that share the cases."""
        return Processes()

    def _loader(self, dataset: GazeDataset, shuffle: bool) -> DataLoader[Example]:
        self._suit(dataset)
        if self.targets_first and not shuffle:
            dataset.rows = self.cohort.targets_first(dataset.rows)
        processes, batch_size = self._processes(shuffle), self.loading.batch_size
        classes = self.labels[dataset.rows] if shuffle and self.loading.sampling == "balanced" else None
        if self.loading.num_workers:
            check_shared_memory(self.loading.num_workers)
        # A process without a batch would not take part in an evaluation, and the others would wait for it. So it gets
        # an empty batch.
        without_case = not shuffle and processes.rank >= len(dataset) > 0
        if without_case:
            processes = replace(processes, rank=0)
        # A last batch of one or two cases would give BatchNorm poor statistics; another epoch drops other cases.
        drops = shuffle and len(dataset) >= batch_size * processes.count
        loader = (EpochLoader if shuffle else DataLoader)(
            dataset,
            batch_size=batch_size,
            sampler=EpochSampler(dataset, shuffle, self.seed, processes, classes, pads=not drops),
            num_workers=self.loading.num_workers,
            worker_init_fn=outlive_signals,
            collate_fn=collate_none if without_case else collate,
            drop_last=drops,
            persistent_workers=self.loading.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
        return ends_with_interpreter(loader)
