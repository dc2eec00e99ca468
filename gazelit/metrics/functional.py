"""Saliency metrics, with a value for each image.

There are three conventions. ``gazelit``, the default, has pysaliency's definitions, with exact ranks in place of
thresholds and jitter. ``mit`` has those of the MIT saliency benchmark's MATLAB code, and ``reference`` those of the
reference implementation of Qiu, Rivaz and Xiao 2025. A convention that a metric does not name is the same as the
default or does not exist. ``docs/metrics.md`` compares them.

Everything is computed in float64. :mod:`gazelit.metrics.fused` computes the four commonest metrics together, and fast.
Maps need not be normalised. If an image has nothing to compare with (no fixation, an empty target), its value is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Convention = Literal["gazelit", "mit", "reference"]

#: MATLAB's eps, which MIT's code adds.
_EPS = 2.0**-52
#: Number of pixels that are compared first: most maps differ within them, and so are not constant.
_GLANCE = 1024


def cc(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pearson correlation of two maps.

    Args:
        prediction: (B, H, W), not negative.
        target: (B, H, W), not negative.
        mask: (B, H, W) bool, true where pixels count; all unless given.

    Returns:
        (B,) float64 in [−1, 1]; 0 for a constant prediction, NaN for a constant target.
    """

    def value(predicted: Tensor, observed: Tensor, valid: Tensor | None) -> Tensor:
        predicted, observed = _centred(predicted, valid), _centred(observed, valid)
        scale = (_dot(predicted, predicted) * _dot(observed, observed)).sqrt()
        result = _dot(predicted, observed) / torch.where(scale > 0, scale, 1.0)
        return result.clamp(-1, 1)

    result = _by_parts(value, prediction, target, mask)
    result = torch.where(_constant(prediction, mask), 0.0, result)
    return torch.where(_constant(target, mask), torch.nan, result)


def kld(prediction: Tensor, target: Tensor, mask: Tensor | None = None, convention: Convention = "gazelit") -> Tensor:
    """KL divergence of the predicted density from the target's: Σ g ln(g / p), in nats.

    A prediction of zero at a pixel where the target is not zero gives infinity; a softmax is never zero. ``mit`` has Σ
    g ln(ε + g / (p + ε)) with ε = 2⁻⁵², which is finite, and larger the smaller ε is.

    Args:
        prediction: (B, H, W), not negative.
        target: (B, H, W), not negative.
        mask: (B, H, W) bool; see :func:`cc`.
        convention: ``gazelit`` (and ``reference``), or ``mit``.

    Returns:
        (B,) float64, at least 0 (``mit``: to rounding); NaN for an empty target.

    Example:
        A uniform map has no information on a target on one pixel of four: ln 4 nats.

        >>> uniform, target = torch.ones(1, 2, 2), torch.tensor([[[0.0, 0.0], [0.0, 5.0]]])
        >>> round(kld(uniform, target).item(), 4)
        1.3863
    """

    def value(predicted: Tensor, observed: Tensor, valid: Tensor | None) -> Tensor:
        if convention == "mit":
            p, g = _density(predicted), _density(observed)
            return (g * (_EPS + g / (p + _EPS)).log()).sum(1)
        terms = torch.where(observed > 0, observed * (observed.log() - predicted.log()), 0.0)
        return terms.sum(1) / observed.sum(1) + (predicted.sum(1) / observed.sum(1)).log()

    return _by_parts(value, prediction, target, mask)


def sim(prediction: Tensor, target: Tensor, mask: Tensor | None = None, convention: Convention = "gazelit") -> Tensor:
    """Similarity: the common part of two densities, Σ min(p, g).

    ``mit`` stretches both maps to [0, 1] before it makes them densities, which removes any constant part of a
    prediction.

    Args:
        prediction: (B, H, W), not negative.
        target: (B, H, W), not negative.
        mask: (B, H, W) bool; see :func:`cc`.
        convention: ``gazelit`` (and ``reference``), or ``mit``.

    Returns:
        (B,) float64 in [0, 1]; NaN for an empty target, with ``mit`` also for a constant map.
    """

    def value(predicted: Tensor, observed: Tensor, valid: Tensor | None) -> Tensor:
        if convention == "mit":
            predicted, observed = (_stretched(values, valid) for values in (predicted, observed))
        return torch.minimum(_density(predicted), _density(observed)).sum(1)

    return _by_parts(value, prediction, target, mask)


def nss(prediction: Tensor, counts: Tensor, mask: Tensor | None = None, convention: Convention = "gazelit") -> Tensor:
    """Normalised scanpath saliency: the mean of the standardised prediction over the fixations.

    Every fixation counts, also when several share a pixel; the standard deviation is the population's. ``mit`` counts
    fixated pixels once, and its standard deviation is the sample's (N − 1). ``reference`` also has the sample's
    standard deviation, and takes a density instead of fixations too.

    Args:
        prediction: (B, H, W).
        counts: (B, H, W) number of fixations on each pixel; with ``reference`` any weights.
        mask: (B, H, W) bool; see :func:`cc`.
        convention: ``gazelit``, ``mit`` or ``reference``.

    Returns:
        (B,) float64; 0 for a constant prediction, NaN without fixations.

    Raises:
        ValueError: Counts are not whole numbers, such as a blurred map, and the convention is not ``reference``.

    Example:
        The map has mean 1 and standard deviation √3; one of two fixations lies where it is 4, the other where it is 0.

        >>> prediction = torch.tensor([[[0.0, 0.0], [0.0, 4.0]]])
        >>> counts = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> round(nss(prediction, counts).item(), 4)
        0.5774
    """

    def value(predicted: Tensor, fixations: Tensor, valid: Tensor | None) -> Tensor:
        if convention != "reference" and bool(fixations.frac().sum() != 0):
            raise ValueError("nss: counts must be whole numbers of fixations, not a blurred map")
        if convention == "mit":
            fixations = (fixations > 0).to(fixations.dtype)
        centred = _centred(predicted, valid)
        pixels = _pixels(predicted, valid) - (0 if convention == "gazelit" else 1)
        deviation = (_dot(centred, centred) / pixels).sqrt()
        return _dot(centred, fixations) / fixations.sum(1) / torch.where(deviation > 0, deviation, 1.0)

    result = _by_parts(value, prediction, counts, mask)
    return torch.where(_constant(prediction, mask) & ~result.isnan(), 0.0, result)


def emd(prediction: Tensor, target: Tensor, mask: Tensor | None = None, cell: int = 32) -> Tensor:
    """Earth mover's distance of two densities: the least work that turns the first into the second, in pixels.

    Exact optimal transport (network simplex, POT) between sums over cells, with the Euclidean distance of the cells'
    centres. MIT's code does the same on images reduced to 1/32.

    Args:
        prediction: (B, H, W), not negative.
        target: (B, H, W), not negative.
        mask: (B, H, W) bool; see :func:`cc`.
        cell: Side of a cell in pixels; cells at the right and lower border may be smaller.

    Returns:
        (B,) float64, at least 0; 0 for equal densities, NaN for an empty map.
    """
    # The import takes half a second and 40 MB, and only a test needs it.
    import ot

    height, width = prediction.shape[-2:]
    edges = [np.append(np.arange(0, size, cell), size) for size in (height, width)]
    centres = [(edge[:-1] + edge[1:] - 1) / 2 for edge in edges]
    cells = np.stack(np.meshgrid(*centres, indexing="ij"), axis=-1).reshape(-1, 2)
    work = np.linalg.norm(cells[:, None] - cells[None, :], axis=-1)
    valid = torch.ones_like(prediction, dtype=torch.bool) if mask is None else mask
    pad = (0, -width % cell, 0, -height % cell)
    coarse = [
        F.pad(torch.where(valid, maps, 0.0).double(), pad)
        .unflatten(2, (-1, cell))
        .unflatten(1, (-1, cell))
        .sum(dim=(2, 4))
        .flatten(1)
        .cpu()
        .numpy()
        for maps in (prediction, target)
    ]
    values = []
    for predicted, observed in zip(*coarse, strict=True):
        if not (predicted.sum() > 0 and observed.sum() > 0):
            values.append(float("nan"))
            continue
        values.append(float(ot.emd2(predicted / predicted.sum(), observed / observed.sum(), work)))
    return torch.tensor(values, dtype=torch.float64, device=prediction.device)


def auc_judd(
    prediction: Tensor, counts: Tensor, mask: Tensor | None = None, convention: Convention = "gazelit"
) -> Tensor:
    """Area under the ROC curve of fixated against unfixated pixels, by exact ranks; ties count one half.

    Every fixation is a positive, also when several share a pixel; the negatives are the pixels without fixation.
    There is no jitter, so the value is a function of the maps. ``mit`` draws the curve through the thresholds at the
    fixated pixels' values, each pixel counting once, without its random jitter.

    Args:
        prediction: (B, H, W).
        counts: (B, H, W) number of fixations on each pixel.
        mask: (B, H, W) bool; see :func:`cc`.
        convention: ``gazelit`` or ``mit``.

    Returns:
        (B,) float64 in [0, 1]; 0.5 for a constant prediction (``gazelit``), NaN without fixations.
    """
    predicted, fixations, valid = _flat(prediction, counts, mask)
    if convention == "mit":
        rows = [_threshold_auc(p[v], f[v] > 0) for p, f, v in zip(predicted, fixations, valid, strict=True)]
        return torch.stack(rows)
    return _rank_auc(predicted, fixations * valid, ((fixations == 0) & valid).double())


def auc_borji(prediction: Tensor, counts: Tensor, mask: Tensor | None = None) -> Tensor:
    """Area under the ROC curve of fixations against all pixels, by exact ranks; ties count one half.

    The limit of Borji's uniform sampling of negatives (pysaliency: ``nonfixations="uniform"``), without its randomness.

    Args:
        prediction: (B, H, W).
        counts: (B, H, W) number of fixations on each pixel.
        mask: (B, H, W) bool; see :func:`cc`.

    Returns:
        (B,) float64 in [0, 1]; 0.5 for a constant prediction, NaN without fixations.
    """
    predicted, fixations, valid = _flat(prediction, counts, mask)
    return _rank_auc(predicted, fixations * valid, valid.double())


def sauc(prediction: Tensor, counts: Tensor, other_counts: Tensor, mask: Tensor | None = None) -> Tensor:
    """Shuffled AUC: fixations against the fixations of other images, by exact ranks; ties count one half.

    A map that only shows where people look in general scores 0.5 in expectation. Leave images of the same patient out
    of ``other_counts``.

    Args:
        prediction: (B, H, W).
        counts: (B, H, W) number of fixations on each pixel.
        other_counts: (B, H, W) or (H, W) number of other images' fixations on each pixel, on the same grid.
        mask: (B, H, W) bool; see :func:`cc`.

    Returns:
        (B,) float64 in [0, 1]; 0.5 for a constant prediction, NaN without fixations of either kind.
    """
    predicted, fixations, valid = _flat(prediction, counts, mask)
    return _rank_auc(predicted, fixations * valid, other_counts.expand_as(prediction).double().flatten(1) * valid)


def ig(
    prediction: Tensor,
    counts: Tensor,
    baseline: Tensor,
    mask: Tensor | None = None,
    convention: Convention = "gazelit",
) -> Tensor:
    """Information gain over a baseline: the mean over fixations of log2 p − log2 b, in bits a fixation.

    Prediction and baseline are densities over the valid pixels. ``mit`` stretches both maps to [0, 1] instead and adds
    2⁻⁵², over fixated pixels: a function of the maps' extremes.

    Args:
        prediction: (B, H, W), not negative.
        counts: (B, H, W) number of fixations on each pixel.
        baseline: (B, H, W) or (H, W), not negative, such as the mean training map.
        mask: (B, H, W) bool; see :func:`cc`.
        convention: ``gazelit`` or ``mit``.

    Returns:
        (B,) float64; 0 for the baseline itself, −inf for a prediction of zero at a fixation, NaN without fixations.

    Example:
        The fixated pixel has twice the density that the baseline gives it: one bit.

        >>> prediction = torch.tensor([[[0.5, 0.25], [0.125, 0.125]]])
        >>> counts = torch.tensor([[[3.0, 0.0], [0.0, 0.0]]])
        >>> ig(prediction, counts, baseline=torch.ones(2, 2)).item()
        1.0
    """
    predicted, fixations, valid = _flat(prediction, counts, mask)
    fixations = fixations * valid
    base = baseline.expand_as(prediction).double().flatten(1)
    if convention == "mit":
        fixations = (fixations > 0).double()
        logs = [(_EPS + _stretched(values, valid)).log2() for values in (predicted, base)]
    else:
        logs = [_density(torch.where(valid, values, 0.0)).log2() for values in (predicted, base)]
    gain = torch.where(fixations > 0, (logs[0] - logs[1]) * fixations, 0.0)
    return gain.sum(1) / fixations.sum(1)


def _rank_auc(saliency: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Weighted Mann–Whitney statistic of each row: (B, P) values, weights of positives and of negatives."""
    values = []
    for row, gains, losses in zip(saliency, positive, negative, strict=True):
        levels, where = row.unique(return_inverse=True)
        positives = gains.new_zeros(len(levels)).scatter_add_(0, where, gains)
        negatives = losses.new_zeros(len(levels)).scatter_add_(0, where, losses)
        below = negatives.cumsum(0) - negatives / 2
        values.append((positives * below).sum() / (positives.sum() * negatives.sum()))
    return torch.stack(values)


def _threshold_auc(values: Tensor, fixated: Tensor) -> Tensor:
    """MIT's AUC-Judd of one map: hits and false alarms at the values of the fixated pixels, by trapezoids."""
    hits = values[fixated].sort(descending=True).values
    count = len(hits)
    if count == 0 or count == len(values):
        return values.new_tensor(torch.nan)
    ordered = values.sort().values
    above = len(values) - torch.searchsorted(ordered, hits)
    rank = torch.arange(1, count + 1, device=values.device)
    edge = values.new_zeros(1)
    true = torch.cat([edge, rank.to(values.dtype) / count, edge + 1])
    false = torch.cat([edge, (above - rank).to(values.dtype) / (len(values) - count), edge + 1])
    return torch.trapezoid(true, false)


def _by_parts(
    value: Callable[[Tensor, Tensor, Tensor | None], Tensor], first: Tensor, second: Tensor, mask: Tensor | None
) -> Tensor:
    """Values of two batches of maps, computed on parts that a processor's cache holds."""
    return torch.cat([value(*part) for part in _parts(first, second, mask)])


def _parts(first: Tensor, second: Tensor, mask: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    _check_shapes(first, second)
    # On a GPU all maps at once; on a CPU map by map, because access to memory takes most of the time.
    size = max(1, len(first)) if first.is_cuda or not len(first) else 1
    for start in range(0, max(1, len(first)), size):
        part = slice(start, start + size)
        a, b = first[part].double().flatten(1), second[part].double().flatten(1)
        valid = None if mask is None else mask[part].flatten(1)
        if valid is not None and bool(valid.all()):
            valid = None
        if valid is not None:
            a, b = torch.where(valid, a, 0.0), torch.where(valid, b, 0.0)
        yield a, b, valid


def _flat(first: Tensor, second: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    _check_shapes(first, second)
    valid = torch.ones_like(first, dtype=torch.bool) if mask is None else mask
    return first.double().flatten(1), second.double().flatten(1), valid.flatten(1)


def _check_shapes(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape or first.ndim != 3:
        raise ValueError(f"maps must both be (B, H, W), not {tuple(first.shape)} and {tuple(second.shape)}")


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Row-wise inner products."""
    return (first * second).sum(1)


def _pixels(values: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return torch.full((len(values),), values.shape[1], dtype=torch.float64, device=values.device)
    return valid.sum(1).double()


def _centred(values: Tensor, valid: Tensor | None) -> Tensor:
    """Values less their mean over the valid pixels; zero elsewhere."""
    mean = (values.sum(1) / _pixels(values, valid))[:, None]
    centred = values - mean
    return centred if valid is None else torch.where(valid, centred, 0.0)


def _density(values: Tensor) -> Tensor:
    return values / values.sum(1, keepdim=True)


def _stretched(values: Tensor, valid: Tensor | None) -> Tensor:
    """Values stretched to [0, 1] over the valid pixels; zero elsewhere, NaN for a constant map."""
    inside = torch.ones_like(values, dtype=torch.bool) if valid is None else valid
    low = torch.where(inside, values, torch.inf).amin(1, keepdim=True)
    high = torch.where(inside, values, -torch.inf).amax(1, keepdim=True)
    return torch.where(inside, (values - low) / (high - low), 0.0)


def _constant(values: Tensor, mask: Tensor | None) -> Tensor:
    """Whether each map has a single value; exact, while a variance would have rounding errors."""
    flat = values.flatten(1)
    start = flat[:, :_GLANCE]
    if mask is None and bool((start != start[:, :1]).any(1).all()):
        return torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    if mask is None:
        return (flat == flat[:, :1]).all(1)
    valid = mask.flatten(1)
    return torch.where(valid, flat, -torch.inf).amax(1) <= torch.where(valid, flat, torch.inf).amin(1)
