"""Requests made ready and answers made into values, without any connection."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rqproc.calls.fallback import Fallback
from rqproc.calls.jobs import jobs_of, refusal
from rqproc.calls.requests import Requests, values
from rqproc.context import ASKING, Asking
from rqproc.errors import (
    ConfigError,
    InvalidId,
    NoLiveNode,
    Overloaded,
    PayloadTooLarge,
    RedisUnavailable,
    RequestTimeout,
)
from rqproc.model import Partial, Reply, Request
from rqproc.protocol import codec

REPLY = Reply(1, 7, "n", "hit", 0.0, 1.0, 7)


@pytest.fixture
def requests() -> Requests:
    return Requests("shop", Fallback(), timeout=10.0, near=None, nearby=None)


def one(requests: Requests, id: object = 1, *args: Any, **options: Any) -> Any:
    given = {"timeout": None, "on_lost": None} | options
    return requests.one(id, "price", args, None, **given)


def test_an_id_is_made_canonical_once(requests: Requests) -> None:
    assert one(requests, "7").ids == (7,)
    assert one(requests, "7", 5).ids == (7,)
    for bad in (True, [1], "", None):
        with pytest.raises(InvalidId):
            one(requests, bad)


def test_a_call_knows_how_long_it_may_take(requests: Requests) -> None:
    before = requests._monotonic()
    call = one(requests, timeout=2.0)
    assert call.timeout_s == 2.0
    assert before + 2.0 <= call.deadline <= requests._monotonic() + 2.0
    assert one(requests).timeout_s == 10.0


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 7 * 86400 + 1, "5"])
def test_a_timeout_that_is_none_is_refused(requests: Requests, timeout: Any) -> None:
    with pytest.raises(ConfigError, match="invalid timeout"):
        one(requests, timeout=timeout)
    with pytest.raises(ConfigError, match="invalid timeout"):
        requests.many([1], "price", timeout, None)


@pytest.mark.parametrize(
    ("argument", "error"), [(object(), ConfigError), ("x" * 70_000, PayloadTooLarge)]
)
def test_arguments_that_cannot_be_sent_are_refused_before_anything_is_sent(
    requests: Requests, argument: object, error: type[Exception]
) -> None:
    """With the connection of all, others' calls would be lost over them."""
    with pytest.raises(error):
        one(requests, 1, argument)


def test_the_arguments_of_one_request_are_not_anothers(requests: Requests) -> None:
    made = [one(requests, 1, 5), requests.one(1, "price", (), {"a": 1}, None, None)]
    read = [codec.decode_call(call.data(0), functions={}).request for call in made]
    assert read == [Request("price", 1, (5,)), Request("price", 1, (), {"a": 1})]


def test_what_can_be_answered_from_its_id_is_told_apart_by_kind(requests: Requests) -> None:
    assert [one(requests).kind, one(requests, 1, 5).kind] == ["c", "a"]
    assert one(requests, function=codec.INVALIDATE).kind == "i"


def test_ids_that_are_asked_together_are_asked_once_each_in_this_order(requests: Requests) -> None:
    many = requests.many([3, "1", 3, 1], "price", None, None)
    call = many.call
    assert (call.ids, many.ids, many.found) == ([3, 1], [3, 1], {})
    assert call.addresses == ["3-price-3", "1-price-1"]


def test_whoever_asks_from_a_run_waits_for_it_and_an_invalidation_does_not(
    requests: Requests,
) -> None:
    token = ASKING.set(Asking("shop", "7-price-7", lambda _: None))
    try:
        assert one(requests).parent == "7-price-7"
        assert requests.many([1], "price", None, None)[0].parent == "7-price-7"
        assert one(requests, function=codec.INVALIDATE).parent == ""
        assert one(requests, function=codec.REFRESH).parent == "7-price-7"
        other = Requests("other", Fallback(), timeout=1.0, near=None, nearby=None)
        assert one(other).parent == "", "another cluster's run"
    finally:
        ASKING.reset(token)


def test_the_first_error_is_raised_unless_errors_are_wanted_as_values() -> None:
    outcomes = {1: REPLY, 2: RequestTimeout("price", 2, 2.0)}
    with pytest.raises(RequestTimeout):
        values(outcomes, return_exceptions=False)  # type: ignore[arg-type]
    kept = values(outcomes, return_exceptions=True)  # type: ignore[arg-type]
    assert kept == {1: 7, 2: outcomes[2]}


# --- jobs ---


def test_each_request_is_a_job_of_its_own_with_its_address() -> None:
    jobs = jobs_of([1, 2], "price", (), None)
    assert [job.address for job in jobs] == ["1-price-1", "2-price-2"]
    read = [codec.decode_call(_raw(job.data), functions={}).request for job in jobs]
    assert read == [Request("price", 1), Request("price", 2)]
    (job,) = jobs_of([1], "price", (5,), {"a": 1})
    assert codec.decode_call(_raw(job.data), functions={}).request == Request(
        "price", 1, (5,), {"a": 1}
    )


def test_ids_of_jobs_are_fresh_and_such_that_rq_takes_them() -> None:
    ids = {job.id for _ in range(500) for job in jobs_of([1, 2], "price", (), None)}
    assert len(ids) == 1000
    assert all(id.isalnum() and id.isascii() and len(id) == 24 for id in ids)


def test_the_data_of_a_group_is_no_request() -> None:
    """A node that meets it in the ingress queue refuses it."""
    data = codec.encode_many("price")
    assert json.loads(data) == [codec.REQUEST_MANY, None, [], {"resource": "price"}]
    with pytest.raises(codec.Unreadable):
        codec.decode_call(data, functions={})


def test_jobs_that_were_not_queued_have_their_errors() -> None:
    full = json.dumps({"type": "Overloaded", "node": "n", "queued": 3, "limit": 3}).encode()
    none = json.dumps({"type": "NoLiveNode"}).encode()
    assert isinstance(refusal(full, "price", 1, "shop"), Overloaded)
    assert isinstance(refusal(none, "price", 1, "shop"), NoLiveNode)


def _raw(data: str | bytes) -> bytes:
    return data if isinstance(data, bytes) else data.encode()


# --- what has come of many, and what has not ---


def test_what_came_in_time_and_the_others_errors_are_told_apart(requests: Requests) -> None:
    asked = requests.many([2, "1", 3], "price", None, None)
    asked.call.take(1, REPLY)
    found = asked.partial()
    assert isinstance(found, Partial)
    assert found.values == {"1": 7}
    assert list(found.errors) == [2, 3]
    assert {type(error) for error in found.errors.values()} == {RequestTimeout}


def test_nothing_but_values_is_whole_and_nothing_but_errors_is_no_exception(
    requests: Requests,
) -> None:
    asked = requests.many([1], "price", None, None)
    assert (asked.partial().values, list(asked.partial().errors)) == ({}, [1])
    asked.call.take(0, REPLY)
    assert asked.partial() == Partial({1: 7}, {})
    assert requests.many([], "price", None, None).partial() == Partial({}, {})


def test_where_redis_is_lost_what_had_come_counts(requests: Requests) -> None:
    lost = RedisUnavailable("there", "it has gone")
    asked = requests.many([1, 2], "price", None, None)
    with pytest.raises(RedisUnavailable):
        asked.failed(lost)
    asked.call.take(0, REPLY)
    asked.failed(lost)
    assert asked.partial() == Partial({1: 7}, {2: lost})
    assert asked.outcomes() == {1: REPLY, 2: lost}


def test_what_was_found_nearer_has_come_too(requests: Requests) -> None:
    lost = RedisUnavailable("there", "it has gone")
    asked = requests.many([1, 2], "price", None, None)._replace(found={1: REPLY})
    asked.failed(lost)
    assert asked.call.outage is lost
