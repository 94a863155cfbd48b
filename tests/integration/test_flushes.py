"""All entries of a resource, or of a namespace, are dropped at once: no request that is made after
that is answered with anything older."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from integration import kit
from integration.fixtures import ANYWHERE, Cluster, Fresh, served
from integration.kit import Book

from rqproc import App, Client
from rqproc.errors import UnknownResource

IDS = range(6)

app = App()
runs: list[object] = []


@app.resource(ttl=60)
def price(id: Any) -> int:
    runs.append(("price", id))
    return runs.count(("price", id))


@app.resource(ttl=60, stale_ttl=60, name="other-price")
def other(id: Any) -> int:
    runs.append(("other", id))
    return runs.count(("other", id))


@pytest.fixture(params=ANYWHERE)
def anywhere(request: pytest.FixtureRequest) -> Iterator[App]:
    runs.clear()
    with served(app, request.param, nodes=3):
        yield app


def test_a_resource_is_flushed_alone(anywhere: App) -> None:
    for n in (1, 2, 3):
        assert set(price.request_many(IDS).values()) == {n}
        assert set(price.request_many(IDS).values()) == {n}
        assert set(other.request_many(IDS).values()) == {1}
        price.invalidate_all()
    other.invalidate_all()
    assert set(other.request_many(IDS).values()) == {2}


def test_a_namespace_is_flushed_as_a_whole(anywhere: App) -> None:
    for n in (1, 2, 3):
        assert set(price.request_many(IDS).values()) == {n}
        assert set(other.request_many(IDS).values()) == {n}
        app.client.invalidate_all()
    price.set(1, "given")
    app.client.invalidate_all()
    assert price.invalidate(1) is False, "there is nothing left"


def test_a_resource_that_nobody_declares_is_not_flushed(anywhere: App) -> None:
    with pytest.raises(UnknownResource):
        app.client.invalidate_all("nothing")


# --- on real nodes ---


def test_what_is_computed_during_a_flush_is_neither_kept_nor_joined(
    client: Client, book: Book, ids: Fresh
) -> None:
    some = ids(3)
    with ThreadPoolExecutor(6) as pool:
        early = [pool.submit(client.reply, id, "slow_price") for id in some]
        for id in some:
            book.started("slow_price", id)
        client.invalidate_all("slow_price")
        late = [pool.submit(client.reply, id, "slow_price") for id in some]
        kit.until_taken(client, some, 6)
        for id in some:
            book.release("slow_price", id)
        assert [one.result().value["n"] for one in early] == [1] * 3
        for id in some:
            book.started("slow_price", id)
            book.release("slow_price", id)
        assert [one.result().value["n"] for one in late] == [2] * 3
    assert [client.reply(id, "slow_price").value["n"] for id in some] == [2] * 3


def test_a_node_that_is_paused_during_a_flush_serves_nothing_older_when_it_goes_on(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    a, b = cluster.start("a", "b", options=("--lease", "10", "--heartbeat", "0.3"))
    some = ids(8)
    client = cluster.client
    client.request_many(some, "price")
    asked = client.owner("*")
    paused, others = (a, "b") if asked == "b" else (b, "a")
    mine = [id for id in some if client.owner(id) != others]
    paused.signal(signal.SIGSTOP)
    try:
        client.invalidate_all("price")
        with ThreadPoolExecutor(8) as pool:
            late = [pool.submit(client.request, id, "price") for id in mine]
            rest = [id for id in some if id not in mine]
            assert {client.request(id, "price")["n"] for id in rest} == {2}
            paused.signal(signal.SIGCONT)
            assert {one.result()["n"] for one in late} == {2}
    finally:
        paused.signal(signal.SIGCONT)


def test_near_caches_hear_of_a_flush(shop: str, client: Client, ids: Fresh) -> None:
    one, another = ids(2)
    with Client(shop, namespace="shop", near=10) as near:

        def leaves_another(resource: str | None) -> bool:
            kit.eventually(lambda: near.reply(one, "price").source == "near")
            kit.eventually(lambda: near.reply(another, "aprice").source == "near")
            before = near.request(one, "price")["n"]
            client.invalidate_all(resource)
            kit.eventually(lambda: near.request(one, "price")["n"] > before)
            return near.reply(another, "aprice").source == "near"

        # A server that is late with its word ends the trust in all that is kept; not each time.
        assert any(leaves_another("price") for _ in range(3))
        assert not leaves_another(None)
        kit.eventually(lambda: near.reply(one, "price").source == "near")
        before = near.request(one, "price")["n"]
        near.invalidate_all("price")
        assert near.request(one, "price")["n"] > before, "it need not wait for what is published"
