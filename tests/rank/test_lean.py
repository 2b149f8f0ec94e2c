"""DIN for one request at a time gives what DIN gives for many, whatever its sizes, and for items that came later."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from toy_histories import rows_of, toy_batch, toy_config, toy_ranker

from lgsid.rank.din import Din
from lgsid.rank.lean import LeanDin


def trained(**changes: Any) -> Din:
    """As a training leaves it: nothing is at its start."""
    ranker = toy_ranker(Din, toy_config().model_copy(update=changes)).eval()
    for name, value in (*ranker.named_parameters(), *ranker.named_buffers()):
        if name.endswith(("alpha", "running_mean", "bias")):
            nn.init.normal_(value)
        elif name.endswith("running_var"):
            nn.init.uniform_(value, 0.5, 2.0)
    return ranker


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"distance": False},
        {"hidden": (8, 6), "attention_hidden": (7, 5), "dropout": 0.5},
        {"hidden": (), "attention_hidden": (3,)},
    ],
)
@pytest.mark.parametrize("candidates", [1, 30])
def test_it_scores_as_the_ranker_does(changes: dict[str, Any], candidates: int) -> None:
    ranker, batch = trained(**changes), toy_batch((12, 5, 1, 0), candidates)
    lean = LeanDin(ranker)
    with torch.inference_mode():
        expected_BC = ranker(batch).logit_BC
        for row in range(4):
            one = rows_of(batch, row, row + 1)
            found_1C = lean(ranker.items(one.items_U), one)
            torch.testing.assert_close(found_1C, expected_BC[row : row + 1], atol=1e-5, rtol=1e-5)
    assert expected_BC.std() > 0.02


def test_padding_in_front_is_cut_off() -> None:
    ranker, batch = trained(), toy_batch((9, 3))
    with torch.inference_mode():
        short = rows_of(batch, 1, 2)
        long = type(batch)(
            **{name: value if name == "items_U" or value is None else value[1:2] for name, value in vars(batch).items()}
        )
        assert long.history_BT.shape[1] == 9
        lean = LeanDin(ranker)
        assert torch.equal(lean(ranker.items(long.items_U), long), lean(ranker.items(short.items_U), short))


def test_vectors_that_are_kept_are_those_that_are_made() -> None:
    ranker = trained()
    served = ranker.over(ranker.items.with_unseen().with_vectors())
    more = served.over(served.items.plus(torch.tensor([[40, 2], [40, 0]])))
    items_U = torch.tensor([3, 39, 3])
    with torch.inference_mode():
        torch.testing.assert_close(served.items(items_U), ranker.items(items_U))
        later_UD = more.items(torch.tensor([40, 41, 3]))
        assert torch.equal(later_UD[2:], served.items(items_U[:1]))
        table_D = ranker.items.tables[ranker.items.names.index("category")][2]
        torch.testing.assert_close(later_UD[0], table_D)  # no ID of its own: what its label says
