"""A fake encoder that knows coordinates, and toy catalogues for it; texts are written so that it can read them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from lgsid.align.base import Material
from lgsid.arrays import FloatArray, IntArray

DIM = 16


def toy_items(items: int = 240, seed: int = 0) -> pl.DataFrame:
    """Items spread over two provinces, 40 km wide each and 300 km apart, with street-level location texts."""
    rng = np.random.default_rng(seed)
    east = rng.random(items) < 0.5
    lat = 40 + rng.uniform(-0.18, 0.18, items)
    lon = np.where(east, 10.0, 13.5) + rng.uniform(-0.24, 0.24, items)
    return pl.DataFrame({
        "item_id": [f"i{number}" for number in range(items)],
        "lat_deg": lat,
        "lon_deg": lon,
        "province": np.where(east, "East", "West"),
        "city": np.where(east, "Alba", "Cora"),
        "district": [f"{a}{b:.1f}/{c:.1f}" for a, b, c in zip(np.where(east, "E", "W"), lat, lon, strict=True)],
    })  # fmt: skip


class FakeEncoder:
    """Unit vectors of texts "content|lat,lon": content adds noise of its own, the place (if read) sines of itself.

    Args:
        place: how loudly the place is heard; 0 makes an encoder that reads nothing but content.
        content: how loudly the content is heard.
    """

    def __init__(self, place: float = 1.0, content: float = 0.3) -> None:
        self.place, self.content = place, content
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        self.asked.extend(texts)
        halves = [text.split("|") for text in texts]
        noise = np.stack([_noise(content) for content, _ in halves])
        where = np.array([[float(x) for x in place.split(",")] for _, place in halves])
        phase = np.concatenate([(where - [40, 11.75]) * scale for scale in (0.5, 2.0, 6.0)], axis=1)
        place = np.concatenate([np.sin(phase), np.cos(phase)], axis=1)
        emb = self.content * noise
        emb[:, : place.shape[1]] += self.place * place
        unit: FloatArray = (emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float32)
        return unit


def _noise(content: str) -> FloatArray:
    return np.random.default_rng(int(content)).standard_normal(DIM).astype(np.float32)


def joined(content: Sequence[str], location: Sequence[str]) -> list[str]:
    """One text of two halves."""
    return [f"{a}|{b}" for a, b in zip(content, location, strict=True)]


def toy_material(items: pl.DataFrame | None = None, encoder: FakeEncoder | None = None) -> Material:
    """Everything an objective may learn from, of a toy catalogue."""
    items = toy_items() if items is None else items
    encoder = encoder or FakeEncoder()
    content = [str(number) for number in range(len(items))]
    location = [f"{lat:.5f},{lon:.5f}" for lat, lon in zip(items["lat_deg"], items["lon_deg"], strict=True)]
    reference = encoder(joined(content, location))
    encoder.asked.clear()
    return Material(items, None, content, location, joined, reference, encoder)


def rows(*numbers: int) -> IntArray:
    """An array of rows."""
    return np.array(numbers, dtype=np.int64)
