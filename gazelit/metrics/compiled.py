"""Loops that numba compiles; they are kept on disk between processes if there is a folder for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any], parallel: bool = False, has_nan: bool = True) -> Callable[..., Any]:
    """A function compiled by numba.

    Sums may be reordered, so that they fill vector registers; infinity keeps its meaning.

    Args:
        function: What numba can compile.
        parallel: Whether ``numba.prange`` runs in threads.
        has_nan: Whether it may meet NaN; without, least and largest values fill vector registers too.
    """
    fastmath = {"reassoc", "nsz", "contract"} | (set() if has_nan else {"nnan"})
    options: dict[str, Any] = {"fastmath": fastmath, "error_model": "numpy", "parallel": parallel}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # There is no folder to keep compiled code in: it is compiled anew in every process.
        return numba.njit(**options)(function)
