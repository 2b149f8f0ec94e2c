"""Looking up SIDs and items of a run, and saying what they mean: what `lgsid explain` does.

Items that were added behind the fit (`lgsid assign`) are found like all others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from lgsid.arrays import BoolArray, FloatArray, IntArray
from lgsid.artifact import RunFolder, read_json
from lgsid.errors import DataError
from lgsid.geo import haversine_km
from lgsid.sid.describe import TokenMeaning, describe_level
from lgsid.sid.explain import Explanation, TokenBook, Typicality
from lgsid.sid.table import token_columns

if TYPE_CHECKING:
    from lgsid.sid.base import Tokenizer

COMPARED = 256
"""Items of a token that an item is compared with, evenly spread over them."""


@dataclass(frozen=True)
class _Catalogue:
    """SIDs, items and embeddings (memory-mapped where nothing was added), row for row."""

    sids: pl.DataFrame
    items: pl.DataFrame
    emb_ND: FloatArray


def explain_in_run(run: RunFolder, what: str) -> Explanation:
    """Explain a SID, a prefix of one, or an item of a run.

    Args:
        run: a run folder with a finished stage 3.
        what: "12-7-255", "12-7", or an item id. An item id wins where both would fit.

    Returns:
        the meaning of each token and of the first tokens together; for an item, and for the SID of one, also how
        typical the item is of its tokens.

    Raises:
        ArtifactError: the run has no SIDs yet, or its files do not fit together.
        DataError: no such item or SID.
    """
    book = run.require("3_sid", "tokenizer/tokens.json", f"lgsid tokenize {run.root}")
    tokens = TokenBook.from_json(read_json(book))
    catalogue = _catalogue(run)
    row = _row_of(catalogue.sids, what)
    codes_L = _codes_of(catalogue.sids, what if row is None else catalogue.sids["sid"][row], run)
    explanation = replace(tokens.explain(codes_L), prefixes=_prefixes(catalogue, codes_L))
    if row is None:
        return explanation
    item = catalogue.items.row(row, named=True)
    return replace(explanation, item=item, typical=_typicality(run, catalogue, tokens, row))


def _catalogue(run: RunFolder) -> _Catalogue:
    from lgsid.sid.catalogue import current_catalogue, read_fit

    if run.path("assigned").is_dir():
        now = current_catalogue(run)
        return _Catalogue(now.sids, now.items, now.emb_ND)
    fit = read_fit(run)
    return _Catalogue(fit.sids, fit.items, fit.emb_ND)


def _row_of(sids: pl.DataFrame, what: str) -> int | None:
    """Row of an item by its id, else by its whole SID; None where there is none."""
    for column in ("item_id", "sid"):
        rows = (sids[column] == what).arg_true()
        if len(rows):
            return int(rows[0])
    return None


def _codes_of(sids: pl.DataFrame, sid: str, run: RunFolder) -> list[int]:
    known = sids.select(((pl.col("sid") == sid) | pl.col("sid").str.starts_with(sid + "-")).any()).item()
    parts = sid.split("-")
    if not known or not all(part.isdecimal() for part in parts):
        message = f"{sid!r} is neither an item id nor a SID, nor the beginning of one, in {run.root}"
        raise DataError(message, "look into 3_sid/sids.parquet")
    return [int(part) for part in parts]


def _prefixes(catalogue: _Catalogue, codes_L: list[int]) -> dict[str, TokenMeaning]:
    """Meaning of the first two tokens, three tokens, … together, as long as several items share them.

    What sets a prefix apart is measured against the items that share its first token.
    """
    here = (catalogue.sids["token_1"] == codes_L[0]).arg_true()
    sids, items = catalogue.sids[here], catalogue.items[here]
    inside = np.ones(len(sids), dtype=np.bool_)
    found: dict[str, TokenMeaning] = {}
    for level, code in enumerate(codes_L[1:], start=2):
        inside &= (sids[f"token_{level}"] == code).to_numpy()
        if inside.sum() > 1:
            found["-".join(map(str, codes_L[:level]))] = _prefix(items, inside)
    return found


def _prefix(items: pl.DataFrame, inside: BoolArray) -> TokenMeaning:
    codes_N = inside.astype(np.int32)
    meaning = describe_level(items, codes_N, place=False, least_word=2)[1]
    if meaning.categories:
        return meaning
    # all items of the first token may be these: then what is common in them says more than what sets them apart
    return describe_level(items, codes_N, place=False, least_word=2, ranking="common")[1]


def _typicality(run: RunFolder, catalogue: _Catalogue, tokens: TokenBook, row: int) -> list[Typicality]:
    """How typical an item is of each of its tokens."""
    from lgsid.sid.methods import load_tokenizer
    from lgsid.sid.stage import training_visits

    tokenizer = load_tokenizer(run.path("3_sid", "tokenizer"))
    events = training_visits(run, tokenizer.config)
    found = []
    for level in range(1, len(tokenizer.books) + 1):
        codes_N = catalogue.sids[f"token_{level}"].to_numpy()
        others = np.flatnonzero(codes_N == codes_N[row])
        others = others[np.linspace(0, len(others) - 1, min(len(others), COMPARED)).astype(int)]
        distance_n = _distances(tokenizer, catalogue, np.concatenate([[row], others]), level, events)
        meaning = tokens.meanings.get(level, {}).get(int(codes_N[row]))
        found.append(_typical(catalogue.items, row, distance_n, meaning))
    return found


def _distances(
    tokenizer: Tokenizer, catalogue: _Catalogue, rows: IntArray, level: int, events: pl.DataFrame | None
) -> FloatArray:
    """Distance of items to their centroids of one level: what the tokens up to there do not explain, (n,)."""
    codes_nL = catalogue.sids[rows].select(token_columns(level)).to_numpy().astype(np.int32)
    x_nC = tokenizer.project(catalogue.items[rows], catalogue.emb_ND[rows], events)
    distance: FloatArray = np.linalg.norm(x_nC - tokenizer.sum_of_centroids(codes_nL), axis=1)
    return distance


def _typical(items: pl.DataFrame, row: int, distance_n: FloatArray, meaning: TokenMeaning | None) -> Typicality:
    here = items["lat_deg"][row], items["lon_deg"][row]
    own, others = float(distance_n[0]), distance_n[1:]
    return Typicality(
        distance=round(own, 4),
        mean_distance=round(float(others.mean()), 4),
        # the item is one of them, computed in another batch: a hair apart is not farther
        farther_share=round(float((others > own + 1e-5).mean()), 4),
        distance_km=round(float(haversine_km(*here, *(meaning.centre if meaning else here))), 3),
    )
