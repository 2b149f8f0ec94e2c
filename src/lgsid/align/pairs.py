"""Domain-mixed preference pairs for G-DPO (LGSID, arXiv 2511.14221): two candidates for an anchor, one to be preferred.

*Collaborative* pairs set an item that people visited together with the anchor against one that they did not.
*Geographic* pairs set two items of neighbouring distance bands against each other, so that every scale is covered.
Which of the two is preferred, and by how much, is for the reward model to say.

Shapes: N items, P pairs, B bands, D draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from lgsid.align.bands import BandSampler
from lgsid.align.covisits import CoVisits, co_visits
from lgsid.align.places import uniforms
from lgsid.arrays import BoolArray, CodeArray, DoubleArray, IntArray
from lgsid.config import PairConfig
from lgsid.errors import DataError
from lgsid.geo import haversine_km

GEOGRAPHIC, COLLABORATIVE = 0, 1
SOURCES = ("geographic", "collaborative")
_SPARE = 3  # draws a band beyond one for each pair, for where the first is not allowed


@dataclass(frozen=True)
class Pairs:
    """P preference pairs, ascending by anchor, no pair twice for one anchor.

    Attributes:
        anchor_P, first_P, second_P: rows of items, three different ones.
        source_P: `GEOGRAPHIC` or `COLLABORATIVE`.
        first_km_P, second_km_P: distances of the candidates from the anchor.
        bands_km: upper edges of the distance bands.
        about: counts of what the pairs were made from.
    """

    anchor_P: IntArray
    first_P: IntArray
    second_P: IntArray
    source_P: CodeArray
    first_km_P: DoubleArray
    second_km_P: DoubleArray
    bands_km: tuple[float, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.anchor_P)

    def of(self, anchors_A: IntArray) -> IntArray:
        """Numbers of the pairs of these anchors, anchor by anchor."""
        low = np.searchsorted(self.anchor_P, anchors_A, side="left")
        count = np.searchsorted(self.anchor_P, anchors_A, side="right") - low
        before = np.cumsum(count) - count
        numbers: IntArray = np.repeat(low - before, count) + np.arange(count.sum())
        return numbers

    def figures(self) -> dict[str, Any]:
        """Counts and median distances in km by source and by distance band (of both candidates), JSON-able."""
        return {
            "pairs": len(self),
            "anchors": len(np.unique(self.anchor_P)),
            **{name: self._source(number) for number, name in enumerate(SOURCES)},
            "bands": self._bands(),
            **self.about,
        }

    def _source(self, source: int) -> dict[str, Any]:
        chosen = self.source_P == source
        return {
            "pairs": int(chosen.sum()),
            "first_median_km": _median(self.first_km_P[chosen]),
            "second_median_km": _median(self.second_km_P[chosen]),
        }

    def _bands(self) -> list[dict[str, Any]]:
        km = np.concatenate([self.first_km_P, self.second_km_P])
        source = np.tile(self.source_P, 2)
        band = np.searchsorted(self.bands_km, km)
        edges = [0.0, *self.bands_km, None]
        return [
            {
                "from_km": edges[number],
                "to_km": edges[number + 1],
                "median_km": _median(km[band == number]),
                **{name: int(((band == number) & (source == code)).sum()) for code, name in enumerate(SOURCES)},
            }
            for number in range(len(self.bands_km) + 1)
        ]


def preference_pairs(items: pl.DataFrame, events: pl.DataFrame | None, config: PairConfig, seed: int) -> Pairs:
    """Pairs for every item: collaborative ones for a share of those that have co-visits, geographic ones otherwise.

    An anchor has ``per_anchor`` pairs, fewer where the catalogue around it is too small for different ones. Without
    events, or without co-visits, all pairs are geographic and ``figures()["geographic_only_because"]`` says why.
    Nothing outside the given tables is looked at: give training items and events of the training period only.

    Args:
        items: N items (``item_id``, ``lat_deg``, ``lon_deg``).
        events: see `co_visits`; None if there are none.
        config: share, window, quantile, bands and number of pairs.
        seed: same seed, same pairs.

    Raises:
        DataError: there are fewer than three items, the bands do not ascend, or coordinates are not finite.
    """
    visits = None if events is None or config.collaborative_share == 0 else _visits(items, events, config)
    return _make(items, visits, config, seed, _why_geographic(events, visits, config))


def collaborative_pairs(items: pl.DataFrame, events: pl.DataFrame, config: PairConfig, seed: int) -> Pairs:
    """Collaborative pairs alone: for each item with co-visits above the threshold ``per_anchor`` pairs.

    ``first`` is an item co-visited with the anchor, with a score of at least the configured quantile of all co-visits;
    ``second`` is an item of a random distance band that was never co-visited with it. See `preference_pairs`.
    """
    pairs = _make(items, _visits(items, events, config), config.model_copy(update={"collaborative_share": 1.0}), seed)
    return _chosen(pairs, pairs.source_P == COLLABORATIVE)


def geographic_pairs(items: pl.DataFrame, config: PairConfig, seed: int) -> Pairs:
    """Geographic pairs alone: ``first`` and ``second`` are from neighbouring distance bands, the nearer band first.

    The pairs of an anchor go from band to band, so that with ``per_anchor`` of one less than the bands there are, every
    band around every anchor is covered; bands without items are skipped. See `preference_pairs`.
    """
    return _make(items, None, config, seed)


def _visits(items: pl.DataFrame, events: pl.DataFrame, config: PairConfig) -> CoVisits:
    return co_visits(items, events, config.window_hours)


def _why_geographic(events: pl.DataFrame | None, visits: CoVisits | None, config: PairConfig) -> str | None:
    if config.collaborative_share == 0:
        return "collaborative_share is 0"
    if events is None:
        return "there are no events"
    return None if visits is not None and len(visits) else "no two items were visited by one user within the window"


def _make(items: pl.DataFrame, visits: CoVisits | None, config: PairConfig, seed: int, why: str | None = None) -> Pairs:
    lat, lon = _coordinates(items, config)
    anchors_N = np.arange(len(items))
    sampler = BandSampler(lat, lon, config.bands_km, seed)
    drawn_NBD = sampler.draw(anchors_N, config.per_anchor + _SPARE)
    made_N = np.zeros(len(items), dtype=np.int64)
    parts, about = [], {} if why is None else {"geographic_only_because": why}
    if visits is not None:
        partners = _Partners.of(visits, config.quantile)
        wanted_N = _collaborative_wanted(partners, config, seed)
        parts.append(_collaborative(visits, partners, wanted_N, drawn_NBD, seed))
        made_N = np.bincount(parts[0][0], minlength=len(items))
        about |= _about_visits(visits, partners)
    parts.append(_geographic(config.per_anchor - made_N, drawn_NBD, seed))
    anchor, first, second, source = (np.concatenate(column) for column in zip(*parts, strict=True))
    first_km, second_km = (haversine_km(lat[anchor], lon[anchor], lat[x], lon[x]) for x in (first, second))
    pairs = Pairs(anchor, first, second, source.astype(np.int32), first_km, second_km, config.bands_km, about)
    return _chosen(pairs, _sorted_distinct(pairs, len(items)))


def _coordinates(items: pl.DataFrame, config: PairConfig) -> tuple[DoubleArray, DoubleArray]:
    if len(items) < 3:
        raise DataError(f"preference pairs need at least 3 items, got {len(items)}", "bring more items")
    if list(config.bands_km) != sorted(set(config.bands_km)):
        raise DataError(
            f"distance bands got {config.bands_km} km, expected upper edges in ascending order",
            "--set align.alignment.pairs.bands_km='[0.5, 2, 10, 50]'",
        )
    return items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()


_Part = tuple[IntArray, IntArray, IntArray, IntArray]
"""Anchor, first, second and source of some pairs."""


def _geographic(wanted_N: IntArray, drawn_NBD: IntArray, seed: int) -> _Part:
    """Pairs of neighbouring non-empty bands, going round from a random one."""
    some_NB = drawn_NBD[:, :, 0] >= 0
    anchor_P, number_P = _repeated(wanted_N * some_NB.any(axis=1))
    bands_N = some_NB.sum(axis=1)
    by_band_NB = np.argsort(~some_NB, axis=1, kind="stable")  # non-empty bands in order of distance, then the others
    steps_P = np.maximum(bands_N[anchor_P] - 1, 1)
    start_N = uniforms(seed, "first band", np.arange(len(drawn_NBD)), 1)[:, 0]
    at_P = ((start_N[anchor_P] * steps_P).astype(np.int64) + number_P) % steps_P
    nearer_P = by_band_NB[anchor_P, at_P]
    farther_P = by_band_NB[anchor_P, np.minimum(at_P + 1, bands_N[anchor_P] - 1)]
    first_P = drawn_NBD[anchor_P, nearer_P, number_P]
    options_PD = _from(drawn_NBD, anchor_P, farther_P, number_P)
    second_P = _first_allowed(options_PD, options_PD != first_P[:, None])
    return _kept(anchor_P, first_P, second_P, GEOGRAPHIC)


@dataclass(frozen=True)
class _Partners:
    """Items co-visited with each item: those of item i are ``partner[start_N[i]:start_N[i] + count_N[i]]``."""

    partner: IntArray
    start_N: IntArray
    count_N: IntArray
    threshold: float | None

    @classmethod
    def of(cls, visits: CoVisits, quantile: float) -> _Partners:
        threshold = float(np.quantile(visits.score_C, quantile)) if len(visits) else None
        strong = visits.score_C >= (0 if threshold is None else threshold)
        low, high = (rows[strong] for rows in visits.rows())
        owner, partner = np.concatenate([low, high]), np.concatenate([high, low])
        count_N = np.bincount(owner, minlength=visits.items)
        return cls(partner[np.lexsort((partner, owner))], np.cumsum(count_N) - count_N, count_N, threshold)


def _collaborative_wanted(partners: _Partners, config: PairConfig, seed: int) -> IntArray:
    """Collaborative pairs of each anchor: the share of ``per_anchor``, rounded at random so as to hold on average."""
    anchors = np.arange(len(partners.count_N))
    exact = config.collaborative_share * config.per_anchor
    wanted = np.floor(exact + uniforms(seed, "collaborative", anchors, 1)[:, 0]).astype(np.int64)
    return np.where(partners.count_N > 0, wanted, 0)


def _collaborative(visits: CoVisits, partners: _Partners, wanted_N: IntArray, drawn_NBD: IntArray, seed: int) -> _Part:
    """Pairs of a co-visited item and one that is not, from a random band."""
    some_NB = drawn_NBD[:, :, 0] >= 0
    anchor_P, number_P = _repeated(wanted_N * some_NB.any(axis=1))
    most = int(wanted_N.max(initial=0))
    anchors = np.arange(len(wanted_N))
    # from a random partner on, one after another: different ones as long as there are enough
    start_N = (uniforms(seed, "partner", anchors, 1)[:, 0] * partners.count_N).astype(np.int64)
    turn_P = (start_N[anchor_P] + number_P) % np.maximum(partners.count_N[anchor_P], 1)
    first_P = partners.partner[partners.start_N[anchor_P] + turn_P]
    which_P = uniforms(seed, "band", anchors, most)[anchor_P, number_P]
    by_band_NB = np.argsort(~some_NB, axis=1, kind="stable")
    band_P = by_band_NB[anchor_P, (which_P * some_NB.sum(axis=1)[anchor_P]).astype(np.int64)]
    options_PD = _from(drawn_NBD, anchor_P, band_P, number_P)
    together = visits.contain(np.broadcast_to(anchor_P[:, None], options_PD.shape), options_PD)
    return _kept(anchor_P, first_P, _first_allowed(options_PD, ~together), COLLABORATIVE)


def _repeated(wanted_N: IntArray) -> tuple[IntArray, IntArray]:
    """Each anchor as often as it is wanted, and the number of the repetition."""
    anchor_P = np.repeat(np.arange(len(wanted_N)), wanted_N)
    return anchor_P, np.arange(len(anchor_P)) - np.repeat(np.cumsum(wanted_N) - wanted_N, wanted_N)


def _from(drawn_NBD: IntArray, anchor_P: IntArray, band_P: IntArray, number_P: IntArray) -> IntArray:
    """All draws of a band, each pair beginning at its own."""
    draws = drawn_NBD.shape[2]
    turn_PD = (number_P[:, None] + np.arange(draws)) % draws
    options: IntArray = drawn_NBD[anchor_P[:, None], band_P[:, None], turn_PD]
    return options


def _first_allowed(options_PD: IntArray, allowed_PD: BoolArray) -> IntArray:
    """The first allowed option of each pair; -1 where there is none."""
    good_PD = allowed_PD & (options_PD >= 0)
    return np.where(good_PD.any(axis=1), options_PD[np.arange(len(options_PD)), good_PD.argmax(axis=1)], -1)


def _kept(anchor_P: IntArray, first_P: IntArray, second_P: IntArray, source: int) -> _Part:
    keep = (first_P >= 0) & (second_P >= 0) & (first_P != second_P)
    return anchor_P[keep], first_P[keep], second_P[keep], np.full(int(keep.sum()), source, dtype=np.int64)


def _sorted_distinct(pairs: Pairs, items: int) -> IntArray:
    """Numbers of the pairs in order of their anchors, without those whose two candidates the anchor already has."""
    low, high = np.minimum(pairs.first_P, pairs.second_P), np.maximum(pairs.first_P, pairs.second_P)
    order = np.lexsort((np.arange(len(pairs)), high, low, pairs.anchor_P))
    columns = np.stack([pairs.anchor_P[order], low[order], high[order]])
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (np.diff(columns, axis=1) != 0).any(axis=0)
    kept: IntArray = np.sort(order[new])
    return kept[np.argsort(pairs.anchor_P[kept], kind="stable")]


def _chosen(pairs: Pairs, which: IntArray | BoolArray) -> Pairs:
    columns: Sequence[Any] = (pairs.anchor_P, pairs.first_P, pairs.second_P, pairs.source_P)
    anchor, first, second, source = (column[which] for column in columns)
    km = pairs.first_km_P[which], pairs.second_km_P[which]
    return Pairs(anchor, first, second, source, *km, pairs.bands_km, pairs.about)


def _about_visits(visits: CoVisits, partners: _Partners) -> dict[str, Any]:
    return {
        "visits": visits.visits,
        "events_of_unknown_items": visits.unknown,
        "impressions_left_out": visits.impressions,
        "co_visited_pairs": len(visits),
        "co_visited_pairs_above_threshold": len(partners.partner) // 2,
        "score_threshold": partners.threshold,
        "anchors_with_co_visits": int((partners.count_N > 0).sum()),
    }


def _median(km: DoubleArray) -> float | None:
    return round(float(np.median(km)), 3) if len(km) else None
