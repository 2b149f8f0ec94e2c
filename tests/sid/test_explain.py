"""Explanations say what a token holds, and how sure that is."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from toy import toy_city

from lgsid.sid.explain import TokenBook, describe_tokens


def book() -> TokenBook:
    items, _ = toy_city()
    place = items["city"].replace_strict(["Alba", "Brio", "Cora", "Dune"], [0, 1, 2, 3]).to_numpy()
    kind = items["category"].replace_strict(
        ["Food > Noodles", "Food > Pizza", "Beauty > Barber", "Fitness > Gym"], [0, 1, 2, 3]
    )
    return describe_tokens(items, np.stack([place, kind.to_numpy()], axis=1).astype(np.int32))


def test_a_place_is_named_with_centre_radius_and_certainty() -> None:
    token = book().meanings[1][2]
    assert token.label.startswith("Cora, West · Cora ")
    assert token.items == 64
    assert token.centre == (pytest.approx(40.0, abs=0.02), pytest.approx(-60.0, abs=0.1))
    assert 5 < token.radius_km < 15
    assert token.region_share["province"] == token.region_share["city"] == 1.0
    assert 0.3 < token.region_share["district"] < 0.8


def test_a_kind_is_named_by_what_sets_it_apart() -> None:
    token = book().meanings[2][1]
    assert token.label == "Pizza"
    assert token.categories == [("Pizza", 1.0)]
    assert token.words == [("pizza", 1.0)]  # "house" stands in every title and says nothing
    assert all("Pizza" in example for example in token.examples)


def test_text_speaks_of_place_first_and_content_second() -> None:
    text = str(book().explain([2, 1, 7]))
    assert text.startswith("SID 2-1-7")
    first, rest = text.split("token 2 =")
    assert "radius" in first
    assert "radius" not in rest
    assert "tells apart items" in rest


def test_json_round_trip() -> None:
    original = book()
    again = TokenBook.from_json(json.loads(json.dumps(original.to_json())))
    assert again.meanings == original.meanings


def test_items_without_any_text_are_mixed() -> None:
    items = pl.DataFrame({"title": ["A1", "B2"], "lat_deg": [0.0, 0.0], "lon_deg": [0.0, 0.0]})
    token = describe_tokens(items, np.zeros((2, 1), dtype=np.int32)).meanings[1][0]
    assert token.label == "mixed"
    assert token.region_share == {}
