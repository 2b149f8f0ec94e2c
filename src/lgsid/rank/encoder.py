"""Items as vectors: one embedding table a feature, and how their rows become one vector.

The features are the same for every tokeniser: the ID, category and brand where a catalogue has them and the
configuration asks for them, and the rows that the SID has in its tables (`Tokenizer.embedding_rows`). An item's vector
has a part for what it is called, the sum of its ID's and its labels' embeddings, and a part for each token. Parts of
their own, because models compare candidate and visit number by number: tokens that lie in one sum with all else cannot
be compared alone.

Axes: N items of the catalogue, U items asked for, F features (tables), D dimensions of the result, P of its first part;
n items that came after the training.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lgsid.config import RankConfig
from lgsid.rank.features import ItemFeatures

SPARSE_ROWS = 200_000
"""From so many rows on, the gradient of a table holds only the rows of the batch."""
SPREAD = 0.1
"""Standard deviation of new embeddings."""
_CHUNK = 65_536
"""Items whose vectors are made at once."""


class ItemEncoder(nn.Module):
    """Embedding tables of the features, and their fusion.

    With a gate, the ID's embedding counts by how well it can be known: a number in [0, 1] for each dimension, by how
    often the item was visited in the training period and by its labels. An item that was never visited has no ID of its
    own; it is what its labels and its codes say.

    Args:
        features: of the whole catalogue.
        config: dimensions and gate.

    Attributes:
        dim: D.
    """

    rows_NF: Tensor
    seen_N: Tensor
    categories_N: Tensor

    def __init__(self, features: ItemFeatures, config: RankConfig) -> None:
        super().__init__()
        self.names = features.names
        self.register_buffer("rows_NF", torch.from_numpy(features.rows_NF), persistent=False)
        self.register_buffer("seen_N", torch.from_numpy(features.seen_N), persistent=False)
        self.register_buffer("categories_N", torch.from_numpy(features.categories_N), persistent=False)
        own = config.dim * any(name in config.features for name in features.names)
        tokens = sum(name not in config.features for name in features.names)
        self.dim = own + tokens * config.token_dim
        self.tables = nn.ParameterList(
            nn.Parameter(torch.randn(size, own if name in config.features else config.token_dim) * SPREAD)
            for name, size in zip(features.names, features.sizes, strict=True)
        )
        self.labels = [place for place, name in enumerate(self.names) if name in config.features and name != "id"]
        self.tokens = [place for place, name in enumerate(self.names) if name not in config.features]
        self.vectors_ND: Tensor | None = None
        self.gated = config.gate and "id" in self.names
        if self.gated:
            self.gate = nn.Linear(own + 1, own)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    @property
    def large(self) -> Sequence[nn.Parameter]:
        """Tables whose gradients are sparse."""
        return [table for table in self.tables if len(table) >= SPARSE_ROWS]

    def with_unseen(self) -> ItemEncoder:
        """For serving: each table with a row of zeros behind the trained ones, for values that no trained item has."""
        found = copy.copy(self)
        tables = [torch.cat([table.detach(), table.new_zeros(1, table.shape[1])]) for table in self.tables]
        frozen = nn.ParameterList(nn.Parameter(table, requires_grad=False) for table in tables)
        found._modules = {**self._modules, "tables": frozen}
        return found

    @torch.no_grad()
    def with_vectors(self) -> ItemEncoder:
        """For serving: with the vectors of all items, which are looked up from now on; takes 4·N·D bytes."""
        found = copy.copy(self)
        items = len(self.rows_NF)
        parts = [self._made(torch.arange(at, min(at + _CHUNK, items))) for at in range(0, items, _CHUNK)]
        found.vectors_ND = torch.cat(parts)
        return found

    @torch.no_grad()
    def plus(self, rows_nF: Tensor) -> ItemEncoder:
        """With more items behind the others, none of which was ever visited; the parameters are shared.

        Args:
            rows_nF: their rows in the tables of `with_unseen`, int64; 0 for an unknown label, the last row for one
                that no trained item has.
        """
        category_n = torch.full((len(rows_nF),), -1)
        if "category" in self.names:
            place = self.names.index("category")
            row_n = rows_nF[:, place]
            category_n = torch.where(row_n < len(self.tables[place]) - 1, row_n - 1, -1)
        found = copy.copy(self)
        found._buffers = {
            **self._buffers,
            "rows_NF": torch.cat([self.rows_NF, rows_nF]),
            "seen_N": torch.cat([self.seen_N, self.seen_N.new_zeros(len(rows_nF))]),
            "categories_N": torch.cat([self.categories_N, category_n]),
        }
        if self.vectors_ND is not None:
            later_n = torch.arange(len(self.rows_NF), len(found.rows_NF))
            found.vectors_ND = torch.cat([self.vectors_ND, found._made(later_n)])
        return found

    def forward(self, items_U: Tensor) -> Tensor:
        """Vectors (U, D) of catalogue rows (U,)."""
        return self._made(items_U) if self.vectors_ND is None else self.vectors_ND.index_select(0, items_U)

    def _made(self, items_U: Tensor) -> Tensor:
        rows_UF = self.rows_NF[items_U]
        embedded = [
            functional.embedding(rows_UF[:, place], table, sparse=len(table) >= SPARSE_ROWS)
            for place, table in enumerate(self.tables)
        ]
        parts = [embedded[place] for place in self.tokens]
        named = [embedded[place] for place in self.labels]
        if "id" in self.names:
            own_UP = embedded[self.names.index("id")]
            named.append(self._known(own_UP, named, items_U) if self.gated else own_UP)
        if named:
            parts.insert(0, torch.stack(named).sum(0))
        return torch.cat(parts, dim=1)

    def _known(self, own_UP: Tensor, labels: Sequence[Tensor], items_U: Tensor) -> Tensor:
        """The ID's embedding, as far as it can be known."""
        seen_U1 = torch.log1p(self.seen_N[items_U])[:, None]
        about_UP = torch.stack(list(labels)).sum(0) if labels else torch.zeros_like(own_UP)
        gate_UP: Tensor = torch.sigmoid(self.gate(torch.cat([about_UP, seen_U1 - 1], dim=1)))
        return own_UP * gate_UP * (seen_U1 > 0)
