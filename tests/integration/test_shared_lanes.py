"""Several resources in one lane: of an id one run at a time, of all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from integration.fixtures import both_kinds

from rqproc import App, current
from rqproc.errors import ConfigError, HandlerFailed, HandlerTimeout, RequestCycle
from rqproc.testing import Kit

app = App()


@app.resource(ttl=0, lane="tenant")
def charge(id: Any, amount: int = 0) -> list[Any]:
    return [current().resource, current().id, amount]


@app.resource(ttl=0, lane="tenant")
async def refund(id: Any, amount: int = 0) -> list[Any]:
    await asyncio.sleep(0)
    return [current().resource, current().id, -amount]


@app.resource(ttl=0, lane="tenant", timeout=0.2)
async def brisk(id: Any) -> None:
    await asyncio.sleep(60)


@app.resource(ttl=0, lane="tenant")
def asks_itself(id: Any) -> Any:
    return charge.request(id, 1)


@app.resource(ttl=0)
def other(id: Any) -> int:
    return 1


@both_kinds
def cluster(request: pytest.FixtureRequest) -> Iterator[Kit]:
    with request.param(app, nodes=2) as cluster:
        yield cluster


def test_each_is_run_with_its_own_arguments_and_name(cluster: Kit) -> None:
    assert cluster.request(charge, 1, 5) == ["charge", 1, 5]
    assert cluster.request(refund, 1, amount=5) == ["refund", 1, -5]


def test_of_one_id_none_runs_beside_another(cluster: Kit) -> None:
    with cluster.hold(charge, 1) as held:
        first = cluster.start(charge, 1, 5)
        held.wait()
        second, elsewhere = cluster.start(refund, 1, 5), cluster.start(refund, 2, 5)
        job = cluster.enqueue(refund, 1, 6)
        assert elsewhere.result() == ["refund", 2, -5]
        assert cluster.request(other, 1) == 1, "what is in no lane"
        assert cluster.computations(refund, 1) == 0
    assert (first.result(), second.result()) == (["charge", 1, 5], ["refund", 1, -5])
    cluster.assert_nothing_lost()
    assert job.return_value() == ["refund", 1, -6]


def test_nor_at_the_next_owner_while_the_one_before_is_at_it(cluster: Kit) -> None:
    before = cluster.owner(3)
    with cluster.hold(charge, 3) as held:
        first = cluster.start(charge, 3, 5)
        held.wait()
        cluster.join()
        cluster.join()
        assert cluster.owner(3) != before
        second = cluster.start(refund, 3, 5)
        cluster.advance(0.5)
        assert cluster.computations(refund, 3) == 0
    assert (first.result(), second.result()) == (["charge", 3, 5], ["refund", 3, -5])


def test_a_killed_nodes_runs_of_all_of_them_go_to_the_next_owner(cluster: Kit) -> None:
    owner = cluster.owner(1)
    assert owner
    with cluster.hold(charge, 1) as held:
        calls = [cluster.start(charge, 1, 5, timeout=40), cluster.start(refund, 1, 5, timeout=40)]
        held.wait()
        cluster.kill(owner)
    assert [call.result() for call in calls] == [["charge", 1, 5], ["refund", 1, -5]]


def test_who_asks_for_its_own_lane_is_told_of_the_circle(cluster: Kit) -> None:
    with pytest.raises((RequestCycle, HandlerFailed), match="must not ask for an id that waits"):
        cluster.request(asks_itself, 1)


def test_each_has_its_own_time_limit(cluster: Kit) -> None:
    with pytest.raises(HandlerTimeout):
        cluster.request(brisk, 1)
    assert cluster.request(charge, 1, 5) == ["charge", 1, 5]


def test_a_client_without_the_code_asks_for_the_lane(cluster: Kit) -> None:
    value = cluster.client.request(1, "tenant", args=("charge", 5))
    assert value == ["charge", 1, 5]
    with pytest.raises(HandlerFailed, match=r"resource='tenant' with args=\('charge', ...\)"):
        cluster.client.request(1, "charge", args=(5,))
    for args in ((), ("prize",), (7,)):
        with pytest.raises(HandlerFailed, match="give one as the first argument"):
            cluster.client.request(1, "tenant", args=args)


def test_without_a_server_it_is_the_same() -> None:
    with app.at("local://"):
        assert charge.request(1, 5) == ["charge", 1, 5]
        assert asyncio.run(refund.arequest("1", 5)) == ["refund", 1, -5]
        assert charge.with_options(timeout=5).request(1) == ["charge", 1, 0]
        with pytest.raises((RequestCycle, HandlerFailed), match="must not ask"):
            asks_itself.request(1)


def test_where_no_node_can_answer_it_is_run_here() -> None:
    alone = App("redis://127.0.0.1:1")

    @alone.resource(ttl=0, lane="tenant", on_lost="local")
    def charge(id: Any, amount: int) -> int:
        return amount

    assert charge.reply(1, 5)[1:4] == (5, charge.reply(1, 6).node, "local")


# --- what is declared ---


def test_what_keeps_values_is_in_no_lane() -> None:
    with pytest.raises(ConfigError, match="lane is for ttl=0"):
        App().resource(ttl=5, name="a", lane="tenant")(lambda id: id)


def test_a_lane_has_a_name_of_its_own() -> None:
    mine = App()
    mine.resource(ttl=0, name="tenant")(lambda id: id)
    with pytest.raises(ConfigError, match="which is no lane"):
        mine.resource(ttl=0, name="a", lane="tenant")(lambda id: id)
    with pytest.raises(ConfigError, match="invalid resource name"):
        mine.resource(ttl=0, name="b", lane="not a name")(lambda id: id)
    assert list(mine.resources) == ["tenant"]


def test_many_at_once_take_no_arguments_and_so_no_lane() -> None:
    for many in (charge.request_many, charge.enqueue_many):
        with pytest.raises(ConfigError, match="one id at a time"):
            many([1, 2])
