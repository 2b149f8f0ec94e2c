"""Classes by name."""

from __future__ import annotations

from collections import OrderedDict

import pytest

from lgsid.errors import ConfigError
from lgsid.registry import find_class

KNOWN = {"ordered": "collections:OrderedDict", "absent": "collections:NoSuchClass"}


def test_finds_the_class() -> None:
    assert find_class(KNOWN, "ordered", "dictionary", "take ordered") is OrderedDict


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no dictionary 'other'; known: ordered, absent") as error:
        find_class(KNOWN, "other", "dictionary", "take ordered")
    assert error.value.fix == "take ordered"


def test_a_wrong_entry_is_not_hidden() -> None:
    with pytest.raises(AttributeError, match="NoSuchClass"):
        find_class(KNOWN, "absent", "dictionary", "")
