"""A report as Markdown (CommonMark with GitHub's tables), its pictures beside it in `figures/`."""

from __future__ import annotations

import re

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

FIGURES = "figures"
"""Folder of the pictures, beside the Markdown file."""
_SIGN = {"good": "✓ good", "look": "**! look**", "note": "i"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&!$])")


def render_markdown(document: Document) -> str:
    """The whole document as Markdown; every line of catalogue text is escaped."""
    parts = [f"# {_escape(document.title)}", _escape(document.subtitle), *map(_section, document.sections)]
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> str:
    return "\n\n".join([f"## {_escape(section.title)}", *map(_block, section.blocks)])


def _block(block: Block) -> str:
    match block:
        case Paragraph(spans):
            return _safe_start("".join(map(_span, spans)))
        case Listing(text):
            return _listing(text)
        case KeyFigures(figures):
            rows = [(figure.label, figure.value, figure.note) for figure in figures]
            return _rows(("figure", "value", ""), rows, frozenset({"value"}))
        case Verdicts(verdicts):
            cells = [
                [_escape(v.question), f"**{_escape(v.answer)}**", _SIGN[v.status], _escape(v.wanted)] for v in verdicts
            ]
            return _grid(("question", "answer", "", "wanted"), cells, frozenset())
        case Table():
            return f"**{_escape(block.caption)}**\n\n{_rows(block.columns, block.rows, block.numeric)}"
        case Figure():
            return f"![{_escape(block.alt)}]({FIGURES}/{block.name}.png)\n\n*{_escape(block.caption)}*"
        case Details(summary, blocks):
            return "\n\n".join([f"### {_escape(summary)}", *map(_block, blocks)])


def _span(span: Span) -> str:
    match span:
        case Code(text):
            return _code(text)
        case Strong(text):
            return f"**{_escape(text)}**"
        case Link(text, file):
            return f"[{_escape(text)}]({file})"
        case _:  # a span keeps its edges: what follows may be a code word
            return _SPECIAL.sub(r"\\\1", re.sub(r"\s+", " ", span))


def _code(text: str) -> str:
    """Inline code, fenced by more backticks than it holds in a row."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}"


def _listing(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(longest + 1, 3)
    return f"{fence}\n{text.rstrip()}\n{fence}"


def _rows(columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...] | list[tuple[str, str, str]],
          numeric: frozenset[str]) -> str:  # fmt: skip
    return _grid(columns, [[_escape(cell) for cell in row] for row in rows], numeric)


def _grid(columns: tuple[str, ...], cells: list[list[str]], numeric: frozenset[str]) -> str:
    head = "| " + " | ".join(_escape(column) for column in columns) + " |"
    rule = "|" + "|".join("--:" if column in numeric else "---" for column in columns) + "|"
    return "\n".join([head, rule, *("| " + " | ".join(row) + " |" for row in cells)])


def _escape(text: str) -> str:
    """Plain text on one line, with every character that Markdown or HTML would read as its own made harmless."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _safe_start(text: str) -> str:
    """A paragraph must not begin like a list, a heading or a quotation."""
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", re.sub(r"^([-+=])", r"\\\1", text))
