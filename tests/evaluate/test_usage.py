"""Coverage by quantile against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgsid.evaluate.usage import code_counts, codes_to_cover, coverage


@pytest.mark.parametrize(
    ("counts", "share", "codes"),
    [([10, 10, 10, 10], 0.5, 2), ([10, 10, 10, 10], 0.51, 3), ([97, 1, 1, 1], 0.95, 1), ([97, 1, 1, 1], 0.98, 2),
     ([0, 7, 0], 0.99, 1), ([1] * 20, 0.95, 19), ([3], 0.5, 1)],
)  # fmt: skip
def test_known_answers(counts: list[int], share: float, codes: int) -> None:
    assert codes_to_cover(np.array(counts), share) == codes


@given(counts=st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any), share=st.floats(0.01, 0.999))
def test_it_is_the_least_number_that_covers(counts: list[int], share: float) -> None:
    codes = codes_to_cover(np.array(counts), share)
    falling = sorted(counts, reverse=True)
    assert sum(falling[:codes]) >= share * sum(counts) - 1e-6
    assert sum(falling[: codes - 1]) < share * sum(counts)


def test_counts_keep_unused_codes_and_ignore_an_extra_token() -> None:
    codes = np.array([[0, 1, 9], [0, 1, 8], [2, 3, 7]])
    first, second = code_counts(codes, [4, 5])
    assert first.tolist() == [2, 0, 1, 0]
    assert second.tolist() == [0, 2, 0, 1, 0]
    assert coverage([first, second])[0.5] == [1, 1]
