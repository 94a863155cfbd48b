"""An entry answers until its ttl has passed or it is dropped, and never after."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from integration.fixtures import Cluster, Fresh
from integration.kit import Book

from rqproc import AsyncClient, Client
from rqproc.errors import UnknownResource

TTL_S = 2.0  # of the resource `brief`


def test_a_value_is_kept_for_its_ttl_and_new_after_it(client: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    first = client.reply(id, "brief")
    assert first.source == "miss"
    assert first.age_s + first.expires_in_s == pytest.approx(TTL_S, abs=0.01)
    again = client.reply(id, "brief")
    assert (again.source, again.value) == ("hit", first.value)
    assert again.token == first.token
    asked_at = time.monotonic()
    while (last := client.reply(id, "brief")).source == "hit":
        assert last.value == first.value
        assert last.age_s <= TTL_S
        assert last.expires_in_s == pytest.approx(TTL_S - last.age_s, abs=0.01)
        assert time.monotonic() - asked_at < 5
    assert last.source == "miss"
    assert last.value["n"] == 2
    assert last.token > first.token


def test_a_dropped_entry_is_computed_anew(client: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    client.request(id, "price")
    assert client.invalidate(id, "price") is True
    assert client.invalidate(id, "price") is False
    reply = client.reply(id, "price")
    assert (reply.source, reply.value["n"]) == ("miss", 2)


def test_many_entries_are_dropped_at_once(client: Client, ids: Fresh) -> None:
    some, others = ids(300), ids(2)
    client.request_many([*some[:150], *others], "price")
    had = client.invalidate_many([*some, str(some[0])], "price")
    assert had == {id: id in some[:150] for id in some} | {str(some[0]): True}
    values = client.request_many([*some, *others], "price")
    assert {id: value["n"] for id, value in values.items()} == {
        id: 2 if id in some[:150] else 1 for id in [*some, *others]
    }


def test_each_of_many_that_cannot_be_dropped_says_so(client: Client) -> None:
    with pytest.raises(UnknownResource):
        client.invalidate_many([1, 2], "nothing")
    found = client.invalidate_many([1, 2], "nothing", return_exceptions=True)
    assert [type(found[id]) for id in (1, 2)] == [UnknownResource] * 2
    assert client.invalidate_many([], "price") == {}


def test_an_id_is_dropped_alone(client: Client, ids: Fresh) -> None:
    one, other = ids(2, of=0, modulo=3)
    client.request_many([one, other], "price")
    client.request(one, "aprice")
    client.invalidate(one, "price")
    assert client.reply(other, "price").source == "hit"
    assert client.reply(one, "aprice").source == "hit"


def test_a_value_that_is_being_computed_when_its_id_is_dropped_is_not_kept(
    client: Client, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(client.reply, id, "slow_price")
        book.started("slow_price", id)
        assert client.invalidate(id, "slow_price") is True
        late = pool.submit(client.reply, id, "slow_price")
        book.release("slow_price", id)
        assert early.result().value["n"] == 1
        book.started("slow_price", id)
        book.release("slow_price", id)
        assert (late.result().source, late.result().value["n"]) == ("miss", 2)
    assert client.reply(id, "slow_price").value["n"] == 2


def test_an_asyncio_caller_hits_what_a_blocking_one_has_computed(
    shop: str, client: Client, ids: Fresh
) -> None:
    (id,) = ids(1)
    client.request(id, "aprice")

    async def ask() -> str:
        async with AsyncClient(shop, namespace="shop") as caller:
            return (await caller.reply(id, "aprice")).source

    assert asyncio.run(ask()) == "hit"


def test_entries_past_the_limit_go_the_least_recently_used_first(
    cluster: Cluster, ids: Fresh
) -> None:
    cluster.start("a", options=("--max-entries", "2"))
    one, two, three = ids(3)
    for id in (one, two, one, three):
        cluster.client.request(id, "price")
    assert cluster.client.reply(one, "price").source == "hit"
    assert cluster.client.reply(three, "price").source == "hit"
    assert cluster.client.reply(two, "price").source == "miss"


def test_a_node_that_has_just_started_keeps_its_first_entries(cluster: Cluster, ids: Fresh) -> None:
    cluster.start("a", options=("--lease", "5", "--heartbeat", "0.3"))
    (id,) = ids(1)
    assert cluster.client.reply(id, "price").source == "miss"
    end = time.monotonic() + 1.0  # the first beats have come and gone by then
    sources = set()
    while time.monotonic() < end:
        sources.add(cluster.client.reply(id, "price").source)
    assert sources == {"hit"}
