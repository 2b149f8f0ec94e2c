"""Lists of what is left of a session: against a loop over visits."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_rows import HOUR, Segment, pack

from lgsid.generate.base import Packed
from lgsid.generate.sessions import session_lists


def by_hand(rows: Packed, gap_hours: float, items: int) -> list[tuple[int, int, list[int]]]:
    found = []
    for r, t in rows.target_RT.nonzero().tolist():
        chosen = [int(rows.item_RT[r, t])]
        for k in range(t + 1, min(t + items, rows.item_RT.shape[1])):
            if rows.segment_RT[r, k] != rows.segment_RT[r, t]:
                break
            if int(rows.time_RT[r, k] - rows.time_RT[r, k - 1]) > gap_hours * HOUR:
                break
            chosen.append(int(rows.item_RT[r, k]))
        once = list(dict.fromkeys(chosen))
        found.append((r, t, once + [-1] * (items - len(once))))
    return found


gaps = st.sampled_from([0, 1, HOUR // 2, HOUR, HOUR + 1, 30 * HOUR])


@st.composite
def diaries(draw: st.DrawFn) -> list[list[Segment]]:
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        row: list[Segment] = []
        for _ in range(draw(st.integers(1, 3))):
            visits, now = [], 0
            for _ in range(draw(st.integers(1, 6))):
                now += draw(gaps)
                visits.append((draw(st.integers(0, 2)), now))
            row.append(visits)
        rows.append(row)
    return rows


@settings(deadline=None, max_examples=100)
@given(diaries(), st.integers(1, 4), st.integers(0, 3))
def test_as_a_loop_finds_them(rows: list[list[Segment]], items: int, padding: int) -> None:
    longest = max(sum(map(len, row)) for row in rows)
    packed = pack(rows, length=longest + padding)
    lists = session_lists(packed, 1.0, items)
    assert lists.item_PM.shape == (len(lists), items)
    expected = by_hand(packed, 1.0, items)
    assert list(zip(lists.row_P.tolist(), lists.place_P.tolist(), lists.item_PM.tolist(), strict=True)) == expected


def test_known_lists() -> None:
    morning = [(1, 0), (2, 60), (3, 120), (3, 180), (4, 240)]
    evening = [(5, 10 * HOUR), (6, 10 * HOUR + 60)]
    lists = session_lists(pack([[morning + evening, [(7, 0), (8, 60)]]]), gap_hours=8.0, items=3)
    assert lists.item_PM.tolist() == [
        [2, 3, -1],  # the third visit is to 3 again
        [3, 4, -1],
        [3, 4, -1],
        [4, -1, -1],
        [5, 6, -1],
        [6, -1, -1],
        [8, -1, -1],
    ]


def test_a_session_goes_on_over_a_gap_of_just_its_length() -> None:
    rows = pack([[[(1, 0), (2, 1), (3, 1 + HOUR), (4, 2 + 2 * HOUR)]]])
    assert session_lists(rows, 1.0, 3).item_PM.tolist() == [[2, 3, -1], [3, -1, -1], [4, -1, -1]]


def test_rows_without_targets() -> None:
    lists = session_lists(pack([[[(1, 0)]]]), 1.0, 3)
    assert lists.item_PM.shape == (0, 3)
    assert lists.row_P.dtype == torch.int64
