"""Every option of every stage: one strict class per stage, units in the names, nothing else anywhere.

A YAML file is read into `RunConfig`; ``--set stage.key=value`` changes single keys; an unknown key is an error with the
nearest known name. Paths are relative to the YAML file they stand in, so a run can be started from any folder.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lgsid.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Base of all configuration: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class ChoiceConfig(Strict):
    """The choice model of the simulated world: multinomial logit over an exposed slate, after Huff (1964).

    ``utility = popularity_weight · log popularity + interest_weight · taste·item
    - price_weight · |price level - budget| - distance_weight · log(1 + distance_km / distance_scale_km)
    + habit_weight · [clicked on an earlier day]``

    The user clicks item i of slate S with probability ``exp(U_i) / (exp(U_0) + Σ_S exp(U_j))`` and nothing otherwise;
    the outside utility U_0 is solved so that ``click_rate`` holds, and kept in the truth.
    """

    distance_weight: float = Field(default=2.0, ge=0)
    """Strength of distance decay (Huff's exponent lambda)."""
    distance_scale_km: float = Field(default=1.0, gt=0)
    """Distance below which decay is flat."""
    interest_weight: float = Field(default=3.0, ge=0)
    """Weight of the match between a user's taste and an item's category and style."""
    popularity_weight: float = Field(default=0.7, ge=0)
    """Weight of the item's log popularity."""
    price_weight: float = Field(default=0.8, ge=0)
    """Weight of the mismatch between a user's budget and an item's price level."""
    habit_weight: float = Field(default=1.0, ge=0)
    """Bonus of an item that is among the user's last clicks of earlier days."""
    click_rate: float = Field(default=0.5, gt=0, lt=1)
    """Share of slates with a click, on average; the utility of choosing nothing follows from it."""
    order_rate: float = Field(default=0.25, gt=0, lt=1)
    """Share of clicks that become orders for an item of average fit."""
    order_fit_weight: float = Field(default=0.6, ge=0)
    """How much the log-odds of an order grow with interest and price match (in units of utility)."""
    amount_spread: float = Field(default=0.25, ge=0)
    """Standard deviation of the log of an order's amount around the item's price."""


class ExposureConfig(Strict):
    """What the simulated app shows: each place of a slate is filled from one of four sources, by relative weight."""

    near: float = Field(default=0.7, ge=0)
    """Items around the user, nearer ones more often …"""
    popular: float = Field(default=0.2, ge=0)
    """… popular items of the city the user is in …"""
    familiar: float = Field(default=0.05, ge=0)
    """… items among the user's last clicks …"""
    far: float = Field(default=0.05, ge=0)
    """… and popular items from anywhere."""
    near_km: float = Field(default=2.0, gt=0)
    """Median reach of the first source."""

    @model_validator(mode="after")
    def _some_source(self) -> ExposureConfig:
        if self.near + self.popular + self.familiar + self.far <= 0:
            raise ValueError("give at least one of near, popular, familiar and far a weight above 0")
        return self


class WorldConfig(Strict):
    """The simulated world: real places, invented shops and people, behaviour from a documented choice model."""

    language: Literal["en", "zh"] = "en"
    """English shops in US cities, or Chinese shops in Chinese cities."""
    cities: int = Field(default=12, ge=1)
    """Number of real cities, two provinces to three cities, the largest cities of each first."""
    items: int = Field(default=8_000, ge=1)
    """Number of shops."""
    users: int = Field(default=1_000, ge=1)
    """Number of people, each with a home, a taste and a budget."""
    events: int = Field(default=200_000, ge=0)
    """Number of events (impressions, clicks and orders together), approximately."""
    slate: int = Field(default=8, ge=1)
    """Items exposed together on one page of a session."""
    days: int = Field(default=90, ge=1)
    """Length of the simulated period in days."""
    start: date = date(2026, 1, 1)
    """First day (UTC)."""
    chain_share: float = Field(default=0.25, ge=0, le=1)
    """Share of shops that belong to a chain, where a chain of their category reaches their city."""
    scattered_share: float = Field(default=0.2, ge=0, le=1)
    """Share of shops that stand alone instead of in a commercial centre."""
    new_share: float = Field(default=0.05, ge=0, le=1)
    """Share of shops that open during the simulated period; nobody sees them before."""
    exposure: ExposureConfig = ExposureConfig()
    """What the app shows."""
    choice: ChoiceConfig = ChoiceConfig()
    """Parameters of the choice model; kept beside the data as its truth."""


class DataConfig(Strict):
    """Stage 1: where the tables come from and how strictly they are checked."""

    world: WorldConfig | None = None
    """Simulate the data (the embedded default) …"""
    items: Path | None = None
    """… or read an items table (Parquet or CSV) …"""
    events: Path | None = None
    """… and, if there is one, an events table."""
    lenient: bool = False
    """Drop bad rows, count them and write them to a reject file, instead of stopping."""
    datum: Literal["wgs84", "gcj02", "bd09"] = "wgs84"
    """Coordinate system of the tables; GCJ-02 (Amap, Tencent) and BD-09 (Baidu) are converted to WGS-84."""
    empty_title: Literal["error", "category"] = "error"
    """What an empty title means: a bad row, or "named by its category" (for data in which many places have no name)."""
    fill_regions: bool = True
    """Fill missing province, city and district by reverse geocoding."""
    max_title_chars: int = Field(default=512, ge=1)
    """A longer title is a bad row: usually a column shift or a whole page pasted into a cell."""
    max_description_chars: int = Field(default=20_000, ge=1)
    """A longer description is a bad row."""
    find_swapped: bool = True
    """Look for swapped coordinates inside the valid range: points far from any place whose mirror is inhabited."""

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if (self.world is None) == (self.items is None):
            raise ValueError("give exactly one of data.world and data.items")
        return self


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
    labels: Literal["kernel", "rank"] = "kernel"
    """Soft labels exp(-distance / the list's own scale), or by rank of distance in the list."""
    sampling: Literal["density", "uniform"] = "density"
    """Negatives dense near the anchor and sparse far away, by rank of distance, or drawn uniformly."""
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


class TrainerConfig(Strict):
    """How the one training loop trains; a stage fills it from its own options."""

    epochs: float = Field(default=4.0, gt=0)
    """Passes over the training examples; may be fractional."""
    batch: int = Field(default=64, ge=1)
    """At most so many examples go through the model at once, on each process."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are added before an update."""
    warmup_share: float = Field(default=0.06, ge=0, lt=1)
    """Share of the steps in which the learning rate rises; it falls linearly to zero afterwards."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's, for parameter groups that do not set their own."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Longer gradients are cut to this length; infinity leaves them as they are."""
    validations: int = Field(default=4, ge=1)
    """How often the validation score is taken, evenly spaced, the last at the end; one more before the first step."""
    patience: int = Field(default=2, ge=1)
    """Stop after so many validations without a better score."""
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """A checkpoint is written this often, and at every validation: what a kill can cost."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is autocast on a GPU; on a CPU training is always fp32."""


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
    alignment: AlignmentConfig = AlignmentConfig(objective="none")


class GeoFeatureConfig(Strict):
    """Weights of the feature blocks of the first token's k-means; each block has unit spread before its weight."""

    province: float = Field(default=6.0, ge=0)
    """Province identity; high, because a token that spans two provinces is reachable from neither."""
    city: float = Field(default=2.0, ge=0)
    """City identity within the province."""
    district: float = Field(default=1.0, ge=0)
    """District identity within the city."""
    cell: float = Field(default=0.25, ge=0)
    """Identity of the grid cell (H3 or GeoHash)."""
    globe: float = Field(default=1.0, ge=0)
    """Position on the unit sphere, scaled by the catalogue's own spread."""
    regional: float = Field(default=4.0, ge=0)
    """Position relative to the province's centre, scaled by the province's own spread."""
    local: float = Field(default=2.0, ge=0)
    """Position relative to the city's centre, scaled by the city's own spread."""
    content: float = Field(default=0.3, ge=0)
    """Coarse content: the top level of the category, and the brand."""
    grid: Literal["h3", "geohash"] = "h3"
    """Which grid the cell block uses."""
    grid_resolution: int = Field(default=7, ge=0, le=15)
    """H3 resolution (7: about 5 km²) or GeoHash length."""


class SidConfig(Strict):
    """Stage 3: from embeddings to geographic semantic IDs."""

    levels: int = Field(default=3, ge=2)
    """Tokens per SID, the geographic one included."""
    codes: int = Field(default=256, ge=2)
    """Codes per level."""
    features: GeoFeatureConfig = GeoFeatureConfig()
    epochs: int = Field(default=20, ge=0)
    """Passes of joint training of the residual codebooks after their k-means start."""
    batch: int = Field(default=2_048, ge=1)
    """Items per training step."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Step size of joint training, relative to the residual's own scale."""
    entropy_weight: float = Field(default=0.05, ge=0)
    """Weight of the KL divergence from the soft code frequencies to uniform, relative to the residual energy."""
    unique: Literal["reassign", "extra_token"] = "reassign"
    """Make SIDs unique by moving items to free last-level codes at the least cost, or by one more token."""


class ReportConfig(Strict):
    """Stage 5: what the report shows."""

    neighbours: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(5, 10, 50), min_length=1)
    """The K of neighbour geography P/C/T@K; the smallest is the one of the key figures."""
    neighbour_sample: int = Field(default=10_000, ge=1)
    """Queries used for neighbour metrics; all items when there are fewer. Neighbours always come from all items."""
    map_points: int = Field(default=20_000, ge=1)
    """Most points drawn on one map."""
    machine_time: bool = False
    """Print wall time and peak memory of each stage; off, so that two runs of one configuration give one report."""


class RunConfig(Strict):
    """A whole run: what `lgsid run` reads from YAML."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = Field(default=0, ge=0)
    data: DataConfig = DataConfig(world=WorldConfig())
    align: AlignConfig = AlignConfig()
    sid: SidConfig = SidConfig()
    report: ReportConfig = ReportConfig()


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice, where plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise ConfigError(f"line {node.start_mark.line + 1}: key {twice[0]!r} stands twice", "remove one of them")
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, is not a mapping, or has a key twice.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise ConfigError(f"no configuration file {path}", "ls configs/") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ConfigError(f"{path} is not a YAML file: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}, {error.message}", error.fix) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, expected key: value pairs")
    return content


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``key.path=value`` strings; values are YAML, so ``true``, ``3`` and ``[5, 10]`` have their types."""
    result: dict[str, Any] = copy.deepcopy(raw)
    for override in overrides:
        path, separator, value = override.partition("=")
        if not separator or not path:
            raise ConfigError(f"--set got {override!r}, expected key.path=value", "--set sid.codes=128")
        *parents, leaf = path.split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {override}: {parent!r} is a value, not a section")
        try:
            node[leaf] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: {value!r} is not a YAML value") from error
    return result


def parse(model: type[Model], raw: dict[str, Any], source: str) -> Model:
    """Validate a mapping against a strict class, with an error that names the key, the value and what was expected."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(model, problem) for problem in error.errors()]
        raise ConfigError(f"{source} does not fit:\n  " + "\n  ".join(lines)) from None


def _explain(model: type[BaseModel], problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        got = "" if problem["type"] in ("missing", "value_error") else f" (got {problem['input']!r})"
        return f"{key or 'configuration'}: {problem['msg']}{got}"
    near = difflib.get_close_matches(str(problem["loc"][-1]), _field_names(model), n=1)
    return f"{key}: no such key" + (f"; did you mean {near[0]!r}?" if near else "")


def _field_names(model: type[BaseModel]) -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(name)
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                names.extend(_field_names(part))
    return names


def load_run_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run's configuration; ``None`` means the embedded default world.

    Raises:
        ConfigError: see `load_yaml`, `apply_overrides` and `parse`.
    """
    raw = apply_overrides({"data": {"world": {}}} if path is None else load_yaml(path), overrides)
    raw.setdefault("name", "demo" if path is None else path.stem)
    config = parse(RunConfig, raw, str(path or "the default configuration"))
    base = Path.cwd() if path is None else path.resolve().parent
    return _resolve_paths(config, base)


def _resolve_paths(config: RunConfig, base: Path) -> RunConfig:
    data = config.data
    given = {name: value for name in ("items", "events") if (value := getattr(data, name)) is not None}
    paths = {name: (base / _expand(str(value))).resolve() for name, value in given.items()}
    update: dict[str, Any] = {"data": data.model_copy(update=paths)}
    encoder = config.align.encoder
    folder = base / _expand(encoder.model)
    if os.sep in encoder.model and folder.exists():  # otherwise a hub name such as BAAI/bge-m3
        encoder = encoder.model_copy(update={"model": str(folder.resolve())})
        update["align"] = config.align.model_copy(update={"encoder": encoder})
    return config.model_copy(update=update)


def _expand(path: str) -> str:
    """``${NAME}`` and ``${NAME:-default}`` from the environment; a relative value is relative to the working folder."""

    def value(match: re.Match[str]) -> str:
        name, default = match.group("name"), match.group("default")
        if (found := os.environ.get(name)) is not None:
            return str(Path(found).absolute())
        if default is None:
            raise ConfigError(f"{path}: the environment has no variable {name}", f"export {name}=/the/folder")
        return default

    return re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", value, path)
