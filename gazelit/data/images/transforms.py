"""Augmentation of image and gaze points together; the only file that uses albumentations."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from gazelit.data.images.geometry import on_image

#: Three points; their images give the linear part of a transformation.
_FRAME = np.array([[0, 0], [100, 0], [0, 100]], np.float32)


class Augmented(NamedTuple):
    """One case, transformed.

    Attributes:
        image: (H, W), of the type given; 0 outside the film.
        mask: (H, W) bool, false on padding and outside the film.
        points: (M, 3) points that are still on the image.
        sigma: (M, 2) their σ.
        inside: (N,) bool, true for the given points that are still on the image.
    """

    image: NDArray[np.uint8] | NDArray[np.float32]
    mask: NDArray[np.bool_]
    points: NDArray[np.float32]
    sigma: NDArray[np.float32]
    inside: NDArray[np.bool_]


class Augmentation:
    """Small shifts, scalings and rotations, and changes of exposure; the same geometry for image and points.

    There is no horizontal flip: the heart is on one side, and a mirrored film shows a rare disease. Width and height
    are scaled by the same factor, because the width of a heart relative to the chest is a finding. Heatmaps are
    rendered from the transformed points and σ, never resampled. Pixels outside the film stay black.

    Args:
        shift: Largest shift, as a share of the size.
        scale: Largest relative change of scale.
        rotation: Largest rotation in degrees.
        contrast: Largest relative change of contrast and of brightness.
        gamma: Largest relative change of gamma.
    """

    def __init__(
        self,
        shift: float = 0.04,
        scale: float = 0.08,
        rotation: float = 5.0,
        contrast: float = 0.15,
        gamma: float = 0.2,
    ) -> None:
        self._ranges = (shift, scale, rotation, contrast, gamma)

    @cached_property
    def _compose(self) -> Any:
        # Without it, albumentations would ask a package index for its newest version when it is imported, which shows
        # others who trains and when. It is imported here because it takes half a second and 70 MB, which reading data
        # without training does not need.
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
        import albumentations as A

        shift, scale, rotation, contrast, gamma = self._ranges
        return A.Compose(
            [
                A.Affine(
                    translate_percent={"x": (-shift, shift), "y": (-shift, shift)},
                    scale=(1 - scale, 1 + scale),
                    keep_ratio=True,
                    rotate=(-rotation, rotation),
                    interpolation=cv2.INTER_LINEAR,
                    border_mode=cv2.BORDER_CONSTANT,
                    fill=0,
                    p=1,
                ),
                A.RandomBrightnessContrast(brightness_limit=contrast, contrast_limit=contrast, p=0.8),
                A.RandomGamma(gamma_limit=(100 * (1 - gamma), 100 * (1 + gamma)), p=0.8),
            ],
            keypoint_params=A.KeypointParams(format="xy", remove_invisible=False),
        )

    def __call__(
        self,
        image: NDArray[np.uint8] | NDArray[np.float32],
        mask: NDArray[np.bool_],
        points: NDArray[np.float32],
        sigma: NDArray[np.float32],
        seed: int,
    ) -> Augmented:
        """Transforms one case, reproducibly from its seed.

        Args:
            image: (H, W) uint8, or float32 in [0, 1].
            mask: (H, W) bool, false on padding.
            points: (N, 3) x, y, weight in pixels of the image.
            sigma: (N, 2) σ of each point in x and y.
            seed: Of this case in this epoch.

        Returns:
            The case, with the points that are still on the image. Where a point's σ in x and y differ, a rotation
            tilts its Gaussian; σ is then that along the axes.
        """
        self._compose.set_random_seed(seed)
        keypoints = np.concatenate([_FRAME, points[:, :2]])
        result = self._compose(image=image[..., None], mask=mask.astype(np.uint8), keypoints=keypoints)
        height, width = image.shape
        positions = np.asarray(result["keypoints"], np.float32).reshape(-1, 2)
        moved = np.concatenate([positions[len(_FRAME) :], points[:, 2:]], axis=1)
        linear = (positions[1 : len(_FRAME)] - positions[0]).T / _FRAME.max()
        inside = on_image(moved[:, 0], moved[:, 1], width, height)
        pixels, seen = result["image"].reshape(height, width), result["mask"].astype(bool)
        if pixels.dtype != np.uint8:
            pixels = np.clip(pixels, 0, 1)
        # A change of brightness would make the padding visible to the network.
        pixels[~seen] = 0
        return Augmented(pixels, seen, moved[inside], np.sqrt(sigma[inside] ** 2 @ (linear**2).T), inside)
