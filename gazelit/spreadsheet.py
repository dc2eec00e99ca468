"""CSV files that people open in a spreadsheet."""

from __future__ import annotations

from typing import Any

import pandas as pd

#: A cell that begins so may be run as a formula.
_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "\n")


def without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before text that a spreadsheet would run as a formula, in cells and header.

    Numbers, also those that are held as text, stay as they are (OWASP, CSV injection).
    """
    safe = table.rename(columns=harmless)
    for name in safe.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in safe.dtypes]]:
        safe[name] = safe[name].map(harmless)
    return safe


def harmless(cell: Any) -> Any:
    """A cell as it may stand in a CSV file; see :func:`without_formulas`."""
    if not isinstance(cell, str) or not cell.startswith(_BEGINNINGS):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
