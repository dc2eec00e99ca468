"""Words and numbers of a report as Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from gazelit.evaluation.statistics import Estimate

#: What stands for a number that is undefined or infinite.
DASH = "–"
_MARKUP = re.compile(r"[\\`*\[\]|]|<(?=\S)|&(?=[#\w])")


def plain(name: object) -> str:
    """A name from the data as text: no part of it is markup, ends a table's cell or starts another line."""
    return _MARKUP.sub(lambda match: f"\\{match[0]}", " ".join(str(name).split()))


def code(name: object) -> str:
    """A name from the data between backticks; characters that would end it, or a table's cell, are replaced."""
    return "`" + " ".join(str(name).split()).replace("`", "'").replace("|", "/") + "`"


def row(cells: Sequence[object]) -> str:
    """A table's row of cells that are Markdown already."""
    return f"| {' | '.join(map(str, cells))} |"


def header(cells: Sequence[object]) -> list[str]:
    """A table's first two lines."""
    return [row(cells), "|---" * len(cells) + "|"]


def is_number(value: float | None) -> bool:
    """Whether a value can be printed: neither missing nor undefined nor infinite."""
    return value is not None and math.isfinite(value)


def number(value: float | None, signed: bool = False) -> str:
    """Three decimals, or a dash."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def interval(low: float | None, high: float | None, signed: bool = False) -> str:
    """``low to high``, or a dash."""
    if not is_number(low) or not is_number(high):
        return DASH
    return f"{number(low, signed)} to {number(high, signed)}"


def with_interval(estimate: Estimate | None, further: Sequence[str] = ()) -> str:
    """``value (low to high; further …)``, as much of it as is known."""
    if estimate is None or not is_number(estimate.value):
        return DASH
    parts = [interval(estimate.low, estimate.high)] if is_number(estimate.low) else []
    parts += further
    return number(estimate.value) + (f" ({'; '.join(parts)})" if parts else "")


def p_value(p: float) -> str:
    """A p, or a dash where there is none."""
    return DASH if not is_number(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
