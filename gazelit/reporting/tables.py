"""The one table writer: numbers and names become cells here, and a table becomes Markdown or HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from gazelit.evaluation.statistics import Estimate

#: What stands for a number that is undefined or infinite.
DASH = "–"
#: A table with more columns, or with more characters in a row, is shown on a narrow screen as one card a row.
MOST_COLUMNS, MOST_CHARACTERS = 4, 48
#: In a table with more columns a number may be broken from its interval, or it would not fit a page.
MOST_UNBROKEN = 6
_MARKUP = re.compile(r"[\\`*\[\]|]|<(?=\S)|&(?=[#\w])")
_TAG = re.compile(r"<[^>]*>")


@dataclass(frozen=True)
class Table:
    """A table whose cells are inline Markdown; :func:`plain` and :func:`code` make it of names from the data.

    Attributes:
        columns: Their heads.
        rows: Of each row a cell a column.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    def markdown(self) -> list[str]:
        """The table's lines."""
        lines = [self.columns, *self.rows]
        written = [f"| {' | '.join(map(str, cells))} |" for cells in lines]
        return [written[0], "|---" * len(self.columns) + "|", *written[1:]]

    def html(self, inline: Callable[[str], str]) -> str:
        """The table as HTML, each cell with its column's head for where heads are not shown.

        Args:
            inline: Turns inline Markdown into HTML that is safe.
        """
        heads = [inline(column) for column in self.columns]
        longest = 0
        kind_of = _kind if len(self.columns) <= MOST_UNBROKEN else lambda text: ""
        labels = [escape(_TAG.sub("", head), quote=True) for head in heads]
        body = []
        for cells in self.rows:
            texts = [inline(str(cell)) for cell in cells]
            longest = max(longest, sum(len(_TAG.sub("", text)) for text in texts))
            body.append(
                "<tr>"
                + "".join(
                    f'<td{kind_of(text)} data-label="{label}">{text}</td>'
                    for text, label in zip(texts, labels, strict=True)
                )
                + "</tr>"
            )
        head = "".join(f"<th>{text}</th>" for text in heads)
        is_wide = len(self.columns) > MOST_COLUMNS or longest > MOST_CHARACTERS
        kind = ' class="cards"' if is_wide else ""
        return (
            f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead>\n<tbody>'
            + "\n".join(body)
            + "</tbody></table></div>\n"
        )


def _kind(text: str) -> str:
    """A number stays with its interval; text may be broken."""
    return ' class="n"' if re.search(r"\d", text) and not re.search(r"[A-Za-z]{3}", text) else ""


def plain(name: object) -> str:
    """A name from the data as text: no part of it is markup, ends a table's cell or starts another line."""
    return _MARKUP.sub(lambda match: f"\\{match[0]}", " ".join(str(name).split()))


def code(name: object) -> str:
    """A name from the data between backticks; characters that would end it, or a table's cell, are replaced."""
    return "`" + " ".join(str(name).split()).replace("`", "'").replace("|", "/") + "`"


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


def with_interval(estimate: Estimate | None, spread: float | None = None, signed: bool = False) -> str:
    """``value (low to high; spread)``, as much of it as is known.

    Args:
        estimate: The value.
        spread: Standard deviation over seeds.
        signed: Whether a sign is always written.
    """
    if estimate is None or not is_number(estimate.value):
        return DASH
    parts = [interval(estimate.low, estimate.high, signed)] if is_number(estimate.low) else []
    parts += [number(spread)] if is_number(spread) else []
    return number(estimate.value, signed) + (f" ({'; '.join(parts)})" if parts else "")


def p_value(p: float) -> str:
    """A p, or a dash where there is none."""
    return DASH if not is_number(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
