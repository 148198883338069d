"""Both engines keep the same promises: one outcome an item, a dead worker costs one item, ranks form a group."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from segtasks.engines import Done, Engine, EngineConfig, Failed, open_engine
from segtasks.engines.ray.engine import _require_reachable
from segtasks.errors import ConfigError
from tests.engines.workers import NeverStarts, Squares, rank_1_refuses, sum_of_ranks


@pytest.fixture(scope="module", params=["local", "ray"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = open_engine(EngineConfig(name=request.param, workers=2))
    yield engine
    engine.close()


def test_every_item_has_one_outcome_and_a_dead_worker_costs_only_its_own(engine: Engine) -> None:
    items = [{"n": n} for n in range(8)]
    items[3] |= {"do": "abort"}
    items[5] |= {"do": "raise"}
    outcomes = list(engine.map(Squares, items))
    done = {outcome.item["n"]: outcome.result["square"] for outcome in outcomes if isinstance(outcome, Done)}
    failed = {outcome.item["n"]: (outcome.how, outcome.error_type) for outcome in outcomes if isinstance(outcome, Failed)}
    assert done == {n: n * n for n in range(8) if n not in (3, 5)}
    assert failed == {3: ("died", "WorkerDied"), 5: ("raised", "ValueError")}


def test_a_worker_keeps_its_state_between_items(engine: Engine) -> None:
    results = [outcome.result for outcome in engine.map(Squares, [{"n": n} for n in range(20)]) if isinstance(outcome, Done)]
    by_process: dict[int, list[int]] = {}
    for result in results:
        by_process.setdefault(result["process"], []).append(result["calls"])
    assert 1 <= len(by_process) <= 2
    assert os.getpid() not in by_process
    assert all(sorted(calls) == list(range(1, len(calls) + 1)) for calls in by_process.values())


def test_a_users_mistake_is_fatal_and_weather_is_not(engine: Engine) -> None:
    mistake, weather = (next(iter(engine.map(Squares, [{"n": 1, "do": what}]))) for what in ("mistake", "weather"))
    assert isinstance(mistake, Failed)
    assert (mistake.fatal, mistake.error) == (True, "mend me")
    assert isinstance(weather, Failed)
    assert (weather.fatal, weather.error_type) == (False, "StorageError")
    setup = next(iter(engine.map(NeverStarts, [{"n": 1}])))
    assert isinstance(setup, Failed)
    assert (setup.fatal, setup.error) == (True, "no such checkpoint")


def test_closing_the_outcomes_early_leaves_an_engine_that_works(engine: Engine) -> None:
    outcomes = engine.map(Squares, [{"n": n} for n in range(50)])
    next(outcomes)
    outcomes.close()
    assert len(list(engine.map(Squares, [{"n": 1}]))) == 1
    assert list(engine.map(Squares, [])) == []


@pytest.mark.slow  # Ray Train takes about twenty seconds to start a group
def test_ranks_form_a_group_report_events_and_return_rank_0s_result(engine: Engine) -> None:
    events: list[dict[str, object]] = []
    assert engine.train(sum_of_ranks, 2, events.append) == {"sum": 1.0, "rank": 0}
    assert sorted(event["rank"] for event in events) == [0, 1]  # type: ignore[type-var]


@pytest.mark.slow
def test_an_error_of_any_rank_is_raised_as_it_is(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="rank 1 cannot"):
        engine.train(rank_1_refuses, 2, lambda event: None)


def test_inline_runs_in_this_process() -> None:
    engine = open_engine(EngineConfig(name="local", workers=0))
    outcome = next(iter(engine.map(Squares, [{"n": 3}])))
    assert isinstance(outcome, Done)
    assert outcome.result == {"square": 9, "calls": 1, "process": os.getpid()}
    assert engine.train(sum_of_ranks, 1, lambda event: None) == {"sum": 0.0, "rank": 0}


def test_local_training_ranks_form_a_group() -> None:
    engine = open_engine(EngineConfig(name="local", workers=2))
    try:
        assert engine.train(sum_of_ranks, 2, lambda event: None)["sum"] == 1.0
    finally:
        engine.close()


def test_mistakes_in_the_engines_settings_are_said_clearly() -> None:
    with pytest.raises(ConfigError, match="engine local has no address"):
        open_engine(EngineConfig(name="local", address="auto"))
    with pytest.raises(ConfigError, match=r"Ray cannot be reached at 127.0.0.1:1: .*refused"):
        _require_reachable("127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"Ray cannot be reached at ray://127\.0\.0\.1:1"):
        _require_reachable("ray://127.0.0.1:1")
