"""How good codes are: collisions, use of the codebooks, reconstruction, and what tokens know of geography and kind.

What costs little is in `measure`; `lgsid.sid.probe` and `lgsid.sid.stability` hold what needs a classifier or a second
fit.

All on all items. Utilisation alone misleads: a level can be 100 % in use and carry 1.3 bits, so entropy, perplexity and
Gini stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl

from lgsid.arrays import CodeArray, DoubleArray, FloatArray
from lgsid.data.labels import region_path
from lgsid.geo import centre_deg, haversine_km
from lgsid.sid.base import Tokenizer
from lgsid.sid.prefixes import prefix_pairs
from lgsid.sid.unique import code_keys


def collision_rates(codes_NL: CodeArray) -> tuple[float, float]:
    """Two readings of "collision rate".

    Returns:
        share of items that share their whole code with another item (LGRID's), and 1 - distinct codes / items.
    """
    _, inverse, counts = np.unique(code_keys(codes_NL), return_inverse=True, return_counts=True)
    return float((counts[inverse] > 1).mean()), float(1 - len(counts) / len(codes_NL))


def level_use(codes_N: CodeArray, size: int) -> dict[str, float | int]:
    """Use of one level's codes: utilisation, entropy in bits, perplexity, Gini, share of the commonest code."""
    counts = np.bincount(codes_N, minlength=size).astype(np.float64)
    share = counts / counts.sum()
    positive = share[share > 0]
    bits = float(-(positive * np.log2(positive)).sum())
    return {
        "codes": size,
        "utilisation": float((counts > 0).mean()),
        "entropy_bits": bits,
        "perplexity": 2.0**bits,
        "gini": gini(counts),
        "largest_share": float(share.max()),
    }


def gini(counts: DoubleArray) -> float:
    """Gini coefficient of the counts: 0 all equal, towards 1 all in one."""
    ordered = np.sort(counts)
    n = len(ordered)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum()))


def coverage(
    codes_N: CodeArray, size: int, quantiles: tuple[float, ...] = (0.5, 0.75, 0.9, 0.95, 0.99)
) -> dict[str, int]:
    """How many of the commonest codes cover each share of the items (the paper's radar figure)."""
    shares = np.sort(np.bincount(codes_N, minlength=size))[::-1].cumsum() / len(codes_N)
    return {f"{quantile:.0%}": int(np.searchsorted(shares, quantile - 1e-12) + 1) for quantile in quantiles}


def variance(emb_ND: FloatArray) -> float:
    """Mean squared distance of the embeddings to their mean."""
    mean = emb_ND.mean(axis=0, dtype=np.float64)
    return float(sum(((emb_ND[rows] - mean) ** 2).sum() for rows in _chunks(len(emb_ND)))) / len(emb_ND)


def squared_errors(emb_ND: FloatArray, codes_NL: CodeArray, decode: Callable[[CodeArray], FloatArray]) -> DoubleArray:
    """Mean squared error of the reconstruction from the first token, the first two, …, (L,).

    Args:
        emb_ND, codes_NL: embeddings and their codes.
        decode: embeddings of codes, or of the first tokens of codes.
    """
    total = np.zeros(codes_NL.shape[1])
    for rows in _chunks(len(emb_ND)):
        for level in range(1, codes_NL.shape[1] + 1):
            error = emb_ND[rows] - decode(codes_NL[rows, :level])
            total[level - 1] += (error**2).sum(dtype=np.float64)
    errors: DoubleArray = total / len(emb_ND)
    return errors


def _chunks(size: int) -> Iterator[slice]:
    return (slice(start, start + 65_536) for start in range(0, size, 65_536))


def purity(codes_N: CodeArray, labels: pl.Series) -> float | None:
    """Share of items, among those with a label, that have the commonest label of their code; None if none has one."""
    table = pl.DataFrame({"code": codes_N, "label": labels}).drop_nulls()
    if len(table) == 0:
        return None
    top = table.group_by("code", "label").len().group_by("code").agg(pl.col("len").max())
    return float(top["len"].sum()) / len(table)


def token_radius_km(codes_N: CodeArray, items: pl.DataFrame) -> DoubleArray:
    """Root-mean-square distance in km of a code's items to their centre, for each code in use."""
    lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    order = np.argsort(codes_N, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(codes_N[order])) + 1)
    return np.array([_rms_km(lat[rows], lon[rows]) for rows in groups])


def _rms_km(lat_deg: DoubleArray, lon_deg: DoubleArray) -> float:
    return float(np.sqrt((haversine_km(lat_deg, lon_deg, *centre_deg(lat_deg, lon_deg)) ** 2).mean()))


def first_token_geography(codes_N: CodeArray, items: pl.DataFrame) -> dict[str, float | None]:
    """Purity of the first token by province, city and district, and its radius (each item counts once)."""
    counts = np.bincount(codes_N)
    radius = np.repeat(token_radius_km(codes_N, items), counts[counts > 0])
    return {
        "province_purity": purity(codes_N, region_path(items, 1)),
        "city_purity": purity(codes_N, region_path(items, 2)),
        "district_purity": purity(codes_N, region_path(items, 3)),
        "radius_km_median": float(np.median(radius)),
        "radius_km_p90": float(np.quantile(radius, 0.9)),
    }


def measure(
    items: pl.DataFrame,
    emb_ND: FloatArray,
    raw_NL: CodeArray,
    final_NL: CodeArray,
    tokenizer: Tokenizer,
    moved_share: float,
) -> dict[str, Any]:
    """All quality figures of a tokeniser on a catalogue, as written to ``metrics.json``.

    Args:
        items, emb_ND: the catalogue.
        raw_NL: codes before disambiguation.
        final_NL: unique codes, perhaps with one more token.
        tokenizer: the fitted one.
        moved_share: share of items whose last token was changed to make SIDs unique.
    """
    share, unique = collision_rates(raw_NL)
    spread = variance(emb_ND) or 1.0  # identical embeddings have none; their error is then absolute
    books = tokenizer.books
    by_level = squared_errors(emb_ND, raw_NL, tokenizer.decode)
    after = squared_errors(emb_ND, final_NL[:, : len(books)], tokenizer.decode)[-1]
    return {
        "items": len(items),
        "levels": [
            {
                "level": level + 1,
                **level_use(raw_NL[:, level], len(book)),
                "coverage": coverage(raw_NL[:, level], len(book)),
            }
            for level, book in enumerate(books)
        ],
        "collision_share": share,
        "collision_unique": unique,
        "collision_share_final": collision_rates(final_NL)[0],
        "moved_share": moved_share,
        "extra_token": final_NL.shape[1] > len(books),
        "reconstruction": {
            "relative_by_level": (by_level / spread).tolist(),
            "relative_after_unique": float(after / spread),
            "mse": float(by_level[-1]) / emb_ND.shape[1],
        },
        "first_token": first_token_geography(raw_NL[:, 0], items),
        "prefixes": prefix_pairs(items, raw_NL),
    }
