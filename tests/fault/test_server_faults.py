"""The server dies, forgets or stands still: nodes come back by themselves, and nothing hangs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress

import pytest
from fault.load import Load, assert_exactly_once, assert_never_older
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book

from rqproc.errors import NoLiveNode, RedisUnavailable, RequestTimeout
from rqproc.lab.servers import ServerProcess

SHORT = ("--lease", "1.5", "--heartbeat", "0.3")
NAMED = {NoLiveNode, RedisUnavailable, RequestTimeout}

Stage = Callable[..., tuple[ServerProcess, Cluster]]


@pytest.fixture
def stage(shop_server: ServerProcess) -> Iterator[Stage]:
    """A server of the test's own with nodes; the handlers keep their book on another, sound one."""
    with ExitStack() as stack:

        def make(
            *names: str, keeps: bool, options: Sequence[str] = SHORT
        ) -> tuple[ServerProcess, Cluster]:
            server = stack.enter_context(ServerProcess(keeps=keeps))
            cluster = Cluster(stack, server.url, "fault", book_url=shop_server.url)
            cluster.start(*names, options=options)
            return server, cluster

        yield make


LATE_S = 1.5 + 0.5
"""A server that is silent is told from one that is late; see ``calls.retry.GRACE_S``."""


def _errors(load: Load) -> set[type]:
    return {type(answer.error) for answer in load.answers if answer.error}


def _incarnations(cluster: Cluster) -> set[str]:
    return {node.incarnation for node in cluster.client.membership().nodes}


def _all_run(cluster: Cluster) -> bool:
    return all(node.process.poll() is None for node in cluster.nodes.values())


def test_a_server_killed_and_started_again_with_its_data_is_an_interruption(
    stage: Stage, book: Book, ids: Fresh
) -> None:
    server, cluster = stage("a", "b", "c", keeps=True, options=("--lease", "5"))
    asked = ids(9)
    with Load(cluster.client, "charge", asked, pause_s=0.002) as load:
        load.more(50)
        for _ in range(2):
            server.kill()
            server.start()
            load.all_ids_answered()
    assert load.failures == []
    assert _all_run(cluster)
    assert cluster.client.members() == ("a", "b", "c")
    assert_exactly_once(load, book, "charge", asked)


def test_an_outage_longer_than_the_lease_ends_with_all_nodes_back(stage: Stage, ids: Fresh) -> None:
    server, cluster = stage("a", "b", "c", keeps=True)
    with Load(cluster.client, "price", ids(9), timeout=5) as load:
        load.more(50)
        server.kill()
        time.sleep(2.0)  # the outage itself
        server.start()
        kit.eventually(lambda: cluster.client.members() == ("a", "b", "c"))
        load.all_ids_answered()
    assert _all_run(cluster)
    assert _errors(load) <= NAMED
    assert load.longest_s < 5 + LATE_S
    assert_never_older(load)


def test_a_server_that_has_forgotten_everything_gets_its_nodes_back(
    stage: Stage, ids: Fresh
) -> None:
    server, cluster = stage("a", "b", "c", keeps=False)
    with Load(cluster.client, "price", ids(9), timeout=3) as load:
        load.more(50)
        server.kill()
        server.start()
        kit.eventually(lambda: cluster.client.members() == ("a", "b", "c"))
        load.all_ids_answered()
    assert _errors(load) <= NAMED
    assert load.longest_s < 3 + LATE_S
    assert [node.stop() for node in cluster.nodes.values()] == [0, 0, 0]


def test_flushing_the_server_is_the_same(stage: Stage, ids: Fresh) -> None:
    server, cluster = stage("a", "b", keeps=False)
    with Load(cluster.client, "price", ids(6), timeout=1.5) as load:
        load.more(30)
        with server.client() as redis:
            redis.flushall()
        load.all_ids_answered()
    assert _errors(load) <= NAMED
    assert load.longest_s < 1.5 + LATE_S
    assert _all_run(cluster)
    kit.eventually(lambda: cluster.client.members() == ("a", "b"))


def test_a_pause_shorter_than_the_lease_fails_nothing(stage: Stage, book: Book, ids: Fresh) -> None:
    server, cluster = stage("a", "b", "c", keeps=False, options=("--lease", "8"))
    asked = ids(9)
    with Load(cluster.client, "charge", asked, pause_s=0.002) as load:
        load.more(50)
        server.pause()
        time.sleep(1.7)  # the pause itself: longer than a reply may take, see ``LATE_S``
        server.go_on()
        load.all_ids_answered()
    assert load.failures == []
    assert_exactly_once(load, book, "charge", asked)


def test_a_pause_longer_than_the_lease_costs_nobody_its_membership(
    stage: Stage, book: Book, ids: Fresh
) -> None:
    """It was the server that was out, not the nodes: what they run is theirs still."""
    # Half a lease is all that each has afterwards, and no caller waits for three seconds in vain.
    options = ("--lease", "1.7", "--heartbeat", "0.3")
    server, cluster = stage("a", "b", "c", keeps=False, options=options)
    asked = ids(9)
    before = _incarnations(cluster)
    with Load(cluster.client, "charge", asked, pause_s=0.01) as load:
        load.more(50)
        server.pause()
        time.sleep(1.9)  # the pause itself, longer than the lease
        server.go_on()
        load.all_ids_answered()
    assert load.failures == []
    assert _incarnations(cluster) == before
    assert_exactly_once(load, book, "charge", asked)


@pytest.mark.parametrize("trouble", ["stands still", "is restarted with its data"])
def test_a_handler_that_outlasts_an_outage_is_not_run_beside_itself(
    stage: Stage, book: Book, ids: Fresh, trouble: str
) -> None:
    """The detector was out, not the node: it keeps what it runs."""
    # Half a lease is all that each has afterwards, on a busy machine too.
    server, cluster = stage("a", "b", keeps=True, options=("--lease", "3", "--heartbeat", "0.2"))
    kit.settle(cluster.client)
    id, other = ids(2)
    job = cluster.client.enqueue(id, "gated", args=("once",))
    book.started("gated", id)
    if trouble == "stands still":
        server.pause()
        time.sleep(3.5)  # the outage itself, longer than the lease
        server.go_on()
    else:
        server.kill()
        time.sleep(3.5)  # the outage itself, longer than the lease
        server.start()
    kit.eventually(lambda: cluster.client.members() == ("a", "b"))
    kit.eventually(lambda: _asked(cluster, other))
    assert not book.has_started("gated", id)
    book.release("gated", id)
    kit.eventually(lambda: job.get_status() == "finished", within_s=5)
    assert book.order("gated", id) == ["once"]


def _asked(cluster: Cluster, id: int) -> bool:
    with suppress(NoLiveNode, RedisUnavailable, RequestTimeout):
        return bool(cluster.client.request(id, "price", timeout=5))
    return False


def test_scripts_that_the_server_forgets_are_told_again(
    stage: Stage, book: Book, ids: Fresh
) -> None:
    server, cluster = stage("a", "b", keeps=False, options=("--lease", "10"))
    asked = ids(6)
    with Load(cluster.client, "charge", asked, pause_s=0.001) as load, server.client() as redis:
        for _ in range(12):
            load.more(3)
            redis.script_flush()
        load.all_ids_answered()
        job = cluster.client.enqueue(asked[0], "echo")
        assert job.latest_result(timeout=4)
        assert cluster.client.members() == ("a", "b")
    assert load.failures == []
    assert_exactly_once(load, book, "charge", asked)
