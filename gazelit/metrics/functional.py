"""Saliency metrics, one value an image.

The definitions are pysaliency's, computed in float64 over the valid pixels of each image. Maps need not be normalised.
Where an image has nothing to compare with (no fixation, an empty target), its value is NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cc(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pearson correlation of two maps.

    Args:
        prediction: (B, H, W), not negative.
        target: (B, H, W), not negative.
        mask: (B, H, W) bool, true where pixels count; all unless given.

    Returns:
        (B,) float64 in [−1, 1]; 0 for a constant prediction, NaN for a constant target.
    """
    one, other, valid = _flat(prediction, target, mask)
    one, other = _centred(one, valid), _centred(other, valid)
    scale = (one.square().sum(1) * other.square().sum(1)).sqrt()
    value = (one * other).sum(1) / torch.where(scale > 0, scale, 1.0)
    return torch.where(_constant(target, mask), torch.nan, value)


def kld(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL divergence of the predicted density from the target's: Σ g ln(g / p), in nats.

    A prediction of zero where the target is not is infinitely wrong; a softmax is never zero.

    Args:
        prediction: (B, H, W), not negative.
        target: (B, H, W), not negative.
        mask: (B, H, W) bool; see :func:`cc`.

    Returns:
        (B,) float64, at least 0; NaN for an empty target.
    """
    one, other, valid = _flat(prediction, target, mask)
    p, g = _density(one, valid), _density(other, valid)
    return torch.where(g > 0, g * (g.log() - p.log()), g).sum(1)


def sim(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Similarity: what two densities share, Σ min(p, g).

    Args:
        prediction: (B, H, W), not negative.
        target: (B, H, W), not negative.
        mask: (B, H, W) bool; see :func:`cc`.

    Returns:
        (B,) float64 in [0, 1]; NaN for an empty target.
    """
    one, other, valid = _flat(prediction, target, mask)
    return torch.minimum(_density(one, valid), _density(other, valid)).sum(1)


def nss(prediction: Tensor, counts: Tensor, mask: Tensor | None = None) -> Tensor:
    """Normalised scanpath saliency: the mean of the standardised prediction over the fixations.

    Every fixation counts, also when several share a pixel; the standard deviation is the population's.

    Args:
        prediction: (B, H, W).
        counts: (B, H, W) number of fixations on each pixel.
        mask: (B, H, W) bool; see :func:`cc`.

    Returns:
        (B,) float64; 0 for a constant prediction, NaN without fixations.
    """
    one, fixations, valid = _flat(prediction, counts, mask)
    centred = _centred(one, valid)
    deviation = (centred.square().sum(1) / valid.sum(1)).sqrt()
    fixations = fixations * valid
    value = (centred * fixations).sum(1) / fixations.sum(1) / torch.where(deviation > 0, deviation, 1.0)
    return torch.where(_constant(prediction, mask) & (fixations.sum(1) > 0), 0.0, value)


def auc_judd(prediction: Tensor, counts: Tensor, mask: Tensor | None = None) -> Tensor:
    """Area under the ROC curve of fixated against unfixated pixels, by exact ranks; ties count one half.

    Every fixation is a positive, also when several share a pixel; the negatives are the pixels without fixation.
    There is no jitter, so the value is a function of the maps.

    Args:
        prediction: (B, H, W).
        counts: (B, H, W) number of fixations on each pixel.
        mask: (B, H, W) bool; see :func:`cc`.

    Returns:
        (B,) float64 in [0, 1]; 0.5 for a constant prediction, NaN without fixations.
    """
    one, fixations, valid = _flat(prediction, counts, mask)
    return _rank_auc(one, fixations * valid, ((fixations == 0) & valid).double())


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
    one, fixations, valid = _flat(prediction, counts, mask)
    return _rank_auc(one, fixations * valid, valid.double())


def sauc(prediction: Tensor, counts: Tensor, others: Tensor, mask: Tensor | None = None) -> Tensor:
    """Shuffled AUC: fixations against the fixations of other images, by exact ranks; ties count one half.

    A map that says no more than where people look in general scores 0.5 in expectation. Leave images of the same
    patient out of ``others``.

    Args:
        prediction: (B, H, W).
        counts: (B, H, W) number of fixations on each pixel.
        others: (B, H, W) or (H, W) number of other images' fixations on each pixel, on the same grid.
        mask: (B, H, W) bool; see :func:`cc`.

    Returns:
        (B,) float64 in [0, 1]; 0.5 for a constant prediction, NaN without fixations of either kind.
    """
    one, fixations, valid = _flat(prediction, counts, mask)
    return _rank_auc(one, fixations * valid, others.expand_as(prediction).double().flatten(1) * valid)


def ig(prediction: Tensor, counts: Tensor, baseline: Tensor, mask: Tensor | None = None) -> Tensor:
    """Information gain over a baseline: the mean over fixations of log2 p − log2 b, in bits a fixation.

    Prediction and baseline are densities over the valid pixels (pysaliency's definition; MIT's stretches both maps to
    [0, 1] first, which makes it a function of their extremes).

    Args:
        prediction: (B, H, W), not negative.
        counts: (B, H, W) number of fixations on each pixel.
        baseline: (B, H, W) or (H, W), not negative, such as the mean training map.
        mask: (B, H, W) bool; see :func:`cc`.

    Returns:
        (B,) float64; 0 for the baseline itself, −inf for a prediction of zero at a fixation, NaN without fixations.
    """
    one, fixations, valid = _flat(prediction, counts, mask)
    fixations = fixations * valid
    gain = _density(one, valid).log2() - _density(baseline.expand_as(prediction).double().flatten(1), valid).log2()
    return torch.where(fixations > 0, gain * fixations, 0.0).sum(1) / fixations.sum(1)


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


def _flat(one: Tensor, other: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    if one.shape != other.shape or one.ndim != 3:
        raise ValueError(f"maps must both be (B, H, W), not {tuple(one.shape)} and {tuple(other.shape)}")
    valid = torch.ones_like(one, dtype=torch.bool) if mask is None else mask
    return one.double().flatten(1), other.double().flatten(1), valid.flatten(1)


def _centred(values: Tensor, valid: Tensor) -> Tensor:
    mean = torch.where(valid, values, 0.0).sum(1) / valid.sum(1)
    return torch.where(valid, values - mean[:, None], 0.0)


def _density(values: Tensor, valid: Tensor) -> Tensor:
    values = torch.where(valid, values, 0.0)
    return values / values.sum(1, keepdim=True)


def _constant(values: Tensor, mask: Tensor | None) -> Tensor:
    """Whether each map has one value only; exact, where a variance would keep rounding errors."""
    flat = values.double().flatten(1)
    if mask is None:
        return flat.amax(1) == flat.amin(1)
    valid = mask.flatten(1)
    return torch.where(valid, flat, -torch.inf).amax(1) == torch.where(valid, flat, torch.inf).amin(1)
