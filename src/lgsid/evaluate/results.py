"""Everything a report is made of, read from a run folder once and checked to fit together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lgsid.arrays import AnyArray, FloatArray, IntArray
from lgsid.artifact import RunFolder, read_json
from lgsid.errors import ArtifactError

STAGES = {"1_data": "lgsid data", "2_align": "lgsid align", "3_sid": "lgsid tokenize"}
"""Stages a report needs, with the command that runs each."""
RANKING = {"samples", "training", "rankers", "baselines", "gain_of_sid"}
"""What `4_rank/metrics.json` holds."""
GENERATION = {"protocol", "training", "recommenders"}
"""What `4_generate/metrics.json` holds."""


@dataclass(frozen=True)
class Token:
    """What one code stands for (`3_sid/tokenizer/tokens.json`); what is not known is None or empty.

    Attributes:
        code: its number.
        label: its name.
        items: items that have it.
        centre_deg: latitude and longitude of their centre.
        radius_km: how far they reach.
        place: whether it stands for a place rather than for a kind of item.
        regions: by level the commonest provinces, cities and districts, as paths, with the share of its items there.
        region_share: share of its items in its leading province, city and district.
        categories, brands, words: leading ones with their shares.
        examples: titles.
    """

    code: int
    label: str
    items: int
    centre_deg: tuple[float, float] | None
    radius_km: float | None
    place: bool
    regions: Mapping[str, Sequence[tuple[str, float]]]
    region_share: Mapping[str, float | None]
    categories: tuple[tuple[str, float], ...]
    brands: tuple[tuple[str, float], ...]
    words: tuple[tuple[str, float], ...]
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Alignment:
    """What the align stage wrote beside the embeddings where it taught the encoder geography.

    Attributes:
        reference_path: `2_align/reference.safetensors`, the true prompts by the unaligned encoder.
        content_path, without_location_path: the content texts alone by the unaligned and the aligned encoder; None
            where they were not written.
        parts: part of each item: "train", "validation", "test", or "unseen" for whole cities kept out of training.
        training: `2_align/training.json`: validations and steps.
        reward: `2_align/reward.json`; None for objectives without a reward model.
    """

    reference_path: Path
    content_path: Path | None
    without_location_path: Path | None
    parts: pl.Series
    training: Mapping[str, Any]
    reward: Mapping[str, Any] | None


@dataclass(frozen=True)
class Results:
    """A run's results so far.

    Attributes:
        run: where they lie.
        items: `1_data/items.parquet`, N rows.
        events: `1_data/events.parquet`, lazily; None where there are none.
        checks: `1_data/checks.json`.
        emb_of: reads `2_align/embeddings.safetensors`, (N, D).
        encoder, prompt: what made the embeddings.
        sids: `3_sid/sids.parquet`, in the order of the items.
        sid_metrics: `3_sid/metrics.json`.
        tokens: explanations by level (from 1) and code.
        manifests: manifest of each stage that has one.
        alignment: what was written about alignment; None where the encoder was taken as it is.
        ranking: `4_rank/metrics.json`; None where no rankers were trained.
        generation: `4_generate/metrics.json`; None where no generators were trained.
    """

    run: RunFolder
    items: pl.DataFrame
    events: pl.LazyFrame | None
    checks: Mapping[str, Any]
    embeddings_path: Path
    encoder: str
    prompt: str
    sids: pl.DataFrame
    sid_metrics: Mapping[str, Any]
    tokens: Mapping[int, Mapping[int, Token]]
    manifests: Mapping[str, Mapping[str, Any]]
    alignment: Alignment | None = None
    ranking: Mapping[str, Any] | None = None
    generation: Mapping[str, Any] | None = None

    @cached_property
    def codes(self) -> IntArray:
        """Tokens of every item, the disambiguation token of an extra-token tokeniser included; shape (N, L)."""
        return self.sids.select(self.token_columns).to_numpy().astype(np.int64)

    @property
    def token_columns(self) -> list[str]:
        """Names of the token columns, in order."""
        return [name for name in self.sids.columns if name.startswith("token_")]

    @property
    def levels(self) -> int:
        """Levels with a codebook: those that `3_sid/metrics.json` describes."""
        return len(self.sid_metrics["levels"])

    def embeddings(self, path: Path | None = None) -> FloatArray:
        """The items' embeddings, or other vectors of theirs (see `Alignment`); shape (N, D).

        Raises:
            ArtifactError: the file is no safetensors file, has no tensor `emb_ND`, or another number of rows than there
                are items.
        """
        path = path or self.embeddings_path
        fix = f"{STAGES['2_align']} {path.parent.parent}"
        emb_ND = _tensor(path, fix)
        if emb_ND is None or emb_ND.ndim != 2 or len(emb_ND) != len(self.items):
            got = "no tensor emb_ND" if emb_ND is None else f"emb_ND of shape {emb_ND.shape}"
            raise ArtifactError(f"{path} has {got}, expected one row for each of {len(self.items):,} items", fix)
        return np.asarray(emb_ND, dtype=np.float32)


def _tensor(path: Path, fix: str) -> AnyArray | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path).get("emb_ND")
    except SafetensorError as error:
        raise ArtifactError(f"{path} is not a safetensors file: {error}", fix) from error


def load_results(run: RunFolder) -> Results:
    """Read what stages 1 to 3 wrote, and the rankers' figures where there are any.

    Raises:
        ArtifactError: a file is missing, broken, or does not fit the others; names the command that makes it.
    """
    paths = {
        name: run.require(stage, name, f"{STAGES[stage]} {run.root}")
        for stage, name in (
            ("1_data", "items.parquet"),
            ("1_data", "checks.json"),
            ("2_align", "embeddings.safetensors"),
            ("3_sid", "sids.parquet"),
            ("3_sid", "metrics.json"),
            ("3_sid", "tokenizer/tokens.json"),
        )
    }
    items = _read_table(paths["items.parquet"], run, "1_data")
    sids = _read_table(paths["sids.parquet"], run, "3_sid")
    if not items["item_id"].equals(sids["item_id"]):
        raise ArtifactError(
            f"{paths['sids.parquet']} does not list the items of {paths['items.parquet']} in their order",
            f"{STAGES['3_sid']} {run.root}",
        )
    events = run.path("1_data", "events.parquet")
    metadata = _safetensors_metadata(paths["embeddings.safetensors"], run)
    return Results(
        run=run,
        items=items,
        events=pl.scan_parquet(events) if events.exists() else None,
        checks=read_json(paths["checks.json"]),
        embeddings_path=paths["embeddings.safetensors"],
        encoder=metadata.get("encoder", "unknown encoder"),
        prompt=metadata.get("prompt", "unknown"),
        sids=sids,
        sid_metrics=_sid_metrics(paths["metrics.json"], run),
        tokens=_tokens(paths["tokenizer/tokens.json"], run),
        manifests={stage: manifest for stage in STAGES if (manifest := run.manifest(stage)) is not None},
        alignment=_alignment(run, items),
        ranking=_later(run, "4_rank", RANKING, "rankers", "lgsid rank"),
        generation=_later(run, "4_generate", GENERATION, "generators", "lgsid generate"),
    )


def _alignment(run: RunFolder, items: pl.DataFrame) -> Alignment | None:
    reference = run.path("2_align", "reference.safetensors")
    if not reference.exists():
        return None
    command = f"{STAGES['2_align']} {run.root}"
    split_path = run.require("2_align", "split.parquet", command)
    split = _read_table(split_path, run, "2_align")
    if not {"item_id", "part"} <= set(split.columns) or not items["item_id"].equals(split["item_id"]):
        raise ArtifactError(f"{split_path} does not give a part to every item, in the order of the items", command)
    content, bare, reward = (
        path if (path := run.path("2_align", name)).exists() else None
        for name in ("content.safetensors", "without_location.safetensors", "reward.json")
    )
    return Alignment(
        reference_path=reference,
        content_path=content,
        without_location_path=bare,
        parts=split["part"],
        training=_without_nan(read_json(run.require("2_align", "training.json", command))),
        reward=None if reward is None else _without_nan(read_json(reward)),
    )


def _later(run: RunFolder, stage: str, wanted: set[str], models: str, command: str) -> dict[str, Any] | None:
    """Figures of a stage that a run may not have."""
    path = run.path(stage, "metrics.json")
    if not path.exists():
        return None
    metrics = _without_nan(read_json(path))
    if not isinstance(metrics, dict) or not metrics.keys() >= wanted:
        raise ArtifactError(f"{path} lacks the figures of {models} ({', '.join(sorted(wanted))})",
                            f"{command} {run.root}")  # fmt: skip
    return metrics


def _read_table(path: Path, run: RunFolder, stage: str) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ArtifactError(f"{path} is not a Parquet table: {error}", f"{STAGES[stage]} {run.root}") from error


def _safetensors_metadata(path: Path, run: RunFolder) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ArtifactError(f"{path} is not a safetensors file: {error}", f"{STAGES['2_align']} {run.root}") from error


def _sid_metrics(path: Path, run: RunFolder) -> dict[str, Any]:
    metrics = _without_nan(read_json(path))
    if not isinstance(metrics, dict) or not metrics.get("levels"):
        raise ArtifactError(f"{path} has no figures by level", f"{STAGES['3_sid']} {run.root}")
    return metrics


def _without_nan(value: Any) -> Any:
    """Figures that could not be computed (NaN) as None."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _tokens(path: Path, run: RunFolder) -> dict[int, dict[int, Token]]:
    raw = _without_nan(read_json(path))
    try:
        return {
            int(level): {int(code): _token(int(level), int(code), entry) for code, entry in codes.items()}
            for level, codes in raw.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} does not explain tokens: {error!r}", f"{STAGES['3_sid']} {run.root}") from error


def _token(level: int, code: int, entry: Mapping[str, Any]) -> Token:
    centre = entry.get("centre")
    return Token(
        code=code,
        label=str(entry.get("label") or f"token {code}"),
        items=int(entry.get("items", 0)),
        centre_deg=(float(centre[0]), float(centre[1])) if centre else None,
        radius_km=entry.get("radius_km"),
        place=bool(entry.get("place", level == 1)),
        regions={name: _pairs(shares) for name, shares in (entry.get("regions") or {}).items()},
        region_share=entry.get("region_share") or {},
        categories=_pairs(entry.get("categories")),
        brands=_pairs(entry.get("brands")),
        words=_pairs(entry.get("words")),
        examples=tuple(map(str, entry.get("examples") or ())),
    )


def _pairs(shares: Iterable[Sequence[Any]] | None) -> tuple[tuple[str, float], ...]:
    return tuple((str(name), float(share)) for name, share in shares or ())
