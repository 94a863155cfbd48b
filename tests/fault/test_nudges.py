"""A caller that waits says so again and again: it wakes who sleeps and repairs what is lost."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from fault.proxy import CuttingProxy
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book

from rqproc import Client
from rqproc.lab.servers import ServerProcess
from rqproc.protocol.keys import job_key, results_key


@pytest.fixture
def server(shop_server: ServerProcess) -> Iterator[ServerProcess]:
    with ServerProcess(keeps=False) as running:
        yield running


@pytest.fixture
def frail(server: ServerProcess, shop_server: ServerProcess) -> Iterator[Cluster]:
    """A cluster on a server that forgets; the handlers keep their book on a sound one."""
    with ExitStack() as stack:
        yield Cluster(stack, server.url, "fault", book_url=shop_server.url)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def _results(futures: list[Future[object]]) -> list[object]:
    return [future.result(20) for future in futures]


def test_what_a_flushed_server_has_lost_is_answered_all_the_same(
    frail: Cluster, server: ServerProcess, book: Book, ids: Fresh, threads: ThreadPoolExecutor
) -> None:
    frail.start("a", "b", options=kit.BRISK)
    asked = ids(2)
    waiting = [threads.submit(frail.client.request, id, "gated") for id in asked]
    for id in asked:
        book.started("gated", id)
    with server.client() as redis:
        redis.flushall()
    for id in asked:
        book.release("gated", id, times=2)  # the run whose answer nobody takes, and the one anew
    assert [answer["n"] for answer in _results(waiting)] == [2, 2]  # type: ignore[index]


def test_many_ids_in_one_request_survive_it_too(
    frail: Cluster, server: ServerProcess, book: Book, ids: Fresh, threads: ThreadPoolExecutor
) -> None:
    frail.start("a", "b", options=kit.BRISK)
    asked = ids(6)
    waiting = threads.submit(frail.client.request_many, asked, "slow_price")
    for id in asked:
        book.started("slow_price", id)
    book.release("slow_price", asked[0])
    kit.eventually(lambda: book.count("slow_price", asked[0]) == 1)
    with server.client() as redis:
        redis.flushall()
    for id in asked:
        book.release("slow_price", id, times=2)
    found = waiting.result(12)
    assert list(found) == asked
    assert all(1 <= value["n"] <= 2 for value in found.values())


def test_a_server_that_comes_back_empty_is_told_what_was_asked_of_it(
    frail: Cluster, server: ServerProcess, book: Book, ids: Fresh, threads: ThreadPoolExecutor
) -> None:
    frail.start("a", options=kit.BRISK)
    (id,) = ids(1)
    nudges, twice = itertools.count(1), threading.Event()

    def note(chunk: bytes) -> bool:
        if b"again" in chunk and next(nudges) == 2:
            twice.set()
        return False

    with CuttingProxy(server.url) as proxy, Client(proxy.address, namespace="fault") as client:
        proxy.swallow = note
        waiting = threads.submit(client.request, id, "gated", timeout=30)
        book.started("gated", id)
        assert twice.wait(20), "from the first nudge's reply on its caller knows that it is known"
        server.kill()
        time.sleep(3.5)  # the outage: longer than one of which nobody knows whether it is one
        server.start()
        book.release("gated", id, times=2)
        assert waiting.result(30)["n"] == 2


def test_a_request_that_waits_finds_the_dead_where_nobody_else_asks(
    cluster: Cluster, book: Book, ids: Fresh, threads: ThreadPoolExecutor
) -> None:
    (node,) = cluster.start("a", options=kit.BRISK)
    (id,) = ids(1)
    waiting = threads.submit(cluster.client.request, id, "gated", timeout=40)
    book.started("gated", id)
    node.kill()
    leases = f"rqproc:{cluster.namespace}:2:leases"
    marks = [b"!"]  # a run has died with its node: route looks closer for a while
    kit.eventually(lambda: book.redis.zrange(leases, 0, -1) == marks)
    cluster.start("b", options=kit.BRISK)
    book.started("gated", id)
    book.release("gated", id)
    assert waiting.result(40)["node"] == "b"


def test_nudges_of_what_runs_start_nothing_and_leave_nothing(
    frail: Cluster, server: ServerProcess, book: Book, ids: Fresh, threads: ThreadPoolExecutor
) -> None:
    frail.start("a", "b")
    asked = ids(4)
    waiting = [threads.submit(frail.client.request, id, "gated", timeout=12.0) for id in asked]
    for id in asked:
        book.started("gated", id)
    time.sleep(4.5)  # two nudges, one each two seconds
    for id in asked:
        book.release("gated", id)
    assert [answer["n"] for answer in _results(waiting)] == [1] * 4  # type: ignore[index]
    assert not any(book.has_started("gated", id) for id in asked)
    frail.client.close()
    with server.client() as redis:
        assert not list(redis.scan_iter(job_key("*")))
        kit.eventually(lambda: not list(redis.scan_iter(results_key("*"))))
