"""The codebook page: every token once, catalogue text only as text, nothing fetched, small for any codebook."""

from __future__ import annotations

import re
import shutil
import subprocess
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from lgsid.artifact import read_json, write_json
from lgsid.evaluate import codebook
from lgsid.evaluate.codebook import render_codebook
from lgsid.evaluate.results import Results, Token, load_results

from .conftest import FakeRun
from .test_document import NASTY, Reader


@pytest.fixture
def results(fake_run: FakeRun) -> Results:
    """A fake run with three levels of tokens, the second and third of kinds."""
    run = fake_run()
    path = run.path("3_sid", "tokenizer/tokens.json")
    tokens = read_json(path)
    tokens["3"] = {str(code): {"label": f"kind {code}", "items": 3, "words": [["面馆", 0.5]]} for code in range(19)}
    tokens["1"]["0"] |= {
        "regions": {"province": [["AZ", 1.0]], "city": [["AZ > Phoenix", 0.61], ["AZ > Tempe", 0.3]]},
        "words": [[NASTY, 0.4]], "examples": [NASTY],
    }  # fmt: skip
    write_json(path, tokens)
    return load_results(run)


def test_every_token_of_every_level_stands_there_once(results: Results) -> None:
    reader = Reader(render_codebook("toy", results))
    ids = [value for _, name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    wanted = {f"t{level}-{code}" for level, codes in results.tokens.items() for code in codes}
    assert {value for value in ids if value.startswith("t")} == wanted
    links = {value.removeprefix("#") for _, name, value in reader.attributes if name == "href" and value[0] == "#"}
    assert links <= set(ids)


def test_a_token_is_told_with_its_cities_load_examples_and_what_follows(results: Results) -> None:
    page = Reader(render_codebook("toy", results)).text.replace("\u00a0", " ")
    assert "Phoenix 61 %, Tempe 30 %" in page
    assert "20 items, 1 × the average" in page
    assert "radius 1.50 km" in page or "radius 1.5 km" in page
    assert "面馆 50 %" in page
    assert "Not in use: 1 of 20 (19)." in page


def test_catalogue_text_is_text(results: Results) -> None:
    tokens = {1: {0: replace(results.tokens[1][0], label=NASTY, categories=((NASTY, 0.5),))}}
    source = render_codebook(NASTY, replace(results, tokens=tokens))
    reader = Reader(source)
    assert reader.tags.count("script") == 1  # its own
    assert not {"iframe", "object", "i", "b"} & set(reader.tags)
    assert "<script>alert('1')</script> | `x` **y**" in reader.text
    assert "老王" in reader.text


def test_it_fetches_nothing_and_allows_its_own_script_alone(results: Results) -> None:
    source = render_codebook("toy", results)
    for tag, name, value in Reader(source).attributes:
        if name in ("src", "href", "srcset", "action"):
            assert value.startswith(("data:", "#")) or value == "report.html", (tag, name, value)
    script = re.findall(r"<script>(.*?)</script>", source, flags=re.S)
    assert len(script) == 1
    assert f"script-src 'sha256-{b64encode(sha256(script[0].encode()).digest()).decode()}'" in source
    assert "https:" not in source
    assert "url(" not in source


def test_without_the_script_only_the_search_box_is_missing(results: Results) -> None:
    source = render_codebook("toy", results)
    assert '<div class="search" role="search" hidden>' in source
    body = source[source.index("<main>") : source.index("</main>")]
    assert " hidden" not in body


def big(results: Results, codes: int) -> Results:
    """A catalogue of 100,000 items with large codebooks and long texts."""
    long = "a rather long name of a kind of shop"
    named = tuple((f"{long} {number}", 0.5) for number in range(5))
    token = Token(
        0, f"{long}, {long}, {long}", 400, (1.0, 2.0), 1.0, True,
        {level: tuple((f"{long} > {long} {n}", 0.5) for n in range(5)) for level in ("province", "city", "district")},
        {}, named, named, named, tuple(f"{long} {long} {n}" for n in range(5)),
    )  # fmt: skip
    tokens = {level: {code: replace(token, code=code) for code in range(codes)} for level in (1, 2, 3)}
    return replace(results, tokens=tokens)


@pytest.mark.parametrize("codes", [256, 3000])
def test_the_page_stays_small_and_complete_for_any_codebook(results: Results, codes: int) -> None:
    source = render_codebook("big", big(results, codes))
    assert len(source.encode()) < 3_000_000
    assert source.count('class="token"') == 3 * codes
    if codes == 256:
        assert source.count("shop 4 50") > 256  # nothing is left out of a usual one


def test_less_is_said_rather_than_more_than_fits(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    full = render_codebook("toy", results)
    monkeypatch.setattr(codebook, "MOST_BYTES", len(full.encode()) - 1)
    less = render_codebook("toy", results)
    assert len(less) < len(full)
    assert less.count('class="token"') == full.count('class="token"')


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_runs_the_search(results: Results, tmp_path: Path) -> None:
    page = tmp_path / "codebook.html"
    source = render_codebook("toy", results)

    def shown(source: str, anchor: str = "") -> str:
        page.write_text(source, encoding="utf-8")
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
                   "--virtual-time-budget=2000", "--dump-dom", page.as_uri() + anchor]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    addressed = shown(source, "#t3-7")
    assert '<div class="search" role="search">' in addressed  # the policy let the script show its box
    # it unfolds the token that the address names
    assert re.findall(r'<details class="token" id="([^"]+)" open', addressed) == ["t3-7"]
    searched = shown(source.replace('type="search"', 'type="search" value="KIND 17"'))
    found = re.findall(r'<details class="token" id="([^"]+)">', searched)  # the others are hidden
    assert "t3-17" in found
    assert "t3-16" not in found
    assert re.findall(r"<output[^>]*>(\d+) tokens?</output>", searched) == [str(len(found))]


def test_the_codes_that_follow_a_token_are_counted(results: Results) -> None:
    following = codebook._following(results)
    codes = results.codes
    values, counts = np.unique(codes[codes[:, 0] == 0, 1], return_counts=True)
    assert following[1, 0][0][1] == counts.max()
    assert {code for code, _ in following[1, 0]} <= set(values.tolist())
