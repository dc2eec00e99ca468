"""Iterative stratification: groups of films dealt to splits so that every label keeps its share in each.

The method is that of Sechidis, Tsoumakas and Vlahavas (On the stratification of multi-label data, ECML PKDD 2011): the
rarest label is dealt first, each of its groups to the split that still wants most of it. Published libraries deal
single rows; here a group (a patient with several films) is dealt whole, and what that leaves uneven is evened out by
moving single groups as long as a move brings the counts closer to the wanted ones.

All arithmetic is on integers, so that the result does not depend on platform or numerical library.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Counts are compared to a hundredth of a film.
SCALE = 100
#: Every pass brings the counts closer and most gain comes in the first; this bounds the time.
MAX_PASSES = 20


def deal(
    counts: NDArray[np.int64], shares: Sequence[float], everywhere: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Deals groups to splits.

    Args:
        counts: (G, C) what each group holds of each quantity, such as films, patients, and films with a finding. The
            first column is of films, and every group has one at least.
        shares: (S,) share of each split; their sum is 1.
        everywhere: (C,) quantities of which every split large enough for a group is to have one, if there are as many
            groups with it as splits: else the share of a rare finding rounds to none in a small split.

    Returns:
        (G,) the split of each group, from 0. A function of the order of the groups, which the caller shuffles.
    """
    counts = np.asarray(counts, np.int64)
    missing = _wanted(counts, shares, everywhere)
    assigned = _deal_rarest_first(counts, missing)
    _even_out(counts, shares, assigned, missing)
    return assigned


def _wanted(
    counts: NDArray[np.int64], shares: Sequence[float], everywhere: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    """(S, C) how much of each quantity each split wants, in ``SCALE``-ths."""
    wanted = np.array([[round(SCALE * share * int(total)) for total in counts.sum(axis=0)] for share in shares])
    if everywhere is None:
        return wanted
    roomy = np.array(shares) * len(counts) >= 1
    for column in np.flatnonzero(everywhere & ((counts > 0).sum(axis=0) >= len(shares))):
        short = roomy & (wanted[:, column] < SCALE)
        lacking = int((SCALE - wanted[short, column]).sum())
        wanted[short, column] = SCALE
        wanted[np.argmax(wanted[:, column]), column] -= lacking
    return wanted


def _deal_rarest_first(counts: NDArray[np.int64], missing: NDArray[np.int64]) -> NDArray[np.int64]:
    """Deals every group once; lowers ``missing`` (S, C) by what each split gets."""
    has = counts > 0
    left = has.sum(axis=0)
    assigned = np.full(len(counts), -1)
    members = [np.flatnonzero(column) for column in has.T]
    while left.any():
        rarest = min(np.flatnonzero(left).tolist(), key=lambda column: (left[column], column))
        for group in members[rarest]:
            if assigned[group] >= 0:
                continue
            # Of splits that want equally much of it, the one that wants most films.
            want = list(zip(missing[:, rarest].tolist(), missing[:, 0].tolist(), strict=True))
            assigned[group] = split = want.index(max(want))
            missing[split] -= SCALE * counts[group]
            left -= has[group]
    return assigned


def _even_out(
    counts: NDArray[np.int64], shares: Sequence[float], assigned: NDArray[np.int64], missing: NDArray[np.int64]
) -> None:
    """Moves groups, one at a time, while that lowers the weighted sum of the squares of what is missing.

    An error of one film changes the prevalence in a small split more than in a large one: hence 1 over the square of
    the share as weight.
    """
    weights = [max(1, round(16 / share**2)) for share in shares]
    scaled = SCALE * counts
    squares = (scaled * scaled).sum(axis=1).tolist()
    for _ in range(MAX_PASSES):
        moved = False
        for group, square in enumerate(squares):
            # Python's integers do not overflow.
            product = (missing @ scaled[group]).tolist()
            source = int(assigned[group])
            leaving = weights[source] * (2 * product[source] + square)
            changes = [leaving + weight * (square - 2 * value) for weight, value in zip(weights, product, strict=True)]
            changes[source] = 0
            target = changes.index(min(changes))
            if target != source and changes[target] < 0:
                missing[source] += scaled[group]
                missing[target] -= scaled[group]
                assigned[group] = target
                moved = True
        if not moved:
            return
