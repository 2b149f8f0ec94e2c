"""The bootstrap: weighted AUC equals that of copied samples, intervals cover, and draws are shared and seeded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from lgsid.errors import DataError
from lgsid.rank.auc import auc
from lgsid.rank.bootstrap import bootstrap_auc, paired_bootstrap


def world(seed: int, users: int = 80, gain: float = 0.3, own: float = 0.8) -> tuple[np.ndarray, ...]:
    """Labels, users, and two score vectors: a shared one, and one that knows ``gain`` more of the label. Each user has
    a taste of their own for both, so that a user's samples hang together."""
    rng = np.random.default_rng(seed)
    user_S = np.repeat(np.arange(users), 10)
    label_S = np.tile(np.arange(10) < 2, users)
    base_S = rng.standard_normal(len(user_S)) + label_S * (1 + own * rng.standard_normal(users))[user_S]
    more_S = 0.5 * rng.standard_normal(len(user_S)) + label_S * gain * (1 + rng.standard_normal(users))[user_S]
    return label_S, user_S, base_S.astype(np.float32), (base_S + more_S).astype(np.float32)


@settings(max_examples=25)
@given(st.integers(0, 1_000), st.booleans())
def test_a_replicate_is_the_auc_of_the_samples_copied(seed: int, ties: bool) -> None:
    label_S, user_S, score_S, _ = world(seed, users=12)
    score_S = np.round(score_S) if ties else score_S
    found = bootstrap_auc({"only": [score_S]}, label_S, user_S, replicates=3, seed=seed)
    rng = np.random.default_rng(seed)
    for replicate in range(3):
        copies_S = np.bincount(rng.integers(12, size=12), minlength=12)[user_S]
        expected = roc_auc_score(np.repeat(label_S, copies_S), np.repeat(score_S, copies_S))
        assert found.auc_Z["only"][replicate] == pytest.approx(expected, abs=1e-12)


def test_the_point_is_the_plain_auc_and_seeds_are_averaged() -> None:
    label_S, user_S, one_S, other_S = world(0)
    both = bootstrap_auc({"both": [one_S, other_S], "one": [one_S], "other": [other_S]}, label_S, user_S, 20)
    assert both.seeds["both"] == (auc(one_S, label_S), auc(other_S, label_S))
    assert both.auc_Z["both"] == pytest.approx((both.auc_Z["one"] + both.auc_Z["other"]) / 2)
    found = both.difference("both", "one")
    assert found.difference == pytest.approx((both.seeds["other"][0] - both.seeds["one"][0]) / 2)


def test_a_method_is_not_different_from_itself() -> None:
    label_S, user_S, score_S, _ = world(1)
    found = paired_bootstrap([score_S], [2 * score_S + 1], label_S, user_S, replicates=50)
    assert (found.difference, found.low, found.high, found.share_not_above, found.p_value) == (0, 0, 0, 1, 1)


def test_pairing_is_tighter_than_two_intervals() -> None:
    label_S, user_S, base_S, better_S = world(2)
    found = bootstrap_auc({"better": [better_S], "base": [base_S]}, label_S, user_S, replicates=300)
    paired = found.difference("better", "base")
    low, high = found.interval("base")
    assert paired.high - paired.low < 0.7 * (high - low)
    assert paired.low < paired.difference < paired.high
    assert paired.mean == pytest.approx(paired.difference, abs=0.01)


def test_a_clear_gain_is_sure_and_its_reverse_is_the_mirror() -> None:
    label_S, user_S, base_S, better_S = world(3, gain=1.0)
    found = paired_bootstrap([better_S], [base_S], label_S, user_S, replicates=199)
    assert found.low > 0
    assert found.share_not_above == 0
    assert found.p_value == 2 / 200
    back = paired_bootstrap([base_S], [better_S], label_S, user_S, replicates=199)
    assert (back.difference, back.low, back.high) == pytest.approx((-found.difference, -found.high, -found.low))
    assert back.share_not_above == 1
    assert back.p_value == found.p_value


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    label_S, user_S, base_S, better_S = world(10**6, users=40_000)
    truth = (auc(better_S, label_S) or 0) - (auc(base_S, label_S) or 0)
    covered = 0
    for seed in range(150):
        label_S, user_S, base_S, better_S = world(seed)
        found = paired_bootstrap([better_S], [base_S], label_S, user_S, replicates=200, seed=seed)
        covered += found.low <= truth <= found.high
    assert 0.89 <= covered / 150 <= 0.99


def test_users_are_drawn_not_samples() -> None:
    """Ten copies of every user's samples say nothing new: the interval stays as wide as it was."""
    label_S, user_S, base_S, better_S = world(4)
    once = paired_bootstrap([better_S], [base_S], label_S, user_S, replicates=100)
    copied = [np.tile(array, 10) for array in (better_S, base_S, label_S, user_S)]
    tenfold = paired_bootstrap([copied[0]], [copied[1]], copied[2], copied[3], replicates=100)
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))


def test_same_seed_same_result_whatever_the_order_and_the_users_numbers() -> None:
    label_S, user_S, base_S, better_S = world(5)
    order = np.random.default_rng(0).permutation(len(label_S))
    once = paired_bootstrap([better_S], [base_S], label_S, user_S, 50, seed=7)
    again = paired_bootstrap([better_S[order]], [base_S[order]], label_S[order], user_S[order] * 10**9 - 5, 50, seed=7)
    assert once == again
    assert once != paired_bootstrap([better_S], [base_S], label_S, user_S, 50, seed=8)
    assert once.to_json() == again.to_json()


def test_draws_without_one_class_are_left_out_for_all_and_counted() -> None:
    user_S, label_S = np.asarray([0, 0, 1, 2]), np.asarray([1, 0, 0, 0])
    score_S = np.asarray([3, 2, 4, 1], dtype=np.float32)
    found = paired_bootstrap([score_S], [-score_S], label_S, user_S, replicates=200)
    assert 100 < found.replicates < 180  # 19 of 27 draws hold the one visit
    assert np.isfinite(found.low)


def test_bad_input_is_refused() -> None:
    label_S, user_S, score_S, _ = world(6)
    with pytest.raises(DataError, match="method without scores"):
        paired_bootstrap([score_S], [], label_S, user_S)
    with pytest.raises(DataError, match="got scores of shape"):
        paired_bootstrap([score_S], [score_S[:-1]], label_S, user_S)
    with pytest.raises(DataError, match="samples of one class"):
        paired_bootstrap([score_S], [score_S], np.ones(len(label_S)), user_S)
    with pytest.raises(DataError, match="score of sample 3"):
        paired_bootstrap([score_S], [np.where(np.arange(len(score_S)) == 3, np.nan, score_S)], label_S, user_S)
    with pytest.raises(DataError, match="none of 0 draws"):
        paired_bootstrap([score_S], [score_S], label_S, user_S, replicates=0)
