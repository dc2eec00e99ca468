"""A predicted map laid over its film, on a scale that says how strong it is.

Values are told as multiples of the uniform level, what every pixel would have if the reader looked everywhere alike.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

#: The scale ends at this percentile of the map, so that a few pixels do not darken the rest.
PERCENTILE = 99.5
#: A map that stays below this many times the uniform level says hardly more than "anywhere".
NEARLY_FLAT = 2.0
#: Begins in blue: a scale that begins in black would draw shadows, which on a film have a meaning.
COLOUR_MAP = "plasma"
_MOST_OPAQUE = 0.7
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
    return max(NEARLY_FLAT, *(float(np.percentile(multiple, PERCENTILE)) for multiple in multiples))


def is_nearly_flat(multiples: NDArray[np.float32]) -> bool:
    """Whether a map hardly prefers any place; see ``NEARLY_FLAT``."""
    return float(np.percentile(multiples, PERCENTILE)) < NEARLY_FLAT


def heat_and_opacity(multiples: NDArray[np.float32], end: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How far a map is on its scale, and how opaque it is drawn.

    Args:
        multiples: (H, W) in multiples of the uniform level.
        end: See :func:`scale_end`.

    Returns:
        Both (H, W) float32 in [0, 1], and 0 at and below the uniform level.
    """
    heat = np.clip((multiples - 1) / (end - 1), 0, 1)
    return heat, _MOST_OPAQUE * np.sqrt(heat)


def blend(film: NDArray[np.uint8], multiples: NDArray[np.float32], end: float) -> NDArray[np.uint8]:
    """A film with a map over it.

    Args:
        film: (H, W).
        multiples: (H, W) in multiples of the uniform level.
        end: See :func:`scale_end`.

    Returns:
        (H, W, 3) RGB; the film itself at and below the uniform level.
    """
    heat, opacity = heat_and_opacity(multiples, end)
    # In steps of 255, because a table of colours is ten times as fast as computing each pixel's.
    steps = np.round(255 * heat).astype(np.uint8)
    table = np.round(255 * colormaps[COLOUR_MAP](np.arange(256) / 255)[:, :3]).astype(np.uint8)
    weight = opacity[..., None]
    grey = film[..., None].astype(np.float32)
    return np.round(grey + weight * (table[steps].astype(np.float32) - grey)).astype(np.uint8)


def draw_overlay(film: NDArray[np.float32], density: NDArray[np.float32], warnings: Sequence[str] = ()) -> Image.Image:
    """Draws a map over its film, with a colour bar to the right and a line below that says how strong it is.

    The film is transparent at and below the uniform level.

    Args:
        film: (H, W) in [0, 1], as :func:`gazelit.deploy.preparing.shrunk` gives it.
        density: (h, w) of the same part of the film, not negative, of any size.
        warnings: Lines that are written below, wrapped at the picture's width.

    Returns:
        A picture in RGB, wider and higher than the film by the bar and the lines.
    """
    height, width = film.shape
    multiples = over_uniform(density)
    end = scale_end(multiples)
    levels = np.round(255 * np.clip(film, 0, 1)).astype(np.uint8)
    blended = blend(levels, _resized(multiples, width, height, cv2.INTER_LINEAR), end)
    font = ImageFont.load_default(_TEXT)
    line = f"colour: multiples of the uniform level, up to the {PERCENTILE:g}th percentile"
    if is_nearly_flat(multiples):
        highest = float(np.percentile(multiples, PERCENTILE))
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
    ramp = colormaps[COLOUR_MAP](np.linspace(1, 0, height))[:, None, :3].repeat(_BAR, axis=1)
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


def _resized(values: NDArray[np.float32], width: int, height: int, method: int) -> NDArray[np.float32]:
    return cv2.resize(values, (width, height), interpolation=method).astype(np.float32, copy=False)
