"""Which runs begin together, and what each comes to by what their handler returns."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from dispatching import Bench, told

from rqproc import App, Cached
from rqproc.errors import ConfigError
from rqproc.model import Request
from rqproc.node.calling import ReturnedValues
from rqproc.node.runs import Done, Failed, HandlerRun
from rqproc.protocol.codec import UnservableValue

IDS = (1, 3, 5)


@pytest.fixture
def at() -> Bench:
    return Bench()


def ids_of(run: HandlerRun | None) -> list[Any]:
    assert run
    return [one.request.id for one in run.made_together]


# --- who begins together ---


def test_what_has_its_turn_at_one_moment_begins_together(at: Bench) -> None:
    names = [at.named(id, "prices") for id in IDS]
    assert len(at.pop(*names)) == 3
    run = at.run()
    assert ids_of(run) == [1, 3, 5]
    assert at.scheduler.next_run() is None
    for one, text in zip(list(run.made_together), "123", strict=True):
        at.done(one, text)
    assert told(at.ends()) == [
        (name.decode(), "miss", value) for name, value in zip(names, (1, 2, 3), strict=True)
    ]
    assert at.dispatcher.idle


def test_those_that_run_are_joined_and_others_begin_beside_them(at: Bench) -> None:
    at.pop(*[at.named(id, "prices") for id in (1, 3)])
    first = at.run()
    at.pop(*[at.named(id, "prices") for id in (3, 5)])
    assert ids_of(at.run()) == [5]
    assert [len(one.waiting) for one in first.made_together] == [1, 2]


def test_together_they_take_one_place_whatever_the_limit_is(at: Bench) -> None:
    """Of ten lanes, nine are taken."""
    for id in range(1, 18, 2):
        at.ask(id, "charge")
        at.run()
    at.pop(*[at.named(id, "prices") for id in range(101, 141, 2)])
    run = at.run()
    assert len(ids_of(run)) == 20
    at.ask(19, "charge")
    assert at.scheduler.next_run() is None
    at.done(run)
    assert at.run().request.id == 19, "the place goes with the first of them"


def test_a_batch_that_waits_holds_no_more_than_one_place(at: Bench) -> None:
    for id in range(1, 19, 2):
        at.ask(id, "charge")
        at.run()
    at.pop(at.named(1, "patient"), at.named(3, "patient"), at.named(19, "charge"))
    assert at.scheduler.next_run() is None
    at.now += 1
    assert ids_of(at.run()) == [1, 3]


def test_a_batch_begins_when_it_is_full_or_has_waited(at: Bench) -> None:
    at.ask(1, "patient")
    assert at.scheduler.next_run() is None
    assert at.scheduler.due_at == at.now + 1
    at.pop(at.named(3, "patient"), at.named(5, "patient"), at.named(7, "patient"))
    assert ids_of(at.run()) == [1, 3, 5]
    assert at.scheduler.next_run() is None
    assert at.scheduler.due_at == at.now + 1
    at.now += 1
    assert ids_of(at.run()) == [7]
    assert at.scheduler.due_at is None


def test_who_waits_with_a_batch_is_joined(at: Bench) -> None:
    at.ask(1, "patient")
    at.scheduler.next_run()
    at.ask(1, "patient")
    assert at.claimed == []
    at.now += 1
    assert len(at.run().waiting) == 2


def test_whom_nobody_waits_for_any_more_is_left_out_and_the_others_take_its_place(
    at: Bench,
) -> None:
    at.ask(1, "patient", due=at.now + 0.5)
    at.ask(3, "patient")
    at.ask(5, "patient", due=at.now + 0.5)
    for id in range(1, 17, 2):
        at.ask(id, "charge")
        at.run()
    at.now += 1
    run = at.run()
    assert ids_of(run) == [3]
    at.ask(17, "charge")
    at.run()
    at.ask(19, "charge")
    assert at.scheduler.next_run() is None, "ten places are taken"
    at.done(run)
    at.run()


def test_a_batch_that_has_not_begun_ends_with_the_lease(at: Bench) -> None:
    at.ask(1, "patient")
    at.scheduler.next_run()
    at.dispatcher.forget()
    assert at.scheduler.due_at is None
    assert at.scheduler.lanes_taken == 0
    at.now += 1
    assert at.scheduler.next_run() is None


def test_a_batch_that_waits_for_others_lets_others_run(at: Bench) -> None:
    at.pop(*[at.named(id, "prices") for id in (1, 3)])
    run = at.run()
    at.scheduler.change_slot(run, "given back")
    assert at.scheduler.held_by_paused == 2
    assert at.scheduler.room == 10
    at.scheduler.change_slot(run, "wanted again")
    assert at.scheduler.room == 9


def test_a_coroutine_is_stopped_only_for_all(at: Bench) -> None:
    at.pop(at.job("j", 1, "prices"), at.job("k", 3, "prices"))
    run = at.run()
    assert ids_of(run) == [1, 3]
    assert run.job is None
    for one in run.made_together:
        one.resource = SimpleNamespace(is_async=True)  # type: ignore[assignment]
    assert at.scheduler.stop(b"j") is None
    assert at.scheduler.stop(b"k") is run


# --- what it returns ---


app = App()


@app.resource(ttl=5, batch=10)
def plain(ids: list[int]) -> dict[int, int]:
    raise AssertionError


@app.resource(ttl=5, batch=10, negative_ttl=1, negative=LookupError)
def negative(ids: list[int]) -> dict[int, int]:
    raise AssertionError


def come_to(value: Any, resource: Any = plain) -> list[Any]:
    runs = [
        HandlerRun(f"{id}-plain-{id}", b"%d" % id, resource, Request(resource.name, id), 1)
        for id in IDS
    ]
    for run in runs:
        run.batch = runs
    return list(ReturnedValues().outcomes(runs[0], value, 7.0))


def test_each_id_comes_to_its_own_value() -> None:
    assert come_to({1: "a", "3": Cached("b", ttl=2), 5: None}) == [
        Done('"a"', 7.0), Done('"b"', 7.0, 2.0), Done("null", 7.0),
    ]  # fmt: skip


def test_an_id_that_is_missing_is_none_or_an_error_as_declared() -> None:
    assert come_to({1: 1, 5: 5}, negative)[1] == Done("null", 7.0)
    failed = come_to({1: 1, 5: 5})[1]
    assert failed.type == "UnservableValue"
    assert "negative_ttl" in failed.reason


def test_an_exception_is_one_ids_error_and_remembered_if_listed() -> None:
    one, other, third = come_to({1: KeyError(1), 3: ValueError("x"), 5: 5}, negative)
    assert (one.type, one.remembered) == ("KeyError", True)
    assert (other.type, other.reason, other.remembered) == ("ValueError", "x", False)
    assert third == Done("5", 7.0)


def test_what_cannot_be_kept_is_one_ids_error() -> None:
    found = come_to({1: {1}, 3: Cached(1, ttl=-1), 5: 5})
    assert [type(one) for one in found] == [Failed, Failed, Done]


@pytest.mark.parametrize("value", [None, [1, 2, 3], "abc", 7])
def test_what_is_no_dict_is_refused(value: object) -> None:
    with pytest.raises(UnservableValue, match=f"not {type(value).__name__}"):
        come_to(value)


def test_of_ids_that_were_not_asked_for_is_warned_once(caplog: pytest.LogCaptureFixture) -> None:
    values = ReturnedValues()
    run = HandlerRun("1-plain-1", b"1", plain, Request("plain", 1), 1)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert values.outcomes(run, {1: 1, 9: 9, None: 0}, 7.0) == [Done("1", 7.0)]
    assert len(caplog.records) == 1


# --- what is declared ---


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch": 0}, "invalid batch=0"),
        ({"batch": True}, "invalid batch=True: a whole number"),
        ({"batch": 10_001}, "from 0 to 10000"),
        ({"batch": 2, "batch_wait_s": 61}, "invalid batch_wait_s=61"),
        ({"batch_wait_s": 1}, "batch_wait_s needs a batch"),
        ({"batch": 2, "ttl": 0}, "batch is for a resource that keeps its values"),
    ],
)
def test_what_is_no_batch_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        App().resource(**{"ttl": 30, **options})


def test_a_batch_handler_takes_a_list_and_nothing_else() -> None:
    with pytest.raises(ConfigError, match="a list of ids and nothing else"):

        @App().resource(ttl=30, batch=2)
        def two(ids: list[int], more: int) -> dict[int, int]:
            return {}
