"""The linear probe: what codes say, what they do not, and labels that are too rare to ask for."""

from __future__ import annotations

import numpy as np
import pytest
from toy import toy_city

from lgsid.sid.attributes import ATTRIBUTES
from lgsid.sid.probe import LEAST_ITEMS, decodability, one_hot, probe


def test_a_code_that_is_the_label_is_read_and_a_random_one_is_not() -> None:
    rng = np.random.default_rng(0)
    label = rng.choice(4, size=2_000, p=[0.4, 0.3, 0.2, 0.1])
    noise = rng.integers(0, 16, size=(2_000, 2)).astype(np.int32)
    said = np.stack([noise[:, 0], label.astype(np.int32)], axis=1)
    read, unread = probe(said, label), probe(noise, label)
    assert read is not None
    assert unread is not None
    assert read["accuracy"] == 1.0
    assert read["majority"] == unread["majority"] == pytest.approx(0.4, abs=0.01)
    assert unread["accuracy"] < 0.45
    assert probe(said, label) == read


def test_tokens_add_up_but_their_combinations_are_not_learnt() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2, size=(4_000, 2)).astype(np.int32)
    added, combined = codes.sum(axis=1) // 2, codes[:, 0] ^ codes[:, 1]
    both, either = probe(codes, added), probe(codes, combined)
    assert both is not None
    assert either is not None
    assert both["accuracy"] == 1.0
    assert either["accuracy"] < 0.8  # three of four at the very best, by luck


def test_rare_and_unknown_labels_are_left_out_and_counted() -> None:
    label = np.repeat([0, 1, 2, -1], [60, LEAST_ITEMS, LEAST_ITEMS - 1, 21])
    found = probe(np.maximum(label, 0).astype(np.int32)[:, None], label)
    assert found is not None
    assert (found["labels"], found["items"]) == (2, 70)
    assert found["left_out_share"] == pytest.approx(0.3)
    assert probe(np.zeros((50, 1), dtype=np.int32), np.zeros(50, dtype=np.int64)) is None
    assert probe(np.zeros((50, 1), dtype=np.int32), np.full(50, -1)) is None


def test_one_hot_has_one_column_a_code_of_each_level() -> None:
    every = np.array([[0, 2], [1, 0], [1, 1]], dtype=np.int32)
    assert one_hot(every[1:], every).toarray().tolist() == [[0, 1, 1, 0, 0], [0, 1, 0, 1, 0]]


def test_every_attribute_of_a_city_is_asked_for() -> None:
    items, _ = toy_city()
    city = np.array([0, 1, 2, 3] * 64, dtype=np.int32)[:, None]
    found = decodability(items, city)
    assert list(found) == [*ATTRIBUTES]
    assert found["city"] is not None
    assert found["category"] is not None
    assert found["city"]["accuracy"] == 1.0
    assert found["category"]["accuracy"] < 0.5
