"""How far tokens are from the user (distance decay): what a generator of places need not find out from visits.

The items under a prefix of a SID have a middle. At each level the logit of a token gets a bias by the distance from the
user to the middle of what lies under it, in buckets:

    logit of the token += b[level, bucket] + state · E[level, bucket] / √D

The second term lets how far one goes depend on where one comes from, and when. Both are 0 at the start. Where first
tokens are places, the first token is chosen by distance already; where they mix what lies far apart, the middle says
little and distance counts once the prefix has narrowed down to few items.

Axes: B requests, W beams, Q asks, K tokens of a level, D dimensions; C children of asks as in `lgsid.generate.places`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lgsid.generate.places import BUCKETS, Standing


class Nearness(nn.Module):
    """See the module.

    Args:
        dim: D.
        levels: tokens of a SID.
    """

    def __init__(self, dim: int, levels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(levels, BUCKETS))
        self.by_state = nn.Parameter(torch.zeros(levels, BUCKETS, dim))

    def by_bucket(self, states: Tensor, level: int) -> Tensor:
        """What each distance adds to logits, (…, `BUCKETS`), by decoder states (…, D)."""
        by_bucket: Tensor = states @ self.by_state[level].T * states.shape[-1] ** -0.5 + self.bias[level]
        return by_bucket.float()

    def forward(self, logits_BWK: Tensor, states_BWD: Tensor, standing: Standing, level: int) -> Tensor:
        """Logits with what distance adds, (B, W, K), float32.

        Args:
            logits_BWK: of the tokens of a level.
            states_BWD: of the decoder, which they are of.
            standing: of the users, and of what has been written before.
            level: of the tokens.
        """
        beams, tokens = logits_BWK.shape[1:]
        by_BWB = self.by_bucket(states_BWD, level)
        if level == 0:  # the same children for all: no need to list them
            nodes = standing.places.nodes(0)
            bucket_BWM = standing.places.bucket(standing.here_BW3[..., None, :], nodes.middle_M3)
            added_BWM = by_BWB.gather(2, bucket_BWM.expand(-1, beams, -1))
            return logits_BWK.float().index_add(2, nodes.token_M, added_BWM)
        ask_C, token_C, bucket_C = standing.children(beams, level)
        added_C = by_BWB.flatten(0, 1)[ask_C, bucket_C]
        flat = logits_BWK.float().flatten()
        return flat.index_add(0, ask_C * tokens + token_C, added_C).view(logits_BWK.shape)
