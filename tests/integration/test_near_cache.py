"""Replies that a caller keeps for itself: as fresh as their owners', gone when they are dropped."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import redis
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from watch import Watch

from rqproc import App, AsyncClient, Client
from rqproc.calls import subscription
from rqproc.errors import HandlerFailed
from rqproc.model import Reply

TTL_S = 2.0  # of the resource `brief`
PATIENT = ("--lease", "10", "--heartbeat", "0.3")


@pytest.fixture(autouse=True)
def trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here nothing is to end it: a busy machine may be late for two seconds."""
    monkeypatch.setattr(subscription, "TRUST_S", 10.0)


@pytest.fixture
def caller(shop: str) -> Iterator[Client]:
    with Client(shop, namespace="shop", near=100) as caller:
        yield caller


def kept(caller: Client, id: object, resource: str = "price") -> Reply:
    """Wait until an id is served from the caller's memory."""

    def look() -> Reply | None:
        reply = caller.reply(id, resource)  # type: ignore[arg-type]
        return reply if reply.source == "near" else None

    found = kit.eventually(look, what="a reply of its own")
    assert found
    return found


def reads(server: redis.Redis) -> int:
    """How often callers have been answered by way of the server."""
    return int(server.info("commandstats").get("cmdstat_publish", {"calls": 0})["calls"])


def listeners(server: redis.Redis) -> int:
    channels = server.pubsub_channels("rqproc:*:dropped")
    return sum(count for _, count in server.pubsub_numsub(*channels)) if channels else 0


def test_a_hit_costs_the_server_nothing(caller: Client, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    story = kept(caller, id)
    assert story.value["n"] == 1
    before = reads(book.redis)
    for _ in range(100):
        assert caller.request(id, "price") == story.value
        assert caller.request(str(id), resource="price") == story.value
        assert caller.reply(id, "price").source == "near"
        assert caller.request_many([id, str(id)], "price") == {
            id: story.value,
            str(id): story.value,
        }
    assert reads(book.redis) == before


def test_a_client_keeps_nothing_unless_it_is_told_to(client: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    assert [client.reply(id, "price").source for _ in range(3)] == ["miss", "hit", "hit"]


def test_its_story_is_the_owners(caller: Client, client: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    mine, owners = kept(caller, id), client.reply(id, "price")
    assert (mine.node, mine.token, mine.value) == (owners.node, owners.token, owners.value)
    assert mine.age_s + mine.expires_in_s == pytest.approx(60, abs=0.01)
    assert mine.expires_in_s <= 60


def test_it_is_gone_when_its_owners_is(caller: Client, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    first = kept(caller, id, "brief")
    ends_at = time.monotonic() + first.expires_in_s
    while (last := caller.reply(id, "brief")).source == "near":
        assert last.age_s <= TTL_S
        assert time.monotonic() < ends_at + 1.0
    assert last.token >= first.token
    kit.eventually(lambda: caller.reply(id, "brief").value["n"] > first.value["n"])


def test_a_choke_points_requests_are_all_run(caller: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    kept(caller, id)
    assert [caller.request(id, "charge")["n"] for _ in range(3)] == [1, 2, 3]
    assert [caller.request(id, "charge", args=("x",))["n"] for _ in range(2)] == [4, 5]


def test_many_ids_are_asked_for_as_far_as_they_are_not_kept(caller: Client, ids: Fresh) -> None:
    asked = ids(6)
    for id in asked[::2]:
        kept(caller, id)
    found = caller.reply_many(asked, "price")
    assert list(found) == asked
    assert [reply.source for reply in found.values()] == ["near", "miss"] * 3  # type: ignore[union-attr]
    assert {caller.reply(id, "price").source for id in asked} == {"near"}


def test_an_asyncio_caller_keeps_replies_too(shop: str, book: Book, ids: Fresh) -> None:
    asked = ids(3)

    async def ask() -> list[str]:
        async with AsyncClient(shop, namespace="shop", near=100) as caller:
            while (await caller.reply(asked[0], "price")).source != "near":
                await asyncio.sleep(0.005)
            before = reads(book.redis)
            assert (await caller.request(asked[0], "price"))["n"] == 1
            assert (await caller.request_many(asked[:1], "price"))[asked[0]]["n"] == 1
            assert reads(book.redis) == before
            await caller.request_many(asked, "price")
            return [(await caller.reply(id, "price")).source for id in asked]

    assert asyncio.run(ask()) == ["near"] * 3


def test_what_a_caller_does_to_its_value_is_its_own_affair(caller: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    value = kept(caller, id).value
    caller.request(id, "price").clear()
    caller.reply(id, "price").value["n"] = 99
    assert caller.request(id, "price") == value


# --- for which resources ---


def test_a_resource_is_kept_where_it_says_so_and_no_other(shop: str, ids: Fresh) -> None:
    app = App(shop, namespace="shop")

    @app.resource(ttl=60, near=True)
    def price(id: object) -> None: ...

    @app.resource(ttl=60)
    def aprice(id: object) -> None: ...

    (id,) = ids(1)
    with app.client:
        kept(app.client, id)
        assert price.with_options(timeout=5).reply(id).source == "near"
        assert price.request(id) == app.client.request(id, "price")
        assert [aprice.reply(id).source for _ in range(2)] == ["miss", "hit"]
        price.invalidate(id)
        assert price.reply(id).source == "miss"


def test_a_resource_that_is_not_to_be_kept_overrules_its_client(shop: str, ids: Fresh) -> None:
    app = App(shop, namespace="shop")

    @app.resource(ttl=60, near=False)
    def price(id: object) -> None: ...

    (id,) = ids(1)
    with Client(shop, namespace="shop", app=app, near=10) as caller:
        kept(caller, id, "aprice")
        assert [caller.reply(id, "price").source for _ in range(2)] == ["miss", "hit"]


# --- its own subscription ---


def test_it_listens_from_its_first_request_to_its_end(shop: str, book: Book, ids: Fresh) -> None:
    one, other = ids(2)
    before = listeners(book.redis)
    with Client(shop, namespace="shop", near=10) as caller:
        caller.request(one, "charge", args=("x",))
        assert listeners(book.redis) == before
        kept(caller, one)
        assert listeners(book.redis) == before + 1
    kit.eventually(lambda: listeners(book.redis) == before)
    assert caller.reply(one, "price").source == "hit", "a closed client has forgotten"
    kept(caller, other)
    caller.close()
    kit.eventually(lambda: listeners(book.redis) == before)


def test_a_client_that_nobody_has_any_more_listens_no_longer(
    shop: str, book: Book, ids: Fresh
) -> None:
    before = listeners(book.redis)
    caller = Client(shop, namespace="shop", near=10)
    kept(caller, ids(1)[0])
    del caller
    gc.collect()
    kit.eventually(lambda: listeners(book.redis) == before)


def test_threads_that_ask_first_at_once_share_one(shop: str, book: Book, ids: Fresh) -> None:
    asked = ids(16)
    before = listeners(book.redis)
    start = threading.Barrier(16)

    def ask(id: int) -> Reply:
        start.wait()
        return kept(caller, id)

    with Client(shop, namespace="shop", near=100) as caller, ThreadPoolExecutor(16) as pool:
        assert {reply.source for reply in pool.map(ask, asked)} == {"near"}
        assert listeners(book.redis) == before + 1


FORK = """
import os, sys, time, warnings
from rqproc import Client

warnings.simplefilter("ignore", DeprecationWarning)  # of threads and forks: that is what is tried
client = Client(namespace="shop", near=10)
id = int(sys.argv[1])

def keep():
    end = time.monotonic() + 10
    while (reply := client.reply(id, "price")).source != "near":
        assert time.monotonic() < end, reply

keep()
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        sources = [client.reply(id, "price").source]
        keep()
        os._exit(sources != ["hit"])
    children.append(pid)
codes = [os.waitpid(pid, 0)[1] for pid in children]
assert client.reply(id, "price").source == "near", "the parent's went on"
client.close()
print(codes)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_children_of_a_fork_begin_with_nothing_and_listen_themselves(
    shop: str, book: Book, ids: Fresh
) -> None:
    before = listeners(book.redis)
    assert kit.script(FORK, shop, "shop", str(ids(1)[0])) == "[0, 0, 0]"
    kit.eventually(lambda: listeners(book.redis) == before)


def test_who_may_not_listen_asks_the_owner_every_time_and_is_told_why(
    shop: str, book: Book, ids: Fresh, caplog: pytest.LogCaptureFixture
) -> None:
    (id,) = ids(1)
    book.redis.execute_command(
        "ACL SETUSER deaf on >s3cret ~* resetchannels &rqproc:shop:2:reply:* +@all"
    )
    path = shop.removeprefix("unix://")
    url = f"unix://deaf@{path}?password=s3cret"
    with (
        caplog.at_level(logging.WARNING, "rqproc.near"),
        Client(url, namespace="shop", near=10) as caller,
    ):
        assert caller.reply(id, "price").source == "miss"
        kit.eventually(lambda: caplog.messages, what="a warning")
        assert {caller.reply(id, "price").source for _ in range(20)} == {"hit"}
    assert "NOPERM" in caplog.messages[0]
    assert len(caplog.messages) == 1
    assert "s3cret" not in caplog.text


# --- what is dropped ---


def newer(caller: Client, id: int, than: int) -> bool:
    n: int = caller.request(id, "price")["n"]
    return n > than


def test_who_invalidates_is_not_served_the_old_value_again(caller: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    for n in range(1, 30):
        assert kept(caller, id).value["n"] == n
        assert caller.invalidate(id, "price") is True
        assert caller.request(id, "price")["n"] == n + 1


def test_others_hear_of_it(caller: Client, client: Client, ids: Fresh) -> None:
    one, other = ids(2)
    kept(caller, other)
    for n in range(1, 10):
        assert kept(caller, one).value["n"] == n
        client.invalidate(one, "price")
        kit.promptly(lambda n=n: newer(caller, one, n), within_s=1.0)
    assert caller.reply(other, "price").source == "near"


def test_an_asyncio_caller_hears_of_it(shop: str, client: Client, ids: Fresh) -> None:
    (id,) = ids(1)

    async def ask() -> None:
        async with AsyncClient(shop, namespace="shop", near=10) as caller:
            while (await caller.reply(id, "price")).source != "near":
                await asyncio.sleep(0.005)
            await asyncio.to_thread(client.invalidate, id, "price")
            while (await caller.request(id, "price"))["n"] == 1:
                await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(ask(), 10))


def test_they_hear_of_it_though_its_owner_has_changed(cluster: Cluster, ids: Fresh) -> None:
    """The new owner has nothing to drop."""
    (id,) = ids(1)
    cluster.start("a", options=PATIENT)
    with Client(cluster.url, namespace=cluster.namespace, near=10) as caller:
        assert kept(caller, id).node == "a"
        cluster.start("b", options=PATIENT)
        assert cluster.nodes.pop("a").stop() == 0
        assert caller.reply(id, "price").source == "near"
        assert cluster.client.invalidate(id, "price") is False
        kit.promptly(lambda: newer(caller, id, 1), within_s=1.0)


def test_no_value_from_before_an_invalidation_is_served_when_it_has_been_heard(
    shop: str, client: Client, ids: Fresh
) -> None:
    """Callers ask all the time, so that drops meet requests in every state."""
    (id,) = ids(1)
    travel_s, watch = 1.0, Watch()
    least: deque[tuple[float, int]] = deque([(-math.inf, 0)])
    end = threading.Event()

    def ask(caller: Client) -> int:
        near = 0
        while not end.is_set():
            began = watch.s
            reply = caller.reply(id, "price")
            near += reply.source == "near"
            assert reply.value["n"] >= max(n for at, n in list(least) if at + travel_s < began)
        return near

    with ExitStack() as stack:
        callers = [stack.enter_context(Client(shop, namespace="shop", near=10)) for _ in range(2)]
        pool = stack.enter_context(ThreadPoolExecutor(4))
        stack.callback(end.set)
        stack.callback(watch.stop)
        asking = [pool.submit(ask, caller) for caller in callers * 2]
        while watch.s < 3 * travel_s:
            before = client.request(id, "price")["n"]
            client.invalidate(id, "price")
            least.append((watch.s, before + 1))
            end.wait(0.03)
        end.set()
        assert all(task.result() > 0 for task in asking)


def test_where_a_node_may_not_tell_callers_an_invalidation_fails(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    book.redis.execute_command(
        "ACL SETUSER mute on >s3cret ~* resetchannels &rqproc:*:2:reply:* +@all"
    )
    url = f"unix://mute@{cluster.url.removeprefix('unix://')}?password=s3cret"
    cluster.start("a", url=url)
    assert cluster.client.request(id, "price")["n"] == 1
    with pytest.raises(HandlerFailed, match=f"NotPublished.*rqproc:{cluster.namespace}:2:dropped"):
        cluster.client.invalidate(id, "price")
    assert cluster.client.request(id, "price")["n"] == 2, "its owner has dropped it all the same"
