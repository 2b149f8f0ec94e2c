"""A small fake run: a toy catalogue in three cities with awkward texts, and everything stages 1 to 3 would write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from lgsid.artifact import RunFolder, write_json
from lgsid.evaluate import plots
from lgsid.geo import centre_deg

CITIES = (("四川省", "成都市", 30.66, 104.06), ("上海市", "上海市", 31.23, 121.47), ("AZ", "Phoenix", 33.45, -112.07))
TITLES = ("老王火锅", "<script>alert(1)</script>", "A | B `c` **d** [e](f)", 'Joe\'s "Diner" & Co')
CODES = 4


@pytest.fixture(scope="module", autouse=True)
def coarse_figures() -> Iterator[None]:
    """A ninth of the dots: reducing them to 256 colours is most of a report's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "DPI", 60)
        yield


def toy_items(per_city: int = 20, events: bool = False) -> pl.DataFrame:
    """Items around three cities; every seventh without a district, the last without any region."""
    rng = np.random.default_rng(0)
    rows = []
    for province, city, lat, lon in CITIES:
        for number in range(per_city):
            district = None if number % 7 == 0 else f"district {number % 3}"
            rows.append(
                (TITLES[number % 4], province, city, district, lat + rng.normal(0, 0.05), lon + rng.normal(0, 0.05))
            )
    columns = ["title", "province", "city", "district", "lat_deg", "lon_deg"]
    items = pl.DataFrame(rows, schema=columns, orient="row").with_row_index("item_id")
    last = pl.col("item_id") == len(rows) - 1
    return items.with_columns(
        pl.format("item-{}", "item_id").alias("item_id"),
        *(pl.when(~last).then(name).alias(name) for name in ("province", "city", "district")),
        category=pl.Series(["Food > Hotpot", "Shop > Books", None, "Food > Bar"] * (3 * per_city // 4)),
        **{name: pl.lit(None, dtype=pl.String) for name in ("brand", "description", "street")},
    )


def toy_codes(items: pl.DataFrame) -> np.ndarray:
    """First token by city, second by category, third counting: unique codes."""
    city = items["lon_deg"].rank("dense").to_numpy() * 3 // (len(items) + 1)
    second = items["title"].rank("dense").to_numpy() - 1
    return np.stack([city, second, np.arange(len(items)) % max(len(items) // 3, 1)], axis=1).astype(np.int32)


def toy_tokens(items: pl.DataFrame, codes: np.ndarray, level: int) -> dict[str, Any]:
    found = {}
    for code in np.unique(codes[:, level]):
        own = items.filter(pl.Series(codes[:, level] == code))
        found[str(code)] = {
            "label": f"{own['city'][0]}, {own['province'][0]} <i>", "items": len(own), "radius_km": 1.5 + float(code),
            "centre": list(centre_deg(own["lat_deg"], own["lon_deg"])),
            "region_share": {"province": 1.0, "city": 0.9}, "categories": [["Food", 0.5]], "brands": [],
            "examples": own["title"].head(3).to_list(),
        }  # fmt: skip
    return found


def toy_metrics(levels: Sequence[int] = (CODES, CODES, 20)) -> dict[str, Any]:
    """What `3_sid/metrics.json` holds, every optional key included."""
    return {
        "levels": [
            {"level": number, "codes": codes, "utilisation": 0.75, "entropy_bits": 0.9 * float(np.log2(codes)),
             "perplexity": 3.5, "gini": 0.2, "largest_share": 0.34}
            for number, codes in enumerate(levels, start=1)
        ],
        "collision_share": 0.1, "collision_unique": 0.05, "collision_share_final": 0.0, "moved_share": 0.05,
        "extra_token": False,
        "reconstruction": {"relative_by_level": [0.8, 0.5, 0.4], "mse": 1e-3, "relative_after_unique": 0.41},
        "first_token": {"province_purity": 1.0, "city_purity": 0.98, "district_purity": float("nan"),
                        "radius_km_median": 3.2, "radius_km_p90": 5.0},
    }  # fmt: skip


def toy_events(items: pl.DataFrame, count: int = 400) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    kind = rng.choice(["impression", "click", "order"], count, p=[0.7, 0.2, 0.1])
    return pl.DataFrame({
        "user_id": [f"u{user}" for user in rng.integers(0, 20, count)],
        "item_id": items["item_id"].gather(rng.integers(0, len(items), count)),
        "timestamp": pl.Series(1_767_225_600_000_000 + np.arange(count) * 3_600_000_000).cast(pl.Datetime("us", "UTC")),
        "kind": kind,
    })  # fmt: skip


def write_run(
    root: Path,
    items: pl.DataFrame,
    codes: np.ndarray,
    metrics: Mapping[str, Any],
    events: pl.DataFrame | None = None,
) -> RunFolder:
    """Write the files of stages 1 to 3 of a fake run."""
    run = RunFolder(root)
    for folder in ("1_data", "2_align", "3_sid/tokenizer"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    items.write_parquet(run.path("1_data", "items.parquet"))
    if events is not None:
        events.write_parquet(run.path("1_data", "events.parquet"))
    report = {"file": "items.csv", "rows": len(items) + 3, "kept": len(items), "rejected": 3,
              "rejected_by_reason": {"duplicate item_id": 2, "empty <title>": 1}}  # fmt: skip
    write_json(run.path("1_data", "checks.json"), {
        "items": report, "regions": {"filled": {"city": 2}, "rows_without_region": 1}
    })  # fmt: skip
    emb = np.random.default_rng(2).standard_normal((len(items), 8)).astype(np.float32)
    emb /= np.linalg.norm(emb, axis=1, keepdims=True)
    path = run.path("2_align", "embeddings.safetensors")
    save_file({"emb_ND": emb}, path, metadata={"encoder": "toy", "prompt": "full"})
    columns = {f"token_{level + 1}": codes[:, level] for level in range(codes.shape[1])}
    sid = ["-".join(map(str, row)) for row in codes.tolist()]
    table = pl.DataFrame({"item_id": items["item_id"], **columns, "sid": sid, "collides": [False] * len(items)})
    table.write_parquet(run.path("3_sid", "sids.parquet"))
    tokens = {str(level + 1): toy_tokens(items, codes, level) for level in range(2)}
    write_json(run.path("3_sid", "tokenizer/tokens.json"), tokens)
    write_json(run.path("3_sid", "metrics.json"), metrics)
    manifest = {"fingerprint": "0" * 64, "outputs": {}, "versions": {"python": "3.11.0", "lgsid": "0.1.0"},
                "wall_seconds": 12.345, "peak_memory_mib": 678.9}  # fmt: skip
    write_json(run.path("1_data", "manifest.json"), {"stage": "1_data", **manifest})
    return run


FakeRun = Callable[..., RunFolder]


@pytest.fixture
def fake_run(tmp_path: Path) -> FakeRun:
    """Writes a fake run; keyword arguments replace parts of its SID metrics."""

    def make(
        name: str = "run", items: pl.DataFrame | None = None, with_events: bool = False, **metrics: Any
    ) -> RunFolder:
        catalogue = toy_items() if items is None else items
        events = toy_events(catalogue) if with_events else None
        return write_run(tmp_path / name, catalogue, toy_codes(catalogue), {**toy_metrics(), **metrics}, events)

    return make
