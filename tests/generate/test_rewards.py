"""Rewards of lists: answers that are known, what may not matter, and what data must tell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_city import town_places
from toy_rows import ITEMS, circle, pack

from lgsid.config import PreferenceConfig
from lgsid.errors import ConfigError, DataError
from lgsid.generate import rewards as module
from lgsid.generate.base import Packed
from lgsid.generate.metrics import unreachable_share
from lgsid.generate.rewards import Rewards, check_weights, mean_amounts, scales_of, standard_values
from lgsid.rank.visits import Visits, read_visits

LAT_N, LON_N = town_places()
LISTS_RWM = torch.tensor([[[0, 1, -1], [2, 4, 8]], [[5, 6, 7], [0, -1, -1]]])
HERE_R = LAT_N[[0, 4]], LON_N[[0, 4]]
"""The first user is in the town of items 0 to 3 and 8 to 11, the second in that of 4 to 7."""


class Likes:
    """A SASRec whose likelihoods grow with the item, the faster the longer the history."""

    def eval(self) -> Likes:
        return self

    def scores(self, requests: Packed) -> Tensor:
        return requests.length_R[:, None] * torch.arange(ITEMS) / 10.0


def asked(requests: int = 2) -> Packed:
    return pack([[circle(0, 2 + number)] for number in range(requests)])


def rewards(amount_N: Any = None, **weights: float) -> Rewards:
    likes: Any = Likes()
    return Rewards(PreferenceConfig(**weights), (LAT_N, LON_N), 5.0, likes, amount_N)


def test_reach_is_the_share_that_can_be_reached() -> None:
    reach_RW = rewards().parts(asked(), HERE_R, LISTS_RWM)["reach"]
    torch.testing.assert_close(reach_RW, torch.tensor([[1.0, 2 / 3], [1.0, 0.0]]))


def test_reach_is_what_recommenders_are_measured_by() -> None:
    lists_RW3 = torch.from_numpy(np.random.default_rng(0).integers(0, ITEMS, (40, 1, 3)))
    here_R = LAT_N[np.arange(40) % ITEMS], LON_N[np.arange(40) % ITEMS]
    reach_RW = rewards().parts(asked(40), here_R, lists_RW3)["reach"]
    beyond = unreachable_share(lists_RW3[:, 0].numpy(), here_R, LAT_N, LON_N, 5.0)
    assert 1 - float(reach_RW.mean()) == pytest.approx(beyond)
    assert 0.2 < float(reach_RW.mean()) < 0.8


def test_interest_is_the_mean_log_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    interest_RW = rewards().parts(asked(), HERE_R, LISTS_RWM)["interest"]
    for request, length in enumerate((2, 3)):
        p_N = np.exp(length * np.arange(ITEMS) / 10)
        for number, items in enumerate(LISTS_RWM[request].tolist()):
            expected = np.mean([np.log(p_N[item] / p_N.sum()) for item in items if item >= 0])
            assert float(interest_RW[request, number]) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(module, "SCORES", 1)  # one request at a time
    torch.testing.assert_close(rewards().parts(asked(), HERE_R, LISTS_RWM)["interest"], interest_RW)


def test_value_is_on_the_scale_of_the_catalogue() -> None:
    value_N = standard_values(np.expm1([1.0, 2.0, np.nan, 1.0, 2.0]))
    np.testing.assert_allclose(value_N, [-1, 1, 0, -1, 1], atol=1e-6)
    amount_N = np.full(ITEMS, np.nan)
    amount_N[[0, 1, 4, 5]] = np.expm1([1.0, 2.0, 2.0, 1.0])
    value_RW = rewards(amount_N, value=1.0).parts(asked(), HERE_R, LISTS_RWM)["value"]
    torch.testing.assert_close(value_RW, torch.tensor([[0.0, 1 / 3], [-1 / 3, -1.0]]))
    assert "value" not in rewards().parts(asked(), HERE_R, LISTS_RWM)


def test_scales_are_those_among_the_lists_of_a_request() -> None:
    parts = {
        "interest": torch.tensor([[10.0, 12.0], [-4.0, -2.0]]),
        "reach": torch.tensor([[1.0, 1.0], [0.5, 0.5]]),
        "value": torch.tensor([[7.0, 9.0], [torch.nan, 8.0]]),
    }
    assert scales_of(parts) == {"interest": (4.0, 1.0), "reach": (0.0, 1.0), "value": (0.0, 1.0)}


def test_rewards_are_weighted_sums() -> None:
    parts = {"interest": torch.tensor([[3.0, 5.0]]), "reach": torch.tensor([[1.0, 0.0]])}
    scales = {"interest": (4.0, 0.5), "reach": (0.5, 0.25)}
    reward_RW = rewards(interest=2.0, reach=1.0).total(parts, scales)
    assert reward_RW.tolist() == [[2 * -2.0 + 2.0, 2 * 2.0 - 2.0]]
    assert rewards(interest=0.0, reach=1.0).total(parts, scales).tolist() == [[2.0, -2.0]]


def test_an_empty_list_has_no_reward() -> None:
    parts = rewards().parts(asked(), HERE_R, torch.tensor([[[-1, -1]], [[3, -1]]]))
    reward_RW = rewards().total(parts, scales_of(parts))
    assert torch.isnan(reward_RW).tolist() == [[True], [False]]
    nothing = rewards().parts(pack([]), (LAT_N[:0], LON_N[:0]), torch.zeros(0, 4, 3, dtype=torch.int64))
    assert all(part_RW.shape == (0, 4) for part_RW in nothing.values())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=4, unique=True), st.randoms())
def test_neither_order_nor_places_behind_the_end_matter(items: list[int], random: Any) -> None:
    other = [*random.sample(items, len(items)), *[-1] * random.randint(0, 3)]
    judge = rewards(np.arange(ITEMS) + 1.0, value=1.0)
    here_1 = LAT_N[:1], LON_N[:1]
    one, two = (judge.parts(asked(1), here_1, torch.tensor([[row]])) for row in (items, other))
    for name, part_RW in one.items():
        torch.testing.assert_close(part_RW, two[name])


def test_data_must_tell_the_reward() -> None:
    valued = PreferenceConfig(value=0.5)
    for amount_N, said in ((None, "none is known"), (np.full(3, np.nan), "none is known"),
                           (np.array([2.0, 2.0, np.nan]), "all 2 items that have one have the same")):  # fmt: skip
        with pytest.raises(ConfigError, match=said) as raised:
            check_weights(valued, amount_N)
        assert raised.value.fix is not None
        assert "generate.preference.value=0" in raised.value.fix
    with pytest.raises(ConfigError, match="are all 0"):
        check_weights(PreferenceConfig(interest=0, reach=0, value=0), None)
    with pytest.raises(ConfigError, match="none is known"):
        rewards(None, value=1.0)
    with pytest.raises(ValueError, match="no SASRec"):
        Rewards(PreferenceConfig(), (LAT_N, LON_N), 5.0)
    check_weights(PreferenceConfig(), None)
    check_weights(valued, np.array([1.0, 2.0]))


def spent(rows: list[tuple[str, str, int, str, float | None]]) -> pl.DataFrame:
    """Events: user, item, day, kind, amount."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    columns = dict(zip(("user_id", "item_id", "day", "kind", "amount"), zip(*rows, strict=True), strict=True))
    days = [start + timedelta(days=day) for day in columns.pop("day")]
    return pl.DataFrame({**columns, "timestamp": days}).with_columns(pl.col("timestamp").dt.cast_time_unit("us"))


def visits_until(items: pl.DataFrame, events: pl.DataFrame, day: int) -> Visits:
    end = int((datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day)).timestamp() * 1e6)
    return read_visits(items, events.lazy(), ("click",), (end, end))


def test_amounts_are_those_of_the_training_period() -> None:
    items = pl.DataFrame({"item_id": ["a", "b", "c", "d"]})
    events = spent([
        ("u", "a", 0, "click", None), ("u", "a", 1, "order", 10.0), ("u", "b", 2, "order", 3.0),
        ("u", "a", 3, "click", None), ("u", "b", 4, "order", 99.0), ("u", "c", 9, "click", None),
        ("v", "a", 2, "click", None), ("v", "a", 2, "order", 20.0), ("v", "d", 3, "order", float("nan")),
        ("w", "c", 0, "order", 5.0),
    ])  # fmt: skip
    amount_N = mean_amounts(items, events.lazy(), visits_until(items, events, 5))
    assert amount_N is not None
    np.testing.assert_array_equal(amount_N, [15.0, 3.0, np.nan, np.nan])
    assert mean_amounts(items, events.drop("amount").lazy(), visits_until(items, events, 5)) is None
    none = events.with_columns(pl.lit(None, pl.Float64).alias("amount"))
    assert np.isnan(mean_amounts(items, none.lazy(), visits_until(items, events, 5))).all()  # type: ignore[arg-type]


def test_amounts_of_unknown_items() -> None:
    items = pl.DataFrame({"item_id": ["a"]})
    events = spent([("u", "a", 0, "click", None), ("u", "x", 0, "order", 1.0)])
    with pytest.raises(DataError, match="not in the catalogue"):
        mean_amounts(items, events.lazy(), visits_until(items, events, 5))
