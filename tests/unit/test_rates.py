"""How many runs begin in a second, and who is refused for it."""

from __future__ import annotations

from typing import Any

import pytest
from dispatching import TTL_S, Bench

from rqproc import App
from rqproc.errors import ConfigError, Overloaded, RateLimited
from rqproc.node.rates import SPARE, Rates
from rqproc.policy import policy_of
from rqproc.protocol.reports import from_remote


@pytest.fixture
def at() -> Bench:
    return Bench()


def begun(at: Bench) -> list[int]:
    found = []
    while run := at.scheduler.next_run():
        found.append(run.request.id)
        at.done(run)
    return found


def test_a_seconds_runs_begin_at_once_and_the_others_in_its_time(at: Bench) -> None:
    for id in (1, 3, 5, 7):
        at.ask(id, "rated")
    assert begun(at) == [1, 3]
    assert at.scheduler.due_at == at.now + 0.5
    at.now += 0.5
    assert begun(at) == [5]
    at.now += 0.5
    assert begun(at) == [7]
    assert at.scheduler.due_at is None
    at.ends()
    assert at.dispatcher.idle


def test_what_was_not_used_is_saved_for_no_more_than_a_second(at: Bench) -> None:
    at.now += 100
    for id in (1, 3, 5, 7):
        at.ask(id, "rated")
    assert begun(at) == [1, 3]


def test_an_id_has_a_rate_of_its_own(at: Bench) -> None:
    at.ask(1, "rated")
    assert begun(at) == [1]
    at.dispatcher.cache.drop(b"1-rated-1", at.now)
    at.ask(1, "rated")
    at.ask(3, "rated")
    assert begun(at) == [3]
    at.now += 1
    assert begun(at) == [1]


def test_whose_time_would_be_over_is_refused_at_once_and_takes_no_share(at: Bench) -> None:
    for id in (1, 3):
        at.ask(id, "rated")
    for id in (5, 7):
        at.ask(id, "rated", due=at.now + 0.4)
    refused = at.ends()
    assert [end.error["type"] for end in refused] == ["RateLimited"] * 2
    assert [end.error["retry_after_s"] for end in refused] == [0.5, 0.5]
    at.ask(9, "rated", due=at.now + 0.6)
    assert begun(at) == [1, 3]
    at.now += 0.5
    assert begun(at) == [9]


def test_who_asks_for_what_waits_joins_it(at: Bench) -> None:
    for id in (1, 3, 5, 5):
        at.ask(id, "rated")
    assert at.claimed == []
    begun(at)
    at.now += 0.5
    assert len(at.run().waiting) == 2


def test_whoever_waits_takes_no_lane(at: Bench) -> None:
    for id in range(1, 41, 2):
        at.ask(id, "rated")
    begun(at)
    assert at.scheduler.room == 10
    at.ask(1, "charge")
    assert begun(at) == [1]


def test_whoever_gives_up_while_it_waits_is_not_run(at: Bench) -> None:
    for id in (1, 3):
        at.ask(id, "rated")
    name = at.ask(5, "rated", due=at.now + 9).encode()
    begun(at)
    at.scheduler.give_up([name])
    at.now += 1
    assert begun(at) == []


def test_a_job_waits_however_long(at: Bench) -> None:
    for id in (1, 3):
        at.ask(id, "rated")
    at.pop(at.job("j", 5, "rated"))
    assert begun(at) == [1, 3]
    at.now += 1
    assert begun(at) == [5]


def test_an_old_value_is_made_anew_only_where_that_need_not_wait(at: Bench) -> None:
    for id in (1, 3):
        at.ask(id, "rated")
    assert begun(at) == [1, 3]
    at.now += TTL_S
    at.ask(5, "rated")
    at.ask(7, "rated")
    assert begun(at) == [5, 7]
    at.ends()
    at.ask(1, "rated")
    assert [end.source for end in at.ends()] == ["stale"]
    assert begun(at) == []
    at.now += 1
    at.ask(1, "rated")
    assert begun(at) == [1]


def test_what_waits_is_forgotten_with_the_lease(at: Bench) -> None:
    for id in (1, 3, 5):
        at.ask(id, "rated")
    at.dispatcher.forget()
    at.now += 1
    assert begun(at) == []
    assert at.scheduler.due_at is None


def test_ids_that_have_rested_are_not_remembered() -> None:
    rates, app = Rates("b"), App()
    resource: Any = app.resource(ttl=0, name="r", rate_per_id=10)(lambda id: id)
    for turn in range(3 * SPARE):
        assert rates.admits_now(resource, b"%d" % turn, turn * 0.01)
    assert len(rates._next_at) <= SPARE + 1


def test_it_is_an_overload_that_says_when_to_ask_again() -> None:
    report = {"type": "RateLimited", "node": "a", "resource": "r", "retry_after_s": 0.25}
    error = from_remote(report, resource="r", id=1, namespace="n")
    assert isinstance(error, Overloaded)
    assert (type(error), error.retry_after_s, error.exit_code) == (RateLimited, 0.25, 6)
    assert Overloaded("a", 1, 1).retry_after_s is None


@pytest.mark.parametrize("bad", [0, -1, 1e7, "5", float("nan")])
@pytest.mark.parametrize("name", ["rate", "rate_per_id"])
def test_a_rate_is_a_number_of_runs_a_second(name: str, bad: object) -> None:
    with pytest.raises(ConfigError, match=f"invalid {name}="):
        App().resource(ttl=5, **{name: bad})  # type: ignore[arg-type]


def test_what_keeps_nothing_may_have_a_rate_too() -> None:
    assert policy_of(0.0, {"rate": 5}).rate == 5
    assert not policy_of(0.0, {}).has_rate


def test_many_jobs_of_one_id_keep_no_other_id_waiting(at: Bench) -> None:
    for turn in range(50):
        at.pop(at.job(f"j{turn}", 1, "rated"))
        at.scheduler.joinable.part(b"1-rated-1")  # so that none joins another
    assert begun(at) == [1]
    at.ask(3, "rated")
    assert begun(at) == [3]
    at.now += 1
    assert begun(at) == [1]
