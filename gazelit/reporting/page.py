"""A report as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

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

    Only PNG files within the folder are put in; of any other picture the page has the words alone, so that a reference
    that a name has smuggled in shows no file of the machine and asks no server.

    Args:
        markdown: The report.
        folder: The report's, which its pictures' paths are relative to.
        title: Of the page.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")

    def picture(
        _renderer: RendererProtocol, tokens: Sequence[Token], position: int, _options: OptionsDict, _env: EnvType
    ) -> str:
        return _picture(folder.resolve(), tokens[position])

    parser.add_render_rule("image", picture)
    body = parser.render(markdown)
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")

    # A number stays with its interval; text may be broken.
    body = re.sub(r"<td>(?=[^<]*\d)(?![^<]*[A-Za-z]{3})", '<td class="n">', body)
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}</body>\n</html>\n"
    )


def _picture(folder: Path, token: Token) -> str:
    """The HTML of an image: its bytes if it is a picture of this report, its words otherwise."""
    words = escape(token.content)
    try:
        path = (folder / unquote(str(token.attrs["src"]))).resolve()
        if not path.is_relative_to(folder) or path.suffix != ".png":
            return words
        data = base64.b64encode(path.read_bytes()).decode()
    except (OSError, ValueError):
        return words
    return f'<img src="data:image/png;base64,{data}" alt="{words}">'
