"""What a test may rely on, on whichever kind of cluster it runs: in memory and on real processes.

The kinds share nothing but the code of clients, nodes and functions; each fact here is tried on
both, so that the kit in memory cannot drift from the product.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from integration.fixtures import both_kinds

from rqproc import App, current
from rqproc.errors import (
    ConfigError,
    Crowded,
    HandlerFailed,
    HandlerTimeout,
    NoLiveNode,
    RedisUnavailable,
    RequestTimeout,
    UnknownResource,
)
from rqproc.testing import Kit

LEASE_S = 2.5
TTL_S = 2.0
LONG_S = 20.0

app = App()


@app.resource(ttl=LONG_S)
def price(id: Any) -> list[Any]:
    return [id, current().node, current().token]


@app.resource(ttl=TTL_S)
def moment(id: Any) -> float:
    return current().now()


@app.resource(ttl=LONG_S)
async def quote(id: Any) -> list[Any]:
    await asyncio.sleep(0.05)
    return [id, await price.arequest(id)]


@app.resource(ttl=0)
def total(id: Any, *ids: int) -> int:
    return sum(price.request(other)[0] for other in ids)


@app.resource(ttl=0)
def slow(id: Any, seconds: float) -> str:
    current().sleep(seconds)
    return current().node


@app.resource(ttl=0, timeout=0.3)
async def endless(id: Any) -> None:
    await asyncio.sleep(60)


@app.resource(ttl=LONG_S)
def broken(id: Any) -> None:
    raise LookupError(f"no {id}")


Make = Callable[..., AbstractContextManager[Kit]]


@both_kinds
def make(request: pytest.FixtureRequest) -> Make:
    """Makes clusters of one kind, with a short lease."""

    def make(nodes: int = 3, **settings: Any) -> AbstractContextManager[Kit]:
        brisk = {"lease_s": LEASE_S, "heartbeat_s": 0.2, **settings}
        made: AbstractContextManager[Kit] = request.param(app, nodes=nodes, **brisk)
        return made

    return make


@pytest.fixture
def cluster(make: Make) -> Iterator[Kit]:
    with make() as cluster:
        yield cluster


def advance_until(cluster: Kit, happened: Callable[[], bool]) -> None:
    """Let time pass until something is so, at the most 20 s."""
    until_s = cluster.now_s + 20
    while not happened():
        assert cluster.now_s < until_s
        cluster.advance(0.1)


# --- one place, one computation ---------------------------------------------------------------


def test_callers_at_once_share_one_computation(cluster: Kit) -> None:
    with cluster.hold(price, 42) as held:
        calls = [cluster.start(price, 42) for _ in range(20)]
        held.wait()
    assert len({str(call.result()) for call in calls}) == 1
    assert cluster.computations(price, 42) == 1
    assert {call.reply().source for call in calls} <= {"miss", "joined", "hit"}


def test_a_value_lives_for_its_ttl(cluster: Kit) -> None:
    before_s = cluster.now_s
    first = cluster.request(moment, 1)
    assert cluster.request(moment, 1) == first
    cluster.advance(TTL_S)
    lived_s = cluster.request(moment, 1) - first
    assert TTL_S - 0.1 <= lived_s <= cluster.now_s - before_s + 0.1
    assert cluster.computations(moment, 1) == 2


def test_the_owner_answers(cluster: Kit) -> None:
    for id in range(6):
        assert cluster.reply(price, id).node == cluster.owner(id)
    assert len({cluster.owner(id) for id in range(3)}) == 3


def test_many_ids_come_in_the_order_asked(cluster: Kit) -> None:
    ids = [5, "x", 3, 1]
    values = cluster.request_many(price, ids)
    assert list(values) == ids
    assert [value[0] for value in values.values()] == ids
    assert all(cluster.computations(price, id) == 1 for id in ids)


def test_runs_of_one_id_come_one_after_the_other(cluster: Kit) -> None:
    calls = [cluster.start(slow, 7, 0.05) for _ in range(5)]
    assert len({call.result() for call in calls}) == 1
    assert len(cluster.history.runs()) == 5
    cluster.assert_serial()


def test_an_invalidated_value_is_computed_anew(cluster: Kit) -> None:
    old = cluster.request(price, 1)
    assert cluster.invalidate(price, 1)
    assert not cluster.invalidate(price, 1)
    assert cluster.request(price, 1) != old


def test_many_invalidated_values_are_computed_anew(cluster: Kit) -> None:
    old = cluster.request_many(price, range(5))
    had = cluster.invalidate_many(price, [*range(4), 9])
    assert had == {0: True, 1: True, 2: True, 3: True, 9: False}
    new = cluster.request_many(price, range(5))
    assert [id for id in range(5) if new[id] == old[id]] == [4]


def test_tasks_that_ask_at_once_share_one_computation(cluster: Kit) -> None:
    async def ask() -> list[Any]:
        return await asyncio.gather(*(cluster.arequest(quote, 3) for _ in range(10)))

    values = asyncio.run(ask())
    assert values[1:] == values[:-1]
    assert cluster.computations(quote, 3) == cluster.computations(price, 3) == 1


def test_the_app_itself_asks_the_cluster_that_runs(cluster: Kit) -> None:
    assert price.request(8) == cluster.request(price, 8)
    assert app.client.members() == cluster.members()
    assert asyncio.run(price.arequest(8)) == price.request(8)
    assert cluster.computations(price, 8) == 1


def test_handlers_ask_the_cluster_too(cluster: Kit) -> None:
    assert cluster.request(total, 1, 10, 11, 12) == 33
    assert cluster.request(price, 11)[0] == 11
    assert cluster.computations(price, 11) == 1


def test_a_job_has_its_result(cluster: Kit) -> None:
    job = cluster.enqueue(price, 4)
    cluster.assert_nothing_lost()
    assert job.get_status(refresh=True) == "finished"
    assert job.return_value()[0] == 4


# --- errors -----------------------------------------------------------------------------------


def test_a_handlers_error_reaches_its_caller(cluster: Kit) -> None:
    with pytest.raises(HandlerFailed, match="no 1") as raised:
        cluster.request(broken, 1)
    assert raised.value.type == "LookupError"
    assert [event.kind for event in cluster.history.of("broken", 1)][-3:] == [
        "started",
        "raised",
        "refused",
    ]


def test_an_unknown_resource_is_named(cluster: Kit) -> None:
    with pytest.raises(UnknownResource, match="prize"):
        cluster.request("prize", 1)


def test_a_handler_that_takes_too_long_is_ended(cluster: Kit) -> None:
    with pytest.raises(HandlerTimeout):
        cluster.request(endless, 1)


def test_a_caller_gives_up_at_its_deadline(cluster: Kit) -> None:
    with cluster.hold(price, 1) as held:
        call = cluster.start(price, 1, timeout=2.0)
        held.wait()
        with pytest.raises(RequestTimeout):
            call.result()
        assert call.ended_s is not None
        assert call.ended_s >= call.due_s - 0.1
    cluster.assert_nothing_lost()


def test_where_no_node_lives_that_is_said_at_once(make: Make) -> None:
    with make(nodes=0) as cluster:
        assert cluster.members() == ()
        assert cluster.owner(1) is None
        began_s = cluster.now_s
        with pytest.raises(NoLiveNode):
            cluster.request(price, 1)
        assert cluster.now_s - began_s < 2.0


def test_what_is_too_much_for_one_id_is_refused(make: Make) -> None:
    with make(max_waiters=2) as cluster, cluster.hold(price, 1) as held:
        calls = [cluster.start(price, 1) for _ in range(2)]
        held.wait()
        with pytest.raises(Crowded):
            cluster.request(price, 1)
        held.release()
        assert {call.result()[0] for call in calls} == {1}


# --- nodes come and go ------------------------------------------------------------------------


def test_members_come_and_go(cluster: Kit) -> None:
    before = cluster.epoch
    assert cluster.join() == "node-4"
    assert cluster.members() == ("node-1", "node-2", "node-3", "node-4")
    cluster.leave("node-2")
    assert cluster.members() == ("node-1", "node-3", "node-4")
    assert cluster.epoch == before + 2


def test_who_leaves_finishes_what_it_holds(cluster: Kit) -> None:
    owner = cluster.owner(1)
    assert owner
    with cluster.hold(slow, 1) as held:
        call = cluster.start(slow, 1, 0.3)
        held.wait()
    cluster.leave(owner)
    assert call.result() == owner
    assert cluster.request(slow, 1, 0) != owner
    cluster.assert_nothing_lost()


def test_a_call_survives_the_death_of_the_owner(cluster: Kit) -> None:
    with cluster.hold(price, 42) as held:
        call = cluster.start(price, 42)
        held.wait()
        dead = cluster.owner(42)
        assert dead
        killed_s = cluster.now_s
        cluster.kill(dead)
        held.wait(2)
    assert call.reply().node != dead
    assert dead not in cluster.members()
    assert cluster.now_s - killed_s < LEASE_S + 4
    cluster.assert_serial()
    cluster.assert_nothing_lost()


def test_the_name_of_the_dead_is_free_when_the_lease_is_over(cluster: Kit) -> None:
    cluster.kill("node-2")
    assert cluster.join("node-2") == "node-2"
    assert cluster.members() == ("node-1", "node-2", "node-3")


def test_a_paused_node_never_answers_with_an_old_value(cluster: Kit) -> None:
    old = cluster.reply(price, 42)
    cluster.pause(old.node)
    cluster.advance(LEASE_S * 1.5)
    new = cluster.reply(price, 42)
    assert new.node != old.node
    cluster.resume(old.node)
    assert cluster.request(price, 42) != old.value


def test_what_a_paused_node_has_computed_too_late_reaches_nobody(cluster: Kit) -> None:
    with cluster.hold(price, 42) as held:
        call = cluster.start(price, 42)
        held.wait()
        late = cluster.owner(42)
        assert late
        cluster.pause(late)
        held.wait(2)
    assert call.reply().node != late
    cluster.resume(late)
    cluster.advance(LEASE_S)
    assert cluster.computations(price, 42) == 2
    assert cluster.request(price, 42)[2] >= call.reply().token
    cluster.assert_serial()
    overlaps = cluster.history.overlaps(strict=True)
    assert [run.node for run, _ in overlaps] == [late]


def test_a_node_that_is_cut_off_is_replaced_and_comes_back(cluster: Kit) -> None:
    away = cluster.reply(price, 42).node
    cluster.partition(away)
    assert cluster.reply(price, 42).node in (away, *cluster.members())
    cluster.advance(LEASE_S * 1.5)
    assert cluster.reply(price, 42).node != away
    assert away not in cluster.members()
    cluster.heal(away)
    advance_until(cluster, lambda: away in cluster.members())


# --- the server -------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["client", "node-1", "node-2", "node-3"])
def test_a_lost_reply_makes_nothing_run_twice(cluster: Kit, who: str) -> None:
    for id in range(3):
        assert cluster.request(slow, id, 0) == cluster.owner(id)
    cluster.lose_reply(who)
    for id in range(3):
        assert cluster.request(slow, id, 0) == cluster.owner(id)
        assert cluster.computations(slow, id) == 2


def test_a_short_outage_of_redis_is_waited_for(cluster: Kit) -> None:
    cluster.request(price, 1)
    cluster.redis_down()
    call = cluster.start(price, 2)
    cluster.advance(0.3)
    cluster.redis_up()
    assert call.result()[0] == 2
    cluster.assert_nothing_lost()


def test_a_long_outage_of_redis_is_named(cluster: Kit) -> None:
    cluster.redis_down()
    with pytest.raises(RedisUnavailable):
        cluster.request(price, 1)
    cluster.redis_up()
    advance_until(cluster, lambda: cluster.members() == ("node-1", "node-2", "node-3"))
    assert cluster.request(price, 1)[0] == 1


# --- what is told -----------------------------------------------------------------------------


def test_the_history_tells_what_happened_in_its_order(cluster: Kit) -> None:
    cluster.request(price, 1)
    found = cluster.history.of("price", 1)
    assert [event.kind for event in found] == ["asked", "started", "returned", "answered"]
    assert {event.node for event in found if event.kind != "asked"} == {cluster.owner(1)}
    times = [event.at_s for event in cluster.history]
    assert times == sorted(times)


def test_tokens_grow_from_run_to_run(cluster: Kit) -> None:
    for _ in range(3):
        cluster.request(slow, 1, 0)
    tokens = [run.token for run in cluster.history.runs()]
    assert tokens == sorted(set(tokens))


def test_asynchronous_handlers_are_held_too(cluster: Kit) -> None:
    with cluster.hold(quote, 1) as held:
        call = cluster.start(quote, 1)
        held.wait()
        assert not call.done
    assert call.result()[0] == 1


def test_of_several_holds_the_last_that_is_not_released_holds(cluster: Kit) -> None:
    with cluster.hold(price, 1) as outer:
        with cluster.hold(price, 1) as inner:
            inner.release()
            call = cluster.start(price, 1)
            outer.wait()
        assert not call.done
    assert call.result()[0] == 1


def test_what_is_no_resource_of_the_app_cannot_be_held(cluster: Kit) -> None:
    with pytest.raises(ConfigError, match="no resource 'prize'"), cluster.hold("prize", 1):
        raise AssertionError("entered")
