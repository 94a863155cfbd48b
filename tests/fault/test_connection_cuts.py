"""Connections cut between a command and its reply: no request is lost, none is run twice."""

from __future__ import annotations

import asyncio
import itertools
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fault.load import Load, assert_exactly_once
from fault.proxy import CuttingProxy
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from redis import Redis
from rq import Queue

from rqproc import AsyncClient, Client
from rqproc.lab.servers import ServerProcess
from rqproc.protocol.keys import Keys
from rqproc.protocol.library import library

STEADY = ("--lease", "10", "--heartbeat", "0.3")
CUTS = 12


@pytest.fixture
def proxy(shop_server: ServerProcess) -> Iterator[CuttingProxy]:
    with CuttingProxy(shop_server.url) as proxy:
        yield proxy


@pytest.mark.parametrize("reply", [1, 2], ids=["at the first reply", "at the second"])
def test_a_caller_whose_connection_is_cut_gets_its_answer_of_one_run(
    cluster: Cluster, book: Book, ids: Fresh, proxy: CuttingProxy, reply: int
) -> None:
    cluster.start("a", "b", options=STEADY)
    asked = ids(4)
    with Client(proxy.address, namespace=cluster.namespace) as client:
        for number in range(CUTS):
            proxy.cut_replies(reply)
            client.request(asked[number % 4], "charge", args=(number,))
        proxy.cut_replies(reply)
        assert list(client.request_many(asked, "charge")) == asked
    assert proxy.cuts >= CUTS // reply
    assert sum(book.count("charge", id) for id in asked) == CUTS + 4


def test_a_change_of_an_entry_whose_reply_is_lost_is_made_once(
    cluster: Cluster, book: Book, ids: Fresh, proxy: CuttingProxy
) -> None:
    cluster.start("a", "b", options=STEADY)
    (id,) = ids(1)
    with Client(proxy.address, namespace=cluster.namespace) as client:
        for number in range(1, CUTS):
            proxy.cut_replies(1 + number % 2)
            assert client.refresh(id, "price").value["n"] == number
            proxy.cut_replies(1 + number % 2)
            assert client.set(id, number, "price") is True
            proxy.cut_replies(1 + number % 2)
            assert client.request(id, "price") == number
            proxy.cut_replies(1 + number % 2)
            assert client.invalidate_many([id], "price") == {id: True}
            proxy.cut_replies(1 + number % 2)
            client.invalidate_all("price")
    assert proxy.cuts >= CUTS
    assert book.count("price", id) == CUTS - 1


def test_an_asyncio_caller_whose_connection_is_cut_gets_its_answer_of_one_run(
    cluster: Cluster, book: Book, ids: Fresh, proxy: CuttingProxy
) -> None:
    cluster.start("a", options=STEADY)
    (id,) = ids(1)

    async def ask() -> list[int]:
        async with AsyncClient(proxy.address, namespace=cluster.namespace) as client:
            found = []
            for _ in range(CUTS):
                proxy.cut_replies()
                found.append((await client.request(id, "charge"))["n"])
            return found

    assert asyncio.run(ask()) == list(range(1, CUTS + 1))
    assert proxy.cuts == CUTS


def test_a_job_whose_enqueueing_is_cut_is_enqueued_once(
    cluster: Cluster, book: Book, ids: Fresh, proxy: CuttingProxy
) -> None:
    cluster.start("a", options=STEADY)
    (id,) = ids(1)
    jobs = []
    with Client(proxy.address, namespace=cluster.namespace) as client:
        for number in range(CUTS):
            proxy.cut_replies()
            jobs.append(client.enqueue(id, "charge", args=(number,)))
    for job in jobs:
        kit.eventually(lambda job=job: book.redis.hget(job.key, "status") == b"finished")
    assert book.order("charge", id) == [str(number) for number in range(CUTS)]


def test_nodes_whose_connections_are_cut_run_each_request_once(
    cluster: Cluster, book: Book, ids: Fresh, proxy: CuttingProxy
) -> None:
    cluster.start("a", "b", options=STEADY, url=proxy.address)
    asked = ids(6)
    with Load(cluster.client, "charge", asked, pause_s=0.002) as load:
        for number in range(12):
            load.more(5)
            proxy.cut_replies(1 + number % 3)
        load.all_ids_answered()
    assert proxy.cuts >= 10
    assert load.failures == []
    assert_exactly_once(load, book, "charge", asked)
    assert book.redis.hlen(f"rqproc:{cluster.namespace}:2:holders") == 0


def test_jobs_of_the_ingress_queue_survive_the_cuts_of_those_who_carry_them(
    cluster: Cluster, book: Book, ids: Fresh, proxy: CuttingProxy
) -> None:
    cluster.start("a", "b", options=STEADY, url=proxy.address)
    queue = Queue(f"rqproc.{cluster.namespace}", connection=book.redis)
    asked = ids(CUTS * 2)
    jobs = []
    for id in asked:
        proxy.cut_replies(1 + id % 2)
        jobs.append(queue.enqueue("rqproc.request", id, resource="charge"))
    for job in jobs:
        kit.eventually(lambda job=job: job.get_status() == "finished")
    assert [book.count("charge", id) for id in asked] == [1] * len(asked)


def test_a_drain_whose_connections_are_cut_loses_nothing(
    cluster: Cluster, book: Book, ids: Fresh, proxy: CuttingProxy
) -> None:
    cluster.start("b", options=STEADY)
    (node,) = cluster.start("a", options=STEADY, url=proxy.address)
    asked = ids(6)
    with Load(cluster.client, "charge", asked, pause_s=0.01) as load:
        load.more(20)
        cutting = threading.Event()
        cutter = threading.Thread(target=_cut_until, args=(proxy, cutting), daemon=True)
        cutter.start()
        node.signal(signal.SIGTERM)
        try:
            code = node.wait()
        finally:
            cutting.set()
            cutter.join()
        load.all_ids_answered()
    assert code == 0
    assert load.failures == []
    assert_exactly_once(load, book, "charge", asked)


def _cut_until(proxy: CuttingProxy, end: threading.Event) -> None:
    """Cut one of up to sixteen replies: by their number, since on a slow machine none would get
    through between two moments. A session has had eight when its first answer is acknowledged."""
    for number in itertools.count():
        cuts = proxy.cuts
        proxy.cut_replies(1 + number % 16)
        while proxy.cuts == cuts:
            if end.wait(0.001):
                return


def test_a_node_that_cannot_rejoin_at_once_goes_on_trying(
    cluster: Cluster, book: Book, ids: Fresh, proxy: CuttingProxy
) -> None:
    (node,) = cluster.start("a", options=kit.BRISK, url=proxy.address)
    join = library().function("join").encode()
    seen = threading.Event()

    def swallow(chunk: bytes) -> bool:
        if join in chunk:
            seen.set()
        return join in chunk

    proxy.swallow = swallow
    node.signal(signal.SIGSTOP)
    kit.eventually(lambda: cluster.client.members() == (), within_s=4)
    node.signal(signal.SIGCONT)
    assert seen.wait(5)
    node.says("Redis at .* is not available", within_s=9)
    proxy.swallow = lambda _: False
    kit.eventually(lambda: cluster.client.members() == ("a",))
    assert cluster.client.request(ids(1)[0], "charge")["n"] == 1


def test_a_node_that_is_told_to_stop_after_its_lease_leaves_its_successor_alone(
    cluster: Cluster, book: Book, ids: Fresh, proxy: CuttingProxy
) -> None:
    # Full with one request, it waits for no other: nothing but a beat could tell it of its end.
    (old,) = cluster.start("a", options=(*kit.BRISK, "--max-queue", "1"), url=proxy.address)
    (id,) = ids(1)
    job = cluster.client.enqueue(id, "gated")
    book.started("gated", id)
    beat = library().function("beat").encode()
    proxy.swallow = lambda chunk: beat in chunk  # it is cut off, and cannot know
    kit.eventually(lambda: cluster.client.members() == (), within_s=4)
    cluster.start("a")  # as a supervisor, or a container's, would
    book.started("gated", id)
    old.signal(signal.SIGTERM)
    old.says("draining")
    book.release("gated", id, times=2)
    old.wait()
    assert job.latest_result(timeout=4)
    assert cluster.client.members() == ("a",)
    assert cluster.nodes["a"].process.poll() is None


def test_many_short_connections_do_not_pile_up(
    cluster: Cluster, shop_redis: Redis, ids: Fresh
) -> None:
    cluster.start("a", options=STEADY)
    (id,) = ids(1)
    kit.settle(cluster.client)
    cluster.client.request(id, "price")
    channel = Keys(cluster.namespace).commands("a")
    kit.eventually(lambda: shop_redis.pubsub_numsub(channel)[0][1])  # its last connection is there
    before = len(shop_redis.client_list())

    def ask(_: int) -> object:
        with Client(cluster.url, namespace=cluster.namespace) as client:
            return client.request(id, "price")["n"]

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, range(60))) == {1}
    kit.eventually(lambda: len(shop_redis.client_list()) <= before)
