"""The one renderer: a document of sections as Markdown, and as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

from gazelit.files import atomic_path
from gazelit.reporting.tables import Table

#: A picture of more pixels across keeps its size on a narrow screen, where it is moved under the finger.
WIDE = 1000
_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; }
body { max-width: 76rem; margin: 2rem auto; padding: 0 1.2rem; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #d5dae0; }
p, ul { max-width: 60rem; }
dl.facts { display: flex; flex-wrap: wrap; gap: .1rem 1.4rem; margin: 0 0 1rem; font-size: 13.5px; color: #57606a; }
dl.facts div { display: flex; gap: .4rem; min-width: 0; } dl.facts dd { margin: 0; color: #1b1f24; min-width: 0; }
.verdict { margin: 1rem 0; padding: .7rem 1rem; border: 1px solid #0072B2; border-left-width: 5px; max-width: 62rem; }
.verdict p { margin: .2rem 0; }
nav ol { columns: 16rem auto; margin: .2rem 0 0; padding-left: 1.4rem; font-size: 14px; max-width: 60rem; }
a { color: #0072B2; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0 1rem; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid #e3e7eb; text-align: left; vertical-align: top; }
td.n { white-space: nowrap; } td:first-child { min-width: 9rem; }
th { border-bottom: 2px solid #9aa4af; font-weight: 600; }
.notice { margin: 1rem 0; padding: .5rem 1rem; border-left: 5px solid #D55E00; background: #fff5ec; max-width: 62rem; }
.notice p { margin: 0; }
figure { margin: .8rem 0 1.2rem; } img { max-width: 100%; height: auto; }
pre { background: #f4f6f8; padding: .8rem; overflow-x: auto; font-size: 12px; } code { font-size: .92em; }
details { margin: .6rem 0; } summary { cursor: pointer; color: #0072B2; }
@media screen and (max-width: 44rem) {
  body { margin: 1rem auto; padding: 0 .8rem; } nav ol { columns: auto; }
  table.cards thead { display: none; } table.cards, table.cards tbody { display: block; }
  table.cards tr { display: block; margin: 0 0 .8rem; border: 1px solid #d5dae0; padding: .3rem 0; }
  table.cards td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .12rem .7rem; }
  table.cards td::before { content: attr(data-label); color: #57606a; flex: 0 1 45%; }
  table.cards td { text-align: right; } table.cards td::before { text-align: left; }
  table.cards td:first-child { display: block; text-align: left; font-weight: 600; border-bottom: 1px solid #e3e7eb; }
  table.cards td:first-child::before { content: none; } table.cards td.n { white-space: normal; }
  th, td { padding: .28rem .45rem; } td:first-child { min-width: 0; } pre { white-space: pre-wrap; }
  figure.wide { overflow-x: auto; } figure.wide img { max-width: none; width: 54rem; }
}
@media print {
  @page { margin: 14mm; } body { max-width: none; margin: 0; padding: 0; font-size: 10pt; }
  table { font-size: 8.5pt; width: 100%; } th, td { padding: .15rem .35rem; }
  td:first-child { min-width: 0; } td.n { white-space: normal; } figure:not(.wide) img { max-height: 110mm; }
  .wide { overflow: visible; } pre { white-space: pre-wrap; } details:not([open]) { display: none; }
  h2 { break-after: avoid; } tr, figure, .verdict, .notice { break-inside: avoid; } figure img { max-height: 230mm; }
}
"""


@dataclass(frozen=True)
class Picture:
    """A PNG of the report's own folder.

    Attributes:
        path: From that folder.
        words: What it shows.
    """

    path: str
    words: str


@dataclass(frozen=True)
class Commands:
    """Command lines, folded under a title."""

    title: str
    lines: Sequence[str]


#: A part of a section; text is Markdown without pictures and links, and a block by itself.
Block = str | Table | Picture | Commands


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: Plain text.
        facts: What identifies it, as (name, Markdown).
        notices: Notices at the top, as Markdown.
        verdict: Its conclusions in sentences, as Markdown.
        introduction: Text before the first section.
        sections: In order; those without a block are left out.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    notices: Sequence[str]
    verdict: Sequence[str]
    introduction: Sequence[Block]
    sections: Sequence[Section]

    @property
    def shown(self) -> list[Section]:
        """The sections that hold something."""
        return [section for section in self.sections if section.blocks]


def write_document(document: Document, out: Path, name: str) -> None:
    """Writes ``NAME.md`` and ``NAME.html``, each whole or not at all; pictures must be there already."""
    for suffix, content in (("md", to_markdown(document)), ("html", to_page(document, out))):
        with atomic_path(out / f"{name}.{suffix}") as temporary:
            temporary.write_text(content, encoding="utf-8")


def to_markdown(document: Document) -> str:
    """The document as CommonMark with tables."""
    parts = [f"# {document.title}"]
    if document.facts:
        parts.append(" · ".join(f"{name}: {value}" for name, value in document.facts))
    parts += [f"> {notice}" for notice in document.notices]
    if document.verdict:
        parts.append("\n".join(f"> {sentence}" for sentence in document.verdict))
    sections = document.shown
    if len(sections) > 1:
        parts.append("\n".join(f"- [{section.title}](#{_anchor(section.title)})" for section in sections))
    for section in [Section("", document.introduction), *sections]:
        parts += [f"## {section.title}"] * bool(section.title) + [_block_markdown(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _block_markdown(block: Block) -> str:
    if isinstance(block, Table):
        return "\n".join(block.markdown())
    if isinstance(block, Picture):
        return f"![{block.words}]({block.path})"
    if isinstance(block, Commands):
        lines = "\n".join(" ".join(line.splitlines()) for line in block.lines)
        return f"<details><summary>{escape(block.title)}</summary>\n\n```sh\n{lines}\n```\n\n</details>"
    return block


def to_page(document: Document, folder: Path) -> str:
    """The document as one HTML page with its pictures inside.

    Text may only have emphasis, code and lists as markup, so that a name from the data can insert neither a picture nor
    a link. Only PNG files within the folder are inserted.

    Args:
        document: The report.
        folder: The report's, which its pictures' paths are relative to.
    """
    parser = MarkdownIt("commonmark", {"html": False})
    parser.disable(["image", "link", "autolink", "reference", "heading", "lheading", "fence", "code", "hr"])
    inline = parser.renderInline
    facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{inline(value)}</dd></div>" for name, value in document.facts)
    body = [f"<h1>{escape(document.title)}</h1>\n", f'<dl class="facts">{facts}</dl>\n' if facts else ""]
    body += [f'<div class="notice">{parser.render(notice)}</div>\n' for notice in document.notices]
    if document.verdict:
        body.append(f'<div class="verdict">{"".join(parser.render(sentence) for sentence in document.verdict)}</div>\n')
    sections = document.shown
    if len(sections) > 1:
        links = "".join(
            f'<li><a href="#{_anchor(section.title)}">{inline(section.title)}</a></li>' for section in sections
        )
        body.append(f'<nav aria-label="contents"><ol>{links}</ol></nav>\n')
    body += [_block_html(block, parser, folder) for block in document.introduction]
    for section in sections:
        body.append(f'<h2 id="{_anchor(section.title)}">{inline(section.title)}</h2>\n')
        body += [_block_html(block, parser, folder) for block in section.blocks]
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(document.title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{''.join(body)}</body>\n</html>\n"
    )


def _block_html(block: Block, parser: MarkdownIt, folder: Path) -> str:
    if isinstance(block, Table):
        return block.html(parser.renderInline)
    if isinstance(block, Picture):
        return _picture(block, folder.resolve())
    if isinstance(block, Commands):
        lines = escape("\n".join(" ".join(line.splitlines()) for line in block.lines))
        return f"<details><summary>{escape(block.title)}</summary><pre><code>{lines}</code></pre></details>\n"
    return str(parser.render(block))


def _anchor(title: str) -> str:
    """As GitHub and MyST make it of a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-")


def _picture(picture: Picture, folder: Path) -> str:
    """The HTML of a picture: its bytes if it is of this report, its words otherwise."""
    words = escape(picture.words)
    try:
        path = (folder / picture.path).resolve()
        if not path.is_relative_to(folder) or path.suffix != ".png":
            return f"<p>{words}</p>\n"
        content = path.read_bytes()
    except (OSError, ValueError):
        return f"<p>{words}</p>\n"
    # A PNG's header begins with its width.
    kind = ' class="wide"' if int.from_bytes(content[16:20], "big") > WIDE else ""
    data = base64.b64encode(content).decode()
    return f'<figure{kind}><img src="data:image/png;base64,{data}" alt="{words}"></figure>\n'
