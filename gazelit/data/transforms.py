"""Augmentation of image and gaze points together; the one file that knows albumentations."""

from __future__ import annotations

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from gazelit.data.geometry import on_image


class Augmentation:
    """Small shifts, scalings and rotations, and changes of exposure; the same geometry for image and points.

    There is no horizontal flip: the heart has a side, and a mirrored film shows a rare disease. Heatmaps are rendered
    from the transformed points, never resampled.

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
        self._compose = A.Compose(
            [
                A.Affine(
                    translate_percent={"x": (-shift, shift), "y": (-shift, shift)},
                    scale=(1 - scale, 1 + scale),
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
        seed: int,
    ) -> tuple[NDArray[np.uint8] | NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32], NDArray[np.bool_]]:
        """Transforms one case, reproducibly from its seed.

        Args:
            image: (H, W) uint8, or float32 in [0, 1].
            mask: (H, W) bool, false on padding.
            points: (N, 3) x, y, weight in pixels of the image.
            seed: Of this case in this epoch.

        Returns:
            Image, mask, the points that are still on the image, and which of those given they are, (N,) bool.
        """
        self._compose.set_random_seed(seed)
        result = self._compose(image=image[..., None], mask=mask.astype(np.uint8), keypoints=points[:, :2])
        height, width = image.shape
        moved = np.concatenate([np.asarray(result["keypoints"], np.float32).reshape(-1, 2), points[:, 2:]], axis=1)
        inside = on_image(moved[:, 0], moved[:, 1], width, height)
        pixels = result["image"].reshape(height, width)
        if pixels.dtype != np.uint8:
            pixels = np.clip(pixels, 0, 1)
        return pixels, result["mask"].astype(bool), moved[inside], inside
