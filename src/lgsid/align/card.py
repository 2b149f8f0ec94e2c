"""The model card of an aligned encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lgsid.config import RunConfig

if TYPE_CHECKING:
    from lgsid.align.align import Aligned
    from lgsid.align.encoder import Encoder

_NAMES = {
    "province": "neighbours in the same province (P@5)",
    "city": "neighbours in the same city (C@5)",
    "district": "neighbours in the same district (T@5)",
    "distance_km": "mean distance to the neighbours, km",
    "kept": "original similarity kept",
    "random_cosine": "mean cosine of random pairs",
    "effective_rank": "effective rank of the vectors",
}


def alignment_card(
    config: RunConfig, encoder: Encoder, aligned: Aligned, held: Mapping[str, Mapping[str, float]]
) -> str:
    """What the encoder is, how it was made and how good it is on items it was not trained on, in Markdown."""
    rows = [
        f"| {text} | {held['before'][name]:.3f} | {held['after'][name]:.3f} |"
        for name, text in _NAMES.items()
        if name in held["after"]
    ]
    return "\n".join([
        f"# {Path(encoder.name).name}, aligned with geography",
        "",
        f"A text encoder that gives near shops near vectors and keeps their meaning, aligned by lgsid (run "
        f"`{config.name}`, objective `{aligned.objective.name}`, seed {config.seed}).",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        'SentenceTransformer("path/to/this/folder").encode(["Shop: Pine Cone. Restaurants. Location: De Forest, WI"])',
        "```",
        "",
        "## On items that training never saw",
        "",
        "| figure | before | after |",
        "|---|--:|--:|",
        *rows,
        "",
        "Five nearest neighbours by cosine among a sample of the catalogue; *kept* is their mean cosine in the "
        "original space as a share of the best possible.",
        "",
        "## Training",
        "",
        *_training(config, aligned),
        "",
        "The vectors know the places of this catalogue. Of other cities they know what their names say.",
    ])  # fmt: skip


def _training(config: RunConfig, aligned: Aligned) -> list[str]:
    """What it was trained on, and how."""
    counts = {part: int((aligned.part == part).sum()) for part in aligned.part.unique(maintain_order=True).sort()}
    options = config.align.alignment
    lora, template = options.lora, {"en": "Shop: … Location: …", "zh": "店铺：… 位置：…"}[config.align.prompt.language]
    return [
        f"- items: {', '.join(f'{part} {count:,}' for part, count in counts.items())}",
        f"- LoRA of rank {lora.rank} on {lora.modules.replace('_', ' and ')} maps, dropout {lora.dropout}; "
        f"the adapter for peft is in `adapter/`",
        f"- {aligned.history.steps:,} steps planned of {options.batch} items, learning rate {options.learning_rate:g}; "
        f"best validation at step {aligned.history.best.step:,}",
        f"- prompts: `{template}` as `2_align/prompts.parquet` of the run shows them",
    ]
