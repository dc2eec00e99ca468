"""Scores of a model's density of the next fixation, given the true fixations before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gazelit.errors import InputError
from gazelit.metrics.scanpath.paths import Paths, is_one_path
from gazelit.metrics.scanpath.values import Scores, Settings, wrap

#: Greatest distance of a density's sum from 1: the error of float32 over a large map.
TOLERANCE = 1e-3


class Conditional(NamedTuple):
    """Scores by fixation, in the order of the fixations that are scored.

    Attributes:
        ig: Information gain over the baseline in bits.
        nss: The density at the fixation, standardised over the image.
        auc: Share of the image's pixels with a lower density than the fixation's; ties count one half.
    """

    ig: Scores
    nss: Scores
    auc: Scores


def conditional_scores(log_density: Any, fixations: Any, baseline: Any) -> Conditional:
    """Conditional IG, NSS and AUC of single fixations.

    Source: Kümmerer and Bethge, arXiv 2102.12239 (2021); pysaliency.

    Args:
        log_density: (N, H, W) natural logarithm of the density of the next fixation over the pixels, for each scored
            fixation given the fixations before it.
        fixations: (N, 2) or (N, 3) x, y (pixels from the upper left corner); a third column is not used.
        baseline: (H, W) or (N, H, W) logarithm of the baseline's density, such as the training set's centre bias.

    Returns:
        The three scores of every fixation, float64. A density of zero at a fixation gains −∞ bits.

    Raises:
        InputError: Shapes do not fit, a density does not sum to 1, or a fixation lies off the image or is not finite.
    """
    log_density = torch.as_tensor(log_density).detach()
    baseline = torch.as_tensor(baseline, device=log_density.device).detach()
    fixations = fixations.detach() if isinstance(fixations, Tensor) else np.asarray(fixations, np.float64)
    if log_density.ndim != 3:
        raise InputError(f"log_density: must be (N, H, W), not {tuple(log_density.shape)}")
    count, height, width = log_density.shape
    xy = torch.as_tensor(fixations, dtype=torch.float64, device=log_density.device)
    if xy.ndim != 2 or xy.shape[0] != count or xy.shape[1] < 2:
        raise InputError(f"fixations: must be ({count}, 2) or ({count}, 3), as log_density is, not {tuple(xy.shape)}")
    if baseline.shape[-2:] != (height, width) or baseline.shape[:-2] not in ((), (1,), (count,)):
        raise InputError(
            f"baseline: must be ({height}, {width}) or ({count}, {height}, {width}), not {tuple(baseline.shape)}"
        )
    for name, values in (("log_density", log_density), ("baseline", baseline)):
        total = values.double().flatten(-2).logsumexp(-1)
        if not bool((total.abs() < TOLERANCE).all()):
            raise InputError(f"{name}: is no logarithm of a density (a map must sum to 1); take log_softmax over it")
    inside = (xy[:, 0] >= 0) & (xy[:, 0] <= width) & (xy[:, 1] >= 0) & (xy[:, 1] <= height)
    if not bool(inside.all()):
        number = int((~inside).nonzero()[0]) + 1
        raise InputError(
            f"fixations: number {number} lies off the image of {width} × {height} pixels, or is not finite; leave it "
            "out"
        )
    column, row = (xy[:, axis].floor().long() for axis in (0, 1))
    pixel = row.clamp(max=height - 1) * width + column.clamp(max=width - 1)
    log = log_density.double().flatten(1)
    at_fixation = log.gather(1, pixel[:, None])
    base = baseline.double().flatten(-2).expand(count, -1).gather(1, pixel[:, None])
    density = log.exp()
    mean = density.mean(dim=1)
    deviation = (density - mean[:, None]).square().mean(dim=1).sqrt()
    flat = (log == log[:, :1]).all(dim=1)
    nss = (at_fixation[:, 0].exp() - mean) / torch.where(flat, 1.0, deviation)
    below = (log < at_fixation).double().sum(dim=1) + (log == at_fixation).double().sum(dim=1) / 2
    results = {
        "ig": ((at_fixation - base)[:, 0] / math.log(2), "conditional IG"),
        "nss": (torch.where(flat, 0.0, nss), "conditional NSS"),
        "auc": (below / (height * width), "conditional AUC"),
    }
    size = (float(width), float(height))
    settings = {
        name: Settings(title, size, length_rule="by fixation", parameters=(("unit", "bits"),) if name == "ig" else ())
        for name, (_, title) in results.items()
    }
    return Conditional(**{name: Scores(value.cpu().numpy(), settings[name]) for name, (value, _) in results.items()})


def conditional_ig(log_density: Any, path: Any, baseline: Any, *, given: int = 1) -> Any:
    """Conditional information gain: the mean over fixations of log2 p(f_i | image, f_<i) − log2 b(f_i), in bits.

    Args:
        log_density: (n, H, W) natural logarithm of the density of each fixation given the true fixations before it; a
            list of these for a list of paths. Those of the ``given`` fixations are ignored.
        path: (n, 3) array of x, y (pixels from the upper left corner) and duration (s), or a list of such.
        baseline: (H, W) logarithm of the baseline's density; for lists one for all, or one for each path.
        given: Number of fixations at the start that are given and not scored.

    Returns:
        A :class:`Score`, or :class:`Scores` for lists; 0 for the baseline itself, NaN for a path with no fixation to
        score.

    Raises:
        InputError: See :func:`conditional_scores`.
    """
    return _means("ig", log_density, path, baseline, given)


def conditional_nss(log_density: Any, path: Any, *, given: int = 1) -> Any:
    """Conditional NSS: the mean over fixations of the standardised density at the fixation.

    Args:
        log_density: See :func:`conditional_ig`.
        path: See :func:`conditional_ig`.
        given: See :func:`conditional_ig`.

    Returns:
        A :class:`Score`, or :class:`Scores` for lists; 0 for a constant density.

    Raises:
        InputError: See :func:`conditional_scores`.
    """
    return _means("nss", log_density, path, None, given)


def conditional_auc(log_density: Any, path: Any, *, given: int = 1) -> Any:
    """Conditional AUC: the mean over fixations of the percentile of the density at the fixation.

    Args:
        log_density: See :func:`conditional_ig`.
        path: See :func:`conditional_ig`.
        given: See :func:`conditional_ig`.

    Returns:
        A :class:`Score` in [0, 1], or :class:`Scores` for lists; ½ for a constant density.

    Raises:
        InputError: See :func:`conditional_scores`.
    """
    return _means("auc", log_density, path, None, given)


def scored_fixations(log_density: Any, path: Any, baseline: Any | None, given: int) -> list[Conditional]:
    """The scores by fixation of one path or several; see :func:`conditional_ig`."""
    if given < 0:
        raise InputError(f"given: must not be below 0, is {given}")
    is_single = is_one_path(path)
    maps: Sequence[Any] = [log_density] if is_single else list(log_density)
    paths = Paths.of([path] if is_single else list(path), "path")
    if len(maps) != len(paths):
        raise InputError(f"log_density: has maps of {len(maps)} paths, but path has {len(paths)}")
    shared = baseline is None or (hasattr(baseline, "ndim") and baseline.ndim == 2)
    bases = [baseline] * len(maps) if shared else list(baseline or ())
    if len(bases) != len(maps):
        raise InputError(f"baseline: has {len(bases)} maps for {len(maps)} paths; give one, or one for each")
    results = []
    for density, base, first, last in zip(maps, bases, paths.first, paths.last, strict=True):
        density = torch.as_tensor(density)
        if density.ndim != 3 or len(density) != last - first:
            raise InputError(
                f"log_density: must be ({last - first}, H, W), one map for each fixation of its path, "
                f"not {tuple(density.shape)}"
            )
        scored = density[given:]
        # NSS and AUC do not depend on the baseline.
        base = scored if base is None else base
        results.append(conditional_scores(scored, paths.points[first + given : last], base))
    return results


def _means(name: str, log_density: Any, path: Any, baseline: Any | None, given: int) -> Any:
    scores = [getattr(scored, name) for scored in scored_fixations(log_density, path, baseline, given)]
    values = np.array([scored.values.mean() if len(scored) else np.nan for scored in scores])
    settings = scores[0].settings if scores else Settings(f"conditional {name.upper()}")
    settings = Settings(
        settings.metric,
        settings.size,
        length_rule="mean over fixations",
        parameters=(*settings.parameters, ("given", given)),
    )
    return wrap(values, settings, is_one_path(path))
