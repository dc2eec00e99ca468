"""Loops that numba compiles; the compiled code is kept on disk between processes if there is a folder for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any], parallel: bool = False, has_nan: bool = True) -> Callable[..., Any]:
    """A function compiled by numba.

    Sums may be reordered, so that they fill vector registers; infinity keeps its meaning.

    Args:
        function: A function that numba can compile.
        parallel: Whether ``numba.prange`` runs in threads.
        has_nan: Whether values may be NaN; if not, minima and maxima are vectorised too.
    """
    fastmath = {"reassoc", "nsz", "contract"} | (set() if has_nan else {"nnan"})
    options: dict[str, Any] = {"fastmath": fastmath, "error_model": "numpy", "parallel": parallel}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # There is no folder for compiled code, so every process compiles it.
        return numba.njit(**options)(function)
