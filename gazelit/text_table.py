"""Tables as text, on a console or in a file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """Rows of cells as lines whose columns stand below each other, two blanks apart.

    Args:
        rows: Of one length; the first holds the headings.
        left: Numbers of the columns that are flush left; the others are flush right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = enumerate(zip(row, widths, strict=True))
        return "  ".join(text.ljust(n) if column in left else text.rjust(n) for column, (text, n) in cells)

    return "".join(f"{line(row).rstrip()}\n" for row in rows)


def wide_console() -> Console:
    """A console of rich's; a file or a pipe is not cut at the 80 columns of a terminal that is not there."""
    # Its import takes time that who only aligns text need not wait for.
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    return console
