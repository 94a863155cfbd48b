"""All callers of one client share its connections, and none of them pays for another."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from secrets import token_hex
from typing import Any

import pytest
from integration import kit
from integration.fixtures import Fresh
from integration.kit import Book
from watch import Watch

from rqproc import AsyncClient, Client
from rqproc.errors import HandlerFailed, RequestTimeout

LONG = 1024 * 1024 - 2
NO_NUDGE_S = 1.5
"""Sooner than anyone sends its calls again: what takes no longer was not left lying."""


class Named:
    """The URL of the shop with a name by which its connections are told from others."""

    def __init__(self, url: str, book: Book) -> None:
        self._book = book
        self.name = f"t{token_hex(4)}"
        self.url = f"{url}?client_name={self.name}"

    def connections(self) -> int:
        found: list[dict[str, str]] = self._book.redis.client_list()
        return sum(each["name"] == self.name for each in found)


def answered(waiting: Future[Any] | asyncio.Task[Any]) -> Any:
    """Wait for an answer, and return it."""
    kit.promptly(waiting.done, within_s=NO_NUDGE_S, what="an answer")
    return waiting.result()


@pytest.fixture
def named(shop: str, book: Book) -> Named:
    return Named(shop, book)


@pytest.fixture
def shared(named: Named) -> Iterator[Client]:
    with Client(named.url, namespace="shop") as client:
        yield client
    assert kit.eventually(lambda: named.connections() == 0)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as pool:
        yield pool


def test_64_threads_share_three_connections(
    shared: Client, named: Named, book: Book, ids: Fresh, pool: ThreadPoolExecutor
) -> None:
    asked = ids(64)
    waiting = [pool.submit(shared.request, id, "gated") for id in asked[:32]]
    for id in asked[:32]:
        book.started("gated", id)
    answers = [pool.submit(shared.request, id, "echo") for id in asked[32:] * 10]
    assert [a.result()["id"] for a in answers] == asked[32:] * 10
    assert 1 <= named.connections() <= 3
    for id in asked[:32]:
        book.release("gated", id)
    assert [w.result()["n"] for w in waiting] == [1] * 32


FORTY = """
import os, sys, threading
import rqproc
from shop import gated

barrier = threading.Barrier(40)
how = {
    "app": lambda: gated.request(id), "default": lambda: rqproc.request(id, "gated"),
}[sys.argv[1]]
id = int(sys.argv[2])

def ask():
    barrier.wait()
    how()

threads = [threading.Thread(target=ask) for _ in range(40)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("how", ["app", "default"])
def test_40_threads_whose_first_requests_come_at_once_share_one_connection(
    shop: str, named: Named, book: Book, ids: Fresh, how: str
) -> None:
    (id,) = ids(1)
    asking = kit.Running(
        (sys.executable, "-c", FORTY, how, str(id)), env=kit.environ(named.url, "shop")
    )
    with asking:
        connections = set()
        for _ in range(40):
            book.started("gated", id)
            connections.add(named.connections())
            book.release("gated", id)
        assert (asking.wait(), asking.stderr) == (0, "")
    assert connections == {1}


def test_500_tasks_share_four_connections(named: Named, ids: Fresh) -> None:
    asked = ids(500)

    async def ask() -> tuple[list[Any], int]:
        async with AsyncClient(named.url, namespace="shop") as client:
            found = await asyncio.gather(*(client.request(id, "echo") for id in asked))
            return [value["id"] for value in found], await asyncio.to_thread(named.connections)

    found, connections = asyncio.run(ask())
    assert found == asked
    assert 1 <= connections <= 4
    assert kit.eventually(lambda: named.connections() == 0)


def test_a_slow_request_holds_up_nobody(
    shared: Client, book: Book, ids: Fresh, pool: ThreadPoolExecutor
) -> None:
    slow, *others = ids(101)
    held = pool.submit(shared.request, slow, "gated")
    book.started("gated", slow)
    watch = Watch()
    for id in others:
        assert shared.request(id, "echo")["id"] == id
    assert watch.stop() < 4 * NO_NUDGE_S, "each would else wait for a nudge"
    book.release("gated", slow)
    assert held.result()["n"] == 1


def test_whoever_reads_for_others_leaves_them_another_reader(
    shared: Client, book: Book, ids: Fresh, pool: ThreadPoolExecutor
) -> None:
    """Requests end one after the other, and with each of them the one who reads."""
    asked = ids(12)
    held = []
    for id in asked:
        held.append(pool.submit(shared.request, id, "gated"))
        book.started("gated", id)
    for id, waiting in zip(asked, held, strict=True):
        book.release("gated", id)
        assert answered(waiting)["n"] == 1


def test_each_thread_has_its_own_timeout(
    shared: Client, book: Book, ids: Fresh, pool: ThreadPoolExecutor
) -> None:
    asked = ids(4)
    timeouts = [0.1, 0.3, 0.6, 20.0]

    def ask(id: int, timeout_s: float) -> Watch:
        watch = Watch()
        with pytest.raises(RequestTimeout):
            shared.request(id, "gated", timeout=timeout_s)
        watch.stop()
        return watch

    took = [pool.submit(ask, id, t) for id, t in zip(asked, timeouts[:3], strict=False)]
    last = pool.submit(shared.request, asked[3], "gated", timeout=20.0)
    for timeout_s, waiting in zip(timeouts, took, strict=False):
        watch = waiting.result()
        assert timeout_s <= watch.whole_s
        assert watch.s < timeout_s + 0.5
    for id in asked:
        book.release("gated", id)
    assert last.result()["n"] == 1


def test_a_timeout_of_one_leaves_the_others_answered(
    shared: Client, book: Book, ids: Fresh, pool: ThreadPoolExecutor
) -> None:
    slow, other = ids(2)
    hasty = pool.submit(shared.request, slow, "gated", timeout=2.0)
    book.started("gated", slow)
    patient = pool.submit(shared.request, other, "gated")
    book.started("gated", other)
    with pytest.raises(RequestTimeout):
        hasty.result()
    book.release("gated", other)
    assert answered(patient)["n"] == 1
    book.release("gated", slow)


def test_ctrl_c_in_one_thread_leaves_the_others_answered(
    shared: Client, book: Book, ids: Fresh, pool: ThreadPoolExecutor
) -> None:
    """The main thread reads for all when it comes."""
    own, other, later = ids(3)

    def interrupt() -> Any:
        book.started("gated", own)
        waiting = pool.submit(shared.request, other, "gated")
        book.started("gated", other)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return waiting

    interrupting = pool.submit(interrupt)
    with pytest.raises(KeyboardInterrupt):
        shared.request(own, "gated")
    book.release("gated", other)
    assert answered(interrupting.result())["n"] == 1
    assert shared.request(later, "echo")["id"] == later
    book.release("gated", own)


def test_cancelled_tasks_leave_the_others_answered(named: Named, book: Book, ids: Fresh) -> None:
    held, other, *many = ids(60)

    async def ask() -> tuple[Any, list[Any]]:
        async with AsyncClient(named.url, namespace="shop") as client:
            reader = asyncio.create_task(client.request(held, "gated"))
            await asyncio.to_thread(book.started, "gated", held)
            patient = asyncio.create_task(client.request(other, "gated"))
            await asyncio.to_thread(book.started, "gated", other)
            unsent = [asyncio.create_task(client.request(id, "echo")) for id in many]
            await asyncio.sleep(0)
            for task in (reader, *unsent[::2]):
                task.cancel()
            found = await asyncio.gather(*unsent, return_exceptions=True)
            book.release("gated", other)
            book.release("gated", held)
            return await asyncio.to_thread(answered, patient), found

    answer, found = asyncio.run(ask())
    assert answer["n"] == 1
    assert all(isinstance(value, asyncio.CancelledError) for value in found[::2])
    assert [value["id"] for value in found[1::2]] == many[1::2]


def test_long_answers_go_to_whom_they_are_for(
    shared: Client, ids: Fresh, pool: ThreadPoolExecutor
) -> None:
    asked = ids(12)
    long = [pool.submit(shared.request, id, "give", args=("fits",)) for id in asked]
    short = [pool.submit(shared.request, id, "echo") for id in asked]
    assert [value.result()["id"] for value in short] == asked
    assert {len(value.result()) for value in long} == {LONG}
    with pytest.raises(HandlerFailed, match="over 1048576"):
        shared.request(asked[0], "give", args=("large",))


def test_many_ids_at_once_and_single_ones_go_side_by_side(
    shared: Client, ids: Fresh, pool: ThreadPoolExecutor
) -> None:
    groups = [ids(50) for _ in range(8)]
    single = ids(100)
    many = [pool.submit(shared.request_many, group, "price") for group in groups]
    one = [pool.submit(shared.request, id, "echo") for id in single]
    assert [value.result()["id"] for value in one] == single
    for group, found in zip(groups, many, strict=True):
        assert list(found.result()) == group
        assert {value["n"] for value in found.result().values()} == {1}


def test_a_client_may_be_closed_while_others_ask(
    shared: Client, named: Named, book: Book, ids: Fresh, pool: ThreadPoolExecutor
) -> None:
    held, *others = ids(201)
    waiting = pool.submit(shared.request, held, "gated")
    book.started("gated", held)
    asking = [pool.submit(shared.request, id, "charge") for id in others]
    for answer in asking:
        shared.close()
        assert answer.result()["n"] == 1, "it ran once"
    book.release("gated", held)
    assert answered(waiting)["n"] == 1
    assert kit.eventually(lambda: named.connections() == 0), "its last caller has closed them"


def test_an_asyncio_client_may_be_closed_while_others_ask(
    named: Named, book: Book, ids: Fresh
) -> None:
    held, *others = ids(21)

    async def ask() -> list[Any]:
        client = AsyncClient(named.url, namespace="shop")
        waiting = asyncio.create_task(client.request(held, "gated"))
        await asyncio.to_thread(book.started, "gated", held)
        asking = [asyncio.create_task(client.request(id, "charge")) for id in others]
        await client.close()
        found = await asyncio.gather(*asking)
        book.release("gated", held)
        return [*found, await waiting]

    assert [value["n"] for value in asyncio.run(ask())] == [1] * 21
    assert kit.eventually(lambda: named.connections() == 0)


def test_an_asyncio_client_leaves_no_keys_behind(shop: str, book: Book, ids: Fresh) -> None:
    def replies() -> set[bytes]:
        return set(book.redis.scan_iter("rq:results:*")) | set(book.redis.scan_iter("rq:job:*"))

    async def ask() -> None:
        async with AsyncClient(shop, namespace="shop") as client:
            await client.request(ids(1)[0], "echo")

    before = replies()
    asyncio.run(ask())
    assert replies() <= before
