"""Values that are made anew, or given, by a caller: in the order of the runs of their ids."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from integration import kit
from integration.fixtures import ANYWHERE, Fresh, served
from integration.kit import Book

from rqproc import App, Client, Reply
from rqproc.errors import ConfigError, HandlerFailed, PayloadTooLarge, RequestCycle
from rqproc.testing import Kit, LocalCluster

LONG_S = 60.0

app = App()
runs: list[object] = []


@app.resource(ttl=LONG_S, stale_on_error=LONG_S)
def price(id: object) -> int:
    runs.append(id)
    if id == "away" and runs.count(id) > 1:
        raise ConnectionError("upstream is away")
    return runs.count(id)


@app.resource(ttl=0)
def charge(id: object) -> int:
    return 1


@app.resource(ttl=LONG_S)
def itself(id: int) -> object:
    return itself.refresh(id)


@pytest.fixture(params=ANYWHERE)
def anywhere(request: pytest.FixtureRequest) -> Iterator[App]:
    runs.clear()
    with served(app, request.param, nodes=2):
        yield app


def test_a_refreshed_value_is_made_now_and_kept(anywhere: App) -> None:
    assert [price.request(1), price.refresh(1), price.request(1)] == [1, 2, 2]
    reply = app.client.refresh(2, "price")
    assert (reply.value, reply.source) == (1, "miss")
    assert price.reply(2).source == "hit"


def test_many_values_are_refreshed_together(anywhere: App) -> None:
    price.request_many([1, 2])
    made = app.client.refresh_many([1, 2, 3], "price")
    assert {id: getattr(reply, "value", reply) for id, reply in made.items()} == {1: 2, 2: 2, 3: 1}
    assert price.request_many([1, 2, 3]) == {1: 2, 2: 2, 3: 1}


def test_a_refresh_that_fails_raises_and_leaves_the_old_value(anywhere: App) -> None:
    assert price.request("away") == 1
    with pytest.raises(HandlerFailed, match="upstream is away"):
        price.refresh("away")
    reply = price.reply("away")
    assert (reply.value, reply.source) == (1, "hit")


def test_a_value_that_is_set_is_served_and_nothing_is_run(anywhere: App) -> None:
    assert price.set(1, {"cents": [5, None]}) is True
    reply = price.reply(1)
    assert (reply.value, reply.source, runs) == ({"cents": [5, None]}, "hit", [])
    assert 0 < reply.expires_in_s <= LONG_S
    price.set(1, 7, ttl=5)
    reply = price.reply(1)
    assert reply.value == 7
    assert 0 < reply.expires_in_s <= 5
    assert price.set(1, 8, ttl=0) is False
    assert price.request(1) == 1


def test_an_invalidation_drops_what_was_set(anywhere: App) -> None:
    price.set(1, 7)
    assert price.invalidate(1) is True
    assert price.request(1) == 1


def test_what_cannot_be_kept_is_refused(anywhere: App) -> None:
    for change in (lambda: charge.refresh(1), lambda: charge.set(1, 2)):
        with pytest.raises(HandlerFailed, match="keeps no values"):
            change()
    for bad in (object(), float("nan"), {1: "a", "1": "b"}):
        with pytest.raises(ConfigError, match="JSON"):
            price.set(1, bad)
    for ttl in (-1, "x", 10**9):
        with pytest.raises(ConfigError, match="0 to 86400 seconds"):
            price.set(1, 1, ttl=ttl)  # type: ignore[arg-type]
    with pytest.raises(PayloadTooLarge):
        price.set(1, "x" * 70_000)


def test_a_handler_that_refreshes_its_own_id_is_told_so(anywhere: App) -> None:
    with pytest.raises((RequestCycle, HandlerFailed), match=r"RequestCycle|waits for itself"):
        itself.request(1)


def test_the_test_kit_sets_and_refreshes() -> None:
    runs.clear()
    cluster: Kit
    with LocalCluster(app, nodes=2) as cluster:
        assert cluster.set(price, 1, 7)
        assert [cluster.request(price, 1), cluster.refresh(price, 1)] == [7, 1]


# --- in order, on real nodes ---


def test_a_value_that_is_set_during_a_run_takes_the_place_of_what_comes_of_it(
    client: Client, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    with ThreadPoolExecutor(3) as pool:
        early, given = set_during_a_run(pool, client, book, id)
        late = pool.submit(client.reply, id, "slow_price")
        kit.until_taken(client, [id], 3)
        assert not given.done(), "it waits in the lane of its id"
        book.release("slow_price", id)
        assert early.result().value["n"] == 1
        assert given.result() is True
        assert (late.result().value, late.result().source) == ("given", "joined")
    assert client.reply(id, "slow_price").value == "given"
    assert book.count("slow_price", id) == 1


def test_a_refresh_during_a_run_has_another_made_which_others_join(
    client: Client, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    with ThreadPoolExecutor(4) as pool:
        early = pool.submit(client.reply, id, "slow_price")
        book.started("slow_price", id)
        late = [pool.submit(client.refresh, id, "slow_price") for _ in range(2)]
        kit.until_taken(client, [id], 3)
        joins = pool.submit(client.reply, id, "slow_price")
        kit.until_taken(client, [id], 4)
        book.release("slow_price", id)
        assert early.result().value["n"] == 1
        book.started("slow_price", id)
        book.release("slow_price", id)
        assert {one.result().value["n"] for one in (*late, joins)} == {2}
    assert client.reply(id, "slow_price").value["n"] == 2
    assert book.count("slow_price", id) == 2


def test_what_was_set_or_refreshed_before_an_invalidation_is_not_kept(
    client: Client, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    with ThreadPoolExecutor(3) as pool:
        early, given = set_during_a_run(pool, client, book, id)
        assert client.invalidate(id, "slow_price") is True
        book.release("slow_price", id)
        assert early.result().value["n"] == 1
        assert given.result() is False
        after = pool.submit(client.reply, id, "slow_price")
        book.started("slow_price", id)
        book.release("slow_price", id)
        assert (after.result().value["n"], after.result().source) == (2, "miss")


def test_near_caches_hear_of_what_is_set_and_refreshed(
    shop: str, client: Client, ids: Fresh
) -> None:
    (id,) = ids(1)
    with Client(shop, namespace="shop", near=10) as near:
        for change in (
            lambda: client.set(id, {"n": "given"}, "price"),
            lambda: client.refresh(id, "price"),
        ):
            kit.eventually(lambda: near.reply(id, "price").source == "near")
            change()
            now = client.request(id, "price")
            kit.promptly(lambda now=now: near.request(id, "price") == now, within_s=1.0)
        kit.eventually(lambda: near.reply(id, "price").source == "near")
        assert near.set(id, "own", "price") is True
        assert near.request(id, "price") == "own", "it need not wait for what is published"


def set_during_a_run(
    pool: ThreadPoolExecutor, client: Client, book: Book, id: int
) -> tuple[Future[Reply], Future[bool]]:
    """Return what asks for the value that is being made, and what sets it: that waits."""
    early = pool.submit(client.reply, id, "slow_price")
    book.started("slow_price", id)
    given = pool.submit(client.set, id, "given", "slow_price")
    kit.until_taken(client, [id], 2)
    return early, given
