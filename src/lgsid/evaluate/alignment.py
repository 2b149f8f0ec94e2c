"""What alignment did: figures of the embeddings before and after, on items inside and outside its training set.

- *Similarity* @K is the mean cosine of the K retrieved neighbours in the **original** space, and *kept* the same as a
  share of the best possible, which the original's own K nearest neighbours have (LGSID, arXiv 2511.14221).
- P/C/T@K, categories and distance are those of `neighbours`.
- *Content* is the mean cosine between query and neighbours of their content texts alone, by the unaligned encoder.
- NMI compares k-means clusters of the vectors with the true regions, k being the number of regions.
- *Spread* tells collapse: the mean cosine of random pairs, and the effective rank of the vectors (Roy and Vetterli,
  "The effective rank", EUSIPCO 2007).
- *Without location*: the query is an item's vector made from its content alone, the candidates are the catalogue.

Axes: N items, D dimensions, Q queries, K neighbours, R random others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from lgsid.arrays import CodeArray, FloatArray, IntArray
from lgsid.data.labels import REGIONS, same_value_codes
from lgsid.errors import DataError
from lgsid.evaluate.neighbours import neighbour_geography
from lgsid.nearest import nearest_items, nearest_neighbours, sample_queries

MOST_CLUSTERS = 500
"""k of the k-means behind NMI is the number of regions, but at most this."""
CLUSTERED_ROWS = 20_000
"""NMI is measured on a sample of at most this many items."""
_RESTARTED_CLUSTERS, _RESTARTS = 64, 4  # few clusters fall into poor local optima, and cost little to try again
_PAIRS_PER_CHUNK = 32_768
_RANDOM_OTHERS = 20

Figures: TypeAlias = dict[str, Any]


def semantic_similarity(reference_ND: FloatArray, queries_Q: IntArray, index_QK: IntArray) -> float:
    """Mean cosine of the neighbours to their query in the original space.

    Args:
        reference_ND: the unaligned encoder's vectors, of any length.
        queries_Q: rows of the queries.
        index_QK: rows of the neighbours that some vectors retrieved.
    """
    return float(cosines(reference_ND, queries_Q, index_QK).mean())


def kept(reference_ND: FloatArray, queries_Q: IntArray, index_QK: IntArray) -> float:
    """Semantic similarity of the neighbours as a share of the best possible, that of the original's own K nearest."""
    best_QK, _ = nearest_neighbours(reference_ND, queries_Q, index_QK.shape[1])
    best = semantic_similarity(reference_ND, queries_Q, best_QK)
    return semantic_similarity(reference_ND, queries_Q, index_QK) / best


def cosines(emb_ND: FloatArray, queries_Q: IntArray, index_QK: IntArray) -> FloatArray:
    """Cosine of every neighbour to its query, shape (Q, K); memory stays small whatever Q and K are."""
    found = np.empty(index_QK.shape, dtype=np.float32)
    length_N = _lengths(emb_ND)
    step = max(_PAIRS_PER_CHUNK // max(index_QK.shape[1], 1), 1)
    for start in range(0, len(queries_Q), step):
        rows = slice(start, start + step)
        query_B, other_BK = queries_Q[rows], index_QK[rows]
        product_BK = np.matmul(emb_ND[other_BK], emb_ND[query_B][:, :, None])[..., 0]
        found[rows] = product_BK / (length_N[query_B][:, None] * length_N[other_BK])
    return found


def _lengths(emb_ND: FloatArray) -> FloatArray:
    """Length of every vector, 1 for zero vectors."""
    length_N: FloatArray = np.sqrt(np.einsum("nd,nd->n", emb_ND, emb_ND))
    length_N[length_N == 0] = 1
    return length_N


def _unit(emb_ND: FloatArray) -> FloatArray:
    unit_ND: FloatArray = emb_ND / _lengths(emb_ND)[:, None]
    return unit_ND


def nmi_by_level(emb_ND: FloatArray, items: pl.DataFrame, seed: int) -> dict[str, float | None]:
    """Normalised mutual information (arithmetic mean) between k-means clusters of the vectors and the true regions.

    k is the number of regions of the level, at most `MOST_CLUSTERS`. Items whose region is unknown are left out, and of
    the others a seeded sample of at most `CLUSTERED_ROWS` is used. Few clusters are tried from several starts.

    Returns:
        NMI by level; None where fewer than two regions are known.
    """
    codes = same_value_codes(items)
    return {level: _nmi(emb_ND, codes[level], seed) for level in REGIONS}


def _nmi(emb_ND: FloatArray, code_N: IntArray, seed: int) -> float | None:
    from sklearn.metrics import normalized_mutual_info_score

    known = np.flatnonzero(code_N >= 0)
    rows = known[sample_queries(len(known), CLUSTERED_ROWS, seed)]
    regions = len(np.unique(code_N[rows]))
    if regions < 2:
        return None
    clusters_N = _clusters(_unit(emb_ND[rows]), min(regions, MOST_CLUSTERS), seed)
    return float(normalized_mutual_info_score(code_N[rows], clusters_N))


def _clusters(emb_ND: FloatArray, clusters: int, seed: int) -> CodeArray:
    """Cluster of each vector, of the k-means start with the least error."""
    from lgsid.sid.kmeans import KMeans

    best: tuple[float, CodeArray] | None = None
    for start in range(_RESTARTS if clusters <= _RESTARTED_CLUSTERS else 1):
        model = KMeans(clusters, seed=seed + start).fit(emb_ND)
        assert model.centroids_KD is not None
        assigned_N = model.predict(emb_ND)
        error = float(((emb_ND - model.centroids_KD[assigned_N]) ** 2).sum(dtype=np.float64))
        if best is None or error < best[0]:
            best = (error, assigned_N)
    assert best is not None
    return best[1]


def spread(emb_ND: FloatArray, seed: int) -> dict[str, float]:
    """How much room the vectors take: mean cosine of random pairs, and the effective rank of what differs.

    The effective rank is e to the entropy of the covariance's eigenvalues: D where all directions vary alike, 1 where
    the vectors lie on a line. Both are measured on at most `CLUSTERED_ROWS` items.
    """
    unit_ND = _unit(emb_ND[sample_queries(len(emb_ND), CLUSTERED_ROWS, seed)]).astype(np.float64)
    items = len(unit_ND)
    total_D = unit_ND.sum(axis=0)
    lengths = float((unit_ND**2).sum())  # of every vector with itself; zero vectors have none
    random_cosine = (float(total_D @ total_D) - lengths) / (items * (items - 1))
    centred_ND = unit_ND - total_D / items
    energy_D = np.linalg.eigvalsh(centred_ND.T @ centred_ND).clip(0)
    share_D = energy_D[energy_D > 0] / max(float(energy_D.sum()), 1e-30)
    return {"random_cosine": random_cosine, "effective_rank": float(np.exp(-(share_D * np.log(share_D)).sum()))}


@dataclass(frozen=True)
class _Spaces:
    """Everything that figures are measured against, for one set of queries."""

    items: pl.DataFrame
    reference_ND: FloatArray
    content_ND: FloatArray | None
    queries_Q: IntArray
    best_similar_QK: FloatArray
    ks: tuple[int, ...]
    seed: int

    def figures(self, index_QK: IntArray) -> Callable[[IntArray], dict[str, Figures]]:
        """For neighbours of all queries, a function from positions of queries to their figures by K."""
        similar_QK = cosines(self.reference_ND, self.queries_Q, index_QK)
        content_QK = None if self.content_ND is None else cosines(self.content_ND, self.queries_Q, index_QK)

        def of(at: IntArray) -> dict[str, Figures]:
            measured = neighbour_geography(self.items, self.queries_Q[at], index_QK[at], self.ks, self.seed)
            geography: dict[str, Figures] = measured["at"]
            for name, figures in geography.items():
                k = int(name)
                figures["similarity"] = float(similar_QK[at, :k].mean())
                figures["kept"] = figures["similarity"] / float(self.best_similar_QK[at, :k].mean())
                figures["content"] = None if content_QK is None else float(content_QK[at, :k].mean())
            return geography

        return of


def alignment_figures(
    items: pl.DataFrame,
    reference_ND: FloatArray,
    aligned_ND: FloatArray,
    parts: Mapping[str, IntArray],
    ks: Sequence[int],
    content_ND: FloatArray | None = None,
    without_location_ND: FloatArray | None = None,
    seed: int = 0,
) -> Figures:
    """Everything to tell what alignment did, before and after.

    Args:
        items: the N items.
        reference_ND, aligned_ND: their vectors by the unaligned and the aligned encoder.
        parts: rows of the queries by the name of the part they belong to, such as "train" and "test"; parts without
            rows are left out. Neighbours always come from all N items.
        ks: the K to report; those above N - 1 are cut to it.
        content_ND: vectors of the items' content texts alone, by the unaligned encoder.
        without_location_ND: the same texts by the aligned encoder.
        seed: for samples.

    Returns:
        ``{"parts": {part: {"queries", "before", "after", "without_location"?}}, "nmi": {"before", "after"}, "spread":
        {"before", "after"}, "random_content"}``. "before" and "after" of a part hold by K: similarity, kept, the shares
        and distance of `neighbours`, and content (None without ``content_ND``); "without_location" holds "before" (by
        ``content_ND``) and "after" (by ``without_location_ND``) of those that are given.

    Raises:
        DataError: no part has a row, or there are fewer than two items.
    """
    present = {name: np.unique(rows) for name, rows in parts.items() if len(rows)}
    if not present:
        raise DataError(f"alignment figures got no queries in the parts {', '.join(parts) or '(none)'}")
    queries_Q = np.unique(np.concatenate(list(present.values())))
    best_QK, _ = nearest_neighbours(reference_ND, queries_Q, min(max(ks), len(items) - 1))
    best_similar_QK = cosines(reference_ND, queries_Q, best_QK)
    spaces = _Spaces(items, reference_ND, content_ND, queries_Q, best_similar_QK, tuple(ks), seed)
    vectors = {"before": reference_ND, "after": aligned_ND}
    return {
        "parts": _by_part(spaces, present, best_QK, aligned_ND, (content_ND, without_location_ND)),
        "nmi": {time: nmi_by_level(emb_ND, items, seed) for time, emb_ND in vectors.items()},
        "spread": {time: spread(emb_ND, seed) for time, emb_ND in vectors.items()},
        "random_content": None if content_ND is None else _random_similarity(content_ND, queries_Q, seed),
    }


def _by_part(
    spaces: _Spaces,
    parts: Mapping[str, IntArray],
    best_QK: IntArray,
    aligned_ND: FloatArray,
    bare: tuple[FloatArray | None, FloatArray | None],
) -> dict[str, Figures]:
    """Figures before and after of each part, with and without (``bare``) the queries' locations."""
    queries_Q, k = spaces.queries_Q, best_QK.shape[1]
    before = spaces.figures(best_QK)
    after = spaces.figures(nearest_neighbours(aligned_ND, queries_Q, k)[0])
    unplaced = _without_location(spaces, (bare[0], spaces.reference_ND), (bare[1], aligned_ND), k)
    found = {}
    for name, rows in parts.items():
        at = np.searchsorted(queries_Q, rows)
        found[name] = {"queries": len(at), "before": before(at), "after": after(at)}
        if unplaced:
            found[name]["without_location"] = {time: figures(at) for time, figures in unplaced.items()}
    return found


def _without_location(
    spaces: _Spaces,
    before: tuple[FloatArray | None, FloatArray],
    after: tuple[FloatArray | None, FloatArray],
    k: int,
) -> dict[str, Callable[[IntArray], dict[str, Figures]]]:
    """Figures of queries that do not say where they are; each pair is (their vectors, the catalogue's)."""
    found = {}
    for time, (query_ND, emb_ND) in (("before", before), ("after", after)):
        if query_ND is not None:
            index_QK = nearest_items(query_ND[spaces.queries_Q], spaces.queries_Q, emb_ND, k)
            found[time] = spaces.figures(index_QK)
    return found


def _random_similarity(emb_ND: FloatArray, queries_Q: IntArray, seed: int) -> float:
    """Mean cosine of the queries to random other items."""
    other_QR = np.random.default_rng(seed).integers(0, len(emb_ND) - 1, size=(len(queries_Q), _RANDOM_OTHERS))
    return semantic_similarity(emb_ND, queries_Q, other_QR + (other_QR >= queries_Q[:, None]))
