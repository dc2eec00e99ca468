"""Fitting an image into the working resolution, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

_ScalarT = TypeVar("_ScalarT", bound=np.generic)


def on_image(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    width: int | NDArray[np.floating],
    height: int | NDArray[np.floating],
) -> NDArray[np.bool_]:
    """Whether points lie within the pixels of an image, whose outer edges are at −0.5 and size − 0.5; NaN does not."""
    return (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)


@dataclass(frozen=True)
class Letterbox:
    """Scaling with the aspect ratio kept and centred padding, exact for pixel centres.

    Attributes:
        height: Of the original image.
        width: Of the original image.
        size: Working resolution (H, W).
        inner: Size (h, w) of the scaled image within the working one.
        top: Rows of padding above it.
        left: Columns of padding left of it.

    Example:
        A film of 2000 × 1600 pixels (height × width) at 640 × 512 fills it; its middle stays the middle.

        >>> box = Letterbox.fit(2000, 1600, (640, 512))
        >>> box.scale, box.to_working(np.array([799.5, 999.5])).tolist()
        ((0.32, 0.32), [255.5, 319.5])
    """

    height: int
    width: int
    size: tuple[int, int]
    inner: tuple[int, int]
    top: int
    left: int

    @classmethod
    def fit(cls, height: int, width: int, size: tuple[int, int]) -> Letterbox:
        """The largest fit of a (height, width) image into ``size``."""
        scale = min(size[0] / height, size[1] / width)
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        return cls(height, width, (size[0], size[1]), inner, (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2)

    @property
    def scale(self) -> tuple[float, float]:
        """Working pixels per original pixel, (x, y); they differ only by the rounding of ``inner``."""
        return self.inner[1] / self.width, self.inner[0] / self.height

    def apply(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Resamples (height, width) float32 to ``size``; area-averaged where it shrinks, so nothing aliases."""
        shrinks = self.inner[0] <= self.height
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        working = np.zeros(self.size, np.float32)
        scaled = cv2.resize(image, (self.inner[1], self.inner[0]), interpolation=method)
        self.crop(working)[:] = scaled
        return working

    def crop(self, working: NDArray[_ScalarT]) -> NDArray[_ScalarT]:
        """The part (h, w) of a working array (H, W) that is the image, without the padding; a view."""
        return working[self.top : self.top + self.inner[0], self.left : self.left + self.inner[1]]

    def to_working(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Original pixel coordinates (…, 2) as x, y to working ones."""
        return (xy + 0.5) * self.scale - 0.5 + (self.left, self.top)

    def to_original(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Working pixel coordinates (…, 2) as x, y to original ones; the inverse of :meth:`to_working`."""
        return (xy + 0.5 - (self.left, self.top)) / self.scale - 0.5

    def restore(self, working: NDArray[np.float32]) -> NDArray[np.float32]:
        """Resamples a working map (H, W) back onto the original pixels (height, width), without the padding."""
        inner = np.ascontiguousarray(self.crop(working))
        restored = cv2.resize(inner, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        return restored.astype(np.float32, copy=False)

    def valid_mask(self) -> NDArray[np.bool_]:
        """(H, W), false on the padding."""
        mask = np.zeros(self.size, bool)
        self.crop(mask)[:] = True
        return mask


@dataclass(frozen=True)
class Letterboxes:
    """The letterboxes of many images of one working resolution, as arrays: 24 bytes an image; objects take 400.

    Attributes:
        size: Working resolution (H, W).
        fields: (N, 6) int32: height and width of the original image and of the scaled one, top, left.
    """

    size: tuple[int, int]
    fields: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.fields)

    def __getitem__(self, row: int) -> Letterbox:
        height, width, inner_height, inner_width, top, left = self.fields[row].tolist()
        return Letterbox(height, width, self.size, (inner_height, inner_width), top, left)

    def __iter__(self) -> Iterator[Letterbox]:
        return (self[row] for row in range(len(self)))

    @property
    def scale(self) -> NDArray[np.float64]:
        """(N, 2) working pixels per original pixel, as x, y."""
        return self.fields[:, [3, 2]] / self.fields[:, [1, 0]]

    @property
    def corner(self) -> NDArray[np.float64]:
        """(N, 2) columns of padding left of each image and rows above it."""
        return self.fields[:, [5, 4]].astype(np.float64)
