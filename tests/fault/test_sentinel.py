"""A primary watched by sentinels: callers and nodes find the new one by themselves."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from fault.load import Load
from fault.watched import HUSH, NAME, SECRET, Watched
from fault.watched import Sentinel as Watcher
from integration import kit
from integration.fixtures import Cluster, Fresh
from ports import free_ports
from redis.sentinel import Sentinel
from watch import Watch

from rqproc import AsyncClient, Client
from rqproc.errors import NoLiveNode, RedisUnavailable, RequestTimeout, RqprocError
from rqproc.lab.servers import ServerProcess

NAMED = {NoLiveNode, RedisUnavailable, RequestTimeout}
TIMEOUT_S = 2.0
LATE_S = 1.5 + 0.5
"""A server that is silent is told from one that is late; see ``calls.retry.GRACE_S``."""


@pytest.fixture(scope="module")
def calm() -> Iterator[Watched]:
    """One whose primary no test takes away."""
    with Watched() as watched:
        yield watched


@pytest.fixture
def watched() -> Iterator[Watched]:
    with Watched() as watched:
        yield watched


@pytest.fixture
def shop(watched: Watched, shop_server: ServerProcess) -> Iterator[Cluster]:
    with ExitStack() as stack:
        cluster = Cluster(stack, watched.url(db=2), "shop", book_url=shop_server.url)
        cluster.start("a", "b", options=("--lease", "1.5", "--heartbeat", "0.3"))
        yield cluster


class AsyncLoad:
    """One asyncio caller that asks all the time, with one client."""

    def __init__(self, cluster: Cluster, id: int) -> None:
        self._cluster = cluster
        self._id = id
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.errors: list[RqprocError] = []
        self.answered_at = 0.0

    def __enter__(self) -> AsyncLoad:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join(TIMEOUT_S + 5)
        assert not self._thread.is_alive()

    def answered(self) -> None:
        """Wait for an answer to a request made from now on."""
        now = time.monotonic()
        kit.eventually(lambda: self.answered_at > now, what="an answer to the asyncio caller")

    async def _run(self) -> None:
        async with AsyncClient(self._cluster.url, namespace=self._cluster.namespace) as client:
            while not self._end.is_set():
                began = time.monotonic()
                try:
                    await client.request(self._id, "price", timeout=TIMEOUT_S)
                    self.answered_at = began
                except RqprocError as error:
                    self.errors.append(error)
                await asyncio.sleep(0.01)


def _all_back(cluster: Cluster, server: ServerProcess) -> None:
    """Both nodes are members on this server, and serve there."""
    kit.eventually(lambda: _members(server) == [b"a", b"b"], what="both nodes as members")
    assert all(node.process.poll() is None for node in cluster.nodes.values())


def _members(server: ServerProcess) -> list[bytes]:
    with server.client() as client:
        client.select(2)
        assert client.role()[0] == b"master"
        found: list[bytes] = client.zrange("rqproc:shop:2:members", 0, -1)
        return [member.partition(b"#")[0] for member in found]


def _errors(load: Load) -> set[type]:
    return {type(answer.error) for answer in load.answers if answer.error}


def test_a_primary_that_is_killed_is_followed_to_its_successor(
    watched: Watched, shop: Cluster, ids: Fresh
) -> None:
    asked = ids(8)
    with Load(shop.client, "price", asked, timeout=TIMEOUT_S) as load, AsyncLoad(shop, 1) as aload:
        load.more(30)
        aload.answered()
        watched.primary.kill()
        watched.failed_over()
        _all_back(shop, watched.replica)
        load.all_ids_answered()
        aload.answered()
        job = shop.client.enqueue(asked[0], "echo")
        assert job.latest_result(timeout=4)
    assert _errors(load) | {type(error) for error in aload.errors} <= NAMED
    assert load.longest_s < TIMEOUT_S + LATE_S
    assert [node.stop() for node in shop.nodes.values()] == [0, 0]


def test_a_primary_that_hangs_is_left_and_not_come_back_to(
    watched: Watched, shop: Cluster, ids: Fresh
) -> None:
    with Load(shop.client, "price", ids(8), timeout=TIMEOUT_S) as load:
        load.more(30)
        watched.primary.pause()
        watched.failed_over()
        _all_back(shop, watched.replica)
        load.all_ids_answered()
        watched.primary.go_on()  # for some seconds two servers take themselves for the primary
        load.all_ids_answered()
        _all_back(shop, watched.replica)
    assert _errors(load) <= NAMED
    assert load.longest_s < TIMEOUT_S + LATE_S


def test_nodes_leave_a_primary_that_hangs_as_soon_as_their_heart_does(
    watched: Watched, shop_server: ServerProcess, ids: Fresh
) -> None:
    with ExitStack() as stack:
        cluster = Cluster(stack, watched.url(db=2), "shop", book_url=shop_server.url)
        (node,) = cluster.start("a", options=("--lease", "5", "--heartbeat", "0.3"))
        id, other = ids(2)
        cluster.client.request(id, "price")
        kit.settle(cluster.client)
        watched.primary.pause()
        watched.failed_over()
        node.says("heartbeat: works again")
        with Client(cluster.url, namespace="shop") as fresh:
            fresh.request(other, "price", timeout=2 * TIMEOUT_S)


def test_a_planned_failover_is_followed_though_the_old_primary_goes_on_as_a_replica(
    watched: Watched, shop: Cluster, ids: Fresh
) -> None:
    with Load(shop.client, "price", ids(8), timeout=TIMEOUT_S) as load:
        load.more(30)
        with watched.sentinels[0].client() as client:
            client.sentinel_failover(NAME)
        watched.failed_over()
        with watched.primary.client() as client:  # as the sentinels do it, some seconds later
            client.replicaof("127.0.0.1", watched.replica.port)
        _all_back(shop, watched.replica)
        load.all_ids_answered()
    assert _errors(load) <= NAMED
    assert load.longest_s < TIMEOUT_S + LATE_S


def test_the_database_and_the_passwords_of_the_url_are_used_and_never_shown(
    calm: Watched, ids: Fresh
) -> None:
    (id,) = ids(1)
    with Client(calm.url(db=3), namespace="calm") as client:
        job = client.enqueue(id, "price")
        assert job.get_status()
        assert SECRET not in client.server
        assert HUSH not in client.server
        assert NAME in client.server
    with calm.primary.client() as direct:
        direct.select(3)
        assert direct.exists(job.key)


def test_a_redis_py_client_that_asks_sentinels_can_be_given(calm: Watched, ids: Fresh) -> None:
    hosts = [("127.0.0.1", sentinel.port) for sentinel in calm.sentinels]
    manager = Sentinel(hosts, sentinel_kwargs={"password": HUSH}, password=SECRET)
    with manager, Client(manager.master_for(NAME), namespace="calm") as client:
        job = client.enqueue(ids(1)[0], "price")
        assert job.get_status()
        assert client.members() == ()


def test_one_sentinel_that_answers_is_enough(calm: Watched) -> None:
    dead = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    last = calm.sentinels[-1].port
    url = f"redis+sentinel://:{SECRET}@{dead},127.0.0.1:{last}/shop?sentinel_password=hu%40sh"
    with Client(url, namespace="calm") as client:
        assert client.members() == ()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_name_that_no_sentinel_knows_is_told_at_once(calm: Watched, kind: str) -> None:
    watch = Watch()
    with pytest.raises(RedisUnavailable, match=f"no primary named 'shoe', but: {NAME}. Check"):
        _ask(calm.url(name="shoe"), kind)
    assert watch.stop() < 1


def test_a_wrong_password_of_the_sentinels_is_told_at_once(calm: Watched) -> None:
    with pytest.raises(RedisUnavailable, match=r"\?sentinel_password=") as caught:
        _ask(calm.url(hush="w0nder"))
    assert "w0nder" not in str(caught.value)


def test_a_server_that_is_no_sentinel_is_told_as_such(calm: Watched) -> None:
    url = f"redis+sentinel://127.0.0.1:{calm.primary.port}/shop?sentinel_password={SECRET}"
    with pytest.raises(RedisUnavailable, match=r"sentinels' own ports \(usually 26379\)"):
        _ask(url)


def test_where_no_primary_can_be_had_that_is_told_within_five_seconds() -> None:
    port, dead, nobody = free_ports(3)
    with Watcher(port, [port], primary=dead) as sentinel, sentinel.client() as client:
        kit.eventually(lambda: client.sentinel_master(NAME)["is_sdown"])
        lost = f"redis+sentinel://127.0.0.1:{port}/shop?sentinel_password=hu%40sh"
        silent = f"redis+sentinel://127.0.0.1:{dead},127.0.0.1:{nobody}/shop"
        with ThreadPoolExecutor(4) as pool:
            trials = {
                (url, kind): pool.submit(_trial, url, kind)
                for url in (lost, silent)
                for kind in ("sync", "async")
            }
    for (url, _), trial in trials.items():
        error, watch = trial.result()
        assert isinstance(error, RedisUnavailable)
        assert re.search("lost shop's primary" if url == lost else "sentinels run", str(error))
        assert watch.whole_s > 2.5
        assert watch.s < 5


def _trial(url: str, kind: str) -> tuple[RqprocError, Watch]:
    watch = Watch()
    with pytest.raises(RqprocError) as caught:
        _ask(url, kind, timeout_s=10)
    watch.stop()
    return caught.value, watch


def _ask(url: str, kind: str = "sync", *, timeout_s: float = TIMEOUT_S) -> None:
    if kind == "sync":
        with Client(url, namespace="calm") as client:
            client.request(1, timeout=timeout_s)

    async def ask() -> None:
        async with AsyncClient(url, namespace="calm") as client:
            await client.request(1, timeout=timeout_s)

    asyncio.run(ask())
