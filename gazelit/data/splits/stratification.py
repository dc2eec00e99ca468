"""Iterative stratification: groups of films dealt to splits so that every label keeps its share in each.

The method is that of Sechidis, Tsoumakas and Vlahavas (On the stratification of multi-label data, ECML PKDD 2011): the
rarest label is dealt first, each of its groups to the split that still lacks most of it. Published libraries deal
single rows; here a group (a patient with several films) is dealt whole. Then groups are moved, and pairs of them
swapped, as long as this brings the counts closer to the wanted ones.

All arithmetic is on whole numbers, which float64 holds exactly below 2^53, so that the result does not depend on
platform or numerical library.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

#: Counts are compared to a hundredth of a film.
SCALE = 100
#: Every pass brings the counts closer and most gain comes in the first; this bounds the time.
MAX_PASSES = 20
#: Groups of each of two splits that are compared with each other for a swap at a time.
BLOCK = 64


def deal(
    counts: NDArray[np.int64], shares: Sequence[float], everywhere: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Deals groups to splits.

    Args:
        counts: (G, C) each group's amount of each quantity, such as films, patients, and films with a finding. The
            first column is the number of films, at least one in each group.
        shares: (S,) share of each split; their sum is 1.
        everywhere: (C,) quantities of which every split that is large enough for a group must have one, if there are as
            many groups with it as splits. Otherwise the share of a rare finding would round to none in a small split.

    Returns:
        (G,) the split of each group, from 0. A function of the order of the groups, which the caller shuffles.

    Example:
        Eight patients with a film each, four of them with a finding, to two splits of three quarters and one quarter.

        >>> counts = np.array([[1, 1], [1, 0]] * 4)
        >>> split = deal(counts, shares=(0.75, 0.25))
        >>> [counts[split == number].sum(axis=0).tolist() for number in (0, 1)]
        [[6, 3], [2, 1]]
    """
    counts = np.asarray(counts, np.int64)
    missing = _targets(counts, shares, everywhere)
    assigned = _deal_rarest_first(counts, missing)
    _even_out(counts, shares, assigned, missing)
    return assigned


def _targets(
    counts: NDArray[np.int64], shares: Sequence[float], everywhere: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    """(S, C) wanted amount of each quantity in each split, in ``SCALE``-ths."""
    targets = np.array([[round(SCALE * share * int(total)) for total in counts.sum(axis=0)] for share in shares])
    if everywhere is None:
        return targets
    roomy = np.array(shares) * len(counts) >= 1
    for column in np.flatnonzero(everywhere & ((counts > 0).sum(axis=0) >= len(shares))):
        short = roomy & (targets[:, column] < SCALE)
        lacking = int((SCALE - targets[short, column]).sum())
        targets[short, column] = SCALE
        targets[np.argmax(targets[:, column]), column] -= lacking
    return targets


def _deal_rarest_first(counts: NDArray[np.int64], missing: NDArray[np.int64]) -> NDArray[np.int64]:
    """Deals every group once; subtracts from ``missing`` (S, C) the amounts that each split gets."""
    holds = counts > 0
    left = holds.sum(axis=0)
    assigned = np.full(len(counts), -1)
    members = [np.flatnonzero(column) for column in holds.T]
    while left.any():
        rarest = min(np.flatnonzero(left).tolist(), key=lambda column: (left[column], column))
        for group in members[rarest]:
            if assigned[group] >= 0:
                continue
            # Of splits that lack equally much of it, the one that lacks most films.
            need = list(zip(missing[:, rarest].tolist(), missing[:, 0].tolist(), strict=True))
            assigned[group] = split = need.index(max(need))
            missing[split] -= SCALE * counts[group]
            left -= holds[group]
    return assigned


def _even_out(
    counts: NDArray[np.int64], shares: Sequence[float], assigned: NDArray[np.int64], missing: NDArray[np.int64]
) -> None:
    """Moves and swaps groups while that lowers the weighted sum of the squared missing amounts.

    An error of one film changes the prevalence in a small split more than in a large one; therefore weights are 1 over
    the square of the share.
    """
    weights = [round(16 * (max(shares) / share) ** 2) for share in shares]
    for number in range(MAX_PASSES):
        changed = _move(counts, weights, assigned, missing)
        if (np.abs(missing) < SCALE).all():
            return
        for first, second in combinations(range(len(shares)), 2):
            changed |= _swap(counts, weights, assigned, missing, (first, second), number)
        if not changed:
            return


def _move(
    counts: NDArray[np.int64], weights: list[int], assigned: NDArray[np.int64], missing: NDArray[np.int64]
) -> bool:
    """Moves each group once to the split where it lowers the sum most; returns whether any was moved."""
    moved = False
    scaled = SCALE * counts
    squares = (scaled * scaled).sum(axis=1).tolist()
    for group, square in enumerate(squares):
        # Python's integers do not overflow.
        product = (missing @ scaled[group]).tolist()
        source = int(assigned[group])
        leaving = weights[source] * (2 * product[source] + square)
        changes = [leaving + weight * (square - 2 * value) for weight, value in zip(weights, product, strict=True)]
        changes[source] = 0
        target = changes.index(min(changes))
        if changes[target] < 0:
            missing[source] += scaled[group]
            missing[target] -= scaled[group]
            assigned[group] = target
            moved = True
    return moved


def _swap(
    counts: NDArray[np.int64],
    weights: list[int],
    assigned: NDArray[np.int64],
    missing: NDArray[np.int64],
    splits: tuple[int, int],
    number: int,
) -> bool:
    """Swaps groups of two splits, by blocks that differ in each pass ``number``; returns whether any was swapped."""
    swapped = False
    smaller, larger = sorted(splits, key=lambda split: int((assigned == split).sum()))
    of_smaller, of_larger = (_blocks(np.flatnonzero(assigned == split)) for split in (smaller, larger))
    if not of_smaller:
        return False
    both = SCALE**2 * (weights[smaller] + weights[larger])
    for position, right in enumerate(of_larger):
        left = of_smaller[(position + number) % len(of_smaller)]
        while True:
            left_counts, right_counts = counts[left].astype(float), counts[right].astype(float)
            slope = 2.0 * SCALE * (weights[smaller] * missing[smaller] - weights[larger] * missing[larger])
            distance = (
                (left_counts**2).sum(axis=1)[:, None] + (right_counts**2).sum(axis=1) - 2 * left_counts @ right_counts.T
            )
            change = (left_counts @ slope)[:, None] - right_counts @ slope + both * distance
            row, column = divmod(int(change.argmin()), len(right))
            if change[row, column] >= 0:
                break
            leaves, comes = left[row], right[column]
            difference = SCALE * (counts[leaves] - counts[comes])
            missing[smaller] += difference
            missing[larger] -= difference
            assigned[leaves], assigned[comes] = larger, smaller
            left[row], right[column] = comes, leaves
            swapped = True
    return swapped


def _blocks(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [groups[start : start + BLOCK] for start in range(0, len(groups), BLOCK)]
