"""The models behind the interest stage: the same numbers as offline, for old items and new ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from toy_rank import rank_config, toy_items
from toy_serve import NOW_MS, ask_at, items_of, new_items, served_engine, served_run

from lgsid.artifact import read_json
from lgsid.config import GenerateConfig
from lgsid.errors import ArtifactError
from lgsid.generate.methods import make_generator
from lgsid.geo import unit_sphere
from lgsid.rank.features import item_features
from lgsid.rank.loader import Batcher, Requests, SampleFolder
from lgsid.rank.methods import make_ranker
from lgsid.rank.pretrained import load_ranker
from lgsid.rank.stage import run_sid_rows
from lgsid.rank.training import predict
from lgsid.serve import generators
from lgsid.serve.asked import Asked, History, history_of
from lgsid.serve.base import Event, RequestError
from lgsid.serve.catalogue import Catalogue
from lgsid.serve.contract import Ask
from lgsid.serve.generators import GeneratorInterest
from lgsid.serve.interest import FALLBACK, Both, Models, PopularNearby, best
from lgsid.serve.rankers import Places, RankerInterest
from lgsid.serve.reach import Place, ReachIndex

NAMES = ["din", "din_without_sid"]


@pytest.fixture(scope="module")
def items() -> pl.DataFrame:
    return items_of(served_run())


@pytest.fixture(scope="module")
def samples(items: pl.DataFrame) -> SampleFolder:
    return SampleFolder(served_run().path("4_rank", "samples"), items)


def asked(items: pl.DataFrame, rows: Any, history: Any = (), seconds: Any = None, **changes: Any) -> Asked:
    """A request from where the first item is."""
    place = Place(items["lat_deg"][0], items["lon_deg"][0])
    rows_C, rows_T = np.asarray(rows, dtype=np.int64), np.asarray(history, dtype=np.int64)
    now_s = NOW_MS // 1_000
    time_T = now_s - 3_600 * np.arange(len(rows_T), 0, -1) if seconds is None else np.asarray(seconds)
    index = ReachIndex(items["lat_deg"], items["lon_deg"])
    known = {
        "place": place, "now_s": now_s, "user_id": None, "rows_C": rows_C, "k": 5,
        "distance_km_C": np.arange(len(rows_C), dtype=np.float64), "history": History(rows_T, time_T),
    }  # fmt: skip
    found = {**known, **changes}
    return Asked(**found, nearest=lambda: int(index.nearest(found["place"]).rows_M[0]))


def request_of(requests: Requests, row: int, samples: SampleFolder) -> Asked:
    """A request of a sample file as the service would get it."""
    past = slice(int(requests.first[row]), int(requests.stop[row]))
    return asked(
        samples.items, requests.candidates[row], samples.item_E[past], samples.time_E[past],
        place=Place(requests.here_lat_deg[row], requests.here_lon_deg[row]), now_s=int(requests.time[row]),
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_scores_are_those_of_offline_prediction(name: str, samples: SampleFolder) -> None:
    model = served_engine().state.models.rankers[name]
    ranker = load_ranker(served_run().path("4_rank", name))
    for file in ("test", "cold"):
        expected = predict(ranker, samples.file(file), samples.batcher(ranker.history_length, ranker.config.distance))
        requests = samples.file(file).read([0])
        for row in range(0, len(requests), 5):
            found = model.scores(request_of(requests, row, samples))
            assert found == pytest.approx(expected[row], abs=1e-5)


def test_a_whole_answer_has_the_scores_of_the_ranker(items: pl.DataFrame) -> None:
    """Engine, stored events and all candidates on one side; the ranker's own batches on the other."""
    engine, ranker = served_engine(), load_ranker(served_run().path("4_rank", "din"))
    rng = np.random.default_rng(0)
    for row in (0, 3, 11):
        ask = ask_at(items, row, radius_km=30, k=200, user_id="u")
        visits = rng.integers(0, len(items), 12)
        time_E = NOW_MS // 1_000 - np.sort(rng.integers(60, 10**7, 12))[::-1]
        events = [Event(f"e{k}", "u", items["item_id"][int(visits[k])], int(time_E[k]) * 1_000) for k in range(12)]
        answer = engine.recommend(ask, events)
        found = {item.item_id: item.score for item in answer.items}
        rows = items["item_id"].is_in(list(found)).arg_true().to_numpy()
        batcher = Batcher(items, visits.astype(np.int32), time_E, ranker.history_length, ranker.config.distance)
        one = np.array([0])
        here = np.array([ask.place.lat_deg]), np.array([ask.place.lon_deg])
        now = np.array([NOW_MS // 1_000])
        batch = batcher(Requests(one, one, one + 12, now, *here, rows[None], one.astype(bool)))
        with torch.inference_mode():
            expected = ranker(batch).logit_BC[0].numpy()
        assert [found[name] for name in items["item_id"].gather(rows)] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("name", ["din", "dien", "sim", "twin", "eta"])
@pytest.mark.parametrize("combination", ["everything", "prefixes", "id_ungated", "labels"])
def test_all_rankers_without_history_and_with(name: str, combination: str, items: pl.DataFrame) -> None:
    """A request of one is the same as a row of a batch, whatever the model and its features."""
    engine, run = served_engine(), served_run()
    config = rank_config(combination, distance=combination != "labels")
    sid = None if config.sid == "none" else run_sid_rows(run, items, config)
    features = item_features(items, np.arange(len(items)) % 5, sid, config)
    ranker = make_ranker(name, features, config, seed=1)
    catalogue = engine.state.catalogue
    codes_NM = catalogue.codes_NM
    model = RankerInterest(ranker, items, codes_NM, engine.artefacts.tokenizer).serving(catalogue, Places(items))
    for length in (0, 1, 9):
        history = np.arange(length) * 7
        request = asked(items, np.arange(40, 60), history)
        batcher = Batcher(items, history.astype(np.int32), request.history.time_T, ranker.history_length, True)
        one = np.zeros(1, dtype=np.int64)
        here = np.array([request.place.lat_deg]), np.array([request.place.lon_deg])
        if not length:  # the loader has no request without a past; a masked visit is the same
            batcher = Batcher(items, np.zeros(1, np.int32), one, ranker.history_length, True)
        batch = batcher(
            Requests(one, one, one + length, one + request.now_s, *here, request.rows_C[None], one.astype(bool))
        )
        with torch.inference_mode():
            expected = ranker.eval()(batch).logit_BC[0].numpy()
        assert model.scores(request) == pytest.approx(expected, abs=1e-5)


def test_new_items_are_what_their_labels_and_tokens_say(items: pl.DataFrame) -> None:
    """An item with the labels, tokens and place of one that nobody visited gets its score."""
    engine = served_engine()
    catalogue, model = engine.state.catalogue, engine.state.models.rankers["din"]
    assert isinstance(model, RankerInterest)
    unseen = np.flatnonzero(read_seen() == 0)
    assert len(unseen)
    row = int(unseen[0])
    twin = items[[row]].with_columns(item_id=pl.lit("twin"))
    sids = pl.read_parquet(served_run().path("3_sid", "sids.parquet"))[[row]].with_columns(item_id=pl.lit("twin"))
    stranger = new_items(items, 1).with_columns(category=pl.lit("Nowhere > Known"), brand=pl.lit("Never"))
    more = pl.concat([twin, stranger])
    sids = pl.concat([sids, sids.with_columns(item_id=stranger["item_id"])])
    grown = catalogue.plus(more, np.zeros((2, catalogue.vectors.of(0).shape[0]), np.float32), sids)  # type: ignore[union-attr]
    served = engine.state.models.serving(grown, more)
    rows = np.array([row, len(items), len(items) + 1])
    found = served.rankers["din"].scores(asked(grown.items, rows, [1, 2, 3]))
    assert found[1] == pytest.approx(found[0], abs=1e-6)
    assert np.isfinite(found[2])
    assert abs(found[2] - found[0]) > 1e-7
    visited = served.rankers["din"].scores(asked(grown.items, [4, 5], [len(items), 2]))
    assert np.isfinite(visited).all()
    before = model.scores(asked(items, [4, 5], [1, 2]))
    assert served.rankers["din"].scores(asked(grown.items, [4, 5], [1, 2])) == pytest.approx(before, abs=1e-6)


def read_seen() -> np.ndarray[Any, Any]:
    return load_ranker(served_run().path("4_rank", "din")).items.seen_N.numpy()


def test_a_ranker_of_another_catalogue(items: pl.DataFrame) -> None:
    ranker = load_ranker(served_run().path("4_rank", "din"))
    engine = served_engine()
    with pytest.raises(ArtifactError, match="knows 600 items, the run has 10"):
        RankerInterest(ranker, items[:10], engine.state.catalogue.codes_NM[:10], engine.artefacts.tokenizer)


# --- Histories --------------------------------------------------------------------------------------------------------
def test_histories() -> None:
    ids = {"a": 0, "b": 1}

    def rows_of(asked_ids: Any) -> np.ndarray[Any, Any]:
        return np.array([ids.get(name, -1) for name in asked_ids], dtype=np.int64)

    ask: Ask = ask_at(toy_items(), history=("a", "x", "b"))
    brought = history_of(ask, [], {"click"}, rows_of)
    assert brought.rows_T.tolist() == [0, 1]
    assert (NOW_MS // 1_000 - brought.time_T).tolist() == [3 * 86_400, 86_400]
    assert brought.unknown == 1
    events = [Event("1", "u", "b", 5_000), Event("2", "u", "a", 9_999, "view"), Event("3", "u", "x", 7_000, "click")]
    stored = history_of(replace(ask, history=None), events, {"click"}, rows_of)
    assert (stored.rows_T.tolist(), stored.time_T.tolist(), stored.unknown) == ([1], [5], 1)
    assert len(history_of(replace(ask, history=()), events, {"click"}, rows_of)) == 0


def test_visits_that_seem_to_lie_in_the_future_count_as_now(items: pl.DataFrame) -> None:
    model = served_engine().state.models.rankers["din"]
    now_s = NOW_MS // 1_000
    now, later = (model.scores(asked(items, [4, 5, 6], [1, 2], [now_s - 9_000, now_s + s])) for s in (0, 10**6))
    assert np.array_equal(now, later)


# --- The other models -------------------------------------------------------------------------------------------------
def test_popularity_and_nearness(items: pl.DataFrame) -> None:
    model = PopularNearby(np.array([0, 9, 4]))
    assert model.scores(asked(items, [0, 1, 2])).tolist() == pytest.approx([1.0, 5.0, 5 / 3])
    assert best(np.array([1.0, 3.0, -np.inf, 3.0], dtype=np.float32), 5).tolist() == [1, 3, 0]


class Given:
    def __init__(self, *scores: float) -> None:
        self._scores = np.array(scores, dtype=np.float32)

    def scores(self, asked: Asked) -> Any:
        return self._scores


def test_of_both_the_mean_of_the_ranks_decides(items: pl.DataFrame) -> None:
    both = Both(Given(9, 5, 1, -np.inf), Given(0, 7, 6, -np.inf)).scores(asked(items, range(4)))
    assert both.tolist() == [0.75, 0.875, 0.625, -np.inf]


def generator(name: str, sizes: tuple[int, ...] | None = None, **changes: Any) -> tuple[Any, GeneratorInterest]:
    """An untrained generator over the served catalogue."""
    catalogue = served_engine().state.catalogue
    codes_NL = catalogue.codes_NM
    sizes = sizes or tuple(int(column.max()) + 1 for column in codes_NL.T)
    config = GenerateConfig(history=5, dim=16, heads=2, feed_forward=16, dropout=0.0, beams=7, **changes)
    count_N = np.ones(len(codes_NL), dtype=np.int64)
    model = make_generator(name, codes_NL, sizes, config, 0, count_N, places_of(catalogue)).eval()
    with torch.no_grad():  # away from the zeros that training starts from
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model, GeneratorInterest(model, catalogue)


def places_of(catalogue: Catalogue) -> Any:
    return unit_sphere(catalogue.items["lat_deg"].to_numpy(), catalogue.items["lon_deg"].to_numpy())


def by_hand(model: Any, packed: Any, row: int) -> float:
    """Log-likelihood of an item, token by token."""
    decoder, zero = model.decoder(packed), torch.zeros(1, 1, dtype=torch.int64)
    logp_BWK, cache = decoder.start()
    codes_L = model.codes_NL[row]
    total = logp_BWK[0, 0, codes_L[0]]
    for level in range(1, len(codes_L)):
        logp_BWK, cache = decoder.step(cache, zero, codes_L[level - 1].view(1, 1), level)
        total = total + logp_BWK[0, 0, codes_L[level]]
    return float(total)


def test_a_generator_gives_every_candidate_its_likelihood(items: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    model, interest = generator("tiger", time=True, users=16)
    rows = np.array([5, 3, 77, 300, 41, 9])
    request = asked(items, rows, [8, 9, 10], user_id="u7")
    found = interest.scores(request)
    packed = interest._packed(request)
    assert found == pytest.approx([by_hand(model, packed, row) for row in rows], abs=1e-4)
    monkeypatch.setattr(generators, "EXACT", 3)
    some = interest.scores(replace(request, rows_C=np.arange(100), k=5))
    named = np.flatnonzero(np.isfinite(some))
    assert len(named) == 7  # as many as there are beams
    whole = asked(items, np.arange(100), [8, 9, 10], user_id="u7")
    monkeypatch.setattr(generators, "EXACT", 400)
    assert some[named] == pytest.approx(interest.scores(whole)[named], abs=1e-4)
    assert np.isfinite(interest.scores(replace(request, history=History(rows[:0], rows[:0])))).all()


def test_a_generator_knows_where_the_user_is(items: pl.DataFrame) -> None:
    _, interest = generator("tiger")
    request = asked(items, np.arange(20), [8, 9, 10])
    here, elsewhere = interest.scores(request), interest.scores(replace(request, place=Place(-33.9, 151.2)))
    assert not np.allclose(here, elsewhere, atol=1e-3)
    nobody = replace(request, history=History(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)))
    assert not np.allclose(
        interest.scores(nobody), interest.scores(replace(nobody, place=Place(-33.9, 151.2))), atol=1e-3
    )
    _, blind = generator("tiger", nearness=False)
    assert np.array_equal(blind.scores(request), blind.scores(replace(request, place=Place(-33.9, 151.2))))


def test_a_generator_does_not_name_what_it_cannot_write(items: pl.DataFrame) -> None:
    catalogue = served_engine().state.catalogue
    sizes = (*(int(column.max()) + 1 for column in catalogue.codes_NM.T[:-1]),)
    if (catalogue.codes_NM[:, -1] > 0).any():
        _, interest = generator_without_extra(sizes)
        found = interest.scores(asked(items, np.arange(600), [1, 2]))
        assert np.array_equal(np.isfinite(found), catalogue.codes_NM[:, -1] == 0)
        extra = np.flatnonzero(catalogue.codes_NM[:, -1] > 0)[:2]
        assert not np.isfinite(interest.scores(asked(items, extra, [1, 2]))).any()


def generator_without_extra(sizes: tuple[int, ...]) -> tuple[Any, GeneratorInterest]:
    catalogue = served_engine().state.catalogue
    config = GenerateConfig(history=5, dim=16, heads=2, feed_forward=16, dropout=0.0)
    known = catalogue.codes_NM[:, -1] == 0
    codes_NL, xyz_N3 = catalogue.codes_NM[known, :-1], places_of(catalogue)[known]
    model = make_generator("tiger", codes_NL, sizes, config, seed=0, xyz_N3=xyz_N3).eval()
    return model, GeneratorInterest(model, catalogue)


def test_a_model_that_scores_items(items: pl.DataFrame) -> None:
    model, interest = generator("sasrec")
    request = asked(items, [5, 3, 77], [8, 9, 10])
    expected = model.scores(interest._packed(request))[0].detach().numpy()
    assert interest.scores(request) == pytest.approx(expected[[5, 3, 77]], abs=1e-5)


@pytest.mark.parametrize("name", ["sasrec", "tiger"])
def test_closed_items_move_nothing(items: pl.DataFrame, name: str) -> None:
    """Rows of the served catalogue are not those of the fit once something has closed."""
    model, interest = generator(name, nearness=False)  # which goes by what lies under a prefix now
    catalogue = served_engine().state.catalogue
    open_N = np.arange(len(catalogue.items)) >= 4
    left = replace(catalogue, items=catalogue.items.filter(open_N), codes_NM=catalogue.codes_NM[open_N],
                   fit_row_N=catalogue.fit_row_N[open_N])  # fmt: skip
    rows, visited = np.array([5, 77, 300, 41]), np.array([8, 9, 10])
    before = interest.scores(asked(items, rows, visited))
    after = GeneratorInterest(model, left).scores(asked(items.filter(open_N), rows - 4, visited - 4))
    assert after == pytest.approx(before, abs=1e-4)


def test_generators_in_an_engine(items: pl.DataFrame) -> None:
    engine = served_engine()
    models = Models(engine.state.models.rankers, {"tiger": generator("tiger")[1]}, engine.state.models.places)
    assert models.chosen(ask_at(items, mode="generative"))[0] == "tiger"
    assert models.chosen(ask_at(items, mode="both"))[0] == "din+tiger"
    assert models.chosen(ask_at(items, mode="both", model=f"{FALLBACK}+tiger"))[0] == f"{FALLBACK}+tiger"
    with pytest.raises(RequestError, match="model 'onerec'"):
        models.chosen(ask_at(items, mode="both", model="din+onerec"))
    grown = models.serving(engine.state.catalogue, items.clear())
    assert np.isfinite(grown.generators["tiger"].scores(asked(items, [1, 2], [3]))).all()


def test_the_toy_run_is_what_these_tests_need() -> None:
    stored = read_json(served_run().path("4_rank", "din/config.json"))
    assert stored["config"]["distance"] is True
    assert {"id", "category", "brand"} <= set(stored["features"])
