"""For how long values and errors are kept, and what answers where a run fails: in memory and on
real processes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from integration import kit
from integration.fixtures import both_kinds

from rqproc import App, Cached, current
from rqproc.errors import HandlerFailed, HandlerTimeout, Overloaded, RateLimited
from rqproc.model import Reply
from rqproc.testing import Kit

TTL_S = 2.0
"""Enough, on a busy machine, to read what was made from where it is kept."""
LATE_S = 30.0

app = App()
runs: Counter[object] = Counter()
"""Of this process: an id has one owner."""


def nth(id: Any) -> int:
    runs[current().resource, id] += 1
    return runs[current().resource, id]


@app.resource(ttl=TTL_S, stale_ttl=LATE_S)
def price(id: Any) -> int:
    return nth(id)


@app.resource(ttl=TTL_S, stale_ttl=LATE_S)
async def quote(id: Any) -> int:
    await asyncio.sleep(0)
    return nth(id)


@app.resource(ttl=TTL_S, stale_ttl=LATE_S)
def fails_later(id: Any) -> int:
    if nth(id) == 2:
        raise ConnectionError("it fails the second time")
    return runs["fails_later", id]


@app.resource(ttl=TTL_S, stale_on_error=LATE_S)
def fallible(id: Any) -> int:
    if nth(id) > 1:
        raise ConnectionError("upstream is away")
    return 1


@app.resource(ttl=TTL_S, stale_ttl=LATE_S, timeout=0.2)
def sticks(id: Any) -> int:
    if nth(id) > 1:
        current().sleep(1.0)
    return 1


@app.resource(ttl=100 * TTL_S, refresh_ahead=0.01)
def ahead(id: Any) -> int:
    return nth(id)


@app.resource(ttl=LATE_S, negative_ttl=TTL_S, negative=(LookupError,))
def found(id: Any) -> int | None:
    if nth(id) > 1:
        return runs["found", id]
    if id == 404:
        raise KeyError(id)
    if id == 500:
        raise ValueError(id)
    return None


@app.resource(ttl=LATE_S)
def own(id: Any) -> int | Cached[int]:
    ttl = {0: 0, 1: TTL_S, 2: -1}.get(id)
    return nth(id) if ttl is None else Cached(nth(id), ttl=ttl)


@app.resource(ttl=LATE_S, stale_ttl=LATE_S)
def withdraws(id: Any) -> Cached[int]:
    return Cached(nth(id), ttl=TTL_S if runs["withdraws", id] == 1 else 0)


@app.resource(ttl=LATE_S, max_entries=2)
def few(id: Any) -> int:
    return nth(id)


@app.resource(ttl=LATE_S, max_bytes=2000)
def small(id: Any) -> str:
    return "x" * (5000 if id == 9 else 500)


@app.resource(ttl=LATE_S)
def large(id: Any) -> str:
    return "x" * 5000


@app.resource(ttl=LATE_S, rate=0.05, stale_ttl=LATE_S)
def rare(id: Any) -> int:
    return nth(id)


@app.resource(ttl=0, rate_per_id=0.5)
def steady(id: Any) -> int:
    return nth(id)


@app.resource(ttl=LATE_S, retries=2, retry_on=(ConnectionError,), backoff=0.01)
def flaky(id: Any) -> int:
    if nth(id) <= id:
        raise ConnectionError("once more") if id < 9 else ValueError("never again")
    return runs["flaky", id]


@app.resource(ttl=LATE_S, retries=2, retry_on=(ConnectionError,), backoff=0.01)
async def aflaky(id: Any) -> int:
    if nth(id) <= id:
        raise ConnectionError("once more")
    return runs["aflaky", id]


@both_kinds
def cluster(request: pytest.FixtureRequest) -> Iterator[Kit]:
    runs.clear()
    with request.param(app, nodes=2) as cluster:
        yield cluster


def renewed(cluster: Kit, resource: Any, id: object = 1) -> Any:
    """Return the value that a run has made for those who come later, when it has."""
    for _ in range(500):
        reply = cluster.reply(resource, id)  # type: ignore[arg-type]
        if reply.source == "hit":
            return reply.value
        assert reply.source == "stale"
        cluster.advance(0.01)
    raise AssertionError("it stays old")


# --- old values ---


@pytest.mark.parametrize("resource", [price, quote], ids=["function", "coroutine"])
def test_an_old_value_answers_at_once_while_one_run_makes_the_next(
    cluster: Kit, resource: Any
) -> None:
    assert cluster.request(resource, 1) == 1
    cluster.advance(TTL_S)
    with cluster.hold(resource, 1) as held:
        replies = [cluster.reply(resource, 1) for _ in range(5)]
        held.wait()
        replies += [cluster.reply(resource, 1) for _ in range(5)]
    assert {(reply.value, reply.source, reply.expires_in_s) for reply in replies} == {
        (1, "stale", 0.0)
    }
    assert all(reply.age_s >= TTL_S for reply in replies)
    assert renewed(cluster, resource) == 2
    assert cluster.computations(resource, 1) == 2


def test_many_old_values_answer_together(cluster: Kit) -> None:
    ids = list(range(20))
    cluster.request_many(price, ids)
    cluster.advance(TTL_S)
    assert cluster.request_many(price, ids) == dict.fromkeys(ids, 1)
    assert min(renewed(cluster, price, id) for id in ids) == 2


def test_past_its_stale_ttl_a_value_is_no_answer(cluster: Kit) -> None:
    cluster.request(own, 1)
    cluster.advance(TTL_S)
    reply = cluster.reply(own, 1)
    assert (reply.value, reply.source) == (2, "miss")


def test_where_the_run_for_an_old_value_fails_it_goes_on_answering(cluster: Kit) -> None:
    assert cluster.request(fails_later, 1) == 1
    cluster.advance(TTL_S)
    assert cluster.reply(fails_later, 1).source == "stale"
    assert renewed(cluster, fails_later) == 3, "who asks later has another one begun"
    assert cluster.computations(fails_later, 1) == 3


def test_an_old_value_answers_where_the_run_fails(cluster: Kit) -> None:
    assert cluster.request(fallible, 1) == 1
    cluster.advance(TTL_S)
    for _ in range(2):
        reply = cluster.reply(fallible, 1)
        assert (reply.value, reply.source) == (1, "stale")
    assert cluster.computations(fallible, 1) == 3, "each time it was tried"


def test_an_invalidated_value_is_not_served_as_an_old_one(cluster: Kit) -> None:
    assert cluster.request(price, 1) == cluster.request(fallible, 1) == 1
    assert cluster.invalidate(price, 1)
    assert cluster.reply(price, 1)[1:4:2] == (2, "miss")
    assert cluster.invalidate(fallible, 1)
    with pytest.raises(HandlerFailed, match="upstream is away"):
        cluster.request(fallible, 1)


def test_what_was_begun_before_an_invalidation_is_not_kept(cluster: Kit) -> None:
    cluster.request(price, 1)
    cluster.advance(TTL_S)
    with cluster.hold(price, 1) as held:
        assert cluster.reply(price, 1).source == "stale"
        held.wait()
        call = cluster.start(price, 1)
        assert call.reply().source == "stale"
        gone = cluster.invalidate(price, 1)
        after = cluster.start(price, 1)
    assert gone
    assert after.result() == 3
    assert cluster.reply(price, 1)[1:4:2] == (3, "hit")


def test_a_run_for_an_old_value_that_gets_stuck_keeps_its_id_and_the_value_answers(
    cluster: Kit,
) -> None:
    cluster.request(sticks, 1)
    cluster.advance(TTL_S)
    assert cluster.reply(sticks, 1).source == "stale"
    cluster.advance(0.6)
    assert cluster.reply(sticks, 1).source == "stale"
    cluster.assert_serial()
    cluster.advance(LATE_S + TTL_S)
    with pytest.raises(HandlerTimeout):
        cluster.request(sticks, 1)


def test_a_hit_late_in_its_life_has_the_next_value_made(cluster: Kit) -> None:
    assert cluster.request(ahead, 1) == 1
    assert cluster.reply(ahead, 1).source == "hit"
    assert cluster.computations(ahead, 1) == 1
    cluster.advance(TTL_S)
    reply = cluster.reply(ahead, 1)
    assert (reply.value, reply.source) == (1, "hit")
    assert 90 * TTL_S < reply.expires_in_s <= 99 * TTL_S
    while (value := cluster.request(ahead, 1)) == 1:
        cluster.advance(0.01)
    assert value == 2


def test_a_job_has_its_value_made_rather_than_get_an_old_one(cluster: Kit) -> None:
    assert cluster.request(price, 1) == 1
    cluster.advance(TTL_S)
    job = cluster.enqueue(price, 1)
    cluster.assert_nothing_lost()
    assert job.return_value() == 2


def test_an_old_value_survives_its_owners_death_no_more_than_any(cluster: Kit) -> None:
    cluster.request(price, 1)
    cluster.advance(TTL_S)
    owner = cluster.owner(1)
    assert owner
    cluster.kill(owner)
    assert cluster.reply(price, 1).source == "miss"


# --- what is not there ---


def test_none_is_kept_for_a_shorter_time_where_that_is_wanted(cluster: Kit) -> None:
    assert [cluster.reply(found, 1)[1:4:2] for _ in range(2)] == [(None, "miss"), (None, "hit")]
    cluster.advance(TTL_S)
    assert [cluster.reply(found, 1)[1:4:2] for _ in range(2)] == [(2, "miss"), (2, "hit")]
    cluster.advance(TTL_S)
    assert cluster.reply(found, 1).source == "hit"


def test_an_error_is_remembered_where_that_is_wanted_and_marked(cluster: Kit) -> None:
    marks = []
    for _ in range(3):
        with pytest.raises(HandlerFailed, match="KeyError: 404") as raised:
            cluster.request(found, 404)
        marks.append(raised.value.remembered)
    assert marks == [False, True, True]
    assert cluster.computations(found, 404) == 1
    cluster.advance(TTL_S)
    assert cluster.request(found, 404) == 2


def test_among_many_a_remembered_error_is_that_ids_alone(cluster: Kit) -> None:
    for remembered in (False, True):
        many = cluster.app.client.request_many([404, 1], "found", return_exceptions=True)
        assert many[1] is None
        assert (many[404].type, many[404].remembered) == ("KeyError", remembered)
    assert cluster.computations(found, 404) == 1


def test_an_error_that_is_not_listed_is_not_remembered(cluster: Kit) -> None:
    with pytest.raises(HandlerFailed, match="ValueError: 500"):
        cluster.request(found, 500)
    assert cluster.request(found, 500) == 2


def test_a_remembered_error_is_gone_when_it_is_invalidated(cluster: Kit) -> None:
    with pytest.raises(HandlerFailed):
        cluster.request(found, 404)
    assert cluster.invalidate(found, 404)
    assert cluster.request(found, 404) == 2


# --- by value ---


def test_a_handler_says_for_how_long_this_value_is_kept(cluster: Kit) -> None:
    assert [cluster.reply(own, 0)[1:4:2] for _ in range(2)] == [(1, "miss"), (2, "miss")]
    assert [cluster.reply(own, 1)[1:4:2] for _ in range(2)] == [(1, "miss"), (1, "hit")]
    cluster.advance(TTL_S)
    assert cluster.request(own, 1) == 2
    assert cluster.request(own, 3) == 1
    cluster.advance(TTL_S)
    assert cluster.reply(own, 3).source == "hit"


def test_a_ttl_that_is_none_is_the_handlers_error(cluster: Kit) -> None:
    with pytest.raises(HandlerFailed, match=r"ttl of a value is 0 to 86400 seconds, not -1"):
        cluster.request(own, 2)


def test_a_handler_that_keeps_nothing_any_more_takes_the_old_value_away(cluster: Kit) -> None:
    assert cluster.request(withdraws, 1) == 1
    cluster.advance(TTL_S)
    while (reply := cluster.reply(withdraws, 1)).source == "stale":
        cluster.advance(0.01)
    assert (reply.value, reply.source) == (3, "miss")


def test_a_hit_says_until_when_its_entry_lives_and_not_when_the_next_value_is_made(
    cluster: Kit,
) -> None:
    made, hit = cluster.reply(ahead, 5), cluster.reply(ahead, 5)
    (one,) = cluster.reply_many(ahead, [5]).values()
    assert isinstance(one, Reply)
    assert (made.source, hit.source, one.source) == ("miss", "hit", "hit")
    for reply in (hit, one):
        assert reply.expires_in_s + reply.age_s == pytest.approx(100 * TTL_S, abs=0.01)


# --- bounds ---


@both_kinds
def alone(request: pytest.FixtureRequest) -> Iterator[Kit]:
    """One node, whose values may take 12,000 bytes."""
    runs.clear()
    with request.param(app, nodes=1, max_bytes=12_000) as cluster:
        yield cluster


def sources(cluster: Kit, resource: Any, *ids: int) -> list[str]:
    return [cluster.reply(resource, id).source for id in ids]


def test_a_resource_keeps_no_more_values_than_it_may(alone: Kit) -> None:
    assert sources(alone, few, 1, 2, 1, 3) == ["miss", "miss", "hit", "miss"]
    assert sources(alone, few, 1, 3, 2) == ["hit", "hit", "miss"], "what was not used has gone"


def test_a_resource_keeps_no_more_bytes_than_it_may(alone: Kit) -> None:
    assert sources(alone, small, 1, 2, 3, 2, 3, 1) == [*["miss"] * 3, "hit", "hit", "miss"]
    assert sources(alone, small, 9, 9, 1) == ["miss", "miss", "hit"], "it takes no others' place"


def test_a_node_keeps_no_more_bytes_than_it_may(alone: Kit) -> None:
    assert sources(alone, large, 1, 2, 1) == ["miss", "miss", "hit"]
    assert sources(alone, large, 3, 1, 2) == ["miss", "hit", "miss"]


def test_bounds_hold_without_a_server_too() -> None:
    with app.at("local://"):
        replies = [few.reply(id).source for id in (1, 2, 1, 3, 1, 2)]
    assert replies == ["miss", "miss", "hit", "miss", "hit", "miss"]


# --- rates ---


def test_who_would_wait_beyond_its_time_for_a_run_is_refused_at_once(alone: Kit) -> None:
    assert alone.request(rare, 1) == 1
    before_s = alone.now_s
    with pytest.raises(Overloaded, match="the rate of rare") as refused:
        alone.request(rare, 2, timeout=10)
    assert isinstance(refused.value, RateLimited)
    assert 10 < (refused.value.retry_after_s or 0) <= 20
    assert alone.now_s - before_s < 9
    assert alone.reply(rare, 1).source == "hit", "what is kept needs no run"
    assert alone.computations(rare, 2) == 0


def test_who_has_time_waits_for_its_run(alone: Kit) -> None:
    begun_s = alone.now_s
    assert [alone.request(steady, 1, timeout=20) for _ in range(3)] == [1, 2, 3]
    assert alone.now_s - begun_s >= 4.0
    assert alone.request(steady, 2, timeout=1.9) == 1, "each id has its own"


def test_a_node_that_leaves_ends_what_waits_for_its_rate(cluster: Kit) -> None:
    owner = cluster.owner(1)
    assert owner
    assert cluster.request(steady, 1) == 1
    call = cluster.start(steady, 1)
    kit.eventually(
        lambda: call.done or sum(node.held for node in app.client.membership().nodes) == 1
    )
    assert cluster.owner(3) == owner
    cluster.request(price, 3)  # what it has popped before this is claimed, and so not moved
    cluster.leave(owner)
    assert call.result() == 2, "it has run where it was asked"
    cluster.assert_serial()


def test_a_rate_holds_without_a_server_too() -> None:
    with app.at("local://"):
        rare.request(1)
        with pytest.raises(RateLimited):
            rare.request(2)


# --- retries ---


@pytest.mark.parametrize("resource", [flaky, aflaky], ids=["function", "coroutine"])
def test_a_run_that_fails_is_tried_again(cluster: Kit, resource: Any) -> None:
    assert cluster.request(resource, 2) == 3
    assert cluster.computations(resource, 2) == 3
    with pytest.raises(HandlerFailed, match="once more"):
        cluster.request(resource, 3)
    assert cluster.computations(resource, 3) == 3


def test_what_is_not_listed_is_not_tried_again(cluster: Kit) -> None:
    with pytest.raises(HandlerFailed, match="never again"):
        cluster.request(flaky, 9)
    assert cluster.computations(flaky, 9) == 1
