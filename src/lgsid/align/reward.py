"""The list-wise geographic reward model of LGSID (arXiv 2511.14221): does this prompt lie near the anchor's place?

A two-layer network scores a candidate's embedding; it learns from lists of mismatched prompts (the anchor's content,
other items' locations) with soft labels by distance, under weighted binary cross-entropy

    L = -Σ_ij w_j [ p_ij log σ(r_ij) + (1 - p_ij) log(1 - σ(r_ij)) ] / Σ w

where the true prompt weighs as much as its K negatives together. Beyond the paper, each found by measurement:

- *pairwise*: the candidate is compared with the anchor's own prompt, R(e_ii, e_ij). A reward that sees e_ij alone
  (*pointwise*, the paper's literal reading) is at chance on anchors it has not seen: the text does not say where the
  item really is.
- *probe*: what is compared is what a linear geographic probe reads in the embeddings (`lgsid.align.probe`).
- *true lists*: G-DPO compares items by their own prompts, whose contents differ; a reward that has only seen lists of
  one content is much worse there. Lists of true prompts cost nothing, their embeddings are known.
- *pair order*: a logistic loss on pairs of one list, weighted by the difference of their labels (after RankNet).

Shapes: N items, D dimensions, A anchors, J = K + 1 members of a list, B batch, F features, P probe dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lgsid.align.base import Material
from lgsid.align.lists import Lists, draw_lists, soft_labels
from lgsid.align.ordering import Order, RewardReport, calibration, pair_order, region_score
from lgsid.align.probe import SCALES_KM, fit_probe
from lgsid.arrays import FloatArray, IntArray
from lgsid.artifact import atomic_path, read_json, write_json
from lgsid.config import RewardConfig
from lgsid.errors import ArtifactError, DataError
from lgsid.progress import progress

CONFIG, WEIGHTS = "config.json", "reward.safetensors"
_LISTS_PER_STEP = 32
_LISTS_PER_CHUNK = 1_024
_LEAST_ORDER_WEIGHT = 0.1
"""Of a pair in the order term whose labels are nearly equal, as those of two far places are."""


class RewardModel(nn.Module):
    """R(anchor, candidate): a differentiable score of embeddings; build one with `fit_reward` or `RewardModel.load`.

    Args:
        dim: length D of an embedding.
        probe: P, dimensions of the geographic probe; 0 compares the embeddings as they are.
        config: form, width and dropout.
    """

    probe_DP: Tensor
    mean_D: Tensor
    feature_mean_F: Tensor
    feature_scale_F: Tensor

    def __init__(self, dim: int, probe: int, config: RewardConfig) -> None:
        super().__init__()
        self.shape = {"dim": dim, "probe": probe}
        self.config = config
        self.register_buffer("probe_DP", torch.zeros(dim, probe))
        self.register_buffer("mean_D", torch.zeros(dim))
        width = self.features(torch.zeros(1, dim), torch.zeros(1, dim)).shape[1]
        self.register_buffer("feature_mean_F", torch.zeros(width))
        self.register_buffer("feature_scale_F", torch.ones(width))
        self.network = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(width, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, 1),
        )

    def features(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        """Features of pairs of embeddings (…, D), not standardised: (…, F)."""
        if self.config.form == "pointwise":
            return candidate
        if self.probe_DP.shape[1] == 0:
            return torch.cat([(anchor - candidate).abs(), anchor * candidate], dim=-1)
        first, second = ((emb - self.mean_D) @ self.probe_DP for emb in (anchor, candidate))
        apart = (first - second).reshape(*first.shape[:-1], len(SCALES_KM), -1)
        distance = (apart.square().mean(dim=-1) + 1e-9).sqrt()  # the root has no gradient at 0
        return torch.cat([(first - second).abs(), first * second, distance], dim=-1)

    def score(self, anchor_BD: Tensor, candidate_BD: Tensor) -> Tensor:
        """Logits, higher where the candidate lies nearer to the anchor.

        Args:
            anchor_BD: embeddings of the anchors' own prompts, (…, D); not looked at by the pointwise form.
            candidate_BD: embeddings of the candidates, (…, D).

        Returns:
            shape (…), differentiable in both arguments.
        """
        raw = self.features(anchor_BD, candidate_BD)
        logits: Tensor = self.network((raw - self.feature_mean_F) / self.feature_scale_F).squeeze(-1)
        return logits

    def freeze(self) -> RewardModel:
        """Evaluation mode, and no gradients to its own parameters."""
        self.zero_grad(set_to_none=True)
        return self.eval().requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``reward.safetensors``."""
        from safetensors.torch import save_file

        write_json(folder / CONFIG, {**self.shape, "reward": self.config.model_dump(mode="json")})
        with atomic_path(folder / WEIGHTS) as path:
            save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, path)

    @classmethod
    def load(cls, folder: Path) -> RewardModel:
        """Read a saved reward, frozen.

        Raises:
            ArtifactError: a file is missing, unreadable, or the two do not fit together.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        content = read_json(folder / CONFIG)
        try:
            model = cls(int(content["dim"]), int(content["probe"]), RewardConfig(**content["reward"]))
            model.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{folder} is not a saved reward model: {error}", "run the align stage again"
            ) from error
        return model.freeze()


@dataclass(frozen=True)
class _Batch:
    """A lists as the network sees them: embeddings of anchors and members, distances and labels."""

    anchor: Tensor  # (A, D)
    member: Tensor  # (A, J, D)
    km: Tensor  # (A, J)
    label: Tensor  # (A, J)

    def rows(self, which: Tensor) -> _Batch:
        return _Batch(self.anchor[which], self.member[which], self.km[which], self.label[which])

    def __add__(self, other: _Batch) -> _Batch:
        return _Batch(*(torch.cat([getattr(self, name), getattr(other, name)]) for name in self.__dataclass_fields__))


class _Trainer:
    """Lists, embeddings and random numbers of one fit."""

    def __init__(self, material: Material, config: RewardConfig, seed: int) -> None:
        self.config, self.seed, self.material = config, seed, material
        items = material.items
        self.lat, self.lon = (items[name].to_numpy().astype(np.float64) for name in ("lat_deg", "lon_deg"))
        self.train_A, self.held_A = _split_anchors(len(items), config, seed)
        every = np.arange(len(items))
        self.open_M = np.setdiff1d(every, self.held_A)  # a held-out anchor's place must not be learnt as a negative's
        self.train = draw_lists(self.lat, self.lon, self.train_A, self.open_M, config, seed)
        self.held = draw_lists(self.lat, self.lon, self.held_A, every, config, seed)
        self.train_batch, self.held_batch = self._encoded(self.train), self._encoded(self.held)

    @property
    def with_true_lists(self) -> bool:
        return self.config.form == "pairwise" and self.config.true_lists > 0

    def true_batch(self, lists: Lists) -> _Batch:
        """Lists of the members' own prompts."""
        return self._batch(lists, self.material.reference[lists.item_AJ])

    def fresh_true_batch(self, epoch: int) -> _Batch:
        """New lists of true prompts, without any held-out anchor."""
        seed = _derived(self.seed, 10 + epoch)
        count = min(self.config.true_lists, len(self.open_M))
        anchors = np.sort(np.random.default_rng(seed).choice(self.open_M, count, replace=False))
        return self.true_batch(draw_lists(self.lat, self.lon, anchors, self.open_M, self.config, seed))

    def probe(self) -> tuple[FloatArray, FloatArray]:
        """The geographic probe of the prompts that may be learnt from, mismatched ones included."""
        member_AKD = self.train_batch.member[:, 1:].numpy()
        emb = np.concatenate([self.material.reference[self.open_M], member_AKD.reshape(-1, member_AKD.shape[2])])
        rows = np.concatenate([self.open_M, self.train.item_AJ[:, 1:].ravel()])
        return fit_probe(emb, self.lat[rows], self.lon[rows], self.seed)

    def _encoded(self, lists: Lists) -> _Batch:
        """Lists of mismatched prompts, the true one first."""
        anchor_R = np.repeat(lists.anchors, lists.item_AJ.shape[1] - 1).tolist()
        negative_R = lists.item_AJ[:, 1:].ravel().tolist()
        material = self.material
        texts = material.join([material.content[a] for a in anchor_R], [material.location[j] for j in negative_R])
        emb_AKD = material.encode(texts).reshape(len(lists), -1, material.reference.shape[1])
        return self._batch(lists, np.concatenate([material.reference[lists.anchors][:, None], emb_AKD], axis=1))

    def _batch(self, lists: Lists, member_AJD: FloatArray) -> _Batch:
        label_AJ = soft_labels(lists.km_AJ, self.config.labels)
        anchor_AD = self.material.reference[lists.anchors]
        return _Batch(*(torch.from_numpy(x) for x in (anchor_AD, member_AJD, lists.km_AJ, label_AJ)))


def fit_reward(material: Material, config: RewardConfig, seed: int) -> tuple[RewardModel, RewardReport]:
    """Fit a reward model on a sample of anchors, with some of them held out to measure it.

    Args:
        material: the training items; ``encode`` is called once for all mismatched prompts of the training anchors and
            once for those of the held-out ones.
        config: options of the reward.
        seed: same seed, same bits.

    Returns:
        the model of the epoch of least held-out loss, frozen, and what is known of it.

    Raises:
        DataError: too few items for one training and one held-out list.
    """
    trainer = _Trainer(material, config, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_derived(seed, 0))
        model = _untrained(trainer)
        train_loss, held_loss, best = _train(model, trainer)
    return model.freeze(), _report(model.eval(), trainer, train_loss, held_loss, best)


def _split_anchors(items: int, config: RewardConfig, seed: int) -> tuple[IntArray, IntArray]:
    """Rows of the training and of the held-out anchors, both ascending."""
    anchors = min(config.anchors, items)
    held = max(1, round(config.held_out_share * anchors))
    least = held + config.negatives + 1
    if items < least or anchors - held < 1:
        raise DataError(
            f"a reward model with {config.negatives} negatives a list got {items} items, expected at least {least}",
            "lower align.alignment.reward.negatives, bring more items, or use align.alignment.objective: distil",
        )
    order = np.random.default_rng(_derived(seed, 1)).permutation(items)[:anchors]
    return np.sort(order[held:]), np.sort(order[:held])


def _derived(seed: int, use: int) -> int:
    return int(np.random.SeedSequence([seed, 0x5EED, use]).generate_state(1)[0])


def _untrained(trainer: _Trainer) -> RewardModel:
    """A model with its probe and the standardisation of its features in place."""
    config, batch = trainer.config, trainer.train_batch
    probed = config.form == "pairwise" and config.features == "probe"
    dim = batch.anchor.shape[1]
    read, mean = trainer.probe() if probed else (np.zeros((dim, 0), np.float32), np.zeros(dim, np.float32))
    model = RewardModel(dim, read.shape[1], config)
    model.probe_DP.copy_(torch.from_numpy(read))
    model.mean_D.copy_(torch.from_numpy(mean))
    if trainer.with_true_lists:
        batch = batch + trainer.fresh_true_batch(0)
    raw = model.features(_beside(batch), batch.member).flatten(0, 1)
    spread = raw.std(dim=0)
    model.feature_mean_F.copy_(raw.mean(dim=0))
    model.feature_scale_F.copy_(torch.where(spread > 1e-6, spread, 1.0))
    return model


def _train(model: RewardModel, trainer: _Trainer) -> tuple[list[float], list[float], int]:
    """Train, and put the epoch of least held-out loss back; losses by epoch and the best epoch, from 1."""
    config = trainer.config
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    held = trainer.held_batch
    if trainer.with_true_lists:
        held = held + trainer.true_batch(trainer.held)
    train_loss: list[float] = []
    held_loss: list[float] = []
    state: dict[str, Tensor] = {}
    with progress("fitting the reward", float(config.epochs), "epochs") as advance:
        for epoch in range(config.epochs):
            batch = trainer.train_batch
            if trainer.with_true_lists:
                batch = batch + trainer.fresh_true_batch(epoch)
            train_loss.append(_epoch(model.train(), optimizer, batch, config))
            with torch.no_grad():
                held_loss.append(float(_loss(model.eval(), held, config)))
            if held_loss[-1] == min(held_loss):
                state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            advance(1.0)
    model.load_state_dict(state)
    rounded = [[round(loss, 6) for loss in losses] for losses in (train_loss, held_loss)]
    return rounded[0], rounded[1], int(np.argmin(held_loss)) + 1


def _epoch(model: RewardModel, optimizer: torch.optim.Optimizer, batch: _Batch, config: RewardConfig) -> float:
    """One pass over the lists in random order; the mean loss."""
    total = 0.0
    for rows in torch.split(torch.randperm(len(batch.anchor)), _LISTS_PER_STEP):
        loss = _loss(model, batch.rows(rows), config)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += float(loss.detach()) * len(rows)
    return total / len(batch.anchor)


def _loss(model: RewardModel, batch: _Batch, config: RewardConfig) -> Tensor:
    """Weighted binary cross-entropy, and the pair-order term."""
    logit_AJ = model.score(_beside(batch), batch.member)
    weight_J = torch.ones(logit_AJ.shape[1])
    weight_J[0] = logit_AJ.shape[1] - 1
    entropy_AJ = nn.functional.binary_cross_entropy_with_logits(logit_AJ, batch.label, reduction="none")
    loss = (entropy_AJ * weight_J).mean(dim=0).sum() / weight_J.sum()
    if config.order_weight == 0:
        return loss
    nearer_AJJ = batch.km[:, :, None] < batch.km[:, None, :]
    ahead_AJJ = logit_AJ[:, :, None] - logit_AJ[:, None, :]
    gain_AJJ = (batch.label[:, :, None] - batch.label[:, None, :] + _LEAST_ORDER_WEIGHT) * nearer_AJJ
    wrong = (nn.functional.softplus(-ahead_AJJ) * gain_AJJ).sum() / gain_AJJ.sum().clamp(min=1e-6)
    return loss + config.order_weight * wrong


def _beside(batch: _Batch) -> Tensor:
    """The anchors' embeddings, one for each member of their lists."""
    return batch.anchor[:, None].expand_as(batch.member)


def _report(
    model: RewardModel, trainer: _Trainer, train_loss: list[float], held_loss: list[float], best: int
) -> RewardReport:
    from scipy.special import expit

    numbers = {text: number for number, text in enumerate(dict.fromkeys(trainer.material.location))}
    text_N = np.array([numbers[text] for text in trainer.material.location], dtype=np.int64)

    def order(lists: Lists, score_AJ: FloatArray) -> Order:
        return pair_order(score_AJ, lists.km_AJ, text_N[lists.item_AJ])

    config, train, held = trainer.config, trainer.train, trainer.held
    held_AJ, by_region_AJ = _scores(model, trainer.held_batch), region_score(trainer.material.items, held)
    about: dict[str, Any] = {name: getattr(config, name) for name in ("form", "features", "labels", "sampling")}
    return RewardReport(
        **about,
        anchors={"train": len(train), "held_out": len(held)},
        prompts=(len(train) + len(held)) * config.negatives,
        train=order(train, _scores(model, trainer.train_batch)),
        held_out=order(held, held_AJ),
        held_out_true=order(held, _scores(model, trainer.true_batch(held))),
        region_oracle=None if by_region_AJ is None else order(held, by_region_AJ),
        calibration=calibration(expit(held_AJ), trainer.held_batch.label.numpy()),
        train_loss=tuple(train_loss),
        held_out_loss=tuple(held_loss),
        best_epoch=best,
    )


def _scores(model: RewardModel, batch: _Batch) -> FloatArray:
    """Logits of all members of lists, shape (A, J)."""
    with torch.inference_mode():
        parts = [
            model.score(_beside(b), b.member)
            for b in map(batch.rows, torch.split(torch.arange(len(batch.km)), _LISTS_PER_CHUNK))
        ]
    scores: FloatArray = torch.cat(parts).numpy()
    return scores
