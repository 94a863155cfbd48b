"""The server is there but refuses, or forgets: all of it on one cluster, which is never restarted.

Nodes come by a proxy that counts their connections, callers directly. Whatever the trouble, every
request ends in an answer or a named error by its deadline, nothing spins, and a moment after it
has passed both nodes serve again, and carry what RQ applications enqueue.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from fault.load import Load
from fault.proxy import CuttingProxy
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Running
from ports import free_ports
from redis import Redis
from redis.exceptions import RedisError, ResponseError
from rq import Queue
from watch import Watch

from rqproc import Client
from rqproc.calls.retry import OUTAGE_S
from rqproc.errors import NoLiveNode, RedisUnavailable, RequestTimeout
from rqproc.lab.servers import ServerProcess

NAMED = {NoLiveNode, RedisUnavailable, RequestTimeout}
BRISK = ("--lease", "2", "--heartbeat", "0.2")
LONGER_THAN_A_LEASE_S = 2.5
TIMEOUT_S = 2.0
LATE_S = 1.5 + 0.5
"""A server that is silent is told from one that is late; see ``calls.retry.GRACE_S``."""

SOON_S = 3.0

READS_SLOWLY = ("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")

MOST_CONNECTS_PER_S = 30.0
"""Of one node: its heart beats twenty times a second where it fails, see ``--heartbeat`` above."""

MOST_CPU = 0.15
"""Of one node, as a share of one core."""


@dataclass
class Shaken:
    """A cluster and what is done to its server."""

    server: ServerProcess
    admin: Redis
    cluster: Cluster
    proxy: CuttingProxy


@pytest.fixture(scope="module")
def shaken(shop_server: ServerProcess) -> Iterator[Shaken]:
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess("--busy-reply-threshold", "50", keeps=True))
        admin = stack.enter_context(server.client())
        proxy = stack.enter_context(CuttingProxy(server.url))
        cluster = Cluster(stack, server.url, "fault", book_url=shop_server.url)
        cluster.start("a", "b", options=BRISK, url=proxy.address)
        yield Shaken(server, admin, cluster, proxy)
        assert [node.stop() for node in cluster.nodes.values()] == [0, 0]


class Trouble:
    """Callers ask while it lasts and until all is well again; then what happened is judged."""

    def __init__(self, shaken: Shaken, ids: list[int], *, resource: str = "price") -> None:
        self._shaken = shaken
        self._ids = ids
        self.load = Load(
            shaken.cluster.client, resource, ids, callers=4, timeout=TIMEOUT_S, pause_s=0.002
        )

    def __enter__(self) -> Trouble:
        self.load.__enter__()
        self.load.all_ids_answered()
        self._began = time.monotonic()
        self._accepted = self._shaken.proxy.accepted
        self._cpu = self._cpu_s()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if exc[0] is None:
                self._judge()
        finally:
            self.load.__exit__(None, None, None)
        assert self.load.longest_s < TIMEOUT_S + LATE_S
        assert {type(answer.error) for answer in self.load.answers if answer.error} <= NAMED

    def is_named(
        self, text: str, *, patience_s: float = 0.3, keep_up: Callable[[], object] = lambda: None
    ) -> None:
        """A caller with little patience, who has no connection yet, is told what it is.

        With more and more: on a busy machine the time may be over before there is a connection.

        Args:
            patience_s: of the first attempt.
            keep_up: sees to it, before each attempt, that the trouble is still there.
        """
        cluster = self._shaken.cluster
        patience = (patience_s * 1.5**attempt for attempt in itertools.count())

        def told() -> str:
            keep_up()
            with Client(cluster.url, namespace=cluster.namespace) as late:
                try:
                    late.request(self._ids[0], "price", timeout=min(5.0, next(patience)))
                except RequestTimeout:
                    return ""
                except RedisUnavailable as error:
                    return str(error)
            return ""

        assert re.search(text, kit.eventually(told))  # a node's place may be free for a moment

    def _judge(self) -> None:
        took_s = time.monotonic() - self._began
        per_node_s = took_s * len(self._nodes)
        assert (self._shaken.proxy.accepted - self._accepted) / per_node_s < MOST_CONNECTS_PER_S
        assert (self._cpu_s() - self._cpu) / per_node_s < MOST_CPU
        cluster = self._shaken.cluster
        watch = Watch()
        kit.eventually(lambda: cluster.client.members() == ("a", "b"))
        assert watch.stop() < SOON_S
        watch = Watch()
        self.load.all_ids_answered()
        assert watch.stop() < SOON_S
        watch = Watch()
        ingress = Queue("rqproc.fault", connection=self._shaken.admin)
        job = ingress.enqueue("rqproc.request", self._ids[0], resource="price")
        kit.eventually(lambda: job.get_status() == "finished", what="the ingress")
        assert watch.stop() < SOON_S
        assert all(node.process.poll() is None for node in self._nodes)

    @property
    def _nodes(self) -> list[Running]:
        return list(self._shaken.cluster.nodes.values())

    def _cpu_s(self) -> float:
        return sum(_cpu_s(node.process.pid) for node in self._nodes)


def _cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used; see proc(5)."""
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _incarnations(shaken: Shaken) -> set[str]:
    return {node.incarnation for node in shaken.cluster.client.membership().nodes}


def test_a_server_that_is_away_is_not_knocked_at_all_the_time(shaken: Shaken, ids: Fresh) -> None:
    with Trouble(shaken, ids(6)) as trouble:
        shaken.server.kill()
        time.sleep(LONGER_THAN_A_LEASE_S)  # the outage itself
        trouble.is_named("Check that it runs, and the URL")
        shaken.server.start()


def test_a_server_that_becomes_a_replica_for_a_while_is_served_again_afterwards(
    shaken: Shaken, ids: Fresh
) -> None:
    with ServerProcess(port=free_ports(1)[0]) as other, Trouble(shaken, ids(6)) as trouble:
        shaken.admin.replicaof("127.0.0.1", other.port)
        time.sleep(LONGER_THAN_A_LEASE_S)  # the trouble itself
        trouble.is_named(r"READONLY .* give the address of the primary")
        shaken.admin.replicaof("NO", "ONE")


def test_a_server_that_is_full_is_told_at_once_and_its_nodes_keep_their_leases(
    shaken: Shaken, ids: Fresh
) -> None:
    before = _incarnations(shaken)
    with Trouble(shaken, ids(6)) as trouble:
        shaken.admin.config_set("maxmemory", "1mb")
        time.sleep(LONGER_THAN_A_LEASE_S)  # the trouble itself
        watch = Watch()
        trouble.is_named(r"OOM .* raise its `maxmemory`", patience_s=5.0)
        assert watch.stop() < OUTAGE_S - 1, "it is not waited out"
        assert _incarnations(shaken) == before
        shaken.admin.config_set("maxmemory", 0)
    assert _incarnations(shaken) == before


def test_a_script_that_does_not_end_is_waited_for_and_named(shaken: Shaken, ids: Fresh) -> None:
    # It waits for as long as the script goes on: redis-py's own five seconds would end that.
    patient = Redis.from_url(shaken.server.url, socket_timeout=None)
    with Trouble(shaken, ids(6)) as trouble, patient as client:
        script = threading.Thread(target=_loop, args=(client,))
        script.start()
        time.sleep(LONGER_THAN_A_LEASE_S)  # the trouble itself
        trouble.is_named(r"BUSY .* SCRIPT KILL$")
        shaken.admin.script_kill()
        script.join()


def _loop(client: Redis) -> None:
    with pytest.raises(ResponseError, match="killed"):
        client.eval("while true do end", 0)


def test_a_server_with_too_many_clients_is_waited_for(shaken: Shaken, ids: Fresh) -> None:
    with Trouble(shaken, ids(6)) as trouble, ExitStack() as stack:
        shaken.admin.config_set("maxclients", 12)
        shaken.admin.client_kill_filter(_type="normal", skipme=True)

        def fill() -> None:  # a place that a node has lost would go to whoever asks next
            while _gets_in(stack.enter_context(shaken.server.client())):
                pass

        fill()
        time.sleep(LONGER_THAN_A_LEASE_S)  # the trouble itself
        trouble.is_named(r"max number of clients reached\. .* `maxclients`", keep_up=fill)
        shaken.admin.config_set("maxclients", 1000)


def _gets_in(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def test_a_server_that_is_flushed_again_and_again_is_served_again_afterwards(
    shaken: Shaken, ids: Fresh
) -> None:
    with Trouble(shaken, ids(6), resource="charge"):
        for _ in range(4):
            shaken.admin.flushall()
            time.sleep(0.2)  # another moment of what the cluster does


def test_a_server_that_is_still_reading_its_data_is_waited_for(shaken: Shaken, ids: Fresh) -> None:
    with shaken.admin.pipeline(transaction=False) as ballast:
        for number in range(10_000):  # of 2 ms each: it is at it until it is told to hurry
            ballast.set(f"ballast:{number}", "x")
        ballast.execute()
    shaken.admin.bgrewriteaof()
    kit.eventually(lambda: _is_written(shaken.admin))
    with Trouble(shaken, ids(6)) as trouble:
        shaken.server.kill()
        shaken.server.start(*READS_SLOWLY, wait=False)
        kit.eventually(lambda: _loading(shaken.admin) == 1)
        trouble.is_named("LOADING .* reading its data")
        shaken.admin.config_set("key-load-delay", 0)
        kit.eventually(lambda: _loading(shaken.admin) == 0)


def _is_written(client: Redis) -> bool:
    found = client.info("persistence")
    return not found["aof_rewrite_in_progress"] and not found["aof_rewrite_scheduled"]


def _loading(client: Redis) -> int | None:
    try:
        return int(client.info("persistence")["loading"])
    except RedisError:
        return None
