"""Large values, and a server that closes connections for which too much lies ready."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from redis.exceptions import ResponseError

from rqproc import AsyncClient
from rqproc.errors import HandlerFailed, RedisUnavailable
from rqproc.lab.servers import ServerProcess

DEFAULT = "pubsub 32mb 8mb 60"
NARROW = "pubsub 4mb 3mb 60"

Stage = Callable[[str], tuple[ServerProcess, Cluster]]


@pytest.fixture
def stage(shop_server: ServerProcess) -> Iterator[Stage]:
    """A server with a limit, and two nodes."""
    with ExitStack() as stack:

        def make(limit: str) -> tuple[ServerProcess, Cluster]:
            server = stack.enter_context(ServerProcess())
            with server.client() as client:
                client.config_set("client-output-buffer-limit", limit)
                with suppress(ResponseError):  # Valkey 9 does not count what it has not copied
                    client.config_set("min-string-size-avoid-copy-reply", 0)
            cluster = Cluster(stack, server.url, "large", book_url=shop_server.url)
            cluster.start("a", "b", options=("--lease", "20"))
            return server, cluster

        yield make


def closed(server: ServerProcess) -> int:
    """How many connections the server has closed for its limit."""
    with server.client() as client:
        return int(client.info("stats")["client_output_buffer_limit_disconnections"])


def is_right(id: object, value: object, size: int) -> bool:
    return isinstance(value, str) and value.startswith(f"{id}:x") and len(value) > size


@pytest.mark.parametrize("limit", [DEFAULT, NARROW])
def test_many_large_values_come_together(stage: Stage, ids: Fresh, limit: str) -> None:
    """Computed, and from entries."""
    server, cluster = stage(limit)
    asked = ids(40)
    for _ in range(2):
        found = cluster.client.request_many(asked, "poster", timeout=40)
        assert all(is_right(id, found[id], 1_000_000) for id in asked)
    assert closed(server) == 0


def test_many_threads_want_a_large_value_each(stage: Stage, ids: Fresh) -> None:
    server, cluster = stage(NARROW)
    asked = ids(30)
    with ThreadPoolExecutor(30) as pool:

        def ask(id: int) -> object:
            return cluster.client.request(id, "poster", timeout=40)

        found = dict(zip(asked, pool.map(ask, asked), strict=True))
    assert all(is_right(id, found[id], 1_000_000) for id in asked)
    assert closed(server) == 0


def test_a_caller_that_stands_still_while_answers_come_is_not_cut_off(
    stage: Stage, ids: Fresh
) -> None:
    """Its event loop is blocked until all of them are there: eighteen megabytes."""
    server, cluster = stage(NARROW)
    asked = ids(300)

    async def ask() -> list[str]:
        async with AsyncClient(server.url, namespace="large") as caller:
            coming = [asyncio.ensure_future(caller.request(id, "page", timeout=40)) for id in asked]
            await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)  # so all are asked for
            kit.eventually(lambda: answered(cluster) >= len(asked), within_s=30)
            return await asyncio.gather(*coming)

    found = asyncio.run(ask())
    assert all(is_right(id, value, 60_000) for id, value in zip(asked, found, strict=True))
    assert closed(server) == 0


def answered(cluster: Cluster) -> int:
    return sum(node.misses for node in cluster.client.membership().nodes)


def test_what_a_caller_has_fetched_lies_at_the_server_no_more(stage: Stage, ids: Fresh) -> None:
    server, cluster = stage(DEFAULT)
    (id,) = ids(1)
    with server.client() as client:
        for _ in range(3):
            cluster.client.request(id, "poster", timeout=40)
            kit.eventually(lambda: not client.keys("rqproc-answers:*"))


def test_a_limit_below_a_value_is_named(stage: Stage, ids: Fresh) -> None:
    server, cluster = stage("pubsub 1kb 1kb 1")
    began = time.monotonic()
    with pytest.raises((HandlerFailed, RedisUnavailable), match="client-output-buffer-limit"):
        cluster.client.request_many(ids(30), "poster", timeout=10)
    assert time.monotonic() - began < 15
    assert closed(server) > 0
