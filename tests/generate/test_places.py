"""Where prefixes are, and where users and their beams stand: against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_rows import ITEMS, codes, places

from lgsid.generate.places import BUCKETS, SidPlaces, Standing
from lgsid.geo import DECAY_EDGES_KM, haversine_km, unit_sphere


def of_prefix(codes_NL: np.ndarray, prefix: list[int]) -> np.ndarray:
    """Items whose SIDs begin so."""
    return np.flatnonzero((codes_NL[:, : len(prefix)] == prefix).all(axis=1))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**16), items=st.integers(1, 40), levels=st.integers(1, 4))
def test_children_and_their_middles_are_those_of_the_items(seed: int, items: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    codes_NL = np.unique(rng.integers(0, 5, (items, levels)), axis=0).astype(np.int32)
    xyz_N3 = unit_sphere(rng.uniform(-80, 80, len(codes_NL)), rng.uniform(-180, 180, len(codes_NL)))
    found = SidPlaces(codes_NL, xyz_N3)
    here_Q13 = torch.from_numpy(unit_sphere(rng.uniform(-80, 80, 6), rng.uniform(-180, 180, 6))).float()[:, None]
    written_QL = rng.integers(0, 6, (6, levels))
    standing = Standing.at(found, here_Q13)
    for level in range(levels):
        ask_C, token_C, bucket_C = (part.numpy() for part in standing.children(1, level))
        for ask in range(6):
            prefix = written_QL[ask, :level].tolist()
            below = of_prefix(codes_NL, prefix)
            tokens = np.unique(codes_NL[below, level])
            assert token_C[ask_C == ask].tolist() == tokens.tolist()
            for token, bucket in zip(tokens, bucket_C[ask_C == ask], strict=True):
                middle_3 = xyz_N3[of_prefix(codes_NL, [*prefix, token])].mean(axis=0)
                chord = np.linalg.norm(middle_3 / np.linalg.norm(middle_3) - here_Q13[ask, 0].numpy())
                km = 2 * 6371.0088 * np.arcsin(min(1.0, chord / 2))
                assert bucket in {np.searchsorted(DECAY_EDGES_KM, km * (1 + tiny)) for tiny in (-1e-4, 0, 1e-4)}
        standing = standing.went(torch.from_numpy(written_QL[:, level : level + 1]), level)
        assert (standing.node_BW[:, 0] >= 0).tolist() == [
            len(of_prefix(codes_NL, sid[: level + 1].tolist())) > 0 for sid in written_QL
        ]


def test_distances_are_those_on_the_ground() -> None:
    lat_N, lon_N = np.array([40.7, 40.701, 40.75, 41.9, 40.7]), np.array([-74.0, -74.0, -74.0, -87.6, -73.0])
    found = SidPlaces(np.arange(5, dtype=np.int32)[:, None], unit_sphere(lat_N, lon_N))
    km_N = haversine_km(lat_N[0], lon_N[0], lat_N, lon_N)
    bucket_N = found.bucket(found.xyz_N3[:1], found.xyz_N3)
    assert bucket_N.tolist() == np.searchsorted(DECAY_EDGES_KM, km_N).tolist()
    assert len(set(bucket_N.tolist())) == 5


def test_nobody_knows_where_is_equally_far_from_everything() -> None:
    found = SidPlaces(codes(), places())
    assert found.bucket(torch.zeros(1, 3), found.xyz_N3).tolist() == [BUCKETS - 1] * ITEMS


def test_beams_keep_to_their_parents() -> None:
    found = SidPlaces(codes(), places())
    here_BW3 = torch.from_numpy(places()[:2])[:, None]
    first = Standing.at(found, here_BW3).went(torch.tensor([[0, 1, 2], [2, 1, 0]]), 0)
    parents = torch.tensor([[2, 2, 0, 1], [0, 1, 1, 2]])
    assert first.of_parents(parents).node_BW.tolist() == [[2, 2, 0, 1], [2, 1, 1, 0]]
    assert not first.back().node_BW.any()
    root = Standing.at(found, here_BW3).of_parents(torch.zeros(2, 4, dtype=torch.int64))
    assert root.node_BW.tolist() == [[0] * 4] * 2


def test_some_of_the_items_may_be_written() -> None:
    codes_NL = np.array([[0, 0], [0, 1], [7, 9], [0, 0]], dtype=np.int32)  # the last two are nobody's to write
    found = SidPlaces(codes_NL, places()[:4], np.array([0, 1]))
    assert len(found.xyz_N3) == 4
    assert found.nodes(0).token_M.tolist() == [0]
    assert found.nodes(1).token_M.tolist() == [0, 1]
    assert found.child(torch.tensor([0]), torch.tensor([7]), 0).tolist() == [-1]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_places_keep_their_digits(kind: torch.dtype) -> None:
    found = SidPlaces(codes(), places())
    before = found.xyz_N3.clone()
    found.to(kind)
    assert found.xyz_N3.dtype == torch.float32
    assert torch.equal(found.xyz_N3, before)
