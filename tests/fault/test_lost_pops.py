"""What a node was sent and never got: its pop ended on a connection, or in a process, now gone."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import redis
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book

from rqproc.ids import address

PATIENT = ("--lease", "20", "--heartbeat", "0.2")


def _queue(cluster: Cluster, node: str) -> str:
    return f"rq:queue:rqproc.{cluster.namespace}.{node}"


def _open(server: redis.Redis, cluster: Cluster, node: str) -> int:
    (inc,) = (n.incarnation for n in cluster.client.membership().nodes if n.name == node)
    return int(server.zcard(f"rqproc:{cluster.namespace}:2:open:{inc}"))


def _swallow(server: redis.Redis, cluster: Cluster, node: str, what: str) -> None:
    """Take from a node's queue as a pop does whose connection has gone, until there is ``what``.

    On a busy machine what was sent before may be queued once more by then: its caller nudges.
    """

    def taken() -> bool:
        found = server.lpop(_queue(cluster, node), 9) or ()
        return any(what in id.decode() for id in found)

    kit.eventually(taken, what=f"{what} queued")


def test_a_node_killed_between_its_pop_and_its_answer_loses_no_call(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    cluster.start("a", options=("--lease", "3", "--heartbeat", "0.2"))
    doomed = cluster.nodes["a"]
    asked = ids(3)
    cluster.client.request(asked[0], "price")  # it waits in its pop by now
    doomed.signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cluster.client.request, asked[1], "price", timeout=40)
        kit.eventually(lambda: _open(book.redis, cluster, "a") == 1)
        doomed.kill()
        cluster.start("b", options=kit.BRISK)
        assert waiting.result()["node"] == "b"
    assert book.count("price", asked[1]) == 1


def test_a_call_that_was_lost_on_its_way_to_the_node_comes_with_its_callers_nudge(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    (node,) = cluster.start("a", options=("--lease", "20", "--heartbeat", "10"))
    first, id = ids(2)
    cluster.client.request(first, "price")
    node.signal(signal.SIGSTOP)
    with ThreadPoolExecutor(2) as pool:
        ends_the_pop = pool.submit(cluster.client.request, first, "price", timeout=20)
        kit.eventually(lambda: _open(book.redis, cluster, "a") == 1)
        lost = pool.submit(cluster.client.request, id, "charge", args=(1,), timeout=20)
        _swallow(book.redis, cluster, "a", address("charge", id))
        node.signal(signal.SIGCONT)
        assert ends_the_pop.result()["node"] == "a"
        assert lost.result()["n"] == 1
    assert book.count("charge", id) == 1


def test_a_job_that_was_lost_on_its_way_to_the_node_is_found_by_its_heartbeats(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    """Nobody asks for a job again."""
    (node,) = cluster.start("a", options=PATIENT)
    first, id = ids(2)
    cluster.client.request(first, "price")
    node.signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        ends_the_pop = pool.submit(cluster.client.request, first, "price", timeout=20)
        kit.eventually(lambda: _open(book.redis, cluster, "a") == 1)
        job = cluster.client.enqueue(id, "charge", args=(1,))
        _swallow(book.redis, cluster, "a", job.id)
        node.signal(signal.SIGCONT)
        assert ends_the_pop.result()["node"] == "a"
        assert job.latest_result(timeout=15)
    assert book.count("charge", id) == 1


def test_a_server_killed_between_route_and_answer_loses_no_caller(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    """Its data goes with it here: callers ask again, and the run that was begun counts."""
    cluster.start("a", options=PATIENT)
    (id,) = ids(1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cluster.client.request, id, "gated", timeout=20)
        book.started("gated", id)
        for key in book.redis.scan_iter(f"rqproc:{cluster.namespace}:2:claims:*"):
            book.redis.delete(key)
        for key in book.redis.scan_iter("rq:job:r*gated*"):
            book.redis.delete(key)
        book.release("gated", id, times=2)
        assert waiting.result()["node"] == "a"
