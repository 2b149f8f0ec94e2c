"""Copying from the history: a decoder that can point at visits as well as choose among all tokens.

People go back to where they have been, and where they have not been is often next door. A network with one embedding a
token has to learn for every item that it may come again. A pointer knows it for all items at once: at level l each
earlier visit whose SID begins as what has been written so far offers its own token of that level. The offers and the
tokens' logits go into one softmax (CopyNet, arXiv 1603.06393):

    P(token) ∝ exp(logit of the token) + Σ over visits that offer it of exp(score of the visit)

so visits count as often as they were made, and a first token can be copied before a new item is written behind it: the
region of an earlier visit, and another shop there. The score of a visit is a product of the decoder's state and the
encoder's, a bias by how many visits ago it was and, with ``generate.nearness``, one by how far it is from the user.

Axes: R rows, B requests, T visits of a row, W beams, Q asks, L tokens of a SID, K tokens of a level, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lgsid.generate.places import BUCKETS as DISTANCES
from lgsid.generate.relative import BUCKETS, relative_bucket

FAINT, MOST = -30.0, 80.0
"""No visit is further below the best one, as exponentials of less become denormal numbers, ten times as slow; and none
is further above the logit of a token, as exponentials of more are infinite."""


@dataclass(frozen=True)
class Offers:
    """What the visits of rows offer, before anything is written.

    Attributes:
        key_RTD: of each visit.
        code_RTL: its SID.
        may_RPT: whether a visit may be copied at a place, bool; one place a row at requests.
        bucket_RPT: how many visits ago it was, in buckets, int64; or (1, P, T) where that is the same in all rows.
        away_RPT: how far it is from where the user is at a place, in the buckets of `lgsid.generate.places`, int64;
            None without nearness.
    """

    key_RTD: Tensor
    code_RTL: Tensor
    may_RPT: Tensor
    bucket_RPT: Tensor
    away_RPT: Tensor | None = None

    def narrowed(self, token_RP: Tensor, level: int) -> Offers:
        """The offers of visits whose token of a level is the one that was written.

        Args:
            token_RP: what was written; P may be more than the places so far, which were then one.
            level: of the token.
        """
        same_RPT = self.code_RTL[:, None, :, level] == token_RP[..., None]
        return replace(self, may_RPT=self.may_RPT & same_RPT)

    def of_parents(self, parent_BW: Tensor) -> Offers:
        """Those of beams that go on from others."""
        if self.may_RPT.shape[1] == 1:
            return self
        index_BWT = parent_BW[..., None].expand(-1, -1, self.may_RPT.shape[2])
        return replace(self, may_RPT=self.may_RPT.gather(1, index_BWT))


class Pointer(nn.Module):
    """Scores visits, and adds what they offer to logits.

    Args:
        dim: D.
        levels: L.
        nearness: whether it is told how far visits are.
    """

    def __init__(self, dim: int, levels: int, nearness: bool = False) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.ago = nn.Parameter(torch.zeros(levels, BUCKETS))
        self.away = nn.Parameter(torch.zeros(levels, DISTANCES)) if nearness else None
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=dim**-0.5)

    def offers(
        self,
        memory_RSD: Tensor,
        code_RTL: Tensor,
        may_RPT: Tensor,
        ago_RPT: Tensor,
        away_RPT: Tensor | None = None,
    ) -> Offers:
        """What visits offer.

        Args:
            memory_RSD: states of their tokens, S = T·L.
            code_RTL: their SIDs.
            may_RPT: which may be copied where.
            ago_RPT: how many visits ago each was.
            away_RPT: bucket of the distance of each; see `Offers`.
        """
        state_RTD = memory_RSD.view(*code_RTL.shape, -1).mean(2)
        return Offers(self.key(state_RTD), code_RTL, may_RPT, relative_bucket(-ago_RPT, both=False), away_RPT)

    def scores(self, states_RPD: Tensor, offers: Offers, level: int) -> Tensor:
        """How good each visit is to copy from, (R, P, T); -inf where it may not be copied.

        Args:
            states_RPD: of the decoder.
            offers: of visits whose SIDs begin as what has been written.
            level: of the tokens that are asked for.
        """
        scale = states_RPD.shape[-1] ** -0.5
        score_RPT = torch.bmm(self.query(states_RPD), offers.key_RTD.transpose(1, 2)).float() * scale
        score_RPT = score_RPT + self.ago[level][offers.bucket_RPT]
        if self.away is not None and offers.away_RPT is not None:
            score_RPT = score_RPT + self.away[level][offers.away_RPT]
        found: Tensor = score_RPT.masked_fill(~offers.may_RPT, -torch.inf)
        return found

    def forward(self, logits_RPK: Tensor, states_RPD: Tensor, offers: Offers, level: int) -> Tensor:
        """Logits (R, P, K) of a level with what visits offer; arguments as of `scores`."""
        score_RPT = self.scores(states_RPD, offers, level)
        return mixed(logits_RPK, score_RPT, offers.code_RTL[:, None, :, level].expand_as(score_RPT))


def mixed(logits_K: Tensor, score_T: Tensor, token_T: Tensor) -> Tensor:
    """Logits (…, K) of tokens with what visits offer.

    Args:
        logits_K: of the tokens, (…, K).
        score_T: of the visits, (…, T); -inf where one offers nothing.
        token_T: what each offers, int64 (…, T).
    """
    may_T = score_T > -torch.inf
    top_1 = torch.where(may_T, score_T, FAINT).detach().amax(-1, keepdim=True)
    weight_T = torch.where(may_T, (score_T - top_1).clamp(min=FAINT).exp(), 0.0)
    offered_K = torch.zeros_like(logits_K, dtype=score_T.dtype).scatter_add(-1, token_T, weight_T)
    # logaddexp, of which torch's own takes fifty times as long where nothing is offered
    logits_K = logits_K.float()
    return logits_K + (offered_K * (top_1 - logits_K).clamp(max=MOST).exp()).log1p()
