"""Checks that stop an alignment that goes wrong, with an explanation.

collapse         vectors crowd together: everything is everything's neighbour
loss of meaning  neighbours are no longer alike in the original space
reward hacking   the reward's margin rises while the neighbours move apart on the map
"""

from __future__ import annotations

from collections.abc import Mapping

from lgsid.config import GuardConfig
from lgsid.errors import AlignmentError
from lgsid.history import History


class Guards:
    """Judges every validation of an alignment run, and its result.

    Args:
        config: the limits.
        unaligned: the validation's figures of the unaligned encoder; without them the first validation is taken.
    """

    def __init__(self, config: GuardConfig, unaligned: Mapping[str, float] | None = None) -> None:
        self._config = config
        self._unaligned = unaligned

    def __call__(self, history: History) -> None:
        """Look at the last validation.

        Raises:
            AlignmentError: the run should not go on; says why, with the figures, and what to change.
        """
        self.judge(history.validations[-1].metrics, self._unaligned or history.validations[0].metrics)

    def judge(self, last: Mapping[str, float], first: Mapping[str, float] | None = None) -> None:
        """Compare figures with those of the unaligned encoder.

        Raises:
            AlignmentError: see `__call__`.
        """
        first = first or self._unaligned or last
        self._collapse(first, last)
        self._meaning(last)
        self._hacking(first, last)

    def _collapse(self, first: Mapping[str, float], last: Mapping[str, float]) -> None:
        least = self._config.least_rank_share * first["effective_rank"]
        if last["effective_rank"] < least or last["random_cosine"] > self._config.most_random_cosine:
            raise AlignmentError(
                f"the embeddings collapse: effective rank {last['effective_rank']:.1f} "
                f"(at the start {first['effective_rank']:.1f}, expected at least {least:.1f}), mean cosine of random "
                f"pairs {last['random_cosine']:.3f} (expected at most {self._config.most_random_cosine})",
                "raise align.alignment.similarity_weight, or lower align.alignment.learning_rate",
            )

    def _meaning(self, last: Mapping[str, float]) -> None:
        if last["kept"] < self._config.least_kept:
            raise AlignmentError(
                f"meaning is lost: neighbours keep {last['kept']:.1%} of their original similarity, expected at least "
                f"{self._config.least_kept:.0%}",
                "raise align.alignment.similarity_weight, or lower the weights of align.alignment.teacher, or, if that "
                "much geography is wanted, lower align.alignment.guards.least_kept",
            )

    def _hacking(self, first: Mapping[str, float], last: Mapping[str, float]) -> None:
        if "reward" not in last:
            return
        gained = last["reward"] - first["reward"]
        farther = last["distance_km"] / max(first["distance_km"], 1e-9)
        if gained > self._config.hacking_gain and farther > self._config.hacking_distance_ratio:
            raise AlignmentError(
                f"the reward is being hacked: its margin rose by {gained:.2f} while the mean distance to the nearest "
                f"neighbours grew from {first['distance_km']:.1f} to {last['distance_km']:.1f} km",
                "raise align.alignment.similarity_weight or align.alignment.reward.anchors, or lower "
                "align.alignment.beta",
            )
