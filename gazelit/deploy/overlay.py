"""A predicted map drawn over its film, on a scale that shows how strong it is.

Values are multiples of the uniform level, which every pixel would have if gaze were spread evenly.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

#: The scale ends at this percentile of the map, so that a few pixels do not darken the rest.
PERCENTILE = 99.5
#: A map that stays below this many times the uniform level is nearly uniform.
NEARLY_FLAT = 2.0
#: Begins in blue: a scale that begins in black would draw shadows, which on a film have a meaning.
COLOUR_MAP = "plasma"
_MOST_OPAQUE = 0.7
#: Steps of the opacity in pictures: as fine as their colours.
_STEPS = 255
_BAR, _GAP, _TEXT = 16, 8, 14
#: Colour of warnings.
_WARNING = "#ffd166"


def over_uniform(density: NDArray[np.floating]) -> NDArray[np.float32]:
    """A map in multiples of its mean: 1 is the uniform level."""
    return (density / max(float(density.mean(dtype=np.float64)), 1e-30)).astype(np.float32)


def scale_end(*multiples: NDArray[np.float32]) -> float:
    """Where the scale of maps in multiples of the uniform level ends.

    It is a percentile of the strongest map, and never below ``NEARLY_FLAT``: a flat map is not stretched to look like
    a sharp one.
    """
    return max(NEARLY_FLAT, *map(strength, multiples))


def strength(multiples: NDArray[np.float32]) -> float:
    """The value below which ``PERCENTILE`` % of a map are, in multiples of the uniform level."""
    return float(np.percentile(multiples, PERCENTILE))


def is_nearly_flat(multiples: NDArray[np.float32]) -> bool:
    """Whether a map is nearly uniform; see ``NEARLY_FLAT``."""
    return strength(multiples) < NEARLY_FLAT


def heat_and_opacity(multiples: NDArray[np.float32], end: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How far a map is on its scale, and how opaque it is drawn.

    Args:
        multiples: (H, W) in multiples of the uniform level.
        end: See :func:`scale_end`.

    Returns:
        Both (H, W) float32 in [0, 1], and 0 at and below the uniform level.
    """
    # In place, because each temporary array of a whole film has 31 MB.
    heat = multiples - np.float32(1)
    heat /= np.float32(end - 1)
    np.clip(heat, 0, 1, out=heat)
    opacity = np.sqrt(heat)
    opacity *= np.float32(_MOST_OPAQUE)
    return heat, opacity


def blend(film: NDArray[np.uint8], multiples: NDArray[np.float32], end: float) -> NDArray[np.uint8]:
    """A film with a map over it.

    Args:
        film: (H, W).
        multiples: (H, W) in multiples of the uniform level.
        end: See :func:`scale_end`.

    Returns:
        (H, W, 3) RGB; the film itself at and below the uniform level.
    """
    _, opacity = heat_and_opacity(multiples, end)
    opacity *= np.float32(_STEPS / _MOST_OPAQUE)
    opacity += np.float32(0.5)
    index = opacity.astype(np.uint16)
    index <<= 8
    index |= film
    # Three times as fast as indexing.
    blended: NDArray[np.uint8] = _blends().take(index, axis=0)
    return blended


def _colours() -> Any:
    """The scale's colours."""
    # Imported when a map is drawn: most users of this module draw none.
    from matplotlib import colormaps

    return colormaps[COLOUR_MAP]


@cache
def _blends() -> NDArray[np.uint8]:
    """(256 × 256, 3) RGB of every grey under every opacity, because looking up is ten times as fast as blending."""
    step, grey = np.mgrid[: _STEPS + 1, :256].reshape(2, -1, 1) / _STEPS
    colour = _colours()(step[:, 0] ** 2)[:, :3]
    blends: NDArray[np.uint8] = np.round(255 * (grey + _MOST_OPAQUE * step * (colour - grey))).astype(np.uint8)
    return blends


def draw_overlay(film: NDArray[np.uint8], density: NDArray[np.float32], warnings: Sequence[str] = ()) -> Image.Image:
    """Draws a map over its film, with a colour bar to the right and a line below that says how strong it is.

    The film is transparent at and below the uniform level.

    Args:
        film: (H, W), at the size in which it is shown (:func:`gazelit.deploy.preparing.shrunk`).
        density: (h, w) of the same part of the film, not negative, of any size.
        warnings: Lines that are written below, wrapped at the picture's width.

    Returns:
        A picture in RGB, wider and higher than the film by the bar and the lines.
    """
    height, width = film.shape
    multiples = over_uniform(density)
    highest = strength(multiples)
    end = max(NEARLY_FLAT, highest)
    enlarged = cv2.resize(multiples, (width, height), interpolation=cv2.INTER_LINEAR)
    blended = blend(film, enlarged.astype(np.float32, copy=False), end)
    font = ImageFont.load_default(_TEXT)
    line = f"colour: multiples of the uniform level, up to the {PERCENTILE:g}th percentile"
    if highest < NEARLY_FLAT:
        line = f"nearly flat: {PERCENTILE:g} % of the map below {highest:.1f} times the uniform level"
    labels = ("1 x", f"{end:.3g} x")
    beside = _GAP + _BAR + _GAP + round(max(font.getlength(label) for label in labels)) + _GAP
    whole = max(width + beside, round(font.getlength(line)) + 2 * _GAP)
    wrapped = [
        piece
        for warning in warnings
        for piece in textwrap.wrap(warning, max(20, int((whole - 2 * _GAP) / font.getlength("n"))))
    ]
    below = (_TEXT + _GAP) * (1 + len(wrapped)) + _GAP
    canvas = Image.new("RGB", (whole, height + below))
    canvas.paste(Image.fromarray(blended))
    ramp = _colours()(np.linspace(1, 0, height))[:, None, :3].repeat(_BAR, axis=1)
    canvas.paste(Image.fromarray(np.round(255 * ramp).astype(np.uint8)), (width + _GAP, 0))
    draw = ImageDraw.Draw(canvas)
    beside_bar = width + 2 * _GAP + _BAR
    draw.text((beside_bar, height - 1), labels[0], fill="white", font=font, anchor="ls")
    draw.text((beside_bar, 2), labels[1], fill="white", font=font, anchor="lt")
    draw.text((_GAP, height + _GAP), line, fill="white", font=font, anchor="lt")
    for number, warning in enumerate(wrapped, start=1):
        top = height + _GAP + number * (_TEXT + _GAP)
        draw.text((_GAP, top), warning, fill=_WARNING, font=font, anchor="lt")
    return canvas
