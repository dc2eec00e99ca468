"""A film with numbered circles drawn over it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont


class FilmSketch:
    """Draws over a film in pixels of the whole film.

    Args:
        film: (h, w) as :func:`gazelit.deploy.preparing.shrunk` gives it.
        shape: Height and width of the whole film.
        colour: Of all that is drawn.
        text: Height of the numbers in pixels of the picture.

    Attributes:
        picture: The film with what was drawn.
    """

    def __init__(self, film: NDArray[np.uint8], shape: tuple[int, int], colour: str, text: int) -> None:
        self.picture = Image.fromarray(film).convert("RGB")
        self._draw, self._font, self._colour = ImageDraw.Draw(self.picture), ImageFont.load_default(text), colour
        self._scale = np.array(film.shape[::-1]) / np.array(shape[::-1])

    def line(self, points: NDArray[np.float64]) -> None:
        """Draws a line through points, (n, 2) x, y in pixels of the whole film."""
        self._draw.line([tuple(point) for point in self._on_picture(points)], fill=self._colour, width=1)

    def circle(self, centre: NDArray[np.float64], number: int, radius: float) -> None:
        """Draws a numbered circle about a point, (2,) x, y; the radius, too, is in pixels of the whole film."""
        x, y = self._on_picture(centre)
        across, down = radius * self._scale
        self._draw.ellipse((x - across, y - down, x + across, y + down), outline=self._colour, width=1)
        self._draw.text((x, y), str(number), fill=self._colour, font=self._font, anchor="mm")

    def _on_picture(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (points + 0.5) * self._scale - 0.5
        return found
