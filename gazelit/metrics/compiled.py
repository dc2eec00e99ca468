"""Loops that numba compiles, kept on disk between processes where there is a folder for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any], parallel: bool = False) -> Callable[..., Any]:
    """A function compiled by numba.

    Sums may be reordered, so that they fill vector registers; NaN and infinity keep their meaning.

    Args:
        function: What numba can compile.
        parallel: Whether ``numba.prange`` runs in threads.
    """
    options: dict[str, Any] = {"fastmath": {"reassoc", "nsz", "contract"}, "error_model": "numpy", "parallel": parallel}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # There is no folder to keep compiled code in: it is compiled anew in every process.
        return numba.njit(**options)(function)
