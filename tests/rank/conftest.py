"""Fixtures of the tests of rankers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from toy_rank import write_toy

from lgsid.rank.loader import SampleFolder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> SampleFolder:
    """Samples of the toy city; not to be changed."""
    return write_toy(tmp_path_factory.mktemp("toy") / "samples")
