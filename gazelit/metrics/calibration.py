"""Calibration of probabilities by temperature scaling."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gazelit.errors import InputError

#: Bounds of a temperature; beyond them a model is always or never sure, and the fit has no minimum.
BOUNDS = (0.05, 20.0)


def probabilities(logits: Tensor, temperature: Tensor, exclusive: bool) -> Tensor:
    """Softmax of exclusive classes, or sigmoid of several labels, of logits over the temperature.

    Args:
        logits: (B, K).
        temperature: (K,).
        exclusive: Whether one class of each image is true.

    Returns:
        (B, K) float32.
    """
    scaled = logits.float() / temperature.to(logits.device)
    return scaled.softmax(1) if exclusive else scaled.sigmoid()


def negative_log_likelihood(logits: Tensor, label: Tensor, temperature: Tensor) -> float:
    """Mean negative log-likelihood in nats, over images or known labels; see :func:`fit_temperature`."""
    scaled = logits.double() / temperature.double()
    if not label.is_floating_point():
        return float(F.cross_entropy(scaled, label))
    known = ~label.isnan()
    return float(F.binary_cross_entropy_with_logits(scaled[known], label[known].double()))


def fit_temperature(logits: Tensor, label: Tensor) -> Tensor:
    """The temperature that makes labels likeliest (Guo et al. 2017, On calibration of modern neural networks).

    Exclusive classes share a temperature; several labels have a temperature each, fitted to the images whose label is
    known. It divides the logits, so that no decision between classes changes.

    Args:
        logits: (N, K), of images that the model was not trained on.
        label: (N,) int64 classes, or (N, K) float32 of 0, 1 and NaN.

    Returns:
        (K,) float32, within ``BOUNDS``; 1 for a label that is never known or always the same.

    Raises:
        InputError: Logits are not finite, or there are none.

    Example:
        Three of four cases are right, where the logits say 88 %; divided by 2 / ln 3 they say 75 %.

        >>> logits = torch.tensor([[2.0, 0.0]]).repeat(4, 1)
        >>> [round(value, 3) for value in fit_temperature(logits, torch.tensor([0, 0, 0, 1])).tolist()]
        [1.82, 1.82]
    """
    if not len(logits) or not logits.isfinite().all():
        raise InputError("calibration: the logits of the validation split are missing or not finite")
    if not label.is_floating_point():
        return torch.full((logits.shape[1],), _fit(logits, label))
    fitted = []
    for column, truth in zip(logits.T, label.T, strict=True):
        known = ~truth.isnan()
        varied = truth[known].unique().numel() > 1
        fitted.append(_fit(column[known][:, None], truth[known][:, None]) if varied else 1.0)
    return torch.tensor(fitted)


def _fit(logits: Tensor, label: Tensor) -> float:
    # Imported here, because it takes 15 MB and only a fit needs it.
    from scipy.optimize import minimize_scalar

    result = minimize_scalar(
        lambda log: negative_log_likelihood(logits, label, torch.tensor(math.exp(log))),
        bounds=(math.log(BOUNDS[0]), math.log(BOUNDS[1])),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(result.x)
