"""The expected density of a film's fixations: a mixture of Gaussians about its landmarks and items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from gazelit.data.images.geometry import Letterbox
from gazelit.synthetic import search
from gazelit.synthetic.search import BIAS_SPREAD, CM_PER_DEGREE, NOISE

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GazeMixture:
    """Expected density of the fixations on a film, given no earlier fixation.

    The shares of the targets are simulated; the density about each target is exact, tracker noise and bias included.

    Attributes:
        spots: (T, 2) the targets, cm from the film's centre.
        spread: (T,) standard deviation of where the eye lands (cm).
        extent: (width, height) of the film (cm).
        readers: (R,) numbers, in the panel, of the possible readers; each is equally likely.
        by_fixation: (R, T) share of the fixations that a reader spends on each target.
        by_duration: (R, T) share of the time.
    """

    spots: Floats
    spread: Floats
    extent: tuple[float, float]
    readers: NDArray[np.int64]
    by_fixation: Floats
    by_duration: Floats

    def density(self, shape: tuple[int, int], sigma: float = 0.0, weighted: bool = True) -> Floats:
        """The density on a grid that covers the film.

        Args:
            shape: (H, W) of the grid.
            sigma: Gaussian blur added (cm of film).
            weighted: Whether fixations are weighted by duration; each counts the same if not.

        Returns:
            (H, W) float64, sums to 1.
        """
        width, height = self.extent
        total = np.zeros(shape)
        bias = search.whole_panel().bias[self.readers] * CM_PER_DEGREE
        spread = np.sqrt(self.spread**2 + NOISE**2 + (BIAS_SPREAD * CM_PER_DEGREE) ** 2 + sigma**2)
        shares = self.by_duration if weighted else self.by_fixation
        for share, shift in zip(shares, bias, strict=True):
            columns = cell_masses(self.spots[:, 0] + shift[0], spread, width, shape[1])
            rows = cell_masses(self.spots[:, 1] + shift[1], spread, height, shape[0])
            total += (rows * share[:, None]).T @ columns
        return total / total.sum()

    def on_canvas(self, letterbox: Letterbox, sigma: float = 0.0, weighted: bool = True) -> Floats:
        """The density at a store's working resolution: (H, W), 0 on the padding; sums to 1.

        Args:
            letterbox: Letterbox of the case (``Store.letterboxes[row]``).
            sigma: As in :meth:`density`.
            weighted: As in :meth:`density`.
        """
        rows, columns = letterbox.inner
        canvas = np.zeros(letterbox.size)
        canvas[letterbox.top : letterbox.top + rows, letterbox.left : letterbox.left + columns] = self.density(
            letterbox.inner, sigma, weighted
        )
        return canvas


def cell_masses(centre: Floats, spread: Floats, length: float, cells: int) -> Floats:
    """Mass of Gaussians (K,) in each of the cells of [−length / 2, length / 2]: (K, cells)."""
    edges = (np.linspace(-length / 2, length / 2, cells + 1) - centre[:, None]) / spread[:, None]
    low, high = edges[:, :-1], edges[:, 1:]
    # Above the centre the upper tail is used: 1 − Φ would round to 0 from 8 σ on.
    return np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
