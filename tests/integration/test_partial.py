"""Many ids of which some fail or are late: what has come counts, by every way of asking."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from watch import Watch

from rqproc import App, AsyncClient, Client, Partial
from rqproc.errors import HandlerFailed, RedisUnavailable, RequestTimeout
from rqproc.lab.servers import ServerProcess
from rqproc.model import Reply
from rqproc.protocol.commands import MOST_TOGETHER
from rqproc.testing import LocalCluster

MANY = 10_000


def test_what_came_by_the_deadline_is_told_from_what_did_not(
    client: Client, book: Book, ids: Fresh
) -> None:
    late, quick, later = ids(3)
    book.release("slow_price", quick)
    client.request(quick, "slow_price")
    asked = [late, str(quick), later]
    found = client.request_many(asked, "slow_price", timeout=1.4, partial=True)
    replies = client.reply_many(asked, "slow_price", timeout=1.4)
    for id in (late, later):
        book.release("slow_price", id)
    assert isinstance(found, Partial)
    assert {id: value["n"] for id, value in found.values.items()} == {str(quick): 1}
    assert list(found.errors) == [late, later]
    assert {type(error) for error in found.errors.values()} == {RequestTimeout}
    assert [type(replies[id]) for id in asked] == [RequestTimeout, Reply, RequestTimeout]


def test_each_id_has_the_error_that_it_ended_in(client: Client, ids: Fresh) -> None:
    asked = ids(3)
    client.request_many(asked[:2], "fragile", partial=True)
    found = client.request_many(asked, "fragile", partial=True)
    assert [found.values[id]["n"] for id in asked[:2]] == [2, 2]
    assert [type(error) for error in found.errors.values()] == [HandlerFailed]
    assert list(found.errors) == asked[2:]


def test_asyncio_has_the_same(shop: str, ids: Fresh) -> None:
    asked = ids(2)

    async def ask() -> tuple[Partial, Partial, dict[int | str, object]]:
        async with AsyncClient(shop, namespace="shop") as caller:
            first = await caller.request_many(asked[:1], "fragile", partial=True)
            both = await caller.request_many(asked, "fragile", partial=True)
            return first, both, await caller.reply_many(asked, "price")

    first, both, replies = asyncio.run(ask())
    assert (first.values, list(first.errors)) == ({}, asked[:1])
    assert (list(both.values), list(both.errors)) == (asked[:1], asked[1:])
    assert {type(reply) for reply in replies.values()} == {Reply}


@pytest.mark.parametrize("where", ["local", "kit"])
def test_resources_have_it_without_a_server_too(where: str) -> None:
    app = App()

    @app.resource(ttl=30)
    def even(id: int) -> int:
        if id % 2:
            raise ValueError(id)
        return id

    with ExitStack() as stack:
        if where == "local":
            stack.enter_context(app.at("local://"))
        else:
            cluster = stack.enter_context(LocalCluster(app))
            told = cluster.request_many(even, [1, 2], partial=True)
            assert (told.values, list(told.errors)) == ({2: 2}, [1])
            assert [type(one) for one in cluster.reply_many(even, [1, 2]).values()] == [
                HandlerFailed, Reply,
            ]  # fmt: skip
            with pytest.raises(HandlerFailed):
                cluster.request_many(even, [1, 2])
        found = even.request_many([1, 2, 4], partial=True)
        assert (found.values, list(found.errors)) == ({2: 2, 4: 4}, [1])
        assert [type(reply) for reply in even.reply_many([2, 1]).values()] == [Reply, HandlerFailed]
        if where == "local":
            again = asyncio.run(even.arequest_many([1, 2], partial=True))
            assert (again.values, list(again.errors)) == ({2: 2}, [1])
            replies = asyncio.run(even.areply_many([2]))
            assert [reply.id for reply in replies.values() if isinstance(reply, Reply)] == [2]


# --- ten thousand ---


@pytest.fixture
def frail(shop_server: ServerProcess) -> Iterator[tuple[ServerProcess, Cluster]]:
    """A server of the test's own with one node; its handlers keep their book on another."""
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess())
        cluster = Cluster(stack, server.url, "frail", book_url=shop_server.url)
        cluster.start("a", options=("--lease", "30"))
        yield server, cluster


def test_ten_thousand_are_answered_in_one_call(client: Client, ids: Fresh) -> None:
    asked = ids(MANY)
    first = client.request_many(asked, "instant", partial=True, timeout=40)
    assert first.errors == {}
    assert list(first.values) == asked
    replies = client.reply_many(asked, "instant", timeout=40)
    assert [reply.id for reply in replies.values() if isinstance(reply, Reply)] == asked
    assert {reply.source for reply in replies.values() if isinstance(reply, Reply)} == {"hit"}


def test_no_command_about_so_many_is_about_more_than_a_group(
    frail: tuple[ServerProcess, Cluster], ids: Fresh
) -> None:
    """Each keeps all others from the server while it lasts; those are many that wait and ask again
    after a while, and what is answered when their time is over.
    """
    server, cluster = frail
    asked = ids(4 * MOST_TOGETHER)
    with server.client() as redis:
        redis.config_set("slowlog-log-slower-than", 0)
        redis.config_set("slowlog-max-len", 100_000)
        found = cluster.client.request_many(asked, "gated", timeout=2, partial=True)
        assert list(found.errors) == asked
        longest = {"route": 0, "scatter": 0, "claim": 0}
        for row in redis.execute_command("SLOWLOG", "GET", "-1"):
            name = row[3][1].decode().rpartition("_")[2] if row[3][0] == b"FCALL" else ""
            if name in longest:
                text = row[3][-1]  # '... (N more arguments)', where there are more than 31
                more = int(text.split()[1][1:]) if text.startswith(b"... (") else 0
                longest[name] = max(longest[name], len(row[3]) - 1 + more)
    assert longest["scatter"] <= 9 + MOST_TOGETHER
    assert MOST_TOGETHER < longest["route"] <= 9 + 4 * MOST_TOGETHER


# --- Redis is lost in between ---


def test_where_redis_is_lost_what_had_come_is_returned(
    frail: tuple[ServerProcess, Cluster], book: Book, ids: Fresh
) -> None:
    server, cluster = frail
    kept, late, later = ids(3)
    book.release("slow_price", kept)
    cluster.client.request(kept, "slow_price")
    with ThreadPoolExecutor(1) as pool:
        book.redis.delete(f"test:started:slow_price:{kept}")
        waiting = pool.submit(
            cluster.client.request_many, [kept, late], "slow_price", timeout=4, partial=True
        )
        book.started("slow_price", late)
        cluster.client.request(later, "instant")  # what was answered before has come too
        server.kill()
        found = waiting.result()
    assert list(found.values) == [kept]
    assert list(found.errors) == [late]
    assert isinstance(found.errors[late], RedisUnavailable)
    watch = Watch()
    with pytest.raises(RedisUnavailable):
        cluster.client.request_many([kept, late], "slow_price", timeout=1, partial=True)
    assert watch.stop() < 10


# --- a command that reads them ---


def test_ten_thousand_lines_have_ten_thousand_answers(shop: str, ids: Fresh) -> None:
    asked = ids(MANY)
    text = "".join(f"{id}\n" for id in asked)
    done = kit.finished(
        shop, "shop", "request", "--stdin", "-r", "instant", "-t", "40", text=text, within_s=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [int(line.split("\t")[0]) for line in done.stdout.splitlines()] == asked
