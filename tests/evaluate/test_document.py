"""Numbers for people, and the two renderers: nothing of the catalogue's text can become markup."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from lgsid.evaluate.document import (
    Block,
    Code,
    Details,
    Document,
    Figure,
    KeyFigure,
    KeyFigures,
    Listing,
    Section,
    Strong,
    Verdict,
    Verdicts,
    fractions,
    kilometres,
    number,
    percent,
    percents,
    table,
    text,
)
from lgsid.evaluate.html import render_html
from lgsid.evaluate.markdown import render_markdown

NASTY = "<script>alert('1')</script> | `x` **y** [z](u) & \"q\" \\ # 老王 $a$ ~~b~~ {c} <!-- d"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + (64).to_bytes(4, "big") + (32).to_bytes(4, "big")


def document(*blocks: Block, title: str = "T") -> Document:
    return Document(title, "subtitle", (Section("one", "One", blocks),))


class Reader(HTMLParser):
    """Collects text and attributes, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.attributes, self.tags = "", [], []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def every_block(words: str) -> tuple[Block, ...]:
    return (
        text(words, Code(words), Strong(words)),
        Listing(words),
        KeyFigures((KeyFigure(words, words, words),)),
        Verdicts((Verdict("good", words, words, words), Verdict("look", words, words, words))),
        table(words, ["a", "b"], [[words, words], [words, "1"]], numeric=["b"], unbroken=["a"]),
        Figure("f", PNG, words, words),
        Details(words, (text(words),)),
    )


@pytest.mark.parametrize(
    ("share", "shown"),
    [(1.0, "100 %"), (0.0, "0 %"), (0.9999, "> 99.9 %"), (0.0001, "< 0.1 %"), (0.5, "50.0 %"), (None, "–")],
)
def test_percent_never_rounds_to_all_or_nothing(share: float | None, shown: str) -> None:
    assert percent(share).replace("\u00a0", " ") == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0421, "42 m"), (1.234, "1.23 km"), (610.4, "610 km"), (12345.6, "12,346 km"), (None, "–")]
)
def test_kilometres(value: float | None, shown: str) -> None:
    assert kilometres(value).replace("\u00a0", " ") == shown


def test_numbers() -> None:
    assert (number(12345), number(0.123456), number(1234.5), number(None)) == ("12,345", "0.123", "1,234", "–")
    assert fractions([0.949, 0.2, None]) == "0.95 / 0.20 / –"
    assert percents([0.949, 0.2]).replace("\u00a0", " ") == "95 / 20 %"


def test_a_table_with_a_wrong_row_or_column_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells"):
        table("t", ["a", "b"], [["1"]])
    with pytest.raises(ValueError, match="must exist"):
        table("t", ["a"], [["1"]], numeric=["b"])


def test_html_shows_catalogue_text_as_text() -> None:
    reader = Reader(render_html(document(*every_block(NASTY), title=NASTY)))
    assert reader.text.count(NASTY) == 22  # every place that shows text
    assert not {"script", "iframe", "object", "embed", "i", "b"} & set(reader.tags)
    assert ("img", "alt", NASTY) in reader.attributes


def test_html_refers_to_nothing_outside() -> None:
    source = render_html(document(*every_block(NASTY)))
    for tag, name, value in Reader(source).attributes:
        if name in ("src", "href", "srcset", "action", "poster"):
            assert value.startswith(("data:", "#")), (tag, name, value)
    style = source.partition("<style>")[2].partition("</style>")[0]
    assert style
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in source


def test_html_gives_pictures_their_size() -> None:
    attributes = Reader(render_html(document(Figure("f", PNG, "c", "a")))).attributes
    assert ("img", "width", "32") in attributes
    assert ("img", "height", "16") in attributes


def markdown_text(source: str) -> tuple[str, list[str]]:
    """Visible text of Markdown, white space folded, and the kinds of its inline tokens."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(source)
    inline = [child for token in tokens for child in (token.children or ())]
    kinds = [child.type for child in inline] + [token.type for token in tokens]
    return " ".join(" ".join(child.content for child in inline).split()), kinds


def test_markdown_shows_catalogue_text_as_text() -> None:
    source = render_markdown(document(*every_block(NASTY), title=NASTY))
    words, kinds = markdown_text(source)
    assert words.count(NASTY) >= 14
    assert not {"html_inline", "html_block", "link_open", "s_open"} & set(kinds)
    assert kinds.count("table_open") == 3


@given(words=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(str.strip))
@settings(max_examples=150, deadline=None)
def test_any_text_survives_both_renderers(words: str) -> None:
    folded = " ".join(words.split())
    content = document(table("t", ["a", "b"], [[words, "end"]]), text(words))
    shown, kinds = markdown_text(render_markdown(content))
    assert shown.count(folded) >= 2
    assert kinds.count("td_open") == 2
    assert not {"html_inline", "html_block", "link_open"} & set(kinds)
    assert Reader(render_html(content)).text.count(words) >= 2


def test_figures_are_found_inside_details() -> None:
    inner = Figure("inner", PNG, "c", "a")
    assert [f.name for f in document(Figure("outer", PNG, "c", "a"), Details("d", (inner,))).figures()] == [
        "outer",
        "inner",
    ]
