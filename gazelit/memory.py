"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes

import pyarrow as pa


def give_back() -> None:
    """Gives back what Arrow and the C library keep of freed memory, which would count beside what is held later."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    # Of the GNU library alone.
    if trim is not None:
        trim(0)
