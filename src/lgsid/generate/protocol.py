"""Which visits are learnt from and which are predicted.

    global_time     all visits up to a moment are learnt from, as by the rankers; later ones are predicted
    leave_one_out   each user's last visit is the test, the one before it the validation
    next_poi        the protocol of papers on the next check-in, as far as their texts and programs tell

All give `lgsid.rank.visits.Visits`; only ``period_E`` and, for `next_poi`, which visits there are differ. Whatever the
protocol, a request's past is its user's visits at strictly earlier seconds, of any period.

Under `leave_one_out` other users' visits after the target's moment are learnt from, as everywhere in the literature;
only `global_time` and `next_poi` say what a service would have achieved.

Axes: E visits, R requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl

from lgsid.arrays import BoolArray, CodeArray, IntArray
from lgsid.errors import DataError
from lgsid.rank.samples import period_ends
from lgsid.rank.visits import TEST, TRAINING, VALIDATION, Visits, read_visits

CONTEXT = 3
"""Period of visits that are neither learnt from nor predicted, only looked back at; `next_poi` alone has them."""
_NEVER_US = (1 << 62, 1 << 62)


def global_time(
    items: pl.DataFrame, events: pl.LazyFrame, kinds: Sequence[str], training_share: float, validation_share: float
) -> Visits:
    """Visits by the moment they happened, in the same periods as the rankers' samples.

    Args:
        items: the catalogue.
        events: see `lgsid.rank.visits.read_visits`.
        kinds: kinds of events that are visits.
        training_share, validation_share: shares of the events, by time.

    Raises:
        DataError: there are no events or no visits, the shares leave nothing to test on, or an item is unknown.
    """
    return read_visits(items, events, kinds, period_ends(events, training_share, validation_share))


def leave_one_out(items: pl.DataFrame, events: pl.LazyFrame, kinds: Sequence[str]) -> Visits:
    """Each user's last visit for the test, the one before it for validation, the others to learn from.

    Users of fewer than three visits are learnt from alone. Of visits at one moment, the later one in the file is the
    later one; a target whose user has no visit at an earlier second is no request (see `requests`).

    Args:
        items, events, kinds: as of `global_time`.

    Raises:
        DataError: there are no visits, or an item is unknown.
    """
    visits = read_visits(items, events, kinds, _NEVER_US)
    start_U = np.flatnonzero(visits.first_E == np.arange(len(visits)))
    length_U = np.diff(np.append(start_U, len(visits)))
    last_U = (start_U + length_U - 1)[length_U >= 3]
    period_E = np.full(len(visits), TRAINING, dtype=np.int8)
    period_E[last_U], period_E[last_U - 1] = TEST, VALIDATION
    return replace(visits, period_E=period_E)


def next_poi(
    items: pl.DataFrame,
    events: pl.LazyFrame,
    kinds: Sequence[str],
    gap_hours: float = 24.0,
    least: int = 10,
    shares: tuple[float, float] = (0.8, 0.9),
) -> Visits:
    """The protocol of next-check-in papers on Foursquare NYC: GETNext (SIGIR 2022), STHGCN (SIGIR 2023), GNPR-SID
    (KDD 2025).

    In this order: items, then users, of fewer than ``least`` visits go, once; the visits are cut at 80 % and 90 % of
    their number by time; a user's visits are cut into trajectories where more than ``gap_hours`` lie between two;
    trajectories of one visit go. The last visit of a trajectory is predicted if it lies in the validation or test
    period, and its user and item occur in the training period. Other visits of these periods are `CONTEXT`.

    What may differ from a paper's figures: some ask for *more* than ten visits; STHGCN and GNPR-SID start from files
    that GETNext prepared, whose rows we do not have; a trajectory that crosses a cut is whole here and counts where it
    ends; models here look back beyond the trajectory and learn from every visit with a past, the first of a trajectory
    included; times are UTC, which moves no gap.

    Args:
        items, events, kinds: as of `global_time`.
        gap_hours: between two trajectories.
        least: fewest visits of an item and of a user.
        shares: of the visits, by time: end of training, end of validation.

    Raises:
        DataError: there are no visits, an item is unknown, or no visits are left.
    """
    visits = read_visits(items, events, kinds, _NEVER_US)
    visits = _only(visits, np.bincount(visits.item_E)[visits.item_E] >= least)
    visits = _only(visits, np.bincount(visits.user_E)[visits.user_E] >= least)
    visits = replace(visits, period_E=_by_time(visits, shares))
    opens_E1 = _trajectories(visits, gap_hours)
    visits = _only(visits, ~(opens_E1[:-1] & opens_E1[1:]))
    training_E = visits.period_E == TRAINING
    known_E = _known(visits.user_E, training_E) & _known(visits.item_E, training_E)
    predicted_E = _trajectories(visits, gap_hours)[1:] & known_E
    return replace(visits, period_E=np.where(training_E | predicted_E, visits.period_E, np.int8(CONTEXT)))


def _trajectories(visits: Visits, gap_hours: float) -> BoolArray:
    """Whether a trajectory begins with each visit; and one more, beyond the last visit: True."""
    opens_E1 = np.ones(len(visits) + 1, dtype=np.bool_)
    opens_E1[1:-1] = (np.diff(visits.time_E) > gap_hours * 3_600) | (np.diff(visits.user_E) != 0)
    return opens_E1


def _by_time(visits: Visits, shares: tuple[float, float]) -> npt.NDArray[np.int8]:
    """Periods of equal shares of the visits; those of one user at one second keep their order."""
    order_E = np.argsort(visits.time_E, kind="stable")
    period_E = np.full(len(visits), TRAINING, dtype=np.int8)
    validation, test = (int(share * len(visits)) for share in shares)
    period_E[order_E[validation:test]], period_E[order_E[test:]] = VALIDATION, TEST
    return period_E


def _known(value_E: CodeArray, training_E: BoolArray) -> BoolArray:
    """Whether the user or item of a visit occurs in the training period."""
    known: BoolArray = np.bincount(value_E[training_E], minlength=int(value_E.max(initial=-1)) + 1)[value_E] > 0
    return known


def _only(visits: Visits, keep_E: BoolArray) -> Visits:
    """Some of the visits; users keep their numbers."""
    if not keep_E.any():
        raise DataError(
            f"none of {len(visits)} visits is left for the next-check-in protocol", "bring more events, or lower least"
        )
    before_E1 = np.concatenate([[0], np.cumsum(keep_E)]).astype(np.int32)
    user_E, item_E, time_E = visits.user_E[keep_E], visits.item_E[keep_E], visits.time_E[keep_E]
    pairs = pl.DataFrame({"user": user_E, "item": item_E, "time": time_E})
    return Visits(
        user_E=user_E,
        item_E=item_E,
        time_E=time_E,
        period_E=visits.period_E[keep_E],
        first_E=before_E1[visits.first_E[keep_E]],
        stop_E=before_E1[visits.stop_E[keep_E]],
        new_E=pairs.select(pl.col("time") == pl.col("time").min().over("user", "item")).to_series().to_numpy(),
        lat_E=None if visits.lat_E is None else visits.lat_E[keep_E],
        lon_E=None if visits.lon_E is None else visits.lon_E[keep_E],
        users=visits.users.filter(pl.col("number").is_in(np.unique(user_E))),
    )


def requests(visits: Visits, period: int) -> IntArray:
    """The visits of a period that can be predicted, as rows of `Visits`: those with a visit at an earlier second."""
    return np.flatnonzero((visits.period_E == period) & (visits.stop_E > visits.first_E))
