"""Options of stage 2: prompts, encoder and alignment."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lgsid.config.base import Strict


class PromptConfig(Strict):
    """How an item is written down for the encoder."""

    language: Literal["en", "zh"] = "en"
    """Language of the template's own words."""
    kind: Literal["full", "content", "location"] = "full"
    """Content and location text together (the method's), or one of them alone (for comparison)."""
    max_description_chars: int = Field(default=300, ge=0)
    """Descriptions are cut here, at a word boundary, so that the location behind them is not truncated away."""


class EncoderConfig(Strict):
    """Which text encoder, and how it runs."""

    model: str = "minilm"
    """A folder, a hub name, or the short name of an installed package (`minilm`, `smollm2`, `gemma3-270m`, `mpnet`)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 halves the time where the CPU or GPU has bf16 arithmetic; auto uses it there."""
    max_tokens: int = Field(default=512, ge=8)
    """Longer prompts are cut by the tokenizer."""
    batch_tokens: int | None = Field(default=None, ge=64)
    """Tokens per batch, padding included; by default 1,024 on a CPU and 16,384 on a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs; auto is the GPU if there is one."""


class LoraConfig(Strict):
    """The trainable part of the encoder: low-rank updates of frozen weights (LoRA, arXiv 2106.09685)."""

    rank: int = Field(default=16, ge=1)
    """Rank of each update (the paper: 8)."""
    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the input of each update."""
    modules: Literal["key_value", "attention", "all"] = "all"
    """Which linear maps get one: keys and values (the paper), all of attention, or the feed-forward layers as well."""


class RewardConfig(Strict):
    """The list-wise geographic reward model (LGSID, section on geographic alignment)."""

    form: Literal["pairwise", "pointwise"] = "pairwise"
    """Score a prompt against the anchor's own prompt, or (the paper's literal reading) by itself."""
    labels: Literal["rank", "kernel"] = "rank"
    """Soft labels by rank of distance in the list, which tells all of its scales apart alike, or
    exp(-distance / the list's own scale)."""
    sampling: Literal["multiscale", "density", "uniform"] = "multiscale"
    """Negatives by rank of distance, dense near and sparse far: over the whole catalogue, log-uniformly ("multiscale"),
    or from the nearest 128 places ("density"); or drawn uniformly."""
    negatives: int = Field(default=15, ge=1)
    """Negatives K of a list."""
    far_share: float = Field(default=0.2, ge=0, le=1)
    """Share of the negatives drawn from the whole catalogue instead of the neighbourhood."""
    anchors: int = Field(default=2_000, ge=10)
    """At most so many lists are made: each costs K mismatched prompts to encode."""
    held_out_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the anchors kept out of the reward's training, to measure its pair-order accuracy."""
    hidden: int = Field(default=256, ge=1)
    """Width of the hidden layer."""
    features: Literal["probe", "plain"] = "probe"
    """Compare two embeddings by what a linear geographic probe reads in them, or (pairwise, plain) as they are."""
    true_lists: int = Field(default=2_000, ge=0)
    """Pairwise: so many more lists an epoch of the candidates' own prompts, which G-DPO compares; 0 leaves them out."""
    order_weight: float = Field(default=1.0, ge=0)
    """Weight of the pair-order term beside the weighted binary cross-entropy; 0 leaves the paper's loss alone."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout on the features and the hidden layer."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's."""
    epochs: int = Field(default=20, ge=1)
    """Passes over the lists; the epoch of best held-out loss is kept."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """AdamW's."""


class PairConfig(Strict):
    """Domain-mixed preference pairs for G-DPO."""

    collaborative_share: float = Field(default=0.5, ge=0, le=1)
    """Share of pairs from items that users visited together; all pairs are geographic where there are no events."""
    window_hours: float = Field(default=24.0, gt=0)
    """Two visits of one user within this time count as one co-occurrence."""
    quantile: float = Field(default=0.8, ge=0, lt=1)
    """Only co-occurrences whose score is above this quantile of all are used."""
    bands_km: tuple[Annotated[float, Field(gt=0)], ...] = (0.5, 2.0, 10.0, 50.0)
    """Upper edges of the distance bands of geographic pairs; the last band is everything beyond."""
    per_anchor: int = Field(default=4, ge=1)
    """Pairs (preferred, dispreferred) made for each anchor."""
    events_share: float = Field(default=0.8, gt=0, le=1)
    """Only so much of the events, the earliest, is looked at: what comes later is for testing recommenders."""


class TeacherConfig(Strict):
    """The geographic teacher: what nearness is worth, in units of cosine similarity of the unaligned encoder."""

    province: float = Field(default=0.2, ge=0)
    """Bonus of two items of one province …"""
    city: float = Field(default=0.12, ge=0)
    """… of one city …"""
    district: float = Field(default=0.1, ge=0)
    """… and of one district."""
    near: float = Field(default=0.03, ge=0)
    """Bonus of two items at one spot, falling with distance (a Gaussian kernel)."""
    near_km: float = Field(default=2.0, gt=0)
    """Scale of that kernel."""
    name_weight: float = Field(default=0.1, ge=0)
    """Weight of telling an item's own city and district from all others, against squared distances to the targets."""
    coarse_dial: float = Field(default=1.0, ge=0)
    """The dial of province and city, turned after training: 0 leaves them out, 1 is as the bonuses say …"""
    fine_dial: float = Field(default=1.0, ge=0)
    """… and that of district and nearness."""


class ContrastConfig(Strict):
    """The direct list-wise contrast: its target multiplies nearness by meaning."""

    near_km: float = Field(default=3.0, gt=0)
    """Distance at which the target falls to 1/e."""
    meaning_temperature: float = Field(default=0.05, gt=0)
    """Similarity of the unaligned encoder that is worth a factor e; large values leave nearness alone."""


class GuardConfig(Strict):
    """When an alignment run is stopped with an explanation."""

    least_kept: float = Field(default=0.6, ge=0, le=1)
    """Least share of the original similarity that neighbours may keep."""
    least_rank_share: float = Field(default=0.2, ge=0, le=1)
    """Least effective rank of the vectors, relative to the unaligned ones: below it they have collapsed."""
    most_random_cosine: float = Field(default=0.98, gt=0, le=1)
    """Highest mean cosine of random pairs."""
    hacking_gain: float = Field(default=0.5, ge=0)
    """A rise of the reward (in logits) that should be seen on the map …"""
    hacking_distance_ratio: float = Field(default=1.1, gt=0)
    """… is hacked if the mean distance to the nearest neighbours grew by more than this factor."""


class AlignmentConfig(Strict):
    """Teaching the encoder geography."""

    objective: Literal["none", "gdpo", "contrast", "distil"] = "distil"
    """What is optimised: nothing, preferences under a reward model, a list-wise contrast, or a geographic teacher."""
    similarity_weight: float = Field(default=1.0, ge=0)
    """Weight λ of the regulariser that keeps each vector close to its own reference: the dial of G-DPO and contrast."""
    beta: float = Field(default=1.0, gt=0)
    """Sharpness β of G-DPO."""
    validation_share: float = Field(default=0.1, ge=0, lt=1)
    """Items kept out of training to choose the best checkpoint …"""
    test_share: float = Field(default=0.1, ge=0, lt=1)
    """… items kept out to report on …"""
    unseen_share: float = Field(default=0.0, ge=0, lt=1)
    """… and items in whole cities that training never sees."""
    epochs: float = Field(default=3.0, gt=0)
    """Passes over the training items."""
    most_items: int = Field(default=50_000, ge=32)
    """At most so many items are trained on, a random sample; the others are only embedded. It bounds the time."""
    batch: int = Field(default=64, ge=2)
    """Anchors per step."""
    accumulate: int = Field(default=1, ge=1)
    """Steps whose gradients are added before an update."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Highest learning rate of the updates and the head."""
    warmup_share: float = Field(default=0.06, ge=0, lt=1)
    """Share of the steps in which the learning rate rises; it falls linearly to zero afterwards."""
    validations: int = Field(default=4, ge=1)
    """How often the validation score is taken."""
    patience: int = Field(default=2, ge=1)
    """Stop after so many validations without a better score."""
    lora: LoraConfig = LoraConfig()
    teacher: TeacherConfig = TeacherConfig()
    contrast: ContrastConfig = ContrastConfig()
    reward: RewardConfig = RewardConfig()
    pairs: PairConfig = PairConfig()
    guards: GuardConfig = GuardConfig()


class AlignConfig(Strict):
    """Stage 2: from items to embeddings that know where the items are."""

    prompt: PromptConfig = PromptConfig()
    encoder: EncoderConfig = EncoderConfig()
    alignment: AlignmentConfig = AlignmentConfig()
