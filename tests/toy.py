"""Toy cities with known answers: two provinces far apart, two cities each, two districts each, four kinds of shop."""

from __future__ import annotations

import numpy as np
import polars as pl

from lgsid.arrays import FloatArray

CITIES = (
    ("East", "Alba", 10.0, 10.0),
    ("East", "Brio", 11.0, 10.5),
    ("West", "Cora", 40.0, -60.0),
    ("West", "Dune", 41.0, -61.0),
)
KINDS = ("Food > Noodles", "Food > Pizza", "Beauty > Barber", "Fitness > Gym")


def toy_city(items_per_city: int = 64, dim: int = 16, seed: int = 0) -> tuple[pl.DataFrame, FloatArray]:
    """Items whose district is east or west of the city's centre, and embeddings that say city and kind, with noise."""
    rng = np.random.default_rng(seed)
    city_vectors, kind_vectors = rng.standard_normal((4, dim)), rng.standard_normal((4, dim))
    rows, vectors = [], []
    for number in range(4 * items_per_city):
        city, kind = number % 4, (number // 4) % 4
        province, name, lat, lon = CITIES[city]
        east = rng.choice((-0.1, 0.1)) + rng.uniform(-0.03, 0.03)
        rows.append({
            "item_id": f"i{number}",
            "title": f"{KINDS[kind].split(' > ')[1]} house {number}",
            "category": KINDS[kind],
            "brand": None,
            "lat_deg": lat + rng.uniform(-0.03, 0.03),
            "lon_deg": lon + east,
            "province": province,
            "city": name,
            "district": f"{name} {'east' if east > 0 else 'west'}",
            "street": None,
            "description": None,
        })  # fmt: skip
        vectors.append(city_vectors[city] + kind_vectors[kind] + 0.2 * rng.standard_normal(dim))
    emb = np.asarray(vectors)
    emb /= np.linalg.norm(emb, axis=1, keepdims=True)
    texts = dict.fromkeys(("brand", "street", "description"), pl.String)
    return pl.DataFrame(rows, schema_overrides=texts), emb.astype(np.float32)
