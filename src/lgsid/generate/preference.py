"""Iterative preference alignment of OneRec (arXiv 2502.18965): it learns to prefer its own best lists to its worst.

In a round the model writes `PreferenceConfig.beams` lists for some of the training requests, over the whole catalogue
and not only what can be reached, so that it can learn to stay within reach by itself. The lists are judged
(`lgsid.generate.rewards`), and the best and the worst of each request make a pair for DPO (arXiv 2305.18290):

    -log σ(β [(log π(best) - log π(worst)) - (log π₀(best) - log π₀(worst))])

π₀ is the model at the start of the round. Only its likelihoods of the pairs are needed, so they are computed once and
no copy of the model is kept. Neither side of the difference has dropout, which would be noise in it. To this is added
the loss that the model was trained by, on rows drawn from its training rows.

*What is kept.* A round is for the reward of the lists that the model writes greedily for validation requests, as long
as NDCG@10 stays: it ends with the parameters of its highest such reward among the validations at which NDCG@10 was no
more than `TOLERANCE` below what it was before the first round. The first validation is before the first update, so a
round that pays too much, or wins nothing, changes nothing.

Axes: R requests, Q pairs, B pairs at once, W lists of a request, M items of a list, 2 best and worst.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lgsid.arrays import IntArray
from lgsid.artifact import sha256_json
from lgsid.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from lgsid.config import TrainerConfig
from lgsid.distributed import gather, is_main, rank, share, share_tensors, world_size
from lgsid.generate.base import Packed
from lgsid.generate.lists import list_beam_search
from lgsid.generate.onerec import OneRec
from lgsid.generate.packing import Packer, user_places
from lgsid.generate.protocol import requests
from lgsid.generate.recommending import Generated
from lgsid.generate.rewards import Rewards, Scales, scales_of
from lgsid.generate.training import HeldOut, SequenceTraining, on_device
from lgsid.generate.trie import Trie
from lgsid.rank.visits import TRAINING
from lgsid.trainer import fit

TOLERANCE = 0.05
"""Share of NDCG@10 that all rounds together may cost: a standard error of it, where it is .1 on 2,000 requests."""
VALIDATIONS = 4
"""Of a round."""
ROWS_PER_PAIR = 0.25
"""Packed rows of the loss beside a pair: such a row has some forty targets, and takes several times a pair's time."""
PAIRS = "pairs.safetensors"

_AT_ONCE = 64
"""Requests for which lists are written together."""
_LEAST = 1e-6
"""Rewards that differ by less are the same."""
_INADMISSIBLE = -1e6
"""Below the reward of anything."""


@dataclass(frozen=True)
class Pairs:
    """What a round learns from.

    Attributes:
        event_Q: the visits that the requests are made at.
        list_Q2M: the best and the worst list of each, catalogue rows, int64; -1 behind the end of a list.
        reference_Q: log π₀(best) - log π₀(worst).
        about: requests of which so many made pairs, ready for JSON; and the scales of the rewards.
    """

    event_Q: Tensor
    list_Q2M: Tensor
    reference_Q: Tensor
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.event_Q)

    @property
    def scales(self) -> Scales:
        """By which parts of the reward are added."""
        found: Scales = self.about["scales"]
        return found

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {"event_Q": self.event_Q, "list_Q2M": self.list_Q2M, "reference_Q": self.reference_Q}


class Writer:
    """Has a model write lists, and judges them.

    Args:
        model: writes.
        packer: makes the requests, where the model is.
        rewards: judges.
    """

    def __init__(self, model: OneRec, packer: Packer, rewards: Rewards) -> None:
        self.model, self.packer, self.rewards = model, packer, rewards
        self.trie = Trie(model.codes_NL.cpu().numpy().astype(np.int32))
        self._items = model.config.sessions.items

    def lists(self, event_R: IntArray, beams: int) -> dict[str, Tensor]:
        """Lists for requests over the whole catalogue, ``rows`` (R, W, M), and the parts (R, W) of their rewards."""
        self.model.eval()
        packer, found = self.packer, _Parts(len(event_R))
        for place_B, packed in packer.bucketed(event_R, _AT_ONCE):
            decoder, trie = self.model.list_decoder(packed), self.trie.all(len(packed))
            row_BWM = list_beam_search(decoder, trie, self._items, beams, packed.item_RT.device).row_BWM
            here_B = user_places(packer.visits, event_R[place_B], packer.lat_N, packer.lon_N)
            found.put(place_B, {"rows": row_BWM, **self.rewards.parts(packed, here_B, row_BWM)})
        return found.tensors

    @torch.no_grad()
    def margins(self, event_Q: IntArray, list_Q2M: Tensor) -> Tensor:
        """By how much the first of two lists is the likelier one, (Q,)."""
        self.model.eval()
        found = _Parts(len(event_Q))
        for place_B, packed in self.packer.bucketed(event_Q, _AT_ONCE):
            found.put(place_B, {"margin": margin(self.model, packed, list_Q2M[place_B])})
        return found.tensors.get("margin", torch.zeros(0))

    def figures(self, event_R: IntArray, scales: Scales) -> dict[str, float]:
        """Mean reward of the greedy lists of requests, and means of its parts as they are measured."""
        parts = self.lists(event_R, 1)
        del parts["rows"]
        means = {name: float(part_RW.mean()) for name, part_RW in parts.items()}
        return {"reward": float(self.rewards.total(parts, scales).mean()), **means}


class PreferenceTraining(SequenceTraining):
    """A round as the training loop wants it: its examples are pairs.

    Args:
        writer: of the model that is trained.
        pairs: to learn from.
        event_R: validation requests, as rows of the visits.
        least_ndcg: NDCG@10 below which parameters are not kept.
    """

    def __init__(self, writer: Writer, pairs: Pairs, event_R: IntArray, least_ndcg: float) -> None:
        model, packer = writer.model, writer.packer
        held = HeldOut(packer.requests(event_R), packer.visits.item_E[event_R].astype(np.int64))
        recommender = Generated(model, writer.trie, model.config.beams)
        super().__init__(model, recommender, packer, np.arange(len(pairs)), held, watch_loss=False)
        self._writer, self._pairs, self._event_R, self._least_ndcg = writer, pairs, event_R, least_ndcg
        self._rows = packer.training_rows()

    def parameters(self) -> list[dict[str, Any]]:
        """As of the training before, at the rate of alignment."""
        rate = self.model.config.preference.learning_rate
        return [{**group, "lr": rate} for group in super().parameters()]

    def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """DPO on some pairs, and the model's own loss on some of its training rows."""
        options, model, pairs = self.model.config.preference, self._writer.model, self._pairs
        packed = self._writer.packer.requests(pairs.event_Q[examples_B].numpy())
        training = model.training
        model.eval()
        margin_B = margin(model, packed, pairs.list_Q2M[examples_B])
        model.train(training)
        gain_B = margin_B - pairs.reference_Q[examples_B].to(margin_B.device)
        loss = -functional.logsigmoid(options.beta * gain_B).mean()
        parts = {
            "preference": float(loss.detach()),
            "gain": float(gain_B.detach().mean()),
            "preferred": float((gain_B.detach() > 0).float().mean()),
        }
        if options.likelihood_weight:
            drawn = self.source.rows(self._drawn(len(examples_B), generator))
            likelihood, _ = model.loss(on_device(drawn, self.device))
            loss, parts["likelihood"] = loss + options.likelihood_weight * likelihood, float(likelihood.detach())
        return loss, parts

    def validate(self) -> dict[str, float]:
        """The greedy lists' mean reward ("score", where NDCG@10 is high enough) and its parts; NDCG@10 and Hit@10."""
        ranking = super().validate()
        figures = self._writer.figures(self._event_R, self._pairs.scales)
        kept = ranking["score"] >= self._least_ndcg
        score = figures["reward"] if kept else _INADMISSIBLE + ranking["score"]
        return {"score": score, "ndcg": ranking["score"], "hit": ranking["hit"], **figures}

    def _drawn(self, pairs: int, generator: np.random.Generator) -> IntArray:
        """Rows to take the model's own loss of, beside so many pairs."""
        share_of_rows = ROWS_PER_PAIR if self.model.config.encoder == "causal" else 1.0  # of which a row is one target
        number = min(len(self._rows), max(1, round(pairs * share_of_rows)))
        return generator.choice(self._rows, number, replace=False)


def align(
    writer: Writer,
    event_R: IntArray,
    ndcg: float,
    seed: int,
    folder: Path | None = None,
    identity: str = "",
) -> dict[str, Any]:
    """All rounds that the model's configuration asks for; the model ends with the parameters that are kept.

    Under `lgsid.trainer.distributed`, every process calls this with the same arguments.

    Args:
        writer: of the trained model.
        event_R: validation requests, as rows of the visits.
        ndcg: NDCG@10 of the trained model on them.
        seed: same seed, same parameters.
        folder: keeps the pairs and a checkpoint of each round here, and continues from them.
        identity: hash of the data.

    Returns:
        the course, ready for JSON: ``least_ndcg``, and of each of the ``rounds`` its requests, pairs and scales,
        validation figures before and after (see `PreferenceTraining.validate`), whether new parameters were kept, and
        the course of its training.
    """
    config, least_ndcg = writer.model.config, (1 - TOLERANCE) * ndcg
    rounds: list[dict[str, Any]] = []
    scales: Scales | None = None
    for number in range(1, config.preference.rounds + 1):
        own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        place = folder / f"round_{number}" if folder else None
        key = sha256_json([identity, own_seed, scales, config.model_dump(mode="json"), _digest(writer.model)])
        pairs = _kept_or_made(writer, own_seed, scales, place / PAIRS if place else None, key)
        scales = pairs.scales
        done: dict[str, Any] = {**pairs.about, "pairs": len(pairs), "kept": False}
        if len(pairs):
            training = PreferenceTraining(writer, pairs, event_R, least_ndcg)
            done |= _round(training, own_seed, place, key, f"align onerec, round {number}")
        rounds.append(done)
    return {"least_ndcg": least_ndcg, "rounds": rounds}


def make_pairs(writer: Writer, event_R: IntArray, scales: Scales | None = None) -> Pairs:
    """The best against the worst of a model's lists, for all requests whose lists differ in worth.

    Args:
        writer: of the model.
        event_R: the requests, as rows of the visits.
        scales: by which parts of the reward are added; None measures them on these lists.
    """
    beams = writer.model.config.preference.beams
    parts = _together(lambda some: writer.lists(event_R[some], beams), len(event_R))
    row_RWM = parts.pop("rows")
    scales = scales_of(parts) if scales is None else scales
    reward_RW = writer.rewards.total(parts, scales)
    best_R1 = reward_RW.nan_to_num(nan=-torch.inf).argmax(1, keepdim=True)
    worst_R1 = reward_RW.nan_to_num(nan=torch.inf).argmin(1, keepdim=True)
    differ_R = (reward_RW.gather(1, best_R1) - reward_RW.gather(1, worst_R1) > _LEAST)[:, 0]
    of_pair_R2 = torch.cat([best_R1, worst_R1], dim=1)
    list_R2M = row_RWM.gather(1, of_pair_R2[..., None].expand(-1, -1, row_RWM.shape[2]))
    event_Q, list_Q2M = event_R[differ_R.numpy()], list_R2M[differ_R]
    margins = _together(lambda some: {"margin": writer.margins(event_Q[some], list_Q2M[some])}, len(event_Q))
    about = {
        "requests": len(event_R),
        "scales": {name: list(scale) for name, scale in scales.items()},
        "lists": {name: float(part_RW.nanmean()) for name, part_RW in {"reward": reward_RW, **parts}.items()},
    }
    reference_Q = margins.get("margin", torch.zeros(0))
    return Pairs(torch.from_numpy(event_Q.astype(np.int64)), list_Q2M, reference_Q, about)


def margin(model: OneRec, packed: Packed, list_B2M: Tensor) -> Tensor:
    """By how much the first of each request's two lists is likelier than the second, (B,); differentiable."""
    logp_B2 = model.list_log_likelihood(packed, list_B2M.to(packed.item_RT.device))
    return logp_B2[:, 0] - logp_B2[:, 1]


def _kept_or_made(writer: Writer, seed: int, scales: Scales | None, path: Path | None, key: str) -> Pairs:
    """The pairs of a round, from the file of an interrupted call where there is one."""
    found = read_checkpoint(path, key) if path and is_main() else None
    about = share(found.state if found else None)
    if about is not None:
        return Pairs(**share_tensors(found.parameters if found else {}), about=about)
    packer, share_asked = writer.packer, writer.model.config.preference.share
    event_E = requests(packer.visits, TRAINING)
    number = min(len(event_E), max(1, round(share_asked * len(event_E))))
    event_R = np.sort(np.random.default_rng(seed).choice(event_E, number, replace=False))
    pairs = make_pairs(writer, event_R, scales)
    if path and is_main():
        write_checkpoint(path, Checkpoint(pairs.tensors(), {}, {}, pairs.about), key)
    return pairs


def _round(training: PreferenceTraining, seed: int, folder: Path | None, key: str, description: str) -> dict[str, Any]:
    """Learn from the pairs of a round; its course."""
    config = training.model.config
    trainer = TrainerConfig(
        epochs=config.preference.epochs,
        batch=config.batch,
        weight_decay=config.weight_decay,
        validations=VALIDATIONS,
        patience=config.patience,
        precision=config.precision,
    )
    history = fit(training, trainer, seed=seed, folder=folder, description=description, identity=key)
    return {
        "before": history.validations[0].metrics,
        "after": history.best.metrics,
        "kept": history.best.step > 0,
        "course": history.to_json(),
    }


def _digest(model: OneRec) -> str:
    """Hash of the parameters."""
    digest = sha256()
    for name, tensor in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class _Parts:
    """Tensors (R, …) that are made a batch of requests at a time, in main memory."""

    def __init__(self, count: int) -> None:
        self.count, self.tensors = count, dict[str, Tensor]()

    def put(self, place_B: IntArray, parts: Mapping[str, Tensor]) -> None:
        """Take in those of some requests."""
        for name, part_B in parts.items():
            if name not in self.tensors:
                self.tensors[name] = part_B.new_empty((self.count, *part_B.shape[1:]), device="cpu")
            self.tensors[name][torch.from_numpy(place_B)] = part_B.cpu()


def _together(work: Callable[[IntArray], Mapping[str, Tensor]], count: int) -> dict[str, Tensor]:
    """What is made of so many requests, each process working on some of them; on every process."""
    index_R, found = np.arange(count), _Parts(count)
    for number, part in enumerate(gather(work(index_R[rank() :: world_size()]))):
        found.put(index_R[number :: world_size()], part)
    return found.tensors
