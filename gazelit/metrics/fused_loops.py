"""The loops of :mod:`gazelit.metrics.fused`, compiled by numba, which is imported with them."""

from __future__ import annotations

import math
from functools import partial

import numba
import numpy as np

from gazelit.metrics.compiled import compiled

#: Pixels that are summed in float32 before their sum is added in float64.
_BLOCK = 2048
#: Ratios of densities whose logarithm is taken by :func:`_log_sum`; float32 is normal between them.
_LOWEST, _HIGHEST = np.float32(1e-37), np.float32(1e38)
# The bits of float32: √½, 1, the exponent's and the mantissa's.
_HALF_ROOT, _UNIT = np.int32(0x3F3504F3), np.int32(0x3F800000)
_EXPONENT, _MANTISSA = np.int32(0x7F800000), np.int32(0x007FFFFF)
_LN2 = np.float32(math.log(2) * 2.0**-23)


@compiled
def _block_moments(predicted, observed, fixations, shift, shift_target, ratio, sums):  # type: ignore[no-untyped-def]
    zero = np.float32(0)
    x, y, xx, yy, xy, hits, xf, fraction = zero, zero, zero, zero, zero, zero, zero, zero
    odd = zero
    for pixel in range(len(predicted)):
        a, b, f = predicted[pixel], observed[pixel], fixations[pixel]
        left, right = a - shift, b - shift_target
        x += left
        y += right
        xx += left * left
        yy += right * right
        xy += left * right
        hits += f
        xf += left * f
        fraction += abs(f - np.floor(f))
        quotient = b / a
        ratio[pixel] = quotient
        odd += zero if (b == zero) | ((quotient >= _LOWEST) & (quotient <= _HIGHEST)) else np.float32(1)
    for number, value in enumerate((x, y, xx, yy, xy, hits, xf, fraction)):
        sums[number] += value
    return odd


@compiled
def _split(bits, exponent, mantissa):  # type: ignore[no-untyped-def]
    # r = 2^e · m with m in [√½, √2): e times 2^23 as an integer, and the bits of m.
    for pixel in range(len(bits)):
        moved = np.int32(bits[pixel] + np.int32(_UNIT - _HALF_ROOT))
        exponent[pixel] = np.int32(np.int32(moved & _EXPONENT) - _UNIT)
        mantissa[pixel] = np.int32(np.int32(moved & _MANTISSA) + _HALF_ROOT)


@compiled
def _log_sum(weight, mantissa, exponent):  # type: ignore[no-untyped-def]
    # Σ w (e ln 2 + ln m), with ln m = 2 artanh t and t = (m − 1) / (m + 1), whose series errs by 2e-9 here.
    unit, total = np.float32(1), np.float32(0)
    for pixel in range(len(weight)):
        m = mantissa[pixel]
        t = (m - unit) / (m + unit)
        s = t * t
        series = np.float32(1 / 3) + s * (np.float32(1 / 5) + s * (np.float32(1 / 7) + s * np.float32(1 / 9)))
        total += weight[pixel] * (np.float32(2) * t * (unit + s * series) + np.float32(exponent[pixel]) * _LN2)
    return total


@compiled
def _moments(predicted, observed, fixations, shift, shift_target, sums):  # type: ignore[no-untyped-def]
    ratio, exponent = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.int32)
    mantissa = np.empty(_BLOCK, np.int32)
    log_sum = 0.0
    for start in range(0, len(predicted), _BLOCK):
        size = min(_BLOCK, len(predicted) - start)
        a, b, f = predicted[start : start + size], observed[start : start + size], fixations[start : start + size]
        odd = _block_moments(a, b, f, shift, shift_target, ratio, sums)
        if odd == 0:
            _split(ratio[:size].view(np.int32), exponent, mantissa)
            log_sum += _log_sum(b, mantissa.view(np.float32), exponent)
            continue
        for pixel in range(size):
            if b[pixel] > 0:
                log_sum += b[pixel] * (math.log(b[pixel]) - math.log(a[pixel]))
    return log_sum


@compiled
def _block_common(predicted, observed, scale, scale_target):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for pixel in range(len(predicted)):
        total += min(predicted[pixel] * scale, observed[pixel] * scale_target)
    return total


@compiled
def _common(predicted, observed, scale, scale_target):  # type: ignore[no-untyped-def]
    total = 0.0
    for start in range(0, len(predicted), _BLOCK):
        total += _block_common(predicted[start : start + _BLOCK], observed[start : start + _BLOCK], scale, scale_target)
    return total


@compiled
def _is_flat(values):  # type: ignore[no-untyped-def]
    # Exact, where a variance would keep rounding errors.
    pixel = 0
    while pixel < len(values) and values[pixel] == values[0]:
        pixel += 1
    return pixel == len(values)


@compiled
def _pressed(values, valid):  # type: ignore[no-untyped-def]
    kept = np.empty_like(values)
    count = 0
    for pixel in range(len(values)):
        kept[count] = values[pixel]
        count += valid[pixel]
    return kept[:count]


@partial(compiled, parallel=True)
def values_of_maps(prediction, target, counts, valid, table):  # type: ignore[no-untyped-def]
    """Fills ``table`` (B, 4) with CC, KLD, SIM and NSS of each row; NSS is infinite if counts are not whole numbers."""
    for row in numba.prange(len(table)):
        predicted, observed, fixations = prediction[row], target[row], counts[row]
        if len(valid):
            predicted, observed, fixations = (
                _pressed(predicted, valid[row]),
                _pressed(observed, valid[row]),
                _pressed(fixations, valid[row]),
            )
        n = len(predicted)
        table[row] = math.nan
        if n == 0:
            continue
        # A value near the mean is enough for what is subtracted.
        shift, shift_target = predicted[:: max(1, n // 64)].mean(), observed[:: max(1, n // 64)].mean()
        sums = np.zeros(8)
        log_sum = _moments(predicted, observed, fixations, np.float32(shift), np.float32(shift_target), sums)
        x, y, xx, yy, xy, hits, xf, fraction = sums
        total, total_target = x + np.float32(shift) * n, y + np.float32(shift_target) * n
        variance, variance_target = max(xx - x * x / n, 0.0), max(yy - y * y / n, 0.0)
        flat, sound, sound_target = _is_flat(predicted), not math.isnan(total), not math.isnan(total_target)
        if sound and sound_target and not _is_flat(observed):
            scale = math.sqrt(variance * variance_target)
            table[row, 0] = 0.0 if flat or scale == 0 else min(1.0, max(-1.0, (xy - x * y / n) / scale))
        if sound and total_target > 0:
            table[row, 1] = log_sum / total_target + math.log(total / total_target)
            table[row, 2] = _common(predicted, observed, np.float32(1 / total), np.float32(1 / total_target))
        if sound and hits > 0:
            deviation = math.sqrt(variance / n)
            table[row, 3] = 0.0 if flat or deviation == 0 else (xf - x / n * hits) / hits / deviation
        if fraction > 0:
            table[row, 3] = math.inf
