"""Films and maps in the form that the page's script draws."""

from __future__ import annotations

import base64
from typing import Any

import cv2
import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from gazelit.deploy.overlay import COLOUR_MAP, heat_and_opacity, is_nearly_flat, over_uniform, scale_end


def colours() -> list[list[int]]:
    """The 256 colours of maps, RGB, from the uniform level to the end of the scale."""
    return np.round(255 * colormaps[COLOUR_MAP](np.arange(256))[:, :3]).astype(int).tolist()  # type: ignore[no-any-return]


def most_opaque() -> float:
    """The opacity at the end of the scale in ``gazelit infer``'s overlays, with which the page begins."""
    _, opacity = heat_and_opacity(np.full((1, 1), 2.0, np.float32), 2.0)
    return round(float(opacity[0, 0]), 4)


def film_values(film: NDArray[np.float32]) -> dict[str, Any]:
    """A film (H, W) in [0, 1] at the size it is shown: ``height``, ``width``, and ``pixels`` as base64 of uint16."""
    stored = np.round(65535 * np.clip(film, 0, 1)).astype("<u2")
    return {"height": film.shape[0], "width": film.shape[1], "pixels": _base64(stored)}


def map_values(shape: tuple[int, int], **densities: NDArray[np.float32] | None) -> dict[str, Any]:
    """Maps of one film on one scale, so that colours can be compared.

    Args:
        shape: (H, W) of the film as it is shown.
        **densities: (h, w) each, of the whole film, not negative.

    Returns:
        ``end`` of the scale in multiples of the uniform level, and by name None or the base64 of uint8 ``heat`` (H, W)
        and whether the map ``is_flat``.
    """
    multiples = {name: over_uniform(density) for name, density in densities.items() if density is not None}
    end = scale_end(*multiples.values()) if multiples else None
    found: dict[str, Any] = dict.fromkeys(densities) | {"end": end}
    for name, values in multiples.items():
        assert end is not None
        enlarged = cv2.resize(values, shape[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
        heat, _ = heat_and_opacity(enlarged, end)
        found[name] = {"heat": _base64(np.round(255 * heat).astype(np.uint8)), "is_flat": is_nearly_flat(values)}
    return found


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode()
