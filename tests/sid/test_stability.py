"""How many items change their codes between two fits."""

from __future__ import annotations

import numpy as np
import pytest

from lgsid.sid.stability import changed_share


def test_renamed_codes_have_not_changed() -> None:
    rng = np.random.default_rng(0)
    old = rng.integers(0, 8, size=(500, 3)).astype(np.int32)
    new = np.stack([rng.permutation(8)[column] for column in old.T], axis=1).astype(np.int32)
    assert changed_share(old, new, [8, 8, 8]) == {"levels": [0.0, 0.0, 0.0], "sid": 0.0}


def test_changed_items_are_counted_by_level_and_once_for_the_whole() -> None:
    old = np.repeat(np.arange(4, dtype=np.int32), 25)[:, None].repeat(2, axis=1)
    new = (old + 1) % 4
    new[:5, 0] = old[0, 0] + 2
    new[3:10, 1] = old[0, 1] + 2
    found = changed_share(old, new, [4, 4])
    assert found["levels"] == pytest.approx([0.05, 0.07])
    assert found["sid"] == pytest.approx(0.1)


def test_independent_codes_nearly_all_change() -> None:
    rng = np.random.default_rng(1)
    old, new = rng.integers(0, 64, size=(2, 5_000, 1)).astype(np.int32)
    assert changed_share(old, new, [64])["sid"] > 0.9
