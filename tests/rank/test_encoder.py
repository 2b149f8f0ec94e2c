"""Items as vectors: the parts of the vector, the gate, and tables large and small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lgsid.config import RankConfig
from lgsid.rank import encoder as module
from lgsid.rank.encoder import ItemEncoder
from lgsid.rank.features import ItemFeatures

SEEN = np.array([0, 1, 5, 1_000, 0], dtype=np.float32)
ALL = torch.arange(5)


def encoder_of(names: tuple[str, ...] = ("id", "category", "brand", "sid_1", "sid_2"), **options: Any) -> ItemEncoder:
    """Of five items; each feature has a value of its own for each."""
    rows_NF = np.stack([np.roll(np.arange(5), place) for place in range(len(names))], axis=1)
    features = ItemFeatures(names, rows_NF, (5,) * len(names), SEEN, np.zeros(5, dtype=np.int64))
    torch.manual_seed(0)
    own = tuple(name for name in names if not name.startswith("sid"))
    encoder = ItemEncoder(features, RankConfig(dim=6, token_dim=4, features=own, **options))
    if encoder.gated:
        torch.nn.init.normal_(encoder.gate.weight)
    return encoder


def rows(encoder: ItemEncoder, name: str) -> torch.Tensor:
    """Embeddings of a feature, of all items."""
    place = encoder.names.index(name)
    return encoder.tables[place][encoder.rows_NF[:, place]]


def test_a_part_for_what_an_item_is_called_and_one_for_each_token() -> None:
    encoder = encoder_of(gate=False)
    assert encoder.dim == 6 + 2 * 4
    named = rows(encoder, "id") + rows(encoder, "category") + rows(encoder, "brand")
    expected = torch.cat([named, rows(encoder, "sid_1"), rows(encoder, "sid_2")], dim=1)
    torch.testing.assert_close(encoder(ALL), expected)
    torch.testing.assert_close(encoder(torch.tensor([3, 3, 0])), expected[[3, 3, 0]])


@pytest.mark.parametrize(
    ("names", "dim"), [(("id",), 6), (("brand",), 6), (("sid_1",), 4), (("sid_1", "sid_2"), 8), (("id", "sid_1"), 10)]
)
def test_only_the_parts_that_are_known(names: tuple[str, ...], dim: int) -> None:
    encoder = encoder_of(names, sid="none" if "sid_1" not in names else "levels")
    assert encoder.dim == dim
    assert encoder(ALL).shape == (5, dim)
    assert encoder(ALL).std() > 0
    assert encoder.gated == ("id" in names)


def test_an_item_without_a_training_visit_has_no_id_of_its_own() -> None:
    encoder = encoder_of()
    before = encoder(ALL)
    with torch.no_grad():
        encoder.tables[0].add_(1.0)
    moved = (encoder(ALL) - before).abs().sum(1)
    assert moved[[0, 4]].tolist() == [0, 0]
    assert (moved[[1, 2, 3]] > 0).all()
    encoder.zero_grad()
    encoder(ALL).square().sum().backward()
    gradient = encoder.tables[0].grad
    assert gradient is not None
    assert gradient.abs().sum(1).gt(0).tolist() == [False, True, True, True, False]
    ungated = encoder_of(gate=False)
    with_id = rows(ungated, "category") + rows(ungated, "brand") + rows(ungated, "id")
    torch.testing.assert_close(ungated(ALL)[:, :6], with_id)


def test_the_gate_weighs_by_visits_and_labels() -> None:
    encoder = encoder_of(("id", "category", "sid_1"))
    label = rows(encoder, "category")
    seen = torch.log1p(torch.from_numpy(SEEN))[:, None]
    gate = torch.sigmoid(torch.cat([label, seen - 1], dim=1) @ encoder.gate.weight.T + encoder.gate.bias) * (seen > 0)
    assert gate.min() == 0
    assert 0 < gate[3].min() < gate[3].max() < 1
    torch.testing.assert_close(encoder(ALL)[:, :6], label + rows(encoder, "id") * gate)
    torch.testing.assert_close(encoder(ALL)[:, 6:], rows(encoder, "sid_1"))


def test_large_tables_have_sparse_gradients_and_the_same_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = encoder_of()
    assert not dense.large
    asked = torch.tensor([1, 3, 3])
    expected = dense(asked)
    expected.square().sum().backward()
    monkeypatch.setattr(module, "SPARSE_ROWS", 5)
    sparse = encoder_of()
    assert [id(table) for table in sparse.large] == [id(table) for table in sparse.tables]
    sparse(asked).square().sum().backward()
    assert torch.equal(sparse(asked), expected)
    for one, other in zip(dense.tables, sparse.tables, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert (one.grad.is_sparse, other.grad.is_sparse) == (False, True)
        assert set(other.grad.coalesce().indices()[0].tolist()) == set(rows_asked(sparse, other, asked))
        torch.testing.assert_close(other.grad.to_dense(), one.grad)


def rows_asked(encoder: ItemEncoder, table: torch.Tensor, asked: torch.Tensor) -> list[int]:
    """Rows of a table that are looked up."""
    place = next(k for k, other in enumerate(encoder.tables) if other is table)
    return list(encoder.rows_NF[asked, place].tolist())


def test_what_is_known_of_items_is_not_a_parameter() -> None:
    """It belongs to the catalogue, and is saved beside the parameters."""
    assert set(encoder_of().state_dict()) == {*(f"tables.{k}" for k in range(5)), "gate.weight", "gate.bias"}
