"""The gravity model: a decay that is known is found again, samples find the same, and gaps are bridged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid.arrays import DoubleArray, IntArray
from lgsid.geo import DECAY_EDGES_KM, haversine_km, unit_sphere
from lgsid.rank import decay
from lgsid.rank.decay import UNSEEN, DistanceDecay, bands_between, moves_of

ITEMS, MOVES = 1_500, 4_000


def town(seed: int = 0) -> tuple[DoubleArray, IntArray]:
    """Places of items within some 20 km, on the unit sphere, and how often each is visited: a few very often."""
    rng = np.random.default_rng(seed)
    xyz_N3 = unit_sphere(40.7 + rng.normal(0, 0.08, ITEMS), -74.0 + rng.normal(0, 0.1, ITEMS))
    return xyz_N3, rng.zipf(1.6, ITEMS).clip(max=300).astype(np.int64)


def moves(log_f_B: DoubleArray, xyz_N3: DoubleArray, mass_N: IntArray) -> tuple[IntArray, IntArray]:
    """Moves that go by a decay: the items where each began and ended."""
    rng = np.random.default_rng(1)
    from_M = rng.integers(0, ITEMS, MOVES)
    log_MN = np.log(mass_N + UNSEEN) + log_f_B[bands_between(xyz_N3[from_M, None], xyz_N3)]
    return from_M, (log_MN + rng.gumbel(size=log_MN.shape)).argmax(1)


def test_bands_are_those_of_the_great_circle() -> None:
    lat, lon = np.random.default_rng(2).uniform(-60, 60, (2, 500))
    km = haversine_km(lat[:250], lon[:250], lat[250:], lon[250:])
    xyz_N3 = unit_sphere(lat, lon)
    assert bands_between(xyz_N3[:250], xyz_N3[250:]).tolist() == np.searchsorted(DECAY_EDGES_KM, km, "right").tolist()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.5])
def test_a_known_decay_is_found_again(power: float) -> None:
    xyz_N3, mass_N = town()
    middle_B = np.concatenate([[0.05], np.sqrt(DECAY_EDGES_KM[:-1] * DECAY_EDGES_KM[1:]), [3_000.0]])
    known_B = -power * np.log(middle_B)
    from_M, to_M = moves(known_B, xyz_N3, mass_N)
    found_B = DistanceDecay.fit(from_M, to_M, xyz_N3, mass_N).log_f_B
    often_B = np.bincount(bands_between(xyz_N3[from_M], xyz_N3[to_M]), minlength=len(known_B)) > 100
    assert often_B.sum() > 5
    difference = (found_B - known_B)[often_B]
    assert difference == pytest.approx(np.full(len(difference), difference.mean()), abs=0.25)


def test_a_sample_of_the_items_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    xyz_N3, mass_N = town()
    from_M, to_M = moves(-np.arange(len(DECAY_EDGES_KM) + 1) / 4, xyz_N3, mass_N)
    whole = DistanceDecay.fit(from_M, to_M, xyz_N3, mass_N).log_f_B
    monkeypatch.setattr(decay, "_ITEMS", 1_000)
    monkeypatch.setattr(decay, "_AT_ONCE", 5_000)
    drawn = DistanceDecay.fit(from_M, to_M, xyz_N3, mass_N).log_f_B
    often_B = np.bincount(bands_between(xyz_N3[from_M], xyz_N3[to_M]), minlength=len(whole)) > 100
    assert drawn[often_B] == pytest.approx(whole[often_B], abs=0.3)


def test_no_moves_and_no_items_beyond_leave_no_surprise() -> None:
    xyz_N3, mass_N = town()
    nothing = DistanceDecay.fit(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), xyz_N3, mass_N)
    assert (nothing.log_f_B == 0).all()
    from_M, to_M = moves(-np.arange(len(DECAY_EDGES_KM) + 1) / 4, xyz_N3, mass_N)
    found_B = DistanceDecay.fit(from_M, to_M, xyz_N3, mass_N).log_f_B
    assert np.isfinite(found_B).all()
    assert len(set(found_B[-8:].tolist())) == 1, "no item is hundreds of kilometres away: as the farthest that are"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_what_is_unknown_weighs_nothing(seed: int) -> None:
    xyz_N3, _ = town()
    fitted = DistanceDecay(np.linspace(3, -3, len(DECAY_EDGES_KM) + 1))
    here_3 = np.where(np.random.default_rng(seed).random(3) < 0.5, np.nan, 0.5)
    between_N = fitted.between(here_3, xyz_N3)
    assert (between_N == 0).all() == bool(np.isnan(here_3).any())


def test_of_many_visits_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decay, "_LOOKED", 50)
    user_E, item_E = np.repeat(np.arange(100), 3), np.tile([7, 8, 9], 100)
    from_M, to_M = moves_of(user_E, item_E)
    assert 10 < len(from_M) <= 50
    assert set(zip(from_M.tolist(), to_M.tolist(), strict=True)) == {(7, 8), (8, 9)}


def test_moves_are_of_one_user() -> None:
    from_M, to_M = moves_of(np.array([0, 0, 0, 1, 2, 2]), np.array([5, 6, 5, 9, 1, 1]))
    assert (from_M.tolist(), to_M.tolist()) == ([5, 6, 1], [6, 5, 1])
