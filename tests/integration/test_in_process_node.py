"""A node inside a program: what its program is answered without asking anyone, and what not."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex
from typing import Any

import pytest
import redis
from integration import kit
from integration.program import House, commands

from rqproc import App
from rqproc.errors import (
    ConfigError,
    InvalidId,
    NameTaken,
    NoLiveNode,
    RedisUnavailable,
    RequestTimeout,
)
from rqproc.lab.servers import ServerProcess

PATIENT: Any = {"lease_s": 60.0, "heartbeat_s": 20.0}
BRISK: Any = {"lease_s": 1.0, "heartbeat_s": 0.2}
STEADY: Any = {"lease_s": 10.0, "heartbeat_s": 0.2}
"""Where something comes with a heartbeat, and no lease has to end."""


@pytest.fixture
def house(shop_server: ServerProcess) -> Iterator[House]:
    house = House(shop_server.url, f"t{token_hex(4)}")
    yield house
    house.close()


@pytest.fixture
def other(house: House) -> Iterator[House]:
    other = house.beside()
    yield other
    other.close()


def found_here(house: House, id: int, *, node: str) -> None:
    """Ask until the node in this process answers from its entry."""

    def here() -> bool:
        reply = house.price.reply(id)
        return (reply.source, reply.node) == ("hit", node)

    kit.eventually(here)


# --- what is answered at once ---


@pytest.fixture
def alone(url: str) -> Iterator[House]:
    """The only one on its server: each command there is for its sake, however long it takes."""
    house = House(url, "alone")
    yield house
    house.close()


def test_a_hit_costs_no_command(alone: House, server: ServerProcess) -> None:
    with server.client() as redis, alone.app.node(name="me", **PATIENT):
        first = alone.price.reply(1)
        assert (first.source, first.node) == ("miss", "me")
        before = commands(redis)
        replies = [alone.price.reply(1) for _ in range(1000)]
        assert commands(redis) - before < 20, "those of an idle node, and our own"
    assert {(reply.source, reply.node, reply.token) for reply in replies} == {
        ("hit", "me", first.token)
    }
    assert replies[-1].value == first.value
    assert replies[-1].age_s > replies[0].age_s > 0
    assert alone.told.runs == {1: 1}


def test_another_process_gets_the_same_value(house: House) -> None:
    text = (
        "import json; from rqproc import Client\n"
        "with Client() as client: reply = client.reply(1, 'price')\n"
        "print(json.dumps([reply.source, reply.node, reply.value]))"
    )
    with house.app.node(name="me", **PATIENT) as node:
        value = house.price.request(1)
        assert house.price.reply(1).source == "hit"
        told = kit.script(text, house.app.url or "", house.app.namespace or "")
        assert node.server == house.app.client.server
    assert json.loads(told) == ["hit", "me", value]


def test_an_entry_is_found_for_its_ttl_and_never_after(house: House) -> None:
    with house.app.node(**PATIENT):
        first = house.brief.request(1)
        while (reply := house.brief.reply(1)).source == "hit":
            assert reply.value == first
            assert reply.age_s < 0.3
            assert reply.expires_in_s > 0
        assert reply.source == "miss"


def test_many_ids_are_found_here_and_asked_for_in_the_order_given(house: House) -> None:
    with house.app.node(**PATIENT):
        house.price.request(2)
        assert list(house.price.request_many([3, "2", 1])) == [3, "2", 1]
        assert house.told.runs == {2: 1, 3: 1, 1: 1}


def test_asyncio_finds_what_threads_have_computed(alone: House, server: ServerProcess) -> None:
    async def ask() -> list[str]:
        client = alone.app.async_client
        replies = [await client.reply(id, "price") for id in (1, 2, 2)]
        many = await alone.price.arequest_many([2, 1])
        assert list(many) == [2, 1]
        before = commands(redis)
        for _ in range(300):
            await alone.price.arequest(1)
        assert commands(redis) - before < 20
        await client.close()
        return [reply.source for reply in replies]

    with server.client() as redis, alone.app.node(**PATIENT):
        alone.price.request(1)
        assert asyncio.run(ask()) == ["hit", "miss", "hit"]


def test_what_is_found_counts_as_hits_of_the_node(house: House) -> None:
    with house.app.node(**STEADY):
        for _ in range(11):
            house.price.request(1)

        def counts() -> bool:
            (node,) = house.app.client.membership().nodes
            return (node.hits, node.misses) == (10, 1)

        kit.eventually(counts)


# --- what is not ---


def test_choke_points_and_misses_go_through_redis(house: House) -> None:
    with house.app.node(**PATIENT):
        assert [house.charge.reply(1).source for _ in range(2)] == ["miss", "miss"]
        assert house.charge.reply(1).token < house.charge.reply(1).token


def test_a_client_of_its_own_asks_the_cluster(house: House, shop_redis: redis.Redis) -> None:
    with house.app.node(**PATIENT), house.stranger() as client:
        client.request(1, "price")
        before = commands(shop_redis)
        assert client.reply(1, "price").source == "hit"
        assert commands(shop_redis) - before >= 2


def test_ids_are_checked_as_ever(house: House) -> None:
    with house.app.node(**PATIENT), pytest.raises(InvalidId):
        house.price.request("")


# --- invalidation ---


def test_an_invalidation_by_another_process_counts_once_it_was_answered(house: House) -> None:
    text = (
        "from rqproc import Client\nwith Client() as client: print(client.invalidate(1, 'price'))"
    )
    with house.app.node(**PATIENT):
        first = house.price.request(1)
        where = house.app.url or "", house.app.namespace or ""
        assert kit.script(text, *where) == "True"
        reply = house.price.reply(1)
    assert reply.source == "miss"
    assert reply.value["n"] > first["n"]


def test_nothing_older_than_an_invalidation_is_found_however_many_ask(house: House) -> None:
    def ask(until: threading.Event) -> None:
        while not until.is_set():
            house.price.request(1)

    over = threading.Event()
    with house.app.node(**PATIENT), house.stranger() as client, ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, over) for _ in range(3)]
        try:
            for _ in range(40):
                before = max(house.price.request(1)["n"], client.request(1, "price")["n"])
                client.invalidate(1, "price")
                assert house.price.request(1)["n"] > before
        finally:
            over.set()
        for asked in asking:
            asked.result()


def test_its_own_invalidation_counts_though_the_id_has_moved_unnoticed(
    house: House, other: House
) -> None:
    with house.app.node(name="a", **PATIENT):
        found_here(house, 1, node="a")
        with other.app.node(name="b", **PATIENT):
            assert house.app.client.owner(1) == "b"
            house.price.invalidate(1)
            reply = house.price.reply(1)
    assert (reply.source, reply.node) == ("miss", "b")


def test_what_its_program_sets_or_refreshes_is_found_at_once(house: House, other: House) -> None:
    with house.app.node(name="a", **PATIENT):
        found_here(house, 1, node="a")
        house.price.set(1, {"n": "given"})
        assert house.price.reply(1)[1:4] == ({"n": "given"}, "a", "hit")
        made = house.price.refresh(1)
        assert house.price.reply(1)[1:4] == (made, "a", "hit")
        with other.app.node(name="b", **PATIENT):
            assert house.app.client.owner(1) == "b"
            house.price.set(1, "newer")
            reply = house.price.reply(1)
    assert (reply.value, reply.node) == ("newer", "b")


def test_nothing_older_than_a_flush_by_its_program_is_found(house: House) -> None:
    with house.app.node(name="a", **PATIENT):
        for flush in (house.price.invalidate_all, house.app.client.invalidate_all):
            found_here(house, 1, node="a")
            before = house.price.request(1)["n"]
            flush()
            assert house.price.request(1)["n"] > before


# --- members ---


def test_ids_move_when_another_node_joins_and_come_back_when_it_leaves(
    house: House, other: House
) -> None:
    with house.app.node(name="a", **STEADY):
        kept = [house.price.request(id) for id in range(4)]
        with other.app.node(name="b", **STEADY):
            kit.eventually(lambda: house.price.reply(1).node == "b", within_s=5)
            assert [house.price.reply(id).node for id in range(4)] == ["a", "b", "a", "b"]
            assert [house.price.request(id) for id in (0, 2)] == [kept[0], kept[2]]
            found_here(other, 1, node="b")
        found_here(house, 1, node="a")


def test_an_invalidation_by_a_new_owner_counts_after_a_heartbeat(
    house: House, other: House
) -> None:
    with house.app.node(name="a", **STEADY), house.stranger() as client:
        first = house.price.request(1)
        found_here(house, 1, node="a")
        with other.app.node(name="b", **STEADY):
            client.invalidate(1, "price")
            kit.eventually(lambda: house.price.request(1)["n"] > first["n"], within_s=5)
            assert house.price.reply(1).node == "b"


def test_a_node_that_is_drained_from_elsewhere_finds_nothing_more(house: House) -> None:
    with house.app.node(name="a", **BRISK):
        house.price.request(1)
        house.app.client.drain("a")
        kit.eventually(lambda: not house.app.client.membership().nodes)
        with pytest.raises(NoLiveNode):
            house.price.request(1)


# --- handlers ---


def test_a_handler_finds_entries_too(house: House) -> None:
    with house.app.node(name="a", concurrency=1, **PATIENT):
        assert house.double.request(1) == {"of": "miss", "node": "a"}
        house.double.invalidate(1)
        assert house.double.request(1) == {"of": "hit", "node": "a"}


def test_a_coroutine_asks_from_its_own_loop_while_the_program_asks_from_another(
    house: House,
) -> None:
    async def ask() -> list[dict[str, Any]]:
        try:
            return [await house.adouble.arequest(id) for id in (1, 2, 3)]
        finally:
            await house.app.async_client.close()

    with house.app.node(name="a", **PATIENT):
        house.price.request(4)
        assert [found["of"] for found in asyncio.run(ask())] == ["miss", "miss", "hit"]


# --- entering and leaving ---


def test_who_runs_no_node_does_not_pay_for_one(shop_server: ServerProcess) -> None:
    text = (
        "import sys; from rqproc import App\n"
        "app = App(); app.client.members(); app.node\n"
        "print([name for name in sys.modules if name.startswith('rqproc.node')])\n"
        "app.client.close()"
    )
    assert kit.script(text, shop_server.url, "nobody-here") == "[]"


def test_it_leaves_nothing_behind(house: House) -> None:
    before = set(threading.enumerate())
    with house.app.node(**BRISK):
        house.price.request(1)
        house.adouble.request(1)
        assert len(house.app.client.members()) == 1
    assert set(threading.enumerate()) - before == set()
    assert house.app.client.members() == ()
    with pytest.raises(NoLiveNode):
        house.price.request(1)


def test_it_may_be_entered_again_and_knows_nothing_of_before(house: House) -> None:
    node = house.app.node(name="a", **BRISK)
    for n in (1, 2):
        with node as entered:
            assert entered.name == "a"
            assert house.price.reply(1).source == "miss"
            assert house.told.runs == {1: n}


def test_it_is_entered_in_any_thread(house: House) -> None:
    def live() -> str:
        with house.app.node(**STEADY):
            return house.price.reply(1).source + house.price.reply(1).source

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(live).result() == "misshit"


def test_an_app_has_one_node_at_a_time(house: House) -> None:
    with house.app.node(name="a", **BRISK):
        with pytest.raises(ConfigError, match="already"), house.app.node(name="b"):
            pass
        assert house.app.client.members() == ("a",)
        assert house.price.request(1)
    with house.app.node(name="b", **BRISK):
        assert house.app.client.members() == ("b",)


def test_a_name_that_is_taken_is_refused_on_entering(house: House, other: House) -> None:
    with house.app.node(name="a", lease_s=2.0, heartbeat_s=0.1):
        with pytest.raises(NameTaken), other.app.node(name="a", lease_s=2.0, heartbeat_s=0.1):
            pass
        with other.app.node(**BRISK) as node:
            assert node.name.endswith("-1")


def test_a_server_that_is_away_is_told_on_entering() -> None:
    app = App("redis://127.0.0.1:1")
    with pytest.raises(RedisUnavailable), app.node():
        pass


@pytest.mark.parametrize(
    "settings",
    [
        {"concurrency": 0},
        {"lease_s": "long"},
        {"speed": 11},
        {"strict": True},
        {"max_age_s": 60.0},
        {"max_requests": 5},
        {"name": "no name"},
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        App("redis://nowhere").node(**settings)


def test_a_handler_that_outlasts_the_drain_keeps_its_id(
    house: House, other: House, caplog: pytest.LogCaptureFixture
) -> None:
    (told, client) = (house.told, house.app.client)
    with (
        house.stranger() as stranger,
        ThreadPoolExecutor(1) as pool,
        other.app.node(name="b", **STEADY),
    ):
        with house.app.node(name="a", drain_s=0.0, **STEADY):
            kit.eventually(lambda: client.locate([0], "gated")[0].owner == "a")
            asked = pool.submit(stranger.request, 0, "gated")
            assert told.entered.wait(10)
        assert "has requests under way" in caplog.text
        (held,) = [node for node in client.membership().nodes if node.name == "a"]
        assert (held.state, held.held) == ("draining", 1)
        told.gate.set()
        assert asked.result()["node"] == "a"
        kit.eventually(lambda: client.members() == ("b",) == _names(house))
    assert told.runs == {0: 1}


def _names(house: House) -> tuple[str, ...]:
    return tuple(node.name for node in house.app.client.membership().nodes)


# --- what goes wrong ---


def _break(house: House, shop_redis: redis.Redis) -> None:
    """Write what no function would: the node cannot go on with a server that answers so."""
    shop_redis.set(house.app.client.keys.state + "epoch", "many")


def test_a_node_that_dies_answers_no_more_and_is_told_on_leaving(
    house: House, shop_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    sure = house.app.node(name="a", lease_s=60.0, heartbeat_s=0.2)
    with pytest.raises((IndexError, ValueError)), sure:  # noqa: PT012
        house.price.request(1)
        assert house.price.reply(1).source == "hit"
        _break(house, shop_redis)
        kit.eventually(lambda: "node a in this program has died" in caplog.text)
        with pytest.raises(RequestTimeout):
            house.price.with_options(timeout=0.2).request(1)
    died = [record for record in caplog.records if "has died" in record.message]
    assert died[0].levelno == logging.CRITICAL


def test_an_error_of_the_program_is_not_hidden_by_the_nodes(
    house: House, shop_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ZeroDivisionError) as caught, house.app.node(name="a", **BRISK):  # noqa: PT012
        _break(house, shop_redis)
        kit.eventually(lambda: "has died" in caplog.text)
        raise ZeroDivisionError
    assert "The node a in this program had died: " in caught.value.__notes__[0]


FORK = """
import os, sys, warnings
from rqproc import App

warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: it is meant
app = App(namespace=os.environ["RQPROC_NAMESPACE"])

@app.resource(ttl=60)
def price(id):
    return os.getpid()

with app.node(name="a"):
    assert price.request(1) == os.getpid()
    assert price.reply(1).age_s < price.reply(1).age_s, "found here"
    pid = os.fork()
    if pid == 0:
        ages = [price.reply(1).age_s for _ in range(20)]
        asked = all(round(age, 3) == age for age in ages), "whole milliseconds: by way of Redis"
        with app.node(name="b"):
            found = {price.reply(id).node for id in (0, 1)} == {"a", "b"}
            sys.stdout.write(f"{asked[0]} {found} ")
        sys.stdout.flush()
        # and out of the parent's node, which stays
    else:
        assert os.waitpid(pid, 0)[1] == 0
        print(price.reply(1).node, app.client.members())
app.client.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_child_of_a_fork_has_no_node_until_it_enters_its_own(house: House) -> None:
    said = kit.script(FORK, house.app.url or "", house.app.namespace or "")
    assert said == "True True a ('a',)"
