"""What a list of items is worth: the reward that a generator's own lists are judged by.

    interest   mean log-probability of the items at the request, under a SASRec of the same training visits
    reach      share of the items within reach of where the user is
    value      mean order value of the items, in standard deviations of the catalogue

The reward is a weighted sum of the three. So that weights mean the same whatever the data, interest and reach are
measured in *standard deviations among the lists of a request* (pooled over requests), because only lists of one request
are ever compared; value has its scale from the catalogue. The reward is simulated, as in OneRec (arXiv 2502.18965): no
user was asked.

Axes: R requests, W lists of a request, M items of a list, N items of the catalogue, r requests at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lgsid.arrays import DoubleArray, FloatArray
from lgsid.config import PreferenceConfig
from lgsid.errors import ConfigError
from lgsid.generate.base import Packed
from lgsid.generate.sasrec import SCORES, SasRec
from lgsid.generate.training import rows_of
from lgsid.geo import haversine_km
from lgsid.rank.visits import TRAINING, Visits, event_keys, with_rows

Places = tuple[DoubleArray, DoubleArray]
"""Latitudes and longitudes, degrees."""
Scales = Mapping[str, tuple[float, float]]
"""Mean and standard deviation of each part of the reward, by its name."""


class Rewards:
    """Judges lists.

    Args:
        weights: of the parts.
        places_N: of the items.
        reach_km: how far a user goes.
        interest: a trained SASRec; needed where interest has a weight.
        amount_N: mean order value of each item in the training period, NaN where unknown; None of data without.

    Raises:
        ConfigError: see `check_weights`.
        ValueError: interest has a weight, and there is no SASRec.
    """

    def __init__(
        self,
        weights: PreferenceConfig,
        places_N: Places,
        reach_km: float,
        interest: SasRec | None = None,
        amount_N: DoubleArray | None = None,
    ) -> None:
        check_weights(weights, amount_N)
        if weights.interest and interest is None:
            raise ValueError("interest has a weight and no SASRec to tell it by")
        self.weights, self._places_N, self._reach_km = weights, places_N, reach_km
        self._interest = interest.eval() if interest is not None else None
        known = amount_N is not None and bool(np.isfinite(amount_N).any())
        self._value_N = torch.from_numpy(standard_values(amount_N)) if amount_N is not None and known else None

    @torch.no_grad()
    def parts(self, requests: Packed, here_R: Places, lists_RWM: Tensor) -> dict[str, Tensor]:
        """Parts of the reward of each list, (R, W), as they are measured; those that can be told, whatever they weigh.

        Args:
            requests: one segment a row.
            here_R: where the users are.
            lists_RWM: catalogue rows, int64; -1 behind the end of a list. An empty list has NaN.
        """
        parts = {}
        if self._interest is not None:
            parts["interest"] = _mean(self._log_probability(requests, lists_RWM), lists_RWM)
        parts["reach"] = _mean(self._within(here_R, lists_RWM), lists_RWM)
        if self._value_N is not None:
            value_N = self._value_N.to(lists_RWM.device)
            parts["value"] = _mean(value_N[lists_RWM.clamp(min=0)], lists_RWM)
        return parts

    def total(self, parts: Mapping[str, Tensor], scales: Scales) -> Tensor:
        """Rewards (R, W).

        Args:
            parts: see `parts`.
            scales: see `scales_of`.
        """
        total_RW = torch.zeros_like(parts["reach"])
        for name, part_RW in parts.items():
            mean, deviation = scales[name]
            total_RW = total_RW + getattr(self.weights, name) * (part_RW - mean) / deviation
        return total_RW

    def _log_probability(self, requests: Packed, lists_RWM: Tensor) -> Tensor:
        """Log-probabilities (R, W, M) of items, each as if it came next."""
        assert self._interest is not None
        at_once = max(1, SCORES // len(self._places_N[0]))
        found = []
        for start in range(0, len(requests), at_once):
            logp_rN = self._interest.scores(rows_of(requests, slice(start, start + at_once))).log_softmax(1)
            found.append(logp_rN.gather(1, lists_RWM[start : start + at_once].clamp(min=0).flatten(1)))
        return torch.cat(found).view(lists_RWM.shape) if found else torch.zeros(lists_RWM.shape)

    def _within(self, here_R: Places, lists_RWM: Tensor) -> Tensor:
        """Whether items can be reached, (R, W, M), 1 or 0."""
        item_RWM = lists_RWM.clamp(min=0).cpu().numpy()
        lat_R11, lon_R11 = (axis_R[:, None, None] for axis_R in here_R)
        km_RWM = haversine_km(lat_R11, lon_R11, *(axis_N[item_RWM] for axis_N in self._places_N))
        return torch.from_numpy((km_RWM <= self._reach_km).astype(np.float32)).to(lists_RWM.device)


def check_weights(weights: PreferenceConfig, amount_N: DoubleArray | None) -> None:
    """See that the reward can be told from the data.

    Raises:
        ConfigError: value has a weight, and no order values are known, or all are the same; or nothing has a weight.
    """
    if not (weights.interest or weights.reach or weights.value):
        raise ConfigError(
            "the weights generate.preference.interest, reach and value are all 0, so that no list is better than "
            "another",
            "give one of them a weight, or --set generate.preference.rounds=0",
        )
    if not weights.value:
        return
    known_M = np.empty(0) if amount_N is None else amount_N[np.isfinite(amount_N)]
    if not len(known_M) or known_M.min() == known_M.max():
        what = f"all {len(known_M)} items that have one have the same" if len(known_M) else "none is known"
        raise ConfigError(
            f"generate.preference.value is {weights.value:g}, which rewards the order value of items, but of the mean "
            f"order values in the training period {what}",
            "--set generate.preference.value=0, or bring events with amounts",
        )


def standard_values(amount_N: DoubleArray) -> FloatArray:
    """Order values on the scale of the catalogue: log(1 + amount), of mean 0 and variance 1; 0 where unknown."""
    log_N = np.log1p(amount_N)
    deviation = float(np.nanstd(log_N)) or 1.0
    value_N: FloatArray = np.nan_to_num((log_N - np.nanmean(log_N)) / deviation, nan=0.0).astype(np.float32)
    return value_N


def scales_of(parts: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Mean over all lists, and standard deviation among the lists of a request, of interest and reach.

    A part in which no request's lists differ tells none from another and keeps its own scale, as value does.

    Args:
        parts: of each list (R, W); NaN of empty ones.
    """
    scales = {}
    for name, part_RW in parts.items():
        part_RW = part_RW.double()
        within_RW = part_RW - part_RW.nanmean(dim=1, keepdim=True)
        deviation = float(within_RW.square().nanmean().sqrt())
        scaled = name != "value" and deviation > 0
        scales[name] = (float(part_RW.nanmean()), deviation) if scaled else (0.0, 1.0)
    return scales


def mean_amounts(items: pl.DataFrame, events: pl.LazyFrame, visits: Visits) -> DoubleArray | None:
    """Mean amount of each item's events in the training period, (N,), NaN where there is none; None without the column.

    An event is in the training period if it is no later than its user's last visit in it, whatever the protocol.

    Args:
        items: the catalogue.
        events: of all kinds.
        visits: of these events.

    Raises:
        DataError: an item is not in the catalogue.
    """
    if "amount" not in events.collect_schema().names():
        return None
    told = events.filter(pl.col("amount").is_not_null() & pl.col("amount").cast(pl.Float64).is_finite())
    frame = told.select(*event_keys(), pl.col("amount").cast(pl.Float64)).collect(engine="streaming")
    training_E = visits.period_E == TRAINING
    last = pl.DataFrame({"number": visits.user_E[training_E], "last": visits.time_E[training_E]})
    last = last.group_by("number").max().join(visits.users, on="number")
    frame = with_rows(items, frame, told).join(last, on="user").filter(pl.col("us") < (pl.col("last") + 1) * 1_000_000)
    found = frame.group_by("item").agg(pl.col("amount").mean())
    amount_N = np.full(len(items), np.nan)
    amount_N[found["item"].to_numpy()] = found["amount"].to_numpy()
    return amount_N


def _mean(value_RWM: Tensor, lists_RWM: Tensor) -> Tensor:
    """Means over the items of each list; NaN of an empty one."""
    return value_RWM.masked_fill(lists_RWM < 0, torch.nan).nanmean(dim=2)
