"""A report as one HTML file: style and pictures inside, no script, nothing fetched from anywhere."""

from __future__ import annotations

from base64 import b64encode
from html import escape

from lgsid.evaluate.document import (
    Block,
    Code,
    Details,
    Document,
    Figure,
    KeyFigures,
    Link,
    Listing,
    Paragraph,
    Section,
    Span,
    Strong,
    Table,
    Verdicts,
)
from lgsid.evaluate.page import page

_STATUS = {"good": ("✓", "good"), "look": ("!", "worth a look"), "note": ("i", "for information")}


def render_html(document: Document) -> str:
    """The whole document as HTML 5."""
    links = "".join(
        f'<li><a href="#{section.anchor}">{escape(section.title)}</a></li>' for section in document.sections
    )
    body = "\n".join(_section(section) for section in document.sections)
    return page(document.title, ["report.css"], f"""<header>
<h1>{escape(document.title)}</h1>
<p class="subtitle">{escape(document.subtitle)}</p>
<nav aria-label="Contents"><ul>{links}</ul></nav>
</header>
<main>
{body}
</main>""")  # fmt: skip


def _section(section: Section) -> str:
    blocks = "\n".join(map(_block, section.blocks))
    return f'<section id="{section.anchor}">\n<h2>{escape(section.title)}</h2>\n{blocks}\n</section>'


def _block(block: Block) -> str:
    match block:
        case Paragraph(spans):
            return f"<p>{''.join(map(_span, spans))}</p>"
        case Listing(text):
            return f"<pre><code>{escape(text)}</code></pre>"
        case KeyFigures():
            return _key_figures(block)
        case Verdicts():
            return _verdicts(block)
        case Table():
            return _table(block)
        case Figure():
            return _figure(block)
        case Details(summary, blocks):
            return f"<details><summary>{escape(summary)}</summary>\n{''.join(map(_block, blocks))}</details>"


def _span(span: Span) -> str:
    match span:
        case Code(text):
            return f"<code>{escape(text)}</code>"
        case Strong(text):
            return f"<strong>{escape(text)}</strong>"
        case Link(text, file):
            return f'<a href="{escape(file)}">{escape(text)}</a>'
        case _:
            return escape(span)


def _key_figures(block: KeyFigures) -> str:
    cards = "".join(
        f'<div class="card"><dt>{escape(figure.label)}</dt><dd>{escape(figure.value)}</dd>'
        f'<dd class="note">{escape(figure.note)}</dd></div>'
        for figure in block.figures
    )
    return f'<dl class="cards">{cards}</dl>'


def _verdicts(block: Verdicts) -> str:
    rows = ""
    for verdict in block.verdicts:
        sign, words = _STATUS[verdict.status]
        rows += (
            f'<li class="{verdict.status}"><span class="sign" role="img" aria-label="{words}">{sign}</span>'
            f'<span class="question">{escape(verdict.question)}</span> <strong>{escape(verdict.answer)}</strong>'
            f'<span class="wanted">{escape(verdict.wanted)}</span></li>'
        )
    return f'<ul class="verdicts">{rows}</ul>'


def _table(block: Table) -> str:
    head = "".join(f"<th{_kind(block, column)}>{escape(column)}</th>" for column in block.columns)
    body = "\n".join(
        "<tr>"
        + "".join(f"<td{_kind(block, c)}>{escape(cell)}</td>" for c, cell in zip(block.columns, row, strict=True))
        + "</tr>"
        for row in block.rows
    )
    wide = ' class="wide"' if len(block.columns) - len(block.numeric) >= 3 else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(block.caption)}"><table{wide}>'
        f"<caption>{escape(block.caption)}</caption><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _kind(block: Table, column: str) -> str:
    if column in block.numeric:
        return ' class="number"'
    return ' class="unbroken"' if column in block.unbroken else ""


def _figure(block: Figure) -> str:
    width, height = _png_size(block.png)
    picture = b64encode(block.png).decode("ascii")
    return (
        f'<figure id="{block.name}"><img src="data:image/png;base64,{picture}" width="{width // 2}" '
        f'height="{height // 2}" alt="{escape(block.alt)}"><figcaption>{escape(block.caption)}</figcaption></figure>'
    )


def _png_size(png: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header that every PNG starts with."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
