"""Nodes that have served for long enough: they drain, and are started anew."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh

NAMES = ("w-1", "w-2", "w-3")
RECYCLED = 75


def _pids(cluster: Cluster) -> dict[str, int]:
    return {node.name: node.pid for node in cluster.client.membership().nodes}


@contextmanager
def _seen_members(cluster: Cluster) -> Iterator[set[tuple[str, ...]]]:
    """Collect every list of members that there is meanwhile."""
    seen: set[tuple[str, ...]] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            seen.add(cluster.client.members())

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            yield seen
        finally:
            over.set()
            looking.result()


@pytest.mark.timeout(150)
def test_nodes_that_reach_their_limit_under_load_are_replaced_one_after_the_other(
    cluster: Cluster,
) -> None:
    options = ("--count", "3", "--max-requests", "50", *kit.PATIENT)
    with kit.node(cluster.url, cluster.namespace, "w", *options) as supervisor:
        kit.eventually(lambda: cluster.client.members() == NAMES)
        first = set(_pids(cluster).values())
        replaced = threading.Event()

        def ask(start: int) -> int:
            asked = 0
            while not replaced.is_set():
                asked += 1
                id = start + asked % 100
                assert cluster.client.request(id, "instant", timeout=20) == {"id": id}
            return asked

        with _seen_members(cluster) as seen, ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask, 1000 * number) for number in range(4)]
            try:
                # Not for three at a time: under this load the next one is away in no time.
                kit.eventually(
                    lambda: not first & {*_pids(cluster).values()},
                    within_s=90, what="new nodes alone",
                )  # fmt: skip
            finally:
                replaced.set()
            kit.eventually(lambda: len(_pids(cluster)) == 3, what="three of them")
            assert sum(one.result() for one in asking) > 150
        assert supervisor.stop() == 0
    assert min(map(len, seen)) == 2, "one was away at a time"
    assert "died" not in supervisor.stderr
    for name in NAMES:
        supervisor.says(rf"{name} \(pid \d+\) is drained, --max-requests: it has answered \d+")


@pytest.mark.timeout(90)
def test_nodes_that_reach_their_age_together_are_never_away_together(cluster: Cluster) -> None:
    options = ("--count", "3", "--max-age", "3", *kit.PATIENT)
    with kit.node(cluster.url, cluster.namespace, "w", *options) as supervisor:
        kit.eventually(lambda: cluster.client.members() == NAMES)
        first = set(_pids(cluster).values())
        with _seen_members(cluster) as seen:
            kit.eventually(
                lambda: not first & {*_pids(cluster).values()},
                within_s=60, what="new nodes alone",
            )  # fmt: skip
        assert supervisor.stop() == 0
    assert min(map(len, seen)) == 2


def test_a_node_that_is_alone_drains_and_ends_with_a_code_for_whoever_runs_it(
    cluster: Cluster,
) -> None:
    (node,) = cluster.start("n", options=("--max-requests", "20", *kit.PATIENT))
    # Together: one by one, it could be gone at a heartbeat before the last.
    cluster.client.request_many(range(20), "instant")
    assert node.wait() == RECYCLED
    node.says(r"draining, --max-requests: it has answered (18|19|20)")
    assert cluster.client.membership().nodes == (), "it has left"


def test_what_a_recycled_node_holds_is_finished_first(
    cluster: Cluster, book: kit.Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    job = cluster.client.enqueue(id, "gated")  # it waits for the node, which lives for a second
    (node,) = cluster.start("n", options=("--max-age", "1", *kit.PATIENT))
    book.started("gated", id)
    node.says("draining, --max-age")
    book.release("gated", id)
    assert node.wait() == RECYCLED
    assert job.get_status() == "finished"


def test_a_node_that_grows_past_its_memory_is_started_anew(
    cluster: Cluster, book: kit.Book
) -> None:
    options = ("--count", "2", "--max-rss", "200", *kit.PATIENT)
    with kit.node(cluster.url, cluster.namespace, "w", *options) as supervisor:
        kit.eventually(lambda: cluster.client.members() == ("w-1", "w-2"))
        before = _pids(cluster)["w-1"]
        cluster.client.request(0, "hoard", args=(250,))
        supervisor.says(r"w-1 \(pid \d+\) is drained, --max-rss: it takes \d+ MiB")
        kit.eventually(lambda: _pids(cluster).get("w-1", before) != before)
        assert supervisor.stop() == 0
    assert "w-2 (" not in supervisor.stderr, "the other goes on"


def test_a_limit_below_what_a_node_takes_at_first_ends_supervisor_and_node(
    cluster: Cluster,
) -> None:
    with kit.node(
        cluster.url, cluster.namespace, "w", "--count", "2", "--max-rss", "5"
    ) as supervisor:
        assert supervisor.wait() == 2
    assert "--max-rss 5 is less than the" in supervisor.stderr


def test_a_supervisor_that_is_stopped_while_it_replaces_a_node_ends(cluster: Cluster) -> None:
    options = ("--count", "2", "--max-age", "1", *kit.PATIENT)
    with kit.node(cluster.url, cluster.namespace, "w", *options) as supervisor:
        supervisor.says("is drained, --max-age")
        assert supervisor.stop() == 0
    assert cluster.client.membership().nodes == ()
