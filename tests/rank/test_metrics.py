"""AUC and its kin: known answers, the library's answers, and what is not defined."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from lgsid.errors import DataError
from lgsid.rank.auc import auc, gauc, grouped_auc
from lgsid.rank.loader import Requests
from lgsid.rank.metrics import Samples, calibration, equal_mass, log_loss, measure

LENGTH = 40
few_values = st.sampled_from([-2.5, -1.0, -0.0, 0.0, 0.5, 0.75, 3.0, 1e-30, -1e30])
"""So that there are ties."""


@st.composite
def scored(draw: st.DrawFn, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, and labels of both classes."""
    score_S = draw(hnp.arrays(dtype, LENGTH, elements=few_values.map(lambda x: float(np.float32(x)))))
    label_S = draw(hnp.arrays(np.bool_, LENGTH))
    label_S[:2] = True, False
    return score_S, label_S


# --- AUC --------------------------------------------------------------------------------------------------------------
@given(scored())
def test_auc_is_scikit_learns_whatever_the_ties(sample: tuple[np.ndarray, np.ndarray]) -> None:
    score_S, label_S = sample
    assert auc(score_S, label_S) == pytest.approx(roc_auc_score(label_S, score_S), abs=1e-12)


@given(hnp.arrays(np.float32, LENGTH, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_auc_orders_floats_of_any_size_and_sign(score_S: np.ndarray) -> None:
    label_S = np.arange(LENGTH) % 3 == 0
    assert auc(score_S, label_S) == pytest.approx(roc_auc_score(label_S, score_S), abs=1e-12)


@settings(max_examples=20)
@given(scored(np.float64))
def test_doubles_are_not_rounded(sample: tuple[np.ndarray, np.ndarray]) -> None:
    score_S, label_S = sample
    apart_S = score_S + np.where(label_S, 1e-12, 0.0)
    assert auc(apart_S, label_S) == pytest.approx(roc_auc_score(label_S, apart_S), abs=1e-12)


def test_auc_of_ties_by_hand() -> None:
    score_S, label_S = np.asarray([1, 2, 2, 3], dtype=np.float32), np.asarray([0, 0, 1, 1])
    assert auc(score_S, label_S) == 3.5 / 4  # of four pairs three are won and one is tied
    assert auc(np.zeros(4, dtype=np.float32), label_S) == 0.5
    assert auc(np.asarray([0.0, -0.0], dtype=np.float32), np.asarray([1, 0])) == 0.5
    assert auc(np.asarray([3, 1, 1, 2]), np.asarray([1, 1, 0, 0])) == 2.5 / 4  # whole numbers are scores too


def test_auc_does_not_depend_on_the_order_of_samples() -> None:
    rng = np.random.default_rng(0)
    score_S, label_S = rng.integers(0, 50, 999).astype(np.float32), rng.random(999) < 0.2
    order = rng.permutation(999)
    assert auc(score_S, label_S) == auc(score_S[order], label_S[order])


@pytest.mark.parametrize("label", [0, 1])
def test_auc_of_one_class_is_not_defined(label: int) -> None:
    assert auc(np.ones(3, dtype=np.float32), np.full(3, label)) is None
    assert auc(np.empty(0, dtype=np.float32), np.empty(0, dtype=np.bool_)) is None


@given(scored(), hnp.arrays(np.int64, LENGTH, elements=st.integers(0, 4)))
def test_grouped_auc_is_the_auc_of_each_group(sample: tuple[np.ndarray, np.ndarray], group_S: np.ndarray) -> None:
    score_S, label_S = sample
    found = grouped_auc(score_S, label_S, group_S, 6)
    for group in range(6):
        inside = group_S == group
        expected = auc(score_S[inside], label_S[inside])
        assert found.of(group) == {
            "auc": expected,
            "positives": np.count_nonzero(label_S[inside]),
            "negatives": np.count_nonzero(~label_S[inside]),
        }
        assert found.defined()[group] == (expected is not None)


def test_bad_scores_and_labels_are_named() -> None:
    good = np.zeros(3, dtype=np.float32)
    with pytest.raises(DataError, match="score of sample 1 is nan"):
        auc(np.asarray([0, np.nan, 1], dtype=np.float32), np.asarray([0, 1, 0]))
    with pytest.raises(DataError, match="score of sample 2 is inf"):
        log_loss(np.asarray([0, 0, np.inf]), np.asarray([0, 1, 0]))
    with pytest.raises(DataError, match=r"label of sample 2 is 2"):
        auc(good, np.asarray([0, 1, 2]))
    with pytest.raises(DataError, match="3 scores got labels of shape"):
        auc(good, np.asarray([0, 1]))


# --- GAUC -------------------------------------------------------------------------------------------------------------
def test_gauc_weighs_users_by_their_samples_and_counts_those_left_out() -> None:
    user_S = np.asarray([7, 7, 3, 3, 3, 3, 10**15, 10**15, -1])
    label_S = np.asarray([1, 0, 1, 0, 0, 0, 1, 1, 0])
    score_S = np.asarray([0.1, 0.9, 0.5, 0.1, 0.5, 0.9, 1.0, 2.0, 3.0], dtype=np.float32)
    assert gauc(score_S, label_S, user_S) == {
        "gauc": (2 * 0.0 + 4 * 0.5) / 6,
        "users": 2,
        "users_left_out": 2,
        "samples_left_out": 3,
    }


def test_gauc_of_no_user_is_not_defined() -> None:
    found = gauc(np.zeros(2, dtype=np.float32), np.ones(2, dtype=np.bool_), np.arange(2))
    assert found == {"gauc": None, "users": 0, "users_left_out": 2, "samples_left_out": 2}


def test_what_users_share_does_not_enter_gauc() -> None:
    """A score that only says which user it is of is worth nothing within users, though AUC likes it."""
    user_S = np.repeat([0, 1], 50)
    label_S = np.concatenate([np.arange(50) < 40, np.arange(50) < 10])
    score_S = (user_S == 0).astype(np.float32)
    assert gauc(score_S, label_S, user_S)["gauc"] == 0.5
    assert auc(score_S, label_S) == 0.8


# --- Probabilities ----------------------------------------------------------------------------------------------------
@given(hnp.arrays(np.float32, LENGTH, elements=st.floats(-15, 15, width=32)))
def test_log_loss_is_scikit_learns(logit_S: np.ndarray) -> None:
    label_S = np.arange(LENGTH) % 2 == 0
    probability_S = 1 / (1 + np.exp(-logit_S.astype(np.float64)))
    assert log_loss(logit_S, label_S) == pytest.approx(sklearn_log_loss(label_S, probability_S), rel=1e-9)


def test_log_loss_of_extreme_logits_is_exact() -> None:
    label_S = np.asarray([0, 1])
    assert log_loss(np.asarray([1e4, -1e4], dtype=np.float32), label_S) == 1e4
    assert log_loss(np.asarray([-1e4, 1e4], dtype=np.float32), label_S) == 0.0
    assert log_loss(np.asarray([-40.0, 40.0]), label_S) == pytest.approx(np.exp(-40.0), rel=1e-9)
    assert log_loss(np.empty(0), np.empty(0)) is None


def test_calibration_by_hand() -> None:
    """Half the samples are said to be visits with probability 1/2, and one in four of them is; the rest is right."""
    logit_S = np.repeat([0.0, np.log(3)], 400).astype(np.float32)
    label_S = np.concatenate([np.arange(400) < 100, np.arange(400) < 300])
    found = calibration(logit_S, label_S, bins=2)
    assert found["predicted"] == pytest.approx(0.625)
    assert found["observed"] == 0.5
    assert found["ratio"] == pytest.approx(1.25)
    assert found["error"] == pytest.approx(0.125)
    assert [row["samples"] for row in found["bins"]] == [400, 400]
    assert found["bins"][0] == pytest.approx({"samples": 400, "predicted": 0.5, "observed": 0.25})


def test_calibrated_scores_are_found_calibrated_and_overconfident_ones_not() -> None:
    rng = np.random.default_rng(0)
    logit_S = rng.normal(-1.4, 1.0, 50_000).astype(np.float32)
    label_S = rng.random(50_000) < 1 / (1 + np.exp(-logit_S))
    assert calibration(logit_S, label_S)["error"] < 0.01
    assert calibration(logit_S, label_S)["ratio"] == pytest.approx(1, abs=0.02)
    assert calibration(3 * logit_S, label_S)["error"] > 0.08


def test_calibration_where_little_is_known() -> None:
    assert calibration(np.zeros(4), np.zeros(4))["ratio"] is None
    assert calibration(np.zeros(4), np.zeros(4))["error"] == 0.5
    assert calibration(np.empty(0), np.empty(0)) == {
        "predicted": None, "observed": None, "ratio": None, "error": None, "bins": [],
    }  # fmt: skip


@given(hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 12)), st.integers(1, 8))
def test_bins_keep_equal_values_together_and_are_not_empty(value_S: np.ndarray, bins: int) -> None:
    bin_S, edges = equal_mass(value_S, bins)
    assert np.all(np.bincount(bin_S, minlength=len(edges) + 1) > 0)
    assert len(edges) + 1 <= bins
    order = np.argsort(value_S)
    assert np.all(np.diff(bin_S[order]) >= 0)
    assert all(len(set(bin_S[value_S == value])) == 1 for value in set(value_S.tolist()))


def test_bins_of_distinct_values_are_even() -> None:
    bin_S, _ = equal_mass(np.random.default_rng(0).permutation(100), 5)
    assert np.bincount(bin_S).tolist() == [20] * 5


# --- All of it --------------------------------------------------------------------------------------------------------
def toy_samples() -> tuple[np.ndarray, Samples]:
    """Two requests of three candidates, of one user each; the first one's positive is a first visit."""
    score_S = np.asarray([2.0, 1.0, 3.0, 5.0, 4.0, 0.0], dtype=np.float32)
    samples = Samples(
        label_S=np.asarray([True, False, False, True, False, False]),
        user_S=np.asarray([4, 4, 4, 9, 9, 9]),
        request_S=np.asarray([0, 0, 0, 1, 1, 1]),
        distance_km_S=np.asarray([0.5, 0.9, 1.0, 12.0, np.nan, 10.0]),
        seen_S=np.asarray([0, 0, 0, 7, 7, 2]),
        first_visit_S=np.asarray([True, True, True, False, False, False]),
    )
    return score_S, samples


def test_measure_by_hand() -> None:
    score_S, samples = toy_samples()
    found = measure(score_S, samples)
    assert (found["samples"], found["positives"], found["requests"], found["users"]) == (6, 2, 2, 2)
    assert found["auc"] == 6 / 8
    assert found["gauc"] == 0.75
    assert found["first_visits"] == {"auc": 0.5, "positives": 1, "negatives": 2}
    assert found["revisits"] == {"auc": 1.0, "positives": 1, "negatives": 2}
    assert found["cold"] == {"auc": 0.5, "positives": 1, "negatives": 2}
    assert found["log_loss"] == log_loss(score_S, samples.label_S)
    assert found["calibration"] == calibration(score_S, samples.label_S)


def test_distance_bands_hold_their_lower_edge_and_count_the_unknown() -> None:
    found = measure(*toy_samples())["by_distance"]
    assert found["unknown"] == 1
    assert [(row["from_km"], row["to_km"]) for row in found["bands"]] == [(0, 1), (1, 2), (2, 5), (5, 10), (10, None)]
    assert [(row["positives"], row["negatives"]) for row in found["bands"]] == [(1, 1), (0, 1), (0, 0), (0, 0), (1, 1)]
    assert [row["auc"] for row in found["bands"]] == [1.0, None, None, None, 1.0]


def test_popularity_bands_say_which_items_they_hold() -> None:
    found = measure(*toy_samples())["by_popularity"]
    assert [(row["from_visits"], row["to_visits"]) for row in found] == [(0, 0), (2, 2), (7, 7)]
    assert [row["auc"] for row in found] == [0.5, None, 1.0]
    assert sum(row["positives"] + row["negatives"] for row in found) == 6


def test_what_is_not_known_is_none_and_nan_never_leaves() -> None:
    score_S, samples = toy_samples()
    bare = measure(score_S, Samples(samples.label_S, samples.user_S, samples.request_S), logits=False)
    unknown = ("by_distance", "by_popularity", "first_visits", "revisits", "cold", "log_loss", "calibration")
    assert [name for name, value in bare.items() if value is None] == sorted(unknown, key=list(bare).index)
    nothing = measure(score_S[:0], samples.where(np.zeros(6, dtype=np.bool_)))
    assert nothing["auc"] is None
    assert nothing["gauc"] is None
    for figures in (bare, nothing, measure(score_S, samples), measure(score_S[:1], samples.where(np.arange(6) < 1))):
        json.dumps(figures, allow_nan=False)


def test_samples_of_other_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="expected one number for each sample"):
        Samples(np.ones(3, dtype=np.bool_), np.arange(3), np.arange(2))


def test_samples_of_requests_are_flat_and_the_positive_is_first() -> None:
    one = np.asarray([5, 6], dtype=np.int64)
    requests = Requests(
        user=one, first=one, stop=one, time=one, here_lat_deg=np.asarray([0.0, np.nan]),
        here_lon_deg=np.asarray([0.0, 0.0]), candidates=np.asarray([[0, 1], [1, 2]]),
        first_visit=np.asarray([True, False]),
    )  # fmt: skip
    samples = Samples.of_requests(requests, np.asarray([0.0, 0.0, 0.0]), np.asarray([0.0, 1.0, 2.0]), np.arange(3))
    assert samples.label_S.tolist() == [True, False, True, False]
    assert samples.user_S.tolist() == [5, 5, 6, 6]
    assert samples.request_S.tolist() == [0, 0, 1, 1]
    assert samples.distance_km_S == pytest.approx([0, 111.195, np.nan, np.nan], abs=0.01, nan_ok=True)
    assert samples.seen_S is not None
    assert samples.seen_S.tolist() == [0, 1, 1, 2]
    assert samples.first_visit_S is not None
    assert samples.first_visit_S.tolist() == [True, True, False, False]
    assert samples.where(samples.label_S).user_S.tolist() == [5, 6]
