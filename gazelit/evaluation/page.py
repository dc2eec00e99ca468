"""A report as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from markdown_it import MarkdownIt

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; }
body { max-width: 76rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin: 0 0 .6rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #d5dae0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0 1rem; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid #e3e7eb; text-align: left; vertical-align: top; }
td.n { white-space: nowrap; }
th { border-bottom: 2px solid #9aa4af; font-weight: 600; }
blockquote { margin: 1rem 0; padding: .5rem 1rem; border-left: 5px solid #D55E00; background: #fff5ec; }
img { max-width: 100%; height: auto; }
pre { background: #f4f6f8; padding: .8rem; overflow-x: auto; font-size: 12px; } code { font-size: .92em; }
@media print { body { max-width: none; margin: 0; } pre { white-space: pre-wrap; } h2 { break-after: avoid; } }
"""


def to_page(markdown: str, folder: Path, title: str) -> str:
    """Markdown with its pictures inside.

    Args:
        markdown: The report.
        folder: What its pictures' paths are relative to.
        title: Of the page.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")

    # A number stays with its interval; text may be broken.
    body = re.sub(r"<td>(?=[^<]*\d)(?![^<]*[A-Za-z]{3})", '<td class="n">', body)

    def embedded(match: re.Match[str]) -> str:
        data = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = re.sub(r'src="([^":]+\.png)"', embedded, body)
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}</body>\n</html>\n"
    )
