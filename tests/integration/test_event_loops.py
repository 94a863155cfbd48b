"""One asyncio client, or an app's own, in whichever event loops a program has."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from integration import kit
from integration.fixtures import Fresh
from integration.kit import Book
from integration.test_shared_connections import Named, named  # noqa: F401
from watch import Watch

from rqproc import App, AsyncClient
from rqproc.errors import ConfigError, RequestTimeout

THREADS = 6


def in_threads(work: Callable[[int], Awaitable[Any]]) -> list[Any]:
    """Run a coroutine in an event loop of its own in each thread; return what each gave."""

    async def run(which: int) -> Any:
        return await work(which)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda which: asyncio.run(run(which)), range(THREADS)))


def test_threads_with_a_loop_each_share_a_client(named: Named, ids: Fresh) -> None:  # noqa: F811
    client = AsyncClient(named.url, namespace="shop")
    asked = [ids(30) for _ in range(THREADS)]

    async def ask(which: int) -> list[int]:
        mine = asked[which]
        found = [await client.request(id, "echo") for id in mine[:10]]
        found += await asyncio.gather(*(client.request(id, "echo") for id in mine[10:]))
        return [value["id"] for value in found]

    assert in_threads(ask) == asked
    assert kit.eventually(lambda: named.connections() == 0), "each loop has closed its own"


def test_a_request_in_one_loop_ends_by_its_deadline_whatever_becomes_of_others(
    named: Named,  # noqa: F811
    book: Book,
    ids: Fresh,
) -> None:
    """Loops come and go meanwhile."""
    held, *others = ids(THREADS)
    client = AsyncClient(named.url, namespace="shop", timeout=1.0)

    async def ask(which: int) -> float:
        if which:
            for _ in range(3):
                await client.request(others[which - 1], "echo", timeout=10)
            return 0.0
        watch = Watch()
        with pytest.raises(RequestTimeout):
            await client.request(held, "gated")
        return watch.stop()

    assert in_threads(ask)[0] < 1.5
    book.release("gated", held)
    assert kit.eventually(lambda: named.connections() == 0)


def test_an_app_has_one_asyncio_client_for_all_loops(
    named: Named,  # noqa: F811
    ids: Fresh,
) -> None:
    app = App(named.url, namespace="shop")
    echo = app.resource(ttl=0, name="echo")(lambda id: None)
    asked = ids(THREADS)

    async def ask(which: int) -> Any:
        for _ in range(3):
            value = await echo.arequest(asked[which])
        assert value["id"] == asked[which]
        return app.async_client

    assert len(set(map(id, in_threads(ask)))) == 1
    assert kit.eventually(lambda: named.connections() == 0)


FORTY = """
import asyncio, sys, threading
from shop import app, gated

barrier, id, clients = threading.Barrier(40), int(sys.argv[1]), []

def ask():
    barrier.wait()
    clients.append(app.async_client)
    asyncio.run(gated.arequest(id))

threads = [threading.Thread(target=ask) for _ in range(40)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(set(clients)) == 1
"""


def test_forty_loops_whose_first_requests_come_at_once_have_a_connection_each(
    shop: str,
    named: Named,  # noqa: F811
    book: Book,
    ids: Fresh,
) -> None:
    (id,) = ids(1)
    env = kit.environ(named.url, "shop")
    with kit.Running((sys.executable, "-c", FORTY, str(id)), env=env) as asking:
        assert kit.eventually(lambda: named.connections() == 40)
        book.release("gated", id, times=40)
        assert (asking.wait(), asking.stderr) == (0, "")


def test_where_asyncio_runs_no_loop_a_request_is_refused_and_says_what_to_do(
    named: Named,  # noqa: F811
    ids: Fresh,
) -> None:
    """As trio drives coroutines: it sends to them itself."""
    app = App(named.url, namespace="shop")
    echo = app.resource(ttl=0, name="echo")(lambda id: None)
    for where in (named.url, "local://"):
        with app.at(where, namespace="shop"), pytest.raises(ConfigError, match="to_thread"):
            echo.arequest(ids(1)[0]).send(None)
    assert named.connections() == 0


@pytest.mark.parametrize("library", ["trio", "anyio"])
def test_in_trio_a_request_is_refused_and_a_thread_asks(
    named: Named,  # noqa: F811
    ids: Fresh,
    library: str,
) -> None:
    found = pytest.importorskip(library, reason="not installed, as rqproc[apps] has it")
    pytest.importorskip("trio", reason="not installed, as rqproc[apps] has it")
    app = App(named.url, namespace="shop")
    echo = app.resource(ttl=0, name="echo")(lambda id: None)
    (id,) = ids(1)

    async def ask() -> Any:
        for refused in (echo.arequest, echo.aenqueue, echo.ainvalidate):
            with pytest.raises(ConfigError, match=r"anyio\.to_thread\.run_sync"):
                await refused(id)
        return await found.to_thread.run_sync(echo.request, id)

    value = found.run(ask) if library == "trio" else found.run(ask, backend="trio")
    assert value["id"] == id
    app.client.close()
    kit.eventually(lambda: named.connections() == 0)
