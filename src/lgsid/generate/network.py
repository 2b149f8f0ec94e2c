"""An encoder over packed rows and a decoder at the moments to predict: what TIGER and OneRec have in common.

Axes: R rows, T visits of a row, L tokens of a SID, S = T·L, D dimensions, Q asks with P positions each, B requests, H
heads; N, K, and the B and C of biases as in `lgsid.generate.bands`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lgsid.config import GenerateConfig
from lgsid.generate.bands import Asks, Band, Look, additive, causal
from lgsid.generate.base import Packed
from lgsid.generate.nearness import Nearness
from lgsid.generate.places import SidPlaces, Standing
from lgsid.generate.pointer import Offers, Pointer, mixed
from lgsid.generate.relative import RelativeBias
from lgsid.generate.t5 import Decoder, DecoderCache, DenseFeedForward, Encoder, Losses, MakeFeedForward
from lgsid.generate.tokens import SidTokens, since_before


@dataclass(frozen=True)
class Moments:
    """Q moments that something is written at: the asks, and what is known of each.

    Attributes:
        asks: their rows and places.
        user_Q: user tokens.
        time_Q: seconds since 1970.
        gap_Q: seconds since the visit before.
        here_Q3: where the user is, as in `lgsid.generate.base.Packed`.
    """

    asks: Asks
    user_Q: Tensor
    time_Q: Tensor
    gap_Q: Tensor
    here_Q3: Tensor


@dataclass(frozen=True)
class Written:
    """What the beams of requests have written so far.

    Attributes:
        cache: of the decoder.
        offers: of visits that begin as the item that is being written; None without a pointer.
        standing: where the users are, and what is being written; None without nearness.
        unread: of all visits, for the next item.
    """

    cache: DecoderCache
    offers: Offers | None
    standing: Standing | None = None
    unread: Offers | None = None

    def __post_init__(self) -> None:
        if self.unread is None:
            object.__setattr__(self, "unread", self.offers)

    def of_parents(self, parent_BW: Tensor) -> Written:
        """The same, of beams that go on from others."""
        offers = None if self.offers is None else self.offers.of_parents(parent_BW)
        standing = None if self.standing is None else self.standing.of_parents(parent_BW)
        return Written(self.cache.of_parents(parent_BW), offers, standing, self.unread)


class Network(nn.Module):
    """T5 over SIDs.

    Beyond T5, the decoder's cross attention has a bias by how many visits ago a token was (`ago`), 0 at the start:
    behind a causal encoder nothing else says what is recent. With ``config.pointer`` tokens can be copied from visits
    (`lgsid.generate.pointer`); with ``config.nearness`` they are told how far what lies under them is from the user
    (`lgsid.generate.nearness`).

    Args:
        sizes: number of tokens of each level.
        config: sizes and options.
        feed_forward: makes the decoder's feed-forward layers; None is T5's own.
    """

    def __init__(
        self, sizes: Sequence[int], config: GenerateConfig, feed_forward: MakeFeedForward | None = None
    ) -> None:
        super().__init__()

        def dense(number: int) -> nn.Module:
            return DenseFeedForward(config.dim, config.feed_forward, config.dropout)

        shape = (config.dim, config.heads, config.dropout)
        self.config = config
        self.tokens = SidTokens(sizes, config)
        self.encoder = Encoder(config.encoder_layers, *shape, dense)
        self.decoder = Decoder(config.decoder_layers, *shape, feed_forward or dense)
        self.ago = RelativeBias(config.heads, both=False, std=0.0)
        self.pointer = Pointer(config.dim, len(sizes), config.nearness) if config.pointer else None
        self.nearness = Nearness(config.dim, len(sizes)) if config.nearness else None

    def encode(self, rows: Packed, codes_NL: Tensor) -> tuple[Tensor, Losses]:
        """States of all visits' tokens, (R, S, D); 0 at padding, so that what sees nothing gets nothing."""
        x_RSD = self.tokens.visits(rows, codes_NL)
        window, visits = self.config.history, rows.item_RT.shape[1]
        if self.config.encoder == "causal":
            band = Band.of(visits, window - 1, x_RSD.device)
            seen = causal(band, rows.segment_RT, 0, window - 1)
        else:
            band, seen = Band.dense(visits), [_history(rows, window)[:, None]]
        states_RSD, losses = self.encoder(x_RSD, band, seen)
        real_RS1 = (rows.segment_RT >= 0).repeat_interleave(self.tokens.levels, 1)[..., None]
        return states_RSD * real_RS1, losses

    def targets(self, rows: Packed, positions: int, chosen_RT: Tensor | None = None) -> Moments:
        """The moments of the visits that are predicted, row by row.

        Args:
            rows: packed visits.
            positions: P, of what is written at each.
            chosen_RT: which visits, bool; None is ``rows.target_RT``.
        """
        row_Q, place_Q = at = (rows.target_RT if chosen_RT is None else chosen_RT).nonzero(as_tuple=True)
        window, levels = self.config.history, self.tokens.levels
        band = Band.of(rows.item_RT.shape[1], window, rows.item_RT.device)
        bias_HBC = self.ago(-band.ago(rows.item_RT.device))
        bias_HNK = bias_HBC.repeat_interleave(positions, 1).repeat_interleave(levels, 2)
        sees = Look.of(band, bias_HNK, causal(band, rows.segment_RT, 1, window), positions, levels)
        known = rows.user_RT[at], rows.time_RT[at], since_before(rows)[at], rows.here_RT3[at]
        return Moments(Asks(row_Q, place_Q, sees), *known)

    def decode(self, x_QPD: Tensor, moments: Moments, memory_RSD: Tensor) -> tuple[Tensor, Losses]:
        """Decoder states (Q, P, D) of what has been written, and the losses of its feed-forward layers."""
        states_QPD, losses = self.decoder(x_QPD, memory_RSD, moments.asks)
        return states_QPD, losses

    def offers(self, rows: Packed, memory_RSD: Tensor, codes_NL: Tensor, places: SidPlaces | None) -> Offers | None:
        """What may be copied at each place of rows; None without a pointer.

        Behind a causal encoder that is everything before in the segment; behind a full one, what it has seen.
        """
        if self.pointer is None:
            return None
        segment_RT, visits = rows.segment_RT, rows.item_RT.shape[1]
        place_T = torch.arange(visits, device=segment_RT.device)
        ago_1TT = (place_T[:, None] - place_T)[None]
        may_RTT = (segment_RT[:, :, None] == segment_RT[:, None]) & (ago_1TT > 0)
        if self.config.encoder == "full":
            may_RTT &= ago_1TT <= self.config.history
        away_RTT = None if places is None else _away(rows.here_RT3, rows, places)
        return self.pointer.offers(memory_RSD, codes_NL[rows.item_RT], may_RTT, ago_1TT, away_RTT)

    def logits(
        self,
        states_QD: Tensor,
        level: int,
        moments: Moments,
        offers: Offers | None,
        written: Sequence[Tensor],
        places: SidPlaces | None,
    ) -> Tensor:
        """Logits (Q, K) of the tokens of a level.

        Args:
            states_QD: of the decoder.
            level: of the tokens.
            moments: that the states are of.
            offers: of the rows.
            written: tokens (Q,) of the item's levels before.
            places: of the catalogue, for nearness.
        """
        logits_QK = self.tokens.logits(states_QD, level)
        if self.nearness is not None and places is not None:
            standing = Standing.at(places, moments.here_Q3[:, None])
            for before, token_Q in enumerate(written):
                standing = standing.went(token_Q[:, None], before)
            logits_QK = self.nearness(logits_QK[:, None], states_QD[:, None], standing, level)[:, 0]
        if self.pointer is None or offers is None:
            return logits_QK
        asks = moments.asks
        at = asks.row_Q, asks.place_Q
        grid_RTD = states_QD.new_zeros(*offers.key_RTD.shape[:2], states_QD.shape[1]).index_put(at, states_QD)
        score_QT, code_QTL = self.pointer.scores(grid_RTD, offers, level)[at], offers.code_RTL[asks.row_Q]
        for before, token_Q in enumerate(written):
            score_QT = score_QT.masked_fill(code_QTL[..., before] != token_Q[:, None], -torch.inf)
        return mixed(logits_QK, score_QT, code_QTL[..., level])

    def begin(self, moments: Moments) -> Tensor:
        """BOS of each moment, (Q, D)."""
        return self.tokens.begin(moments.user_Q, moments.time_Q, moments.gap_Q)

    def remember(self, requests: Packed, codes_NL: Tensor, places: SidPlaces | None) -> tuple[Tensor, Written]:
        """Encode requests for step-by-step decoding: BOS of each (B, D), and nothing written yet."""
        memory_BSD, _ = self.encode(requests, codes_NL)
        place_T = torch.arange(requests.item_RT.shape[1], device=memory_BSD.device)
        ago_BT = requests.length_R[:, None] - place_T
        seen_BT = (ago_BT >= 1) & (ago_BT <= self.config.history)
        bias_BH1T = (self.ago(-ago_BT) + additive(seen_BT, memory_BSD.dtype)).transpose(0, 1)[:, :, None]
        cache = self.decoder.remember(memory_BSD, bias_BH1T.repeat_interleave(self.tokens.levels, 3))
        last_B1 = (requests.length_R - 1).clamp(min=0)[:, None]
        since_B = requests.now_R - requests.time_RT.gather(1, last_B1)[:, 0]
        gap_B = torch.where(requests.length_R > 0, since_B, 0)
        bos_BD = self.tokens.begin(requests.user_RT[:, 0], requests.now_R, gap_B)
        standing = None if places is None else Standing.at(places, requests.here_R3[:, None])
        return bos_BD, Written(cache, self._offers_of(requests, memory_BSD, codes_NL, ago_BT, places), standing)

    def _offers_of(
        self, requests: Packed, memory_BSD: Tensor, codes_NL: Tensor, ago_BT: Tensor, places: SidPlaces | None
    ) -> Offers | None:
        if self.pointer is None:
            return None
        may_BT = ago_BT >= 1
        if self.config.encoder == "full":
            may_BT &= ago_BT <= self.config.history
        away_B1T = None if places is None else _away(requests.here_R3[:, None], requests, places)
        code_BTL = codes_NL[requests.item_RT]
        return self.pointer.offers(memory_BSD, code_BTL, may_BT[:, None], ago_BT[:, None], away_B1T)

    def step(self, x_BWD: Tensor, written: Written, level: int) -> tuple[Tensor, Written]:
        """Logits (B, W, K) of a level behind what was written last, and all that has been written.

        Args:
            x_BWD: embedding of what was written last.
            written: before it, of the same beams.
            level: of the tokens that are asked for.
        """
        states_BWD, cache = self.decoder.step(x_BWD, written.cache)
        logits_BWK = self.tokens.logits(states_BWD, level)
        if self.nearness is not None and written.standing is not None:
            logits_BWK = self.nearness(logits_BWK, states_BWD, written.standing, level)
        if self.pointer is not None and written.offers is not None:
            logits_BWK = self.pointer(logits_BWK, states_BWD, written.offers, level)
        return logits_BWK, replace(written, cache=cache)

    def write(self, token_BW: Tensor, level: int, written: Written) -> tuple[Tensor, Written]:
        """Embeddings (B, W, D) of tokens of a level, and what has been written with them."""
        offers = None if written.offers is None else written.offers.narrowed(token_BW, level)
        standing = None if written.standing is None else written.standing.went(token_BW, level)
        return self.tokens.written(token_BW, level), replace(written, offers=offers, standing=standing)

    def pass_by(self, x_BWD: Tensor, written: Written) -> Written:
        """Take in the last token of an item, behind which another one is written."""
        _, cache = self.decoder.step(x_BWD, written.cache)
        standing = None if written.standing is None else written.standing.back()
        return Written(cache, written.unread, standing, written.unread)


def _away(here_RP3: Tensor, rows: Packed, places: SidPlaces) -> Tensor:
    """Buckets (R, P, T) of the distances between users and the visits of their rows."""
    return places.bucket(here_RP3[:, :, None], places.xyz_N3[rows.item_RT][:, None])


def _history(rows: Packed, window: int) -> Tensor:
    """What all visits of a row with one segment see behind a full encoder: (R, T), bool.

    The last visits before the one that is predicted, or before the request.

    Raises:
        ValueError: a row has several segments, or several visits to predict.
    """
    if bool((rows.target_RT.sum(1) > 1).any()) or bool((rows.segment_RT > 0).any()):
        raise ValueError("a full encoder takes rows of one segment with one target at most: generate.encoder is full")
    place_T = torch.arange(rows.item_RT.shape[1], device=rows.item_RT.device)
    end_R1 = torch.where(rows.target_RT.any(1), rows.target_RT.long().argmax(1), rows.length_R)[:, None]
    return (place_T < end_R1) & (place_T >= end_R1 - window)
