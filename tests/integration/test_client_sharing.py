"""One client for many threads, many tasks, and the children of a fork."""

from __future__ import annotations

import asyncio
import gc
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from integration import kit
from integration.fixtures import Fresh
from integration.kit import Book

from rqproc import AsyncClient, Client


def test_threads_get_their_own_answers(client: Client, ids: Fresh) -> None:
    asked = ids(300)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda id: client.request(id, "echo", args=(id,)), asked))
    assert [(value["id"], value["args"]) for value in found] == [(id, [id]) for id in asked]


def test_tasks_get_their_own_answers(shop: str, ids: Fresh) -> None:
    asked = ids(100)

    async def ask() -> list[int]:
        async with AsyncClient(shop, namespace="shop") as client:
            found = await asyncio.gather(*(client.request(id, "echo") for id in asked))
        return [value["id"] for value in found]

    assert asyncio.run(ask()) == asked


def test_a_cancelled_task_leaves_the_client_usable(shop: str, book: Book, ids: Fresh) -> None:
    held, *others = ids(6)

    async def ask() -> list[int]:
        async with AsyncClient(shop, namespace="shop") as client:
            task = asyncio.create_task(client.request(held, "gated"))
            await asyncio.to_thread(book.started, "gated", held)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            book.release("gated", held)
            return [(await client.request(id, "echo"))["id"] for id in others]

    assert asyncio.run(ask()) == others


def test_the_end_of_an_event_loop_closes_the_connections_made_in_it(shop: str, ids: Fresh) -> None:
    """Without a word of the program: an app's own client has nobody to close it."""
    client = AsyncClient(shop, namespace="shop")
    for id in ids(3):
        assert asyncio.run(client.request(id, "echo"))["id"] == id
    del client
    gc.collect()  # warnings of what was left open are errors here


FORK = """
import os, sys
from rqproc import Client
import rqproc

client = Client(namespace="shop")
assert client.request(1, "echo")["id"] == 1
assert rqproc.request(2, "echo")["id"] == 2

children = []
for child in range(4):
    pid = os.fork()
    if pid == 0:
        wrong = 0
        for id in range(child * 1000, child * 1000 + 40):
            wrong += client.request(id, "echo")["id"] != id
            wrong += rqproc.request(id, "echo", args=(id,))["args"] != [id]
        os._exit(wrong)
    children.append(pid)
for id in range(40):
    assert client.request(id, "echo")["id"] == id
print([os.waitpid(pid, 0)[1] for pid in children])
client.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_children_of_a_fork_use_the_parents_client(shop: str) -> None:
    assert kit.script(FORK, shop, "shop") == "[0, 0, 0, 0]"


POOL = """
import multiprocessing
from shop import echo

def ask(id):
    return echo.request(id)["id"]

if __name__ == "__main__":
    assert ask(0) == 0
    with multiprocessing.get_context("fork").Pool(3) as pool:
        print(pool.map(ask, range(60)) == list(range(60)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_pool_of_processes_asks_through_an_inherited_app(shop: str) -> None:
    assert kit.script(POOL, shop, "shop") == "True"


def test_a_closed_client_may_be_used_again(shop: str, ids: Fresh) -> None:
    one, other = ids(2)
    with Client(shop, namespace="shop") as client:
        client.request(one, "echo")
    assert client.request(other, "echo")["id"] == other
    client.close()


def test_a_client_leaves_no_keys_behind(shop: str, book: Book, ids: Fresh) -> None:
    asked = ids(10)

    def replies() -> set[bytes]:
        return set(book.redis.scan_iter("rq:results:*")) | set(book.redis.scan_iter("rq:job:*"))

    before = replies()
    with Client(shop, namespace="shop") as client:
        for id in asked:
            client.request(id, "echo")
        client.request_many(asked, "price")
    assert replies() <= before


def test_a_client_of_an_existing_connection_asks_the_same_server(
    shop: str, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    with Client(book.redis, namespace="shop") as client:
        assert client.request(id, "echo")["id"] == id
        assert client.server == shop


def test_namespaces_do_not_see_each_other(shop: str, ids: Fresh) -> None:
    with Client(shop, namespace="nobody-here") as client:
        assert client.members() == ()
        assert client.owner(1) is None
        assert client.drain("n1") is False
