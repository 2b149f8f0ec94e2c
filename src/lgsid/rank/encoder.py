"""Items as vectors: one embedding table a feature, and how their rows become one vector.

The features are the same for every tokeniser: the ID, category and brand where a catalogue has them, and the rows that
the SID has in its tables (`Tokenizer.embedding_rows`). All of them have the dimension of the result, so that models of
the same size work behind every tokeniser.

Axes: N items of the catalogue, U items asked for, F features (tables), D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lgsid.rank.features import ItemFeatures

SPARSE_ROWS = 100_000
"""From so many rows on, the gradient of a table holds only the rows of the batch."""
SPREAD = 0.05
"""Standard deviation of new embeddings."""


class ItemEncoder(nn.Module):
    """Embedding tables of the features, and their fusion.

    Under the fusion "gate" the ID's embedding counts by how well it can be known: a gate in [0, 1] of each dimension
    that sees how often the item was visited in the training period and what its other features say. An item that was
    never visited has no ID of its own; it is what its codes and labels say.

    Args:
        features: of the whole catalogue.
        dim: D.
        fusion: "sum" or "gate".
    """

    rows_NF: Tensor
    seen_N: Tensor
    categories_N: Tensor

    def __init__(self, features: ItemFeatures, dim: int, fusion: str) -> None:
        super().__init__()
        self.names = features.names
        self.register_buffer("rows_NF", torch.from_numpy(features.rows_NF), persistent=False)
        self.register_buffer("seen_N", torch.from_numpy(features.seen_N), persistent=False)
        self.register_buffer("categories_N", torch.from_numpy(features.categories_N), persistent=False)
        self.tables = nn.ParameterList(nn.Parameter(torch.randn(size, dim) * SPREAD) for size in features.sizes)
        self.gated = fusion == "gate" and "id" in features.names and len(features.names) > 1
        if self.gated:
            self.gate = nn.Linear(dim + 1, dim)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    @property
    def large(self) -> Sequence[nn.Parameter]:
        """Tables whose gradients are sparse."""
        return [table for table in self.tables if len(table) >= SPARSE_ROWS]

    def forward(self, items_U: Tensor) -> Tensor:
        """Vectors (U, D) of catalogue rows (U,)."""
        rows_UF = self.rows_NF[items_U]
        parts = [
            functional.embedding(rows_UF[:, place], table, sparse=len(table) >= SPARSE_ROWS)
            for place, table in enumerate(self.tables)
        ]
        if not self.gated:
            return torch.stack(parts).sum(0)
        place = self.names.index("id")
        own_UD = parts.pop(place)
        rest_UD = torch.stack(parts).sum(0)
        seen_U1 = torch.log1p(self.seen_N[items_U])[:, None]
        gate_UD = torch.sigmoid(self.gate(torch.cat([rest_UD, seen_U1 - 1], dim=1))) * (seen_U1 > 0)
        return rest_UD + gate_UD * own_UD
