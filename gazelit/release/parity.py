"""Comparison of an exported network's outputs with those of the trained network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gazelit.data.images.geometry import Letterbox
from gazelit.deploy.graph import OUTPUTS
from gazelit.metrics.functional import cc
from gazelit.synthetic.case import plan_cohort, simulate_case

#: Greatest difference of a probability and least CC of the maps that a float32 export may have.
LARGEST_PROBABILITY_DIFFERENCE, LEAST_CC = 1e-4, 0.9999
#: Seed of the synthetic films, which are a cohort of their own, and their number.
_SEED, _FILMS = 20_261_126, 6
#: Sizes of the compared batches: a single image, and a number other than that of the tracing.
_BATCHES = (1, 2, 3)

Network = Callable[[Tensor], Mapping[str, Tensor]]


def synthetic_films(size: tuple[int, int], films: int = _FILMS) -> list[NDArray[np.float32]]:
    """Synthetic chest films, each (h, w) in [0, 1], portrait and landscape; every call gives the same films.

    Args:
        size: Working resolution (H, W); the films' longer side is a quarter greater.
        films: Number of films.
    """
    plans = plan_cohort(films, _SEED, round(1.25 * max(size)))
    return [simulate_case(plan, _SEED).film for plan in plans]


def working_images(films: Sequence[NDArray[np.float32]], size: tuple[int, int]) -> Tensor:
    """Films at the working size, (N, 1, H, W) float32."""
    boxes = [Letterbox.fit(film.shape[0], film.shape[1], size) for film in films]
    return torch.from_numpy(np.stack([box.apply(film) for box, film in zip(boxes, films, strict=True)]))[:, None]


def compare(trained: Network, exported: Network, images: Tensor) -> dict[str, Any]:
    """Measures how far an exported network is from the trained network, over batches of several sizes.

    Args:
        trained: The trained network; gives :data:`gazelit.deploy.graph.OUTPUTS`.
        exported: The exported network; gives the same outputs.
        images: (N, 1, H, W), N at least the sum of the batches.

    Returns:
        ``images`` and ``batches``; ``largest_difference`` by output; ``least_cc`` of the maps if there are any.
    """
    largest: dict[str, float] = {}
    least = float("inf")
    start = 0
    with torch.inference_mode():
        for count in _BATCHES:
            part = images[start : start + count]
            start += count
            expected, given = trained(part), exported(part)
            for name in OUTPUTS:
                if name in expected:
                    difference = float((expected[name].double() - given[name].double()).abs().max())
                    # Unlike the builtin max, numpy's keeps NaN.
                    largest[name] = float(np.maximum(largest.get(name, 0.0), difference))
            if "saliency" in expected:
                found = cc(given["saliency"][:, 0], expected["saliency"][:, 0])
                # A map that is the same everywhere has no correlation.
                same = (given["saliency"] == expected["saliency"]).flatten(1).all(1)
                least = float(np.minimum(least, float(found.where(~same, 1.0).min())))
    report: dict[str, Any] = {"images": start, "batches": list(_BATCHES), "largest_difference": largest}
    return report | ({} if np.isinf(least) else {"least_cc": least})


def shortfall(report: Mapping[str, Any]) -> str | None:
    """Describes by how much a comparison exceeds the limits of a float32 export; None if it keeps them."""
    found = []
    difference = report["largest_difference"].get("probabilities", 0.0)
    if not difference <= LARGEST_PROBABILITY_DIFFERENCE:
        found.append(f"probabilities differ by up to {difference:.2g} (allowed: {LARGEST_PROBABILITY_DIFFERENCE:g})")
    if not report.get("least_cc", 1.0) >= LEAST_CC:
        found.append(f"maps have a CC down to {report['least_cc']:.6f} (allowed: {LEAST_CC:g})")
    return "; ".join(found) or None
