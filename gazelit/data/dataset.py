"""Cases of a prepared store as training examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from gazelit.data.gaze.sequences import EVENT_KEYS, padded
from gazelit.data.images.transforms import Augmentation
from gazelit.data.store.films_in_use import FilmsInUse
from gazelit.data.store.store import Store
from gazelit.data.working_gaze import CaseGaze, Gaze
from gazelit.errors import InputError

Example = dict[str, Tensor]


@dataclass(frozen=True)
class Draws:
    """What is drawn of a case, as a function of seed, epoch and row.

    Attributes:
        augmentation: Augmentation of image and points; none unless given.
        other_view: Augmentation of ``other_view``, without ``augmentation`` the same in every epoch. No other view
            unless given.
        reading: Whether one reading is drawn of each image and epoch.
        seed: Seed of all these draws.
    """

    augmentation: Augmentation | None = None
    other_view: Augmentation | None = None
    reading: bool = False
    seed: int = 0


class GazeDataset(Dataset[Example]):
    """Images, gaze points and labels of some cases.

    An example has ``image`` (1, H, W), uint8 as it is stored or float32 in [0, 1]; ``points`` (N, 3) float32 as x, y
    and weight in working pixels; ``sigma`` (N, 2) in working pixels; ``valid_mask`` (1, H, W) bool; ``label``;
    ``index`` (the store's row); ``points_off_image`` (how many points the augmentation moved off the image); and
    ``other_view`` with two views, (1, H, W), another augmentation of the image. Its index is (epoch, position), because
    the augmentation of a case is a function of seed, epoch and row.

    With ``with_events`` it also has ``events`` (N, 4) float32 as x, y, start and duration, of the same points and in
    the order of time within a reading; and (N,) int64 ``reading`` (which of the case's readings an event is of),
    ``reader`` and ``finding`` (numbers in :class:`gazelit.data.gaze.sequences.Events`), and (N, F) float32 ``said``,
    the share of an event's duration during which each of ``gaze.phrases`` was said.

    Args:
        store: The prepared store.
        rows: The store's rows that belong to the dataset.
        labels: Labels of all the store's rows: (N,) int64 or (N, K) float32.
        gaze: The gaze of all the store's rows.
        downscale: Integer factor between the store's resolution and the working one.
        draws: What is drawn of each case; nothing unless given.
        with_events: Whether examples have events.

    Raises:
        InputError: The store's size is no multiple of ``downscale``.
    """

    def __init__(
        self,
        store: Store,
        rows: NDArray[np.int64],
        labels: Tensor,
        gaze: Gaze,
        downscale: int = 1,
        draws: Draws | None = None,
        with_events: bool = False,
    ) -> None:
        check_downscale(store, downscale)
        self.store = store
        self.rows = rows
        self.labels = labels
        self.gaze = gaze
        self.downscale = downscale
        self.draws = draws or Draws()
        self.with_events = with_events
        self.size = (store.size[0] // downscale, store.size[1] // downscale)
        #: Whether films are black and not read, because a stage reads their features.
        self.without_films = False
        self._images = FilmsInUse(store)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, position = key
        row = int(self.rows[position])
        image = self._image(row)
        mask = self.mask(row)
        draws = self.draws
        seeds = np.random.SeedSequence([draws.seed, epoch, row]).generate_state(2)
        views = {}
        if draws.other_view is not None:
            epoch = epoch if draws.augmentation is not None else 0
            seed = np.random.SeedSequence([draws.seed, epoch, row, 2]).generate_state(1)[0]
            nowhere = np.zeros((0, 3), np.float32), np.zeros((0, 2), np.float32)
            second = draws.other_view(image, mask, *nowhere, int(seed)).image
            views["other_view"] = torch.from_numpy(np.ascontiguousarray(second))[None]
        gaze = self.gaze.of_case(row)
        taken = self._taken(gaze, int(seeds[1]))
        points, sigma = gaze.points[taken], gaze.sigma[taken]
        off_image = 0
        if draws.augmentation is not None:
            image, mask, points, sigma, inside = draws.augmentation(image, mask, points, sigma, int(seeds[0]))
            off_image = int((~inside).sum())
            taken = taken[inside]
        events = self._events(row, points, taken) if self.with_events else {}
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image))[None],
            "points": torch.from_numpy(np.ascontiguousarray(points)),
            "sigma": torch.from_numpy(np.ascontiguousarray(sigma)),
            "valid_mask": torch.from_numpy(mask)[None],
            "label": self.labels[row],
            "index": torch.tensor(row),
            "points_off_image": torch.tensor(off_image),
            **views,
            **events,
        }

    def _taken(self, gaze: CaseGaze, seed: int) -> NDArray[np.int64]:
        """The points of a case that an example has."""
        taken = np.arange(len(gaze.points))
        if self.draws.reading and len(taken):
            taken = taken[gaze.reading == seed % (gaze.reading[-1] + 1)]
        return taken

    def _events(self, row: int, points: NDArray[np.float32], taken: NDArray[np.int64]) -> dict[str, Tensor]:
        gaze = self.gaze.whole
        taken = taken + gaze.starts[row]
        events = gaze.events.take(taken)
        columns = np.concatenate([points[:, :2], events.times], axis=1), gaze.reading[taken]
        values = (*columns, events.reader, events.finding, events.phrase_shares)
        return {key: torch.from_numpy(value) for key, value in zip(EVENT_KEYS, values, strict=True)}

    def _image(self, row: int) -> NDArray[np.uint8] | NDArray[np.float32]:
        if self.without_films:
            return np.zeros(self.size, np.uint8)
        return working_film(self.store, row, self.size, self._images)

    def mask(self, row: int) -> NDArray[np.bool_]:
        """(H, W) bool, false on the padding of a store's row."""
        mask = self.store.letterboxes[row].valid_mask()
        if self.downscale == 1:
            return mask
        # A coarse pixel is valid if the fine pixel at its centre is.
        half = self.downscale // 2
        return np.ascontiguousarray(mask[half :: self.downscale, half :: self.downscale])


def working_film(
    store: Store, row: int, size: tuple[int, int], images: NDArray[np.unsignedinteger] | FilmsInUse | None = None
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """A store's film at the working size, uint8 as it is stored or float32 in [0, 1].

    Args:
        store: The store.
        row: The film.
        size: (H, W), the store's or a whole fraction of it.
        images: The store's films, if they are open: those of ``store.images()``, or of a dataset.
    """
    stored: Any = (store.images() if images is None else images)[row]
    is_smaller = size != store.size
    if stored.dtype == np.uint8:
        # uint8 is a quarter of the bytes to augment and to send to the device, which converts them to float32. Coarser
        # pixels are rounded to whole grey levels.
        return cv2.resize(stored, size[::-1], interpolation=cv2.INTER_AREA) if is_smaller else np.array(stored)
    image = stored.astype(np.float32)
    image *= np.float32(1 / store.largest)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA) if is_smaller else image


def check_downscale(store: Store, downscale: int) -> None:
    """Raises InputError if the store's size over ``downscale`` is no multiple of 32."""
    if downscale < 1 or any(side % (32 * downscale) for side in store.size):
        raise InputError(
            f"downscale: the store's {store.size[0]} × {store.size[1]} over {downscale} must stay a multiple of 32"
        )


def collate(examples: list[Example]) -> Example:
    """Stacks examples; points are padded to the longest with zero weight, their σ with 1.

    Adds ``has_gaze`` (B,) and ``sigma_px`` (B,), the mean σ of an image's points (NaN without any). Events, where
    examples have them, are padded to the longest, too; ``reading`` is −1 there.
    """
    longest = max(1, *(len(example["points"]) for example in examples))
    points, sigma = torch.zeros(len(examples), longest, 3), torch.ones(len(examples), longest, 2)
    for row, example in enumerate(examples):
        points[row, : len(example["points"])] = example["points"]
        sigma[row, : len(example["sigma"])] = example["sigma"]
    keys = [key for key in examples[0] if key not in ("points", "sigma", *EVENT_KEYS)]
    return {
        # In a worker this stacks directly into shared memory; a plain stack would be copied there.
        **default_collate([{key: example[key] for key in keys} for example in examples]),
        "points": points,
        "sigma": sigma,
        "has_gaze": (points[..., 2] > 0).any(dim=1),
        "sigma_px": torch.stack([example["sigma"].mean() for example in examples]),
        **(padded(examples) if "events" in examples[0] else {}),
    }


def collate_none(examples: list[Example]) -> Example:
    """A batch without cases; shapes and types are as in other batches."""
    return {key: value[:0] for key, value in collate(examples).items()}


def unit_range(image: Tensor) -> Tensor:
    """An image as float32 in [0, 1], from uint8, or from float32 in [0, 1]."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image
