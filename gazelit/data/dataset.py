"""Cases of a prepared store as training examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from gazelit.data.store import Store
from gazelit.data.transforms import Augmentation
from gazelit.errors import InputError

Example = dict[str, Tensor]
SigmaUnit = Literal["deg", "px", "image_px"]


@dataclass(frozen=True)
class GazeOptions:
    """How gaze becomes a target map.

    Attributes:
        kind: ``fixation`` or raw ``sample``.
        weight: What a point counts: its ``duration``, or one each (``count``).
        sigma: Standard deviation of the Gaussian.
        sigma_unit: ``deg`` of visual angle, ``px`` of the working image, or ``image_px`` of the original image.
    """

    kind: Literal["fixation", "sample"]
    weight: Literal["duration", "count"]
    sigma: float
    sigma_unit: SigmaUnit


class GazeDataset(Dataset[Example]):
    """Images, gaze points and labels of some cases.

    An example has ``image`` (1, H, W) float32 in [0, 1], ``points`` (N, 3) float32 as x, y and weight in working
    pixels, ``sigma`` (2,) in working pixels, ``valid_mask`` (1, H, W) bool, ``label`` and ``index`` (the store's
    row). It is asked for by (epoch, position), because the augmentation of a case is a function of seed, epoch and row.

    Args:
        store: The prepared store.
        rows: The store's rows that belong to the dataset.
        labels: Labels of all the store's rows: (N,) int64 or (N, K) float32.
        gaze: How gaze becomes a target map.
        downscale: Integer factor between the store's resolution and the working one.
        augmentation: Applied to image and points, if given.
        seed: Of the augmentation.

    Raises:
        InputError: The store's size is no multiple of ``downscale``, or σ in degrees is asked of gaze without a known
            viewing geometry.
    """

    def __init__(
        self,
        store: Store,
        rows: NDArray[np.int64],
        labels: Tensor,
        gaze: GazeOptions,
        downscale: int = 1,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        if downscale < 1 or any(side % (32 * downscale) for side in store.size):
            raise InputError(
                f"downscale: the store's {store.size[0]} × {store.size[1]} over {downscale} must stay a multiple of 32"
            )
        self.store = store
        self.rows = rows
        self.labels = labels
        self.downscale = downscale
        self.augmentation = augmentation
        self.seed = seed
        self.size = (store.size[0] // downscale, store.size[1] // downscale)
        self._images: NDArray[np.unsignedinteger] | None = None
        self._points, self._starts, self.sigma = _working_gaze(store, gaze, downscale)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, position = key
        row = int(self.rows[position])
        image = self._image(row)
        mask = self._mask(row)
        points = self._points[self._starts[row] : self._starts[row + 1]]
        if self.augmentation is not None:
            seed = int(np.random.SeedSequence([self.seed, epoch, row]).generate_state(1)[0])
            image, mask, points, _ = self.augmentation(image, mask, points, seed)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image))[None],
            "points": torch.from_numpy(np.ascontiguousarray(points)),
            "sigma": torch.from_numpy(self.sigma[row]),
            "valid_mask": torch.from_numpy(mask)[None],
            "label": self.labels[row],
            "index": torch.tensor(row),
        }

    def __getstate__(self) -> dict[str, object]:
        # A memory map would be sent to worker processes as its content.
        return {**self.__dict__, "_images": None}

    def _image(self, row: int) -> NDArray[np.float32]:
        if self._images is None:
            self._images = self.store.images()
        image = self._images[row].astype(np.float32) / np.float32(self.store.largest)
        if self.downscale > 1:
            image = cv2.resize(image, self.size[::-1], interpolation=cv2.INTER_AREA)
        return image

    def _mask(self, row: int) -> NDArray[np.bool_]:
        mask = self.store.letterboxes[row].valid_mask()
        # A coarse pixel is valid if the fine pixel at its centre is.
        half = self.downscale // 2
        return np.ascontiguousarray(mask[half :: self.downscale, half :: self.downscale])


def collate(examples: list[Example]) -> Example:
    """Stacks examples; points are padded to the longest with zero weight."""
    longest = max(1, *(len(example["points"]) for example in examples))
    points = torch.zeros(len(examples), longest, 3)
    for row, example in enumerate(examples):
        points[row, : len(example["points"])] = example["points"]
    batch = {key: torch.stack([example[key] for example in examples]) for key in examples[0] if key != "points"}
    return {**batch, "points": points, "has_gaze": (points[..., 2] > 0).any(dim=1)}


def _working_gaze(
    store: Store, options: GazeOptions, downscale: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Points of all cases one after another (M, 3), where each case's start (N + 1,), and σ of each case (N, 2)."""
    if options.sigma <= 0:
        raise InputError(f"sigma: must be above 0, not {options.sigma}")
    gaze = store.gaze(options.kind)
    count = len(store.cases)
    starts = np.searchsorted(gaze["row"].to_numpy(), np.arange(count + 1))
    xy = gaze[["x", "y"]].to_numpy(np.float64)
    weight = gaze["duration"].to_numpy() if options.weight == "duration" else np.ones(len(gaze))
    ppd = gaze[["ppd_x", "ppd_y"]].to_numpy(np.float64)
    points = np.empty((len(gaze), 3), np.float32)
    sigma = np.full((count, 2), options.sigma, np.float32)
    for row in range(count):
        part = slice(starts[row], starts[row + 1])
        letterbox = store.letterboxes[row]
        points[part, :2] = (letterbox.to_working(xy[part]) + 0.5) / downscale - 0.5
        scale = np.array(letterbox.scale) / downscale
        if options.sigma_unit == "image_px":
            sigma[row] = options.sigma * scale
        elif options.sigma_unit == "deg" and starts[row] < starts[row + 1]:
            sigma[row] = options.sigma * ppd[part].mean(axis=0) * scale
    points[:, 2] = weight
    if not np.isfinite(sigma).all():
        raise InputError("sigma_unit: deg needs pixels per degree, which this source does not give; use px or image_px")
    return points, starts, sigma
